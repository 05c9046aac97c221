"""The scripts in benchmarks/, as far as they need neither corpora nor other people's programs."""

import importlib
import sys
from pathlib import Path

import pytest
import spacy
import torch

from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.wordpieces import windows_of

from .factories import TEXTS

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
        window = windows_of([nlp.make_doc(text)], trained.tokenizer, 64, 8)[0]
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
