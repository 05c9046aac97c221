import pytest
import torch

from spacy_early_exit.criteria import make_token_exit
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.reference import run_reference
from spacy_early_exit.relatives.belief_exit import make_belief_exit
from spacy_early_exit.relatives.mean_field import make_ain_decoder
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import CPU, batch_of, network_of, step_of
from tests.makers.texts import texts_of_all_lengths

SURE, UNSURE = [9.0, 0.0, 0.0], [0.1, 0.0, 0.0]


def links(scale):
    """Every tag is followed by the same tag, with so much weight."""
    learned = make_ain_decoder().parameters(3)
    learned["transitions_1"] = scale * torch.eye(3)
    return learned


def leaving(criterion, batch, logits, state=None, words=None, scale=9.0):
    words = torch.arange(batch.words) if words is None else torch.tensor(words)
    step = step_of(1, words, logits, batch, 0.3, links(scale))
    return criterion.leave(step, criterion.start(batch) if state is None else state).tolist()


def test_an_unsure_word_is_helped_by_a_sure_neighbour():
    logits, batch = [SURE, UNSURE, SURE, UNSURE], batch_of(3, 1)
    assert leaving(make_belief_exit(1), batch, logits) == [True, True, True, False]
    assert leaving(make_belief_exit(0), batch, logits) == [True, False, True, False]
    assert leaving(make_belief_exit(1), batch, logits, scale=0.0) == [True, False, True, False]


def test_words_that_left_go_on_telling_what_they_believed():
    criterion, batch = make_belief_exit(1), batch_of(2)
    state = criterion.start(batch)
    assert leaving(criterion, batch, [SURE, [0.0, 9.0, 9.0]], state) == [True, False]
    assert leaving(criterion, batch, [UNSURE], state, words=[1]) == [True]
    assert leaving(criterion, batch, [UNSURE], None, words=[1]) == [False]  # nobody told it


def test_neighbours_that_are_not_certain_hold():
    logits = [SURE, SURE, UNSURE]
    assert leaving(make_belief_exit(1, 1), batch_of(3), logits, scale=0.0) == [True, False, False]


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_without_iterations_it_is_token_exit(threshold, encoders, en):
    batch, network, _ = batch_and_network(encoders, en)
    with torch.inference_mode():
        found, plain = (
            run_with_exits(network, batch, criterion, threshold)
            for criterion in (make_belief_exit(0, 1), make_token_exit(1))
        )
    assert torch.equal(found.exit_layer, plain.exit_layer)
    assert torch.equal(found.spent, plain.spent)


def test_a_window_leaves_in_any_batch_as_it_does_alone(encoders, en):
    _, network, windows = batch_and_network(encoders, en)
    criterion = make_belief_exit(2, 1)

    def layers(some):
        with torch.inference_mode():
            return run_with_exits(network, Batch.of(some, CPU), criterion, 0.6).exit_layer.tolist()

    alone = [layer for window in windows for layer in layers([window])]
    assert layers(windows) == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_the_fast_loop_equals_the_reference(threshold, encoders, en):
    batch, network, _ = batch_and_network(encoders, en)
    with torch.inference_mode():
        fast = run_with_exits(network, batch, make_belief_exit(2, 1), threshold)
        plain = run_reference(network, batch, make_belief_exit(2, 1), threshold)
    assert torch.equal(fast.exit_layer, plain.exit_layer)
    torch.testing.assert_close(fast.logits, plain.logits, atol=1e-4, rtol=1e-4)


def batch_and_network(encoders, en):
    trained = network_of(encoders["bert"], spread=1.5)
    network = trained.network
    draw = torch.Generator().manual_seed(0)
    network.make_room_for(
        decoder={
            name: torch.randn(zeros.shape, generator=draw)
            for name, zeros in make_ain_decoder().parameters(network.tags).items()
        },
        criterion={},
    )
    docs = [en.make_doc(text) for text in texts_of_all_lengths(count=24)]
    windows = windows_of(docs, trained.tokenizer, network.spec.max_wordpieces, 8)
    return Batch.of(windows, CPU), network, windows


def test_its_defaults_never_change():
    assert make_belief_exit() == make_belief_exit(3, 0, 1)


def test_it_asks_for_what_words_tell_one_another_at_every_distance():
    parts = [f"{part}_{apart}" for apart in (1, 2) for part in ("transitions", "start", "end")]
    assert make_belief_exit(3, 0, 2).needs_learned == tuple(parts)


def test_it_counts_a_message_to_each_side_in_every_iteration():
    assert make_belief_exit(4, 0, 3).macs(1, None, 5) == 2 * 3 * 4 * 5 * 5


@pytest.mark.parametrize("arguments", [{"iterations": -1}, {"window": -1}, {"order": 0}])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        make_belief_exit(**arguments)
