"""What a frozen teacher says of texts is computed once."""

import copy
import gc

import pytest
import torch

from spacy_early_exit.network.all_heads import run_all_heads, run_all_layers
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.text.windows import windows_of
from spacy_early_exit.training import taught
from tests.makers.networks import network_of
from tests.makers.texts import TEXTS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def windows(encoders, en):
    trained = network_of(encoders["bert"])
    return windows_of([en.make_doc(text) for text in TEXTS], trained.tokenizer, 48, 8)


@pytest.fixture
def teacher(encoders):
    return copy.deepcopy(network_of(encoders["bert"]).network).requires_grad_(False)


@pytest.fixture
def runs(monkeypatch):
    """The batches that a teacher really runs."""
    seen = []

    def watched(network, batch):
        seen.append(batch)
        return run_all_layers(network, batch)

    monkeypatch.setattr(taught, "run_all_layers", watched)
    return seen


@pytest.mark.parametrize("deepest", [True, False])
def test_answers_are_the_same_the_second_time_and_in_other_batches(windows, teacher, runs, deepest):
    first, second = Batch.of(windows, CPU), Batch.of(windows[::-1], CPU)
    for batch in (first, first, second):
        found = taught.taught_by(teacher, batch, deepest)
        expected = run_all_heads(teacher, batch)[-1 if deepest else 0 :]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(runs) == 1


def test_each_teacher_and_each_number_of_heads_has_its_own(windows, teacher, runs):
    batch = Batch.of(windows, CPU)
    other = copy.deepcopy(teacher)
    other.scale_heads([2.0] * other.spec.layers)
    ours, theirs = (taught.taught_by(one, batch, True) for one in (teacher, other))
    torch.testing.assert_close(ours, 2.0 * theirs)
    assert len(taught.taught_by(teacher, batch, False)) == teacher.spec.layers
    assert len(runs) == 3


def test_words_elsewhere_in_the_same_wordpieces_are_other_words(windows, teacher, runs):
    batch = Batch.of([max(windows, key=lambda window: len(window.words))], CPU)
    taught.taught_by(teacher, batch, True)
    places = batch.piece_of_word.clone()
    places[0] = places[1]
    shifted = Batch(**{**vars(batch), "piece_of_word": places})
    found = taught.taught_by(teacher, shifted, True)
    torch.testing.assert_close(found[:, 0], found[:, 1])
    assert len(runs) == 2


def test_no_more_is_kept_than_there_is_room_for(windows, teacher, runs, monkeypatch):
    batches = [Batch.of([window], CPU) for window in windows]
    first = taught.taught_by(teacher, batches[0], True)
    monkeypatch.setattr(taught, "MOST", first.nbytes)
    for batch in (batches[1], batches[1], batches[0]):
        taught.taught_by(teacher, batch, True)
    assert runs == [batches[0], batches[1], batches[1]]


def test_nothing_is_kept_when_the_teacher_is_gone(windows, encoders):
    before = len(taught._known)
    teacher = copy.deepcopy(network_of(encoders["bert"]).network)
    taught.taught_by(teacher, Batch.of(windows, CPU), True)
    assert len(taught._known) == before + 1
    del teacher
    gc.collect()
    assert len(taught._known) == before
