"""The scripts in benchmarks/, as far as they need neither corpora nor other people's programs."""

import importlib
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import spacy
import torch

from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.text.wordpieces import windows_of
from tests.makers.texts import TEXTS

SCRIPTS = sorted(path.stem for path in Path("benchmarks").glob("*.py"))


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in SCRIPTS:
            del sys.modules[name]


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "bfloat16"])
def test_a_script_says_what_it_takes(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    if not hasattr(module, "main"):
        return  # others import it
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0 and "--" in capsys.readouterr().out


def test_others_get_the_network_as_it_is(nlp, tmp_path):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    peers = importlib.import_module("peers")
    nlp.to_disk(tmp_path / "pipeline")
    peers.export(tmp_path / "pipeline", tmp_path / "checkpoint")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "checkpoint").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    ner = nlp.get_pipe("early_exit_ner")
    trained = ner.model.shims[0].trained
    assert set(model.config.label2id) == {"O", *(f"{k}-{la}" for la in ner.labels for k in "BI")}
    for text in TEXTS[:6]:
        window = windows_of([nlp.make_doc(text)], trained.tokenizer, 64, 8, shared="keep")[0]
        batch = Batch.of([window], torch.device("cpu"))
        with torch.inference_mode():
            ours = run_with_exits(trained.network, batch, None).logits
            theirs = model(torch.from_numpy(window.ids)[None]).logits[0]
        assert torch.allclose(ours, theirs[batch.piece_of_word], atol=1e-4)
        assert tokenizer(text)["input_ids"] == window.ids.tolist()


def test_a_cut_pipeline_says_what_the_first_layers_say(nlp, tmp_path):
    baselines = importlib.import_module("baselines")
    nlp.to_disk(tmp_path / "pipeline")
    baselines.cut_trained(tmp_path / "pipeline", tmp_path / "cut", 2)
    cut = spacy.load(tmp_path / "cut")
    whole, mine = (n.get_pipe("early_exit_ner").model.shims[0].trained for n in (nlp, cut))
    assert mine.network.spec.layers == 2
    deepest = whole.network.head(whole.network.spec.layers)
    assert torch.equal(mine.network.head(2).weight, deepest.weight)
    for mine_layer, layer in zip(mine.network.encoder.layers, whole.network.encoder.layers):
        assert torch.equal(mine_layer.output.weight, layer.output.weight)
    assert len(list(cut.pipe(TEXTS))) == len(TEXTS)


class TestSoak:
    GOOD = {"wrong": [], "compared": 9, "short_calls": 9, "memory_grown_mb": 3.0}

    def test_growth_is_that_of_all_the_time_after_the_start(self):
        growth = importlib.import_module("soak").growth
        steady = [(float(at), 100 + 20 * max(0.0, at - 300) / 3300) for at in range(0, 3600, 15)]
        assert growth(steady, 300) == pytest.approx(20, abs=0.5)
        once_more = [(at, 300.0 if at == 1500 else 100.0) for at, _ in steady]
        assert growth(once_more, 300) == 0

    @pytest.mark.parametrize(
        "what",
        [{"wrong": ["x"]}, {"compared": 0}, {"short_calls": 0}, {"memory_grown_mb": 20.0}],
        ids=str,
    )
    def test_what_fails(self, what):
        failed = importlib.import_module("soak").failed
        assert not failed(self.GOOD)
        assert failed({**self.GOOD, **what})

    def test_another_answer_is_found_out(self, nlp, tmp_path, monkeypatch):
        soak = importlib.import_module("soak")
        spacy.tokens.DocBin(docs=[nlp.make_doc(text) for text in TEXTS]).to_disk(
            tmp_path / "texts.spacy"
        )
        monkeypatch.setattr(soak, "LENGTHS", [1, 5, 20])
        monkeypatch.setattr(soak, "WATCHED", 2)
        one = soak.Soak(nlp, tmp_path / "texts.spacy", random.Random(0))
        one.settings = one.settings[:2]
        for _ in range(40):
            one.call()
        assert not one.wrong and one.counts["compared"]
        monkeypatch.setattr(soak, "answers", lambda doc: random.random())
        monkeypatch.setattr(one, "is_tie", lambda text, setting: False)
        for _ in range(20):
            one.call()
        assert any("another answer" in what for what in one.wrong)
        assert soak.failed(one.run(0.5))


class TestFuzz:
    def test_a_panic_is_a_failure_with_its_smallest_case(self, monkeypatch):
        from tests.makers.any_input import Case

        fuzz = importlib.import_module("fuzz")

        class Panic(BaseException):
            pass

        def check(nlp, case: Case, counts):
            if case.batch_size > 3:
                raise Panic("four")

        monkeypatch.setattr(fuzz, "check", check)
        found = fuzz.run_round({"any": None}, "any", 0, Counter())
        assert "Panic: four" in found["error"] and "batch_size=4" in found["case"]

    def test_where_all_leave_at_once_nothing_is_shown(self):
        trivial = importlib.import_module("fuzz").trivial
        seen = Counter({"words": 100, "docs answered": 1000, "entities": 3})
        layers = "words that left at layer "
        assert "at one layer" in trivial(seen + Counter({layers + "4": 85, layers + "1": 15}))
        spread = seen + Counter({layers + "4": 60, layers + "1": 40})
        assert not trivial(spread)
        assert "ties" in trivial(spread + Counter({"ties": 2}))
        assert "entities" in trivial(spread - Counter({"entities": 3}))
