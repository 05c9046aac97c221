"""How the pipelines of tests/fixtures/pipelines/0.1 were made, and what they are known to say.

    python -m tests.makers.kept tests/fixtures/pipelines/0.1

They are never made anew: test_kept_pipelines.py asks whether they still load, and still say the
same. What later versions save differently gets a folder of its own beside them.

Encoders with random weights learn the tests' own sentences for some steps. ``joint`` is of the
first stage of training, with the decoder that learns nothing; ``self_sampling`` of the second,
which goes on from a first one, with the CRF, for texts of any language. Both are calibrated. Only
thresholds are kept that lie far enough from every uncertainty for another processor's rounding to
change nothing: with weights and a threshold that are off by a little, all must stay the same.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import spacy
import torch

from spacy_early_exit.measure.calibrate import calibrate
from tests.makers.pipelines import answers
from tests.makers.texts import CHINESE, EMOJI, TEXTS, examples_of
from tests.makers.tokenizers import wordpiece_tokenizer

NAME = "early_exit_ner"
LONG = " ".join(TEXTS[:7])  # more than a window
ALL_TEXTS = [*TEXTS, *EMOJI[:2], CHINESE[0], "", " \n ", LONG]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
}
PIPELINES = {
    "joint": {
        "lang": "en",
        "steps": 30,
        "settings": {"training": {"@misc": "spacy-early-exit.JointTraining.v1"}},
    },
    "self_sampling": {
        "lang": "xx",
        "steps": 25,
        "settings": {
            "decoder": {"@misc": "spacy-early-exit.CRFDecoder.v1"},
            "criterion": {
                "@misc": "spacy-early-exit.TokenExit.v1",
                "window": 2,
                "left_words": "ignore",
            },
            "kv": "drop",
            "halt_special": True,
        },
    },
}
CALIBRATED = [1.2, 1.4, 1.6, 2.0]
ASKED = [1.3, 1.5, 1.8]
# Uncertainties keep this distance, as a share of them, from the thresholds that are asked for.
APART = 1e-3


def make_encoder(folder: Path) -> None:
    """A small BERT with random weights."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    specials = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=wordpiece_tokenizer(), mask_token="[MASK]", **specials
    )
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float(name.endswith("LayerNorm.weight")), 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(lang: str, steps: int, start_from: str | None = None, **settings):
    """A pipeline that has learnt for some steps."""
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank(lang)
    settings = {"model": {"encoder": {"name": "./encoder"}}, "store_exits": True, **settings}
    nlp.add_pipe(NAME, config=settings)
    if start_from is not None:
        nlp.config["initialize"]["components"] = {NAME: {"start_from": start_from}}
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    for _ in range(steps):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    nlp.config["initialize"]["components"] = {}
    return nlp


def make(name: str):
    """RETURNS (Language): A trained pipeline, calibrated."""
    lang, settings = PIPELINES[name]["lang"], PIPELINES[name]["settings"]
    # With more steps, all words are easy.
    nlp = train(lang, PIPELINES[name]["steps"], **settings)
    if name == "self_sampling":
        nlp.to_disk("first")
        stage = {"@misc": "spacy-early-exit.SelfSampling.v1"}
        nlp = train(lang, 8, "first", **settings, training=stage)
    calibrate(nlp.get_pipe(NAME), examples_of(nlp), CALIBRATED)
    return nlp


def knobs_of(nlp) -> list:
    """What is asked for: full depth, thresholds and savings."""
    thresholds = [{"threshold": t} for t in (0.0, 0.1, 0.3)]
    return [*thresholds, *({"speedup": speedup} for speedup in ASKED)]


def said(nlp, texts, **knob) -> list:
    """What a pipeline says of texts: JSON, by text."""
    found = []
    for doc in nlp.pipe(texts, component_cfg={NAME: knob}):
        ents, layers, spent, full = answers(doc)
        found.append({"ents": [list(ent) for ent in ents], "layers": list(layers)})
        found[-1] |= {"spent": spent, "full": full}
        found[-1]["confidences"] = [round(ent._.confidence, 6) for ent in doc.ents]
    return found


def exact(found: list) -> list:
    """Without what is rounded."""
    return [{k: v for k, v in answer.items() if k != "confidences"} for answer in found]


def is_apart(nlp, knob: dict) -> bool:
    """Whether weights and thresholds that are off by a little change nothing."""
    ner, expected = nlp.get_pipe(NAME), exact(said(nlp, ALL_TEXTS, **knob))
    threshold = knob.get("threshold")
    if threshold is None:
        threshold = ner.calibrated().threshold_for(knob["speedup"])
    for factor in (1 - APART, 1 + APART):
        off = {"threshold": threshold * factor}
        if exact(said(nlp, ALL_TEXTS, **off)) != expected:
            return False
    network = ner.model.shims[0].trained.network
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for seed in range(3):
        torch.manual_seed(seed)
        noise = {n: t * (1 + APART / 30 * torch.randn_like(t)) for n, t in kept.items()}
        network.load_state_dict(noise)
        same = exact(said(nlp, ALL_TEXTS, threshold=threshold)) == expected
        network.load_state_dict(kept)
        if not same:
            return False
    return True


def keep(name: str, folder: Path) -> None:
    """Save a pipeline, and beside it what it says."""
    nlp = make(name)
    ner = nlp.get_pipe(NAME)
    runs = []
    for knob in knobs_of(nlp):
        apart = is_apart(nlp, knob)
        print(name, knob, "" if apart else "lies too near to an uncertainty: left out")
        if apart:
            runs.append({**knob, "docs": said(nlp, ALL_TEXTS, **knob)})
    expected = {
        "texts": ALL_TEXTS,
        "threshold_for": {str(s): ner.calibrated().threshold_for(s) for s in ASKED},
        "runs": runs,
    }
    nlp.to_disk(folder / name)
    text = json.dumps(expected, ensure_ascii=False, separators=(",", ":"))
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where they shall be; it must not be there yet")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # no path of this machine gets into a config
        make_encoder(Path("encoder"))
        for name in PIPELINES:
            keep(name, folder)


if __name__ == "__main__":
    main()
