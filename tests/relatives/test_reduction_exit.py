from dataclasses import replace

import pytest
import torch

from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.cost import head_macs, layer_macs
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.reference import run_reference
from spacy_early_exit.relatives.reduction_exit import make_token_reduction
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import CPU, batch_of, network_of, step_of
from tests.makers.texts import texts_of_all_lengths

CRITERION = make_token_reduction([1, 3])


@pytest.fixture(scope="module")
def trained(encoders):
    """A network whose selectors are of many minds."""
    trained = network_of(encoders["bert"])
    torch.manual_seed(0)
    fresh = CRITERION.parameters(trained.network.spec)
    trained.network.make_room_for({}, {name: torch.randn(p.shape) for name, p in fresh.items()})
    return trained


@pytest.fixture(scope="module")
def windows(trained, en):
    docs = [en.make_doc(text) for text in texts_of_all_lengths(count=24)]
    return windows_of(docs, trained.tokenizer, trained.network.spec.max_wordpieces, 8)


def layers_of(network, windows, threshold):
    with torch.inference_mode():
        return run_with_exits(network, Batch.of(windows, CPU), CRITERION, threshold).exit_layer


def test_a_word_leaves_where_going_on_is_less_likely_than_the_threshold():
    states = torch.tensor([[-1.0], [0.0], [1.0]])
    learned = {
        "selector_2_in": torch.full((32, 1), 1.0),
        "selector_2_in_bias": torch.full((32,), 10.0),  # far from where GELU bends
        "selector_2_out": torch.full((1, 32), 1 / 32),
        "selector_2_out_bias": torch.tensor([-10.0]),
    }  # log-odds are the states
    criterion, batch = make_token_reduction([2]), batch_of(3)
    for threshold, leaving in ((0.2, [0, 0, 0]), (0.4, [1, 0, 0]), (0.6, [1, 1, 0])):
        step = step_of(2, [0, 1, 2], torch.zeros(3, 3), batch, threshold, learned, states)
        assert criterion.leave(step, None).tolist() == leaving
        step = step_of(1, [0, 1, 2], torch.zeros(3, 3), batch, threshold, learned, states)
        assert not criterion.leave(step, None).any()


def test_before_training_nearly_everybody_goes_on(trained):
    torch.manual_seed(0)
    spec = trained.network.spec
    fresh = CRITERION.parameters(spec)
    assert len(fresh) == 2 * 4  # after layers 1 and 3: a map in, a map out, and their biases
    states = torch.randn(9, spec.hidden_size)
    for layer in (1, 3):
        step = step_of(layer, range(9), torch.zeros(9, 3), batch_of(9), 0.5, fresh, states)
        assert CRITERION.log_odds(step).tolist() == pytest.approx([2.0] * 9, abs=0.05)
        inner = fresh[f"selector_{layer}_in"]
        assert inner.std().item() == pytest.approx(0.02, rel=0.1), "small, and not all the same"


def test_nobody_decides_after_the_last_layer(trained):
    spec = trained.network.spec
    assert make_token_reduction([1, spec.layers - 1]).parameters(spec)
    with pytest.raises(
        ValueError, match="layers must be at most 3 for this encoder of 4 layers, not 4"
    ):
        make_token_reduction([1, spec.layers]).parameters(spec)


@pytest.mark.parametrize("kv", ["copy", "drop"])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 1.0])
def test_the_fast_loop_equals_the_reference(trained, windows, threshold, kv):
    batch = Batch.of(windows, CPU, kv)
    with torch.inference_mode():
        fast = run_with_exits(trained.network, batch, CRITERION, threshold)
        plain = run_reference(trained.network, batch, CRITERION, threshold)
    assert torch.equal(fast.exit_layer, plain.exit_layer)
    torch.testing.assert_close(fast.logits, plain.logits, atol=1e-4, rtol=1e-4)
    assert set(fast.exit_layer.tolist()) <= {1, 3, trained.network.spec.layers}
    if threshold == 0.5:
        assert len(fast.exit_layer.unique()) > 1


def test_a_window_leaves_in_any_batch_as_it_does_alone(trained, windows):
    alone = [layer for w in windows for layer in layers_of(trained.network, [w], 0.5).tolist()]
    assert layers_of(trained.network, windows, 0.5).tolist() == alone


def test_selectors_that_always_let_go_on_are_the_full_model(trained, windows):
    network, batch = network_copy(trained.network, 1e4), Batch.of(windows, CPU)
    with torch.inference_mode():
        found = run_with_exits(network, batch, CRITERION, 1.0)
        full = run_with_exits(network, batch, None)
    assert torch.equal(found.logits, full.logits)
    words = torch.bincount(batch.window_of_word)
    selectors = 2 * 32 * (network.spec.hidden_size + 1) * words
    assert torch.equal(found.spent, full.spent + selectors)


def test_heads_are_paid_for_only_where_words_leave(trained, windows):
    network, batch = network_copy(trained.network, -1e4), Batch.of(windows, CPU)
    with torch.inference_mode():
        found = run_with_exits(network, batch, CRITERION, 0.5)
    assert (found.exit_layer == 1).all()
    spec, words = network.spec, torch.bincount(batch.window_of_word)
    pieces = torch.tensor(batch.lengths)
    selector = 32 * (spec.hidden_size + 1) * words
    expected = (
        layer_macs(spec, spec.layer_sizes[0], pieces, pieces)
        + head_macs(spec, network.tags, words, network.reach(1))
        + selector
    )
    assert torch.equal(found.spent, expected)


def network_copy(network, bias):
    import copy

    network = copy.deepcopy(network)
    for name, parameter in network.extra_parameters.items():
        if name.endswith("out_bias"):
            parameter.data.fill_(bias)
    return network


def test_dropping_saves_more(trained, windows):
    copied = Batch.of(windows, CPU)
    with torch.inference_mode():
        spent = [
            run_with_exits(trained.network, batch, CRITERION, 0.5).spent.sum()
            for batch in (copied, replace(copied, kv="drop"))
        ]
    assert spent[1] < spent[0]


@pytest.mark.parametrize("layers", [[], [0, 2], [3, 1], [2, 2]])
def test_nonsense_is_refused(layers):
    with pytest.raises(ValueError, match="layers"):
        make_token_reduction(layers)
