"""``spacy early-exit slim``, and what commands make of slim pipelines."""

import json

import pytest
import spacy
import srsly
import torch
from spacy.tokens import DocBin

from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.network.gates import has_gates
from spacy_early_exit.network.slimming import draw_ticket, gate_scores, slim_spec
from tests.cli.test_commands import early_exit
from tests.makers.pipelines import answers, blank, train_small
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
SEARCH = {"@misc": "spacy-early-exit.EarlyBirdSearch.v1", "heads": 0.5, "neurons": 0.6}


@pytest.fixture(scope="module")
def work(tmp_path_factory, encoders):
    """A searched pipeline, its slim encoder, and a pipeline that was trained on that."""
    folder = tmp_path_factory.mktemp("slim")
    nlp = train_small(encoders["bert"], steps=20, training={**SEARCH, "gate_lr_factor": 5})
    nlp.to_disk(folder / "searched")
    docs = [example.reference for example in examples_of(nlp)]
    DocBin(docs=docs).to_disk(folder / "tune.spacy")
    printed = early_exit("slim", folder / "searched", "--output", folder / "encoder")
    assert "2 of 4" in printed and "of the operations" in printed
    train_small(str(folder / "encoder")).to_disk(folder / "trained")
    return folder


def test_slim_cuts_the_pre_trained_encoder_by_the_gates(work, encoders):
    searched = spacy.load(work / "searched").get_pipe(NAME).network
    assert has_gates(searched)
    ticket = draw_ticket(gate_scores(searched), 0.5, 0.6, "layerwise", "global")
    slim, whole = HFEncoder(str(work / "encoder")).load(), HFEncoder(encoders["bert"]).load()
    assert slim.spec == slim_spec(whole.spec, ticket)
    assert [len(kept) for kept in slim.spec.kept_heads] == [2] * 4
    assert sum(slim.spec.intermediate_sizes) == round(0.6 * 4 * 48)
    for i, stays in enumerate(ticket.neurons):
        name = f"layers.{i}.intermediate.weight"
        assert torch.equal(slim.weights[name], whole.weights[name][stays])


def test_a_slim_pipeline_answers_the_same_alone_in_batches_saved_and_loaded(work):
    for settings in ({}, {"quantize": "int8"}):
        config = {"components": {NAME: {"store_exits": True, **settings}}}
        nlp = spacy.load(work / "trained", config=config)
        assert nlp.get_pipe(NAME).network.spec.is_slim
        alone = [answers(nlp(text)) for text in TEXTS]
        assert [answers(doc) for doc in nlp.pipe(TEXTS)] == alone
        again = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
        assert [answers(doc) for doc in again.pipe(TEXTS)] == alone
        assert any(ents for ents, *_ in alone)


def test_saved_sizes_that_do_not_fit_are_refused(work, tmp_path):
    spacy.load(work / "trained").to_disk(tmp_path)
    path = tmp_path / NAME / "model" / "network.json"
    about = json.loads(path.read_text(encoding="utf8"))
    del about["sha256"]
    about["encoder"]["intermediate_sizes"][2] += 1
    path.write_text(json.dumps(about), encoding="utf8")
    cfg = tmp_path / NAME / "cfg"
    state = json.loads(cfg.read_text(encoding="utf8"))
    cfg.write_text(
        json.dumps({key: state[key] for key in state if key not in ("sha256", "network")}),
        encoding="utf8",
    )
    with pytest.raises(ValueError, match=r"encoder\.layers\.2\.intermediate\.bias' has shape"):
        spacy.load(tmp_path)


def test_unslimmed_pipelines_are_saved_as_ever(encoders, tmp_path):
    nlp = blank(encoders["bert"])
    nlp.initialize(lambda: examples_of(nlp))
    nlp.to_disk(tmp_path)
    about = json.loads((tmp_path / NAME / "model" / "network.json").read_text(encoding="utf8"))
    assert not {"kept_heads", "intermediate_sizes"} & about["encoder"].keys()


def test_evaluate_compares_with_the_unslimmed_encoder_too(work):
    output = work / "metrics.json"
    arguments = [work / "trained", work / "tune.spacy", "--thresholds", "0,0.2", "-r", 0]
    assert "unslimmed_mac_speedup" in early_exit("evaluate", *arguments, "--output", output)
    full, early = srsly.read_json(output)["thresholds"]
    assert full["mac_speedup"] == 1.0 < full["unslimmed_mac_speedup"]
    width = full["unslimmed_mac_speedup"]
    assert early["unslimmed_mac_speedup"] == pytest.approx(width * early["mac_speedup"])
    nlp = spacy.load(work / "trained")
    spec = nlp.get_pipe(NAME).network.spec
    # A pass over weights, without attention's products, which shrink with the heads alone.
    weights = [4 * 8 * s.heads * 32 + 2 * 32 * s.neurons for s in spec.own_sizes]
    assert width == pytest.approx(4 * (4 * 32 * 32 + 2 * 32 * 48) / sum(weights), rel=0.1)


