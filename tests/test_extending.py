"""What docs/how-to/extend.md shows does what it says."""

import re

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import DocBin

from spacy_early_exit.criteria.base import CriterionBase
from spacy_early_exit.decoders import Greedy
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.families import FAMILIES
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.text.windows import windows_of
from tests.makers.commands import run
from tests.makers.project import ROOT
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


@pytest.fixture(scope="module")
def page():
    """Names that the blocks of the page make, without the pipelines that they load."""
    text = (ROOT / "docs" / "how-to" / "extend.md").read_text(encoding="utf8")
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(re.split("^nlp = ", block, flags=re.MULTILINE)[0], names)
    yield names
    FAMILIES.pop("data2vec-text")


def test_the_criterion_lets_leave_who_is_ahead(page, nlp):
    blocks = nlp.get_pipe(NAME)
    kept, blocks.criterion = blocks.criterion, page["MarginExit"]()
    try:
        saved = []
        for threshold in (0.0, 0.5, 0.9, 1.0):
            cfg = {NAME: {"threshold": threshold}}
            docs = list(nlp.pipe(TEXTS, component_cfg=cfg))
            records = [doc._.early_exit[NAME] for doc in docs]
            saved.append(sum(r.full for r in records) / sum(r.spent for r in records))
        assert saved == sorted(saved) and saved[-1] > saved[0]
        alone = [nlp(text, component_cfg={NAME: {"threshold": 0.5}}) for text in TEXTS]
        batch = nlp.pipe(TEXTS, component_cfg={NAME: {"threshold": 0.5}})
        assert [d._.early_exit[NAME].spent for d in alone] == [
            d._.early_exit[NAME].spent for d in batch
        ]
    finally:
        blocks.criterion = kept


def test_the_decoder_finds_fewer_entities_the_more_it_doubts(page, nlp):
    ner = nlp.get_pipe(NAME)
    kept = ner.decoder
    try:
        counts = []
        for bias in (-100.0, 0.0, 100.0):
            ner.decoder = page["Doubtful"](bias).for_scheme("bio")
            counts.append(sum(len(doc.ents) for doc in nlp.pipe(TEXTS)))
        assert counts[0] >= counts[1] > counts[2] == 0
    finally:
        ner.decoder = kept
    with pytest.raises(ValueError, match="for entities"):
        page["Doubtful"](1.0).for_scheme("bmes")


def test_the_family_gives_hugging_faces_own_states(page, tmp_path, encoders):
    from transformers import AutoTokenizer, Data2VecTextConfig, Data2VecTextModel

    tokenizer = AutoTokenizer.from_pretrained(encoders["roberta"])
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = Data2VecTextConfig(
        vocab_size=len(tokenizer),
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    torch.manual_seed(0)
    model = Data2VecTextModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    nlp = spacy.blank("en")
    ner = nlp.add_pipe(NAME, config={"model": {"encoder": {"name": str(tmp_path)}}})
    ner.add_label("PER")
    nlp.initialize()
    text = "Ann Lee lives in Oslo."
    trained = ner.model.shims[0].trained
    (window,) = windows_of([nlp.make_doc(text)], trained.tokenizer, 60, 8)
    batch = Batch.of([window], torch.device("cpu"))
    with torch.no_grad():
        ours = run_with_exits(trained.network, batch, None, keep_states=True).states
        theirs = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


class Answers(Greedy):
    """Returns what it is told to."""

    def for_scheme(self, scheme):
        return self

    def __call__(self, logits, learned):
        return self.answer([super(Answers, self).__call__([one], learned)[0] for one in logits])


@pytest.mark.parametrize(
    "answer, wrong",
    [
        (lambda found: found[:-1], "0 for 1 texts"),
        (lambda found: [list(tags) for tags in found], "a list"),
        (lambda found: [tags[:-1] for tags in found], "of shape (6,) for 7 words"),
        (lambda found: [tags.astype(float) for tags in found], "float64 of shape (7,)"),
        (lambda found: [tags + 99 for tags in found], "99 to "),
        (lambda found: [tags - 1 for tags in found], "-1 to"),
    ],
    ids=["texts", "list", "shape", "floats", "too large", "negative"],
)
def test_a_decoder_that_returns_no_tags_is_named(answer, wrong, nlp):
    nlp.get_pipe(NAME).decoder = decoder = Answers()
    object.__setattr__(decoder, "answer", answer)
    with pytest.raises(ValueError, match="decoder Answers must return") as found:
        nlp(TEXTS[0])
    assert wrong in str(found.value)


class Leaves(CriterionBase):
    """Answers what it is told to."""

    def leave(self, step, state):
        return self.answer(step.words)


@pytest.mark.parametrize(
    "answer",
    [torch.ones_like, lambda words: torch.ones(len(words) + 1, dtype=torch.bool)],
    ids=["no bool", "shape"],
)
def test_a_criterion_that_returns_no_mask_is_named(answer, nlp):
    nlp.get_pipe(NAME).criterion = criterion = Leaves()
    criterion.answer = answer
    with pytest.raises(ValueError, match="leave of the criterion Leaves must return a bool"):
        nlp(TEXTS[0], component_cfg={NAME: {"threshold": 0.5}})


CODE = """
import spacy
from spacy_early_exit.criteria import TokenExit

@spacy.registry.misc("my_code.Mine.v1")
def make():
    return TokenExit(0)
"""


@pytest.mark.takes(seconds=12)
@pytest.mark.parametrize(
    "command, shown",
    [
        ("evaluate", "ents_f"),
        pytest.param("benchmark", "calibrated, 1X", marks=pytest.mark.slow),
        pytest.param("report", "Saved", marks=pytest.mark.slow),
    ],
)
def test_commands_import_code_first(command, shown, nlp, tmp_path):
    """In processes of their own: what is registered here stays."""
    nlp.to_disk(tmp_path / "model")
    config = (tmp_path / "model" / "config.cfg").read_text(encoding="utf8")
    block = r'@misc = "spacy-early-exit.TokenExit.v1"[^\[]*'
    mine = re.sub(block, '@misc = "my_code.Mine.v1"\n\n', config)
    assert mine != config
    (tmp_path / "model" / "config.cfg").write_text(mine, encoding="utf8")
    code = tmp_path / "my_code.py"
    code.write_text(CODE)
    DocBin(docs=[eg.reference for eg in examples_of(nlp)]).to_disk(tmp_path / "tune.spacy")
    ours, tune = ["-m", "spacy", "early-exit"], tmp_path / "tune.spacy"
    calibrate = [*ours, "calibrate", tmp_path / "model", tune, "-o", tmp_path / "calibrated"]
    assert "my_code.Mine.v1" in run(*calibrate, ok=False)
    run(*calibrate, "-s", "1.5", "--code", code)
    how = ["--code", code, "--rounds", "1", "-s", "1", "-o", tmp_path / "found"]
    assert shown in run(*ours, command, tmp_path / "calibrated", tune, *how)
