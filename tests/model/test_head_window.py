"""``head_window``: a setting of the model that its weights must fit."""

import json
import shutil

import pytest
import spacy
import torch

from spacy_early_exit.criteria import TokenExit
from spacy_early_exit.files.integrity import seal, unseal
from spacy_early_exit.model.learn_shared import Part
from spacy_early_exit.network.all_heads import run_all_heads_halting
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.seen import around
from spacy_early_exit.network.shared import Reader, run_layers_halting
from spacy_early_exit.text.windows import windows_of
from spacy_early_exit.training.halting import SampledHalting
from tests.makers.networks import CPU, network_of
from tests.makers.pipelines import answers, blank, train_small
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
V2, V3 = (f"spacy-early-exit.EarlyExitTagger.v{version}" for version in (2, 3))


def window_of(nlp) -> int:
    return nlp.get_pipe(NAME).model.shims[0].trained.network.head_window


def test_new_pipelines_see_one_word_on_each_side_and_v2_none(encoders):
    for architecture, expected in ((V3, 1), (V2, 0)):
        encoder = {"@misc": "spacy-early-exit.HFEncoder.v1", "name": encoders["bert"]}
        nlp = spacy.blank("en")
        model = {"@architectures": architecture, "encoder": encoder}
        nlp.add_pipe(NAME, config={"model": model})
        nlp.initialize(lambda nlp=nlp: examples_of(nlp))
        assert window_of(nlp) == expected


@pytest.mark.parametrize("head_window", [0, 2])
def test_it_is_saved_and_the_answers_stay(head_window, encoders, tmp_path):
    nlp = train_small(encoders["bert"], steps=20, model={"head_window": head_window})
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert window_of(again) == window_of(nlp.from_bytes(nlp.to_bytes())) == head_window
    assert [answers(doc) for doc in again.pipe(TEXTS)] == [answers(nlp(text)) for text in TEXTS]


def test_weights_of_another_window_are_refused_and_nothing_changes(encoders, tmp_path):
    train_small(encoders["bert"], steps=1, model={"head_window": 0}).to_disk(tmp_path)
    nlp = train_small(encoders["bert"], steps=20, model={"head_window": 2})
    before = [answers(nlp(text)) for text in TEXTS]
    said = rf"heads of '{NAME}' are to see 2 .* trained to see 0.*v3 with head_window = 0"
    with pytest.raises(ValueError, match=said):
        nlp.get_pipe(NAME).from_disk(tmp_path / NAME)
    assert [answers(nlp(text)) for text in TEXTS] == before
    other = blank("nowhere/at-all", model={"head_window": 2})
    other.config["initialize"]["components"] = {NAME: {"start_from": str(tmp_path)}}
    with pytest.raises(ValueError, match=said):
        other.initialize(lambda: examples_of(other))


@pytest.mark.parametrize("head_window", [-1, 9, "1", 1.5, True, None])
def test_nonsense_is_refused(head_window, encoders):
    with pytest.raises(ValueError, match="head_window"):
        blank(encoders["bert"], model={"head_window": head_window})


@pytest.mark.parametrize("head_window", [-1, 9, "1", True, None])
def test_nonsense_in_a_file_is_refused(head_window, encoders, tmp_path):
    train_small(encoders["bert"], steps=1).to_disk(tmp_path)
    file = tmp_path / NAME / "model" / "network.json"
    about = unseal(file.read_bytes())
    file.write_bytes(seal({**about, "head_window": head_window}))
    with pytest.raises(ValueError, match="head_window must be a whole number from 0 to 8"):
        spacy.load(tmp_path)


def test_a_network_saved_before_there_was_the_setting_has_none(encoders, tmp_path):
    train_small(encoders["bert"], steps=1, model={"head_window": 0}).to_disk(tmp_path)
    file = tmp_path / NAME / "model" / "network.json"
    assert "head_window" not in json.loads(file.read_bytes())
    shutil.copytree(tmp_path, tmp_path / "again")
    assert window_of(spacy.load(tmp_path / "again")) == 0


@pytest.mark.parametrize("kv", ["copy", "drop"])
@pytest.mark.parametrize("head_window", [1, 2])
def test_a_task_of_a_shared_pass_learns_from_what_it_would_see_alone(kv, head_window, encoders, en):
    trained = network_of(encoders["bert"], head_window=head_window)
    network, docs = trained.network, [en.make_doc(text) for text in TEXTS]
    windows = windows_of(docs, trained.tokenizer, network.spec.max_wordpieces, 8)
    batch, criterion = Batch.of(windows, CPU, kv), TokenExit(0)
    halting = SampledHalting(
        batch,
        torch.full((batch.windows,), 0.2),
        [(criterion, criterion.start(batch))],
        torch.zeros(batch.windows, dtype=torch.int64),
        {},
    )
    with torch.no_grad():
        alone, exit_layer = run_all_heads_halting(network, batch, halting)
        states, found = run_layers_halting(network, batch, [Reader("a", network)], [halting])
        part = Part(batch, states, states, {"a": found[0]}, {"a": halting}, {})
        assert torch.equal(found[0], exit_layer) and len(exit_layer.unique()) > 1
        for number, state in enumerate(states, start=1):
            seen = around(network.reach(number), state, batch, part.alive_at(number))
            running = exit_layer >= number
            logits = network.logits(number, seen)[running]
            torch.testing.assert_close(logits, alone[number - 1][running])
