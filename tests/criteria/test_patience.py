import pytest
import torch

from spacy_early_exit.criteria import make_patience_exit
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import CPU, batch_of, network_of, step_of
from tests.makers.texts import texts_of_all_lengths

UNSURE = [0.1, 0.0, 0.0]


def exits(criterion, batch, tags_by_layer, threshold=1.0, sure=9.0):
    """The layer at which each word leaves, by what every layer predicts; the last takes all."""
    state, last = criterion.start(batch), len(tags_by_layer) + 1
    layers = torch.full((batch.words,), last)
    for number, tags in enumerate(tags_by_layer, start=1):
        words = (layers == last).nonzero().squeeze(1)
        if len(words):
            logits = sure * torch.eye(3)[torch.tensor(tags)][words]
            leaving = criterion.leave(step_of(number, words, logits, batch, threshold), state)
            layers[words[leaving]] = number
    return layers.tolist()


class TestWords:
    @pytest.mark.parametrize("patience", [1, 2, 3])
    def test_those_that_never_change_leave_after_patience_comparisons(self, patience):
        criterion = make_patience_exit(patience, window=0)
        assert exits(criterion, batch_of(2), [[0, 1]] * 5) == [patience + 1] * 2

    @pytest.mark.parametrize("patience", [0, 5, 6, 99])
    def test_patience_of_0_or_from_one_less_than_layers_on_is_full_depth(self, patience):
        assert exits(make_patience_exit(patience), batch_of(2), [[0, 1]] * 5) == [6, 6]

    def test_a_change_starts_the_count_again(self):
        layers = [[0, 1], [0, 1], [0, 2], [0, 2], [0, 2]]
        assert exits(make_patience_exit(2, window=0), batch_of(2), layers) == [3, 5]

    def test_neighbours_hold_until_they_are_ready_or_have_left(self):
        layers = [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 2]]
        assert exits(make_patience_exit(2, window=1), batch_of(4), layers) == [3, 3, 4, 4]
        # Word 2 leaves with word 3, which never waits for what left already.
        assert exits(make_patience_exit(2, window=0), batch_of(4), layers) == [3, 3, 3, 4]

    def test_no_neighbour_is_in_another_window(self):
        layers = [[0, 0, 1], [0, 0, 2], [0, 0, 1], [0, 0, 2], [0, 0, 1]]
        assert exits(make_patience_exit(1, window=9), batch_of(2, 1), layers) == [2, 2, 6]


class TestConfidence:
    def test_a_threshold_below_1_asks_for_certainty_as_well(self):
        criterion = make_patience_exit(1, window=0)
        layers = [[0, 1]] * 5
        assert exits(criterion, batch_of(2), layers, threshold=0.5) == [2, 2]
        assert exits(criterion, batch_of(2), layers, threshold=0.5, sure=0.1) == [6, 6]
        assert exits(criterion, batch_of(2), layers, threshold=1.0, sure=0.1) == [2, 2]

    def test_a_threshold_of_1_takes_even_a_uniform_distribution(self):
        criterion = make_patience_exit(1)
        assert exits(criterion, batch_of(2), [[0, 1]] * 5, threshold=1.0, sure=0.0) == [2, 2]

    def test_at_a_threshold_of_0_nobody_leaves_however_certain(self):
        criterion = make_patience_exit(1, window=0)
        assert exits(criterion, batch_of(2), [[0, 1]] * 5, threshold=0.0, sure=1e9) == [6, 6]

    def test_each_word_may_have_a_threshold_of_its_own(self):
        # As in training; 0 is full depth.
        criterion, batch = make_patience_exit(1, window=0), batch_of(3)
        thresholds = torch.tensor([0.0, 0.5, 1.0])
        state, words = criterion.start(batch), torch.arange(3)
        leaving = [
            criterion.leave(step_of(n, words, [UNSURE] * 3, batch, thresholds), state)
            for n in (1, 2)
        ]
        assert leaving[0].tolist() == [False] * 3
        assert leaving[1].tolist() == [False, False, True]


def test_its_defaults_never_change():
    assert make_patience_exit() == make_patience_exit(2, 1)


@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_a_window_leaves_in_any_batch_as_it_does_alone(threshold, encoders, en):
    trained = network_of(encoders["bert"])
    criterion = make_patience_exit(1)
    docs = [en.make_doc(text) for text in texts_of_all_lengths(count=24)]
    windows = windows_of(docs, trained.tokenizer, trained.network.spec.max_wordpieces, 8)

    def layers(some):
        with torch.inference_mode():
            found = run_with_exits(trained.network, Batch.of(some, CPU), criterion, threshold)
        return found.exit_layer.tolist()

    alone = [layer for window in windows for layer in layers([window])]
    assert layers(windows) == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize(
    "arguments",
    [{"patience": -1}, {"window": -1}],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        make_patience_exit(**arguments)