def test_commands_calibrate_and_report_on_slim_pipelines(work):
    model, tune = work / "trained", work / "tune.spacy"
    early_exit("calibrate", model, tune, "-o", work / "final", "-s", "1.5,2")
    early_exit("report", work / "final", tune, "-o", work / "report.html", "-s", "1,1.5", "-r", 0)
    page = (work / "report.html").read_text(encoding="utf8")
    assert "than unslimmed" in page
    nlp = spacy.load(
        work / "final", config={"components": {NAME: {"speedup": 1.5, "threshold": None}}}
    )
    assert nlp(TEXTS[0])._.early_exit[NAME].spent


def test_without_rewind_gates_are_folded_in_and_heads_are_kept(work, tmp_path):
    everything = ["--heads", 1, "--neurons", 1, "--no-rewind", "--with-heads", tmp_path / "nlp"]
    early_exit("slim", work / "searched", "-o", tmp_path / "encoder", *everything)
    before, after = spacy.load(work / "searched"), spacy.load(tmp_path / "nlp")
    assert not has_gates(after.get_pipe(NAME).network)
    assert not after.get_pipe(NAME).network.spec.is_slim
    for a, b in zip(before.pipe(TEXTS), after.pipe(TEXTS)):
        assert [*map(str, a.ents)] == [*map(str, b.ents)]
    name = after.config["components"][NAME]["model"]["encoder"]["name"]
    assert name == str(tmp_path / "encoder") and HFEncoder(name).load()


def test_training_goes_on_from_a_slim_pipeline_with_its_heads(work, tmp_path):
    early_exit("slim", work / "searched", "-o", tmp_path / "e", "--with-heads", tmp_path / "nlp")
    nlp = blank(str(tmp_path / "e"), training={"@misc": "spacy-early-exit.SelfSampling.v1"})
    nlp.get_pipe(NAME).initialize(lambda: examples_of(nlp), nlp=nlp, start_from=tmp_path / "nlp")
    network = nlp.get_pipe(NAME).network
    searched = spacy.load(work / "searched").get_pipe(NAME).network
    assert network.spec == HFEncoder(str(tmp_path / "e")).load().spec
    for head, before in zip(network.heads.values(), searched.heads.values()):
        assert torch.equal(head.weight, before.weight)
    assert nlp.update(examples_of(nlp))[NAME] > 0


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_other_tickets_need_no_search(work, importance, tmp_path):
    shares = ["--heads", 0.5, "--neurons", 0.5, "--importance", importance]
    found = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(found))
        early_exit("slim", work / "trained", "-o", folder, *shares, "--seed", seed)
        found.append(HFEncoder(str(folder)).load().spec)
    assert found[0] == found[1]
    assert (found[0] == found[2]) == (importance == "magnitude")


@pytest.mark.parametrize(
    "model, options, what",
    [
        ("trained", [], "Give --heads"),
        ("trained", ["--heads", 0.5, "--neurons", 0.5], "It has no gates"),
        ("searched", ["--heads", 0], "heads must be above 0 and at most 1"),
        ("searched", ["--importance", "size"], "--importance must be gates, magnitude or random"),
        ("searched", ["--heads-scope", "all"], "--heads-scope must be layerwise or global"),
        ("searched", ["--encoder", "nowhere/at/all"], "there is no such folder"),
    ],
    ids=str,
)
def test_slim_refuses_what_makes_no_sense(work, model, options, what, tmp_path):
    printed = early_exit("slim", work / model, "-o", tmp_path / "x", *options, ok=False)
    assert what in printed
    assert not (tmp_path / "x").exists()


def test_slim_refuses_to_rewind_to_another_encoder(work, encoders, tmp_path):
    options = ["--encoder", encoders["roberta"]]
    printed = early_exit("slim", work / "searched", "-o", tmp_path / "x", *options, ok=False)
    assert "is not the one that it was trained from" in printed


def test_a_slim_encoder_is_not_adopted(work, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(f"Text {i}" for i in range(30)), encoding="utf8")
    arguments = [work / "encoder", tmp_path / "texts.txt", "-o", tmp_path / "out"]
    printed = " ".join(early_exit("adopt", *arguments, ok=False).split())
    assert "it is a slim encoder" in printed
