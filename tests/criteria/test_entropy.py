import math

import pytest
import torch

from spacy_early_exit.criteria import make_patience_exit, make_sentence_exit, make_token_exit
from spacy_early_exit.criteria.entropy import SentenceExit, TokenExit
from spacy_early_exit.network.exit_network import uncertainty
from spacy_early_exit.relatives.belief_exit import make_belief_exit
from spacy_early_exit.relatives.reduction_exit import make_token_reduction
from tests.makers.networks import batch_of, step_of

SURE, UNSURE = [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]


def leave(criterion, batch, words, logits, threshold=0.5):
    step = step_of(1, words, logits, batch, threshold)
    return criterion.leave(step, criterion.start(batch)).tolist()


def test_uncertainty_is_entropy_over_that_of_the_uniform_distribution():
    logits = torch.tensor([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [0.0, math.log(3), -1e9]])
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(3)
    assert uncertainty(logits).tolist() == pytest.approx([1.0, 0.0, expected], abs=1e-6)


def test_uncertainty_survives_huge_logits_and_a_single_tag():
    assert uncertainty(torch.tensor([[1e30, 0.0]])).tolist() == [0.0]
    assert uncertainty(torch.tensor([[5.0]])).tolist() == [0.0]


def test_a_sentence_leaves_when_its_most_uncertain_word_may():
    batch = batch_of(2, 2)
    assert leave(make_sentence_exit(), batch, [0, 1, 2, 3], [SURE, SURE, SURE, UNSURE]) == [
        True,
        True,
        False,
        False,
    ]


def test_a_word_is_held_by_neighbours_within_its_window_only():
    batch = batch_of(5, 3)
    logits = [SURE, UNSURE, SURE, SURE, SURE, SURE, SURE, SURE]
    for window, expected in [
        (0, [1, 0, 1, 1, 1, 1, 1, 1]),
        (1, [0, 0, 0, 1, 1, 1, 1, 1]),
        (2, [0, 0, 0, 0, 1, 1, 1, 1]),
        (9, [0, 0, 0, 0, 0, 1, 1, 1]),  # never the next window of wordpieces
    ]:
        criterion = TokenExit(window)
        assert leave(criterion, batch, list(range(8)), logits) == [bool(e) for e in expected]


def test_a_huge_window_is_that_of_the_longest_text():
    logits = [SURE, UNSURE, SURE, SURE, SURE]
    for window in (4, 10**9):
        criterion = TokenExit(window)
        assert leave(criterion, batch_of(3, 2), list(range(5)), logits) == [
            False, False, False, True, True,
        ]  # fmt: skip


def test_its_defaults_never_change():
    assert make_token_exit() == TokenExit(1)


def test_words_that_left_are_neither_counted_nor_bridged():
    # Word 1 has left: words 0 and 2 are not next to each other for that.
    criterion = TokenExit(1)
    assert leave(criterion, batch_of(3), [0, 2], [SURE, UNSURE]) == [True, False]


def test_the_comparison_is_strict():
    assert leave(TokenExit(0), batch_of(1), [0], [UNSURE], 1.0) == [False]
    assert leave(SentenceExit(), batch_of(1), [0], [UNSURE], 1.0) == [False]


def test_another_neighbourhood_is_for_criteria_that_have_one():
    assert TokenExit(1).with_window(3) == TokenExit(3)
    assert make_patience_exit(2, 1).with_window(3) == make_patience_exit(2, 3)
    assert make_belief_exit(2, 1, 2).with_window(3) == make_belief_exit(2, 3, 2)
    for criterion in (SentenceExit(), make_token_reduction([1])):
        assert criterion.with_window(3) is criterion


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="window"):
        make_token_exit(window=-1)
