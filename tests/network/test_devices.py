"""GPUs without a GPU: a device that pretends gives the answers of a CPU, and says what waits."""

import contextlib
import copy
from dataclasses import replace

import pytest
import torch

from spacy_early_exit.criteria import SentenceExit, TokenExit, make_patience_exit
from spacy_early_exit.files.network import move_heads
from spacy_early_exit.network.all_heads import run_all_heads, run_all_heads_halting
from spacy_early_exit.network.batch import Batch, Running
from spacy_early_exit.network.devices import device_named, fetched
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.network.layers import neighbourhood, ragged
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.products.half import halved
from spacy_early_exit.network.shared import (
    Reader,
    run_layers_halting,
    run_shared,
    simulate_shared,
)
from spacy_early_exit.network.simulate import simulate_exits
from spacy_early_exit.relatives.belief_exit import make_belief_exit
from spacy_early_exit.relatives.mean_field import make_ain_decoder
from spacy_early_exit.relatives.reduction_exit import make_token_reduction
from spacy_early_exit.text.windows import windows_of
from spacy_early_exit.training.halting import SampledHalting
from spacy_early_exit.training.self_sampling import make_self_sampling
from tests.makers.devices import DEVICE, Device
from tests.makers.encoders import FAMILIES, VARIANTS
from tests.makers.networks import network_of
from tests.makers.texts import TEXTS, texts_of_all_lengths

CPU = torch.device("cpu")
CRITERIA = {
    "sentence": SentenceExit(),
    "token": TokenExit(window=0),
    "token, window of 2": TokenExit(window=2),
    "patience": make_patience_exit(patience=1, window=0),
    "beliefs": make_belief_exit(),
    "reduction": make_token_reduction(),
}
HOW = {"copy": {}, "drop": {"kv": "drop"}, "halt special": {"halt_special": True}}
HOW["both"] = {**HOW["drop"], **HOW["halt special"]}
# What may wait in addition, in a batch: layers with relative positions, and those that attend
# nearby, tell at the end what they wasted; beliefs ask at the start for the lengths of texts;
# selectors are asked after the last layer, too.
MORE = {"modernbert": 1, "deberta-v2": 1, "beliefs": 2, "reduction": 1}
# If windows are very long, layers that attend nearby ask for their blocks when words have exited.
BLOCKS = 5


@pytest.fixture(scope="module")
def cases(encoders, en):
    """Networks and windows by family, each made when it is first asked for."""
    known = {}

    def get(family):
        if family not in known:
            trained = network_of(encoders[family])
            network = trained.network
            criteria = CRITERIA["reduction"].parameters(network.spec)
            torch.manual_seed(0)
            criteria = {name: torch.randn_like(known) for name, known in criteria.items()}
            network.make_room_for(make_ain_decoder().parameters(network.tags), criteria)
            docs = [en.make_doc(text) for text in [*texts_of_all_lengths(count=16), *TEXTS]]
            known[family] = (
                network,
                windows_of(docs, trained.tokenizer, network.spec.max_wordpieces, 8),
            )
        return known[family]

    return get


def run_there(network, windows, criterion, threshold=0.2, **how):
    """The answers of the pretended device, from windows to answers, and what waited."""
    with torch.inference_mode(), Device() as device:
        there = copy.deepcopy(network).to(DEVICE)
        device.waits.clear()
        batch = Batch.of(windows, DEVICE, **how)
        exits = fetched(run_with_exits(there, batch, criterion, threshold))
    return exits, device.waits


def run_here(network, windows, criterion, threshold=0.2, **how):
    with torch.inference_mode():
        return run_with_exits(network, Batch.of(windows, CPU, **how), criterion, threshold)


def assert_same(found, right):
    torch.testing.assert_close(found.logits, right.logits, rtol=1e-4, atol=1e-4)
    for name in ("exit_layer", "spent", "full"):
        assert torch.equal(getattr(found, name), getattr(right, name)), name


def assert_few_waits(waits, network, *more):
    """One after each layer but the last, and two for the answers."""
    of_blocks = [wait for wait in waits if "neighbourhood.py" in wait]
    assert not of_blocks or network.spec.family == "modernbert"
    assert len(of_blocks) <= BLOCKS * network.spec.layers
    rest = [wait for wait in waits if wait not in of_blocks]
    most = network.spec.layers - 1 + 2 + sum(MORE.get(name, 0) for name in more)
    assert len(rest) <= most, rest


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
@pytest.mark.takes(seconds=10)
def test_every_family_answers_alike_and_waits_once_a_layer(family, cases):
    network, windows = cases(family)
    criterion = CRITERIA["token, window of 2"]
    exits, waits = run_there(network, windows, criterion)
    assert_same(exits, run_here(network, windows, criterion))
    assert len(exits.exit_layer.unique()) > 1, "the test must see words leave at several layers"
    assert_few_waits(waits, network, network.spec.family)


@pytest.mark.parametrize("how", HOW)
def test_blocks_of_long_windows_are_found_once_after_words_exited(how, cases, monkeypatch):
    monkeypatch.setattr(neighbourhood, "LONG_ON_GPU", 1)
    network, windows = cases("modernbert")
    criterion = CRITERIA["token, window of 2"]
    exits, waits = run_there(network, windows, criterion, **HOW[how])
    assert_same(exits, run_here(network, windows, criterion, **HOW[how]))
    assert any("neighbourhood.py" in wait for wait in waits)
    assert_few_waits(waits, network, "modernbert")


def test_what_draws_thresholds_waits_no_more_than_it_copies(cases):
    network, windows = cases("bert")
    with torch.no_grad():
        logits = run_all_heads(network, Batch.of(windows, CPU))
        halting = drawn_halting(Batch.of(windows, CPU), "token")
        halting.thresholds[::2] = 0.0
        here, there = (make_self_sampling(max_speedup=4.0) for _ in range(2))
        here.see(halting, logits, network, Batch.of(windows, CPU), CRITERIA["token"])
        with Device() as device:
            moved = copy.deepcopy(network).to(DEVICE)
            batch, logits = Batch.of(windows, DEVICE), logits.to(DEVICE)
            halting = replace(halting, thresholds=halting.thresholds.to(DEVICE))
            device.waits.clear()
            there.see(halting, logits, moved, batch, CRITERIA["token"])
            waits = list(device.waits)
    assert torch.equal(there.draws.speedups, here.draws.speedups)
    assert here.draws.speedups[-1] > 1.5
    assert waits and all("aten._to_copy" in wait for wait in waits), waits


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_answers_alike_and_waits_once_a_layer(criterion, how, cases):
    network, windows = cases("bert")
    threshold = {"reduction": 0.5, "patience": 1.0}.get(criterion, 0.2)
    exits, waits = run_there(network, windows, CRITERIA[criterion], threshold, **HOW[how])
    assert_same(exits, run_here(network, windows, CRITERIA[criterion], threshold, **HOW[how]))
    assert len(exits.exit_layer.unique()) > 1, "the test must see words leave at several layers"
    assert_few_waits(waits, network, criterion)


def test_full_depth_waits_for_the_answers_alone(cases):
    network, windows = cases("bert")
    exits, waits = run_there(network, windows, None)
    assert_same(exits, run_here(network, windows, None))
    assert len(waits) == 2, waits


def test_when_no_word_exits_nothing_changes(cases):
    _, windows = cases("bert")
    with torch.inference_mode(), Device() as device:
        running = Running.all_of(Batch.of(windows, DEVICE))
        nobody = torch.zeros(len(running.words), dtype=torch.bool, device=DEVICE)
        assert running.after(nobody) is running
        assert len(running.after(~nobody).words) == 0
    assert len(device.waits) == 2


def drawn_halting(batch, criterion):
    criteria = [CRITERIA[criterion], CRITERIA["token"]]
    drawn = torch.arange(batch.windows) % 2
    return SampledHalting(
        batch=batch,
        thresholds=(0.1 + 0.2 * drawn).to(batch.ids.device),
        criteria=[(one, one.start(batch)) for one in criteria],
        choice=drawn.to(batch.ids.device),
        learned={},
    )


@pytest.mark.parametrize("criterion", ["sentence", "token, window of 2", "patience"])
def test_training_with_exits_answers_alike_and_waits_once_a_layer(criterion, cases, monkeypatch):
    network, windows = cases("bert")
    # The device has no mixed precision.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    with torch.no_grad():
        batch = Batch.of(windows, CPU)
        drawn = drawn_halting(batch, criterion)
        logits, exit_layer = run_all_heads_halting(network, batch, drawn)
        with Device() as device:
            there, batch = copy.deepcopy(network).to(DEVICE), Batch.of(windows, DEVICE)
            drawn = drawn_halting(batch, criterion)
            device.waits.clear()
            found = run_all_heads_halting(there, batch, drawn)
            waits = list(device.waits)
            found = [part.cpu() for part in found]
    torch.testing.assert_close(found[0], logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[1], exit_layer) and len(exit_layer.unique()) > 1
    assert len(waits) <= network.spec.layers - 1, waits


def test_simulated_exits_are_alike_and_wait_once_a_layer(cases):
    network, windows = cases("bert")
    torch.manual_seed(0)
    words = sum(len(window.words) for window in windows)
    logits = 3 * torch.randn(network.spec.layers, words, network.tags)
    states, criterion = logits[:, :, :0], CRITERIA["token"]
    with torch.inference_mode():
        batch = Batch.of(windows, CPU)
        layers, cost = simulate_exits(network, batch, logits, states, criterion, 0.5)
        with Device() as device:
            batch = Batch.of(windows, DEVICE)
            there = logits.to(DEVICE), states.to(DEVICE)
            device.waits.clear()
            found, found_cost = simulate_exits(network, batch, *there, criterion, 0.5)
            waits = list(device.waits)
            found, spent = found.cpu(), found_cost.spent.cpu()
    assert torch.equal(found, layers) and torch.equal(spent, cost.spent)
    assert len(layers.unique()) > 1 and len(waits) <= network.spec.layers - 1, waits


def readers_over(network, first, second, threshold=0.3):
    """Two tasks that read the states of one encoder."""
    tags = ExitNetwork.over(network.encoder, 11)
    torch.manual_seed(5)
    for head in tags.heads.values():
        torch.nn.init.normal_(head.weight, std=0.6)
    readers = [("names", network, first), ("tags", tags, second)]
    return [Reader(name, of, CRITERIA.get(how), threshold) for name, of, how in readers]


def readers_there(readers):
    there = copy.deepcopy(readers)  # still over one encoder
    there[0].network.to(DEVICE)
    move_heads(there[1].network, DEVICE)
    return there


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "first, second", [("token", "token, window of 2"), ("patience", "sentence"), ("token", "never")]
)
def test_a_shared_pass_answers_alike_and_waits_once_a_layer(first, second, how, cases):
    network, windows = cases("bert")
    readers = readers_over(network, first, second)
    with torch.inference_mode():
        right = run_shared(network, Batch.of(windows, CPU, **HOW[how]), readers)
        with Device() as device:
            there = readers_there(readers)
            device.waits.clear()
            batch = Batch.of(windows, DEVICE, **HOW[how])
            found = list(map(fetched, run_shared(there[0].network, batch, there)))
    for mine, plain in zip(found, right, strict=True):
        assert_same(mine, plain)
    assert len(right[0].exit_layer.unique()) > 1, "words must leave at several layers"
    # The answers of each task are fetched one after the other.
    assert len(device.waits) <= network.spec.layers - 1 + 2 * len(readers), device.waits


def test_a_shared_pass_at_full_depth_waits_for_the_answers_alone(cases):
    network, windows = cases("bert")
    readers = readers_over(network, "never", "never")
    with torch.inference_mode():
        right = run_shared(network, Batch.of(windows, CPU), readers)
        with Device() as device:
            there = readers_there(readers)
            device.waits.clear()
            found = run_shared(there[0].network, Batch.of(windows, DEVICE), there)
            found = list(map(fetched, found))
    for mine, plain in zip(found, right, strict=True):
        assert_same(mine, plain)
    assert len(device.waits) == 2 * len(readers), device.waits


def test_simulating_a_shared_pass_waits_once_a_layer(cases):
    network, windows = cases("bert")
    readers = readers_over(network, "token", "token, window of 2")
    with torch.inference_mode():
        batch = Batch.of(windows, CPU)
        logits = [run_all_heads(reader.network, batch) for reader in readers]
        right = simulate_shared(network, batch, logits, readers)
        with Device() as device:
            there, batch = readers_there(readers), Batch.of(windows, DEVICE)
            logits = [part.to(DEVICE) for part in logits]
            device.waits.clear()
            found = simulate_shared(there[0].network, batch, logits, there)
            waits = list(device.waits)
            spent = found.spent.cpu()
    assert torch.equal(spent, right.spent) and int(right.spent.sum()) < int(right.full.sum())
    assert len(waits) <= network.spec.layers - 1, waits


def test_training_in_a_shared_pass_answers_alike_and_waits_once_a_layer(cases, monkeypatch):
    network, windows = cases("bert")
    readers = readers_over(network, "token", "sentence")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())

    def run(readers, batch, haltings):
        return run_layers_halting(readers[0].network, batch, readers, haltings)

    with torch.no_grad():
        batch = Batch.of(windows, CPU)
        haltings = [drawn_halting(batch, name) for name in ("patience", "sentence")]
        states, exit_layers = run(readers, batch, haltings)
        with Device() as device:
            there, batch = readers_there(readers), Batch.of(windows, DEVICE)
            haltings = [drawn_halting(batch, name) for name in ("patience", "sentence")]
            device.waits.clear()
            found = run(there, batch, haltings)
            waits = list(device.waits)
            found = [[part.cpu() for part in parts] for parts in found]
    torch.testing.assert_close(found[0], states, rtol=1e-4, atol=1e-4)
    for mine, plain in zip(found[1], exit_layers, strict=True):
        assert torch.equal(mine, plain) and len(plain.unique()) > 1
    assert len(waits) <= network.spec.layers - 1, waits


def plain_kernel(query, key, value, q_starts, k_starts, longest_q, longest_k, dropout, scale):
    """What kernels for ragged attention compute, window by window."""
    assert query.is_contiguous() and key.is_contiguous() and value.is_contiguous()
    q_bounds, k_bounds = q_starts.tolist(), k_starts.tolist()
    assert q_starts.dtype == k_starts.dtype == torch.int32
    assert max(b - a for a, b in zip(q_bounds, q_bounds[1:])) == longest_q
    assert max(b - a for a, b in zip(k_bounds, k_bounds[1:])) == longest_k
    mixed = [
        torch.nn.functional.scaled_dot_product_attention(
            *(part.transpose(0, 1) for part in (query[q:q_end], key[k:k_end], value[k:k_end])),
            scale=scale,
        ).transpose(0, 1)
        for q, q_end, k, k_end in zip(q_bounds, q_bounds[1:], k_bounds, k_bounds[1:])
    ]
    return torch.cat(mixed)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("how", HOW)
def test_kernels_for_ragged_attention_get_what_they_take(family, how, cases, monkeypatch):
    calls = []

    def kernel(*given):
        calls.append(given)
        return plain_kernel(*given)

    monkeypatch.setattr(ragged, "_kind_on", lambda device, drops: kernel)
    monkeypatch.setattr(ragged, "HALVES", (torch.float32,))
    monkeypatch.setattr(ragged, "MULTIPLE", 1)  # the heads of the tests' encoders are narrow
    network, windows = cases(family)
    criterion = CRITERIA["token"]
    exits, _ = run_there(network, windows, criterion, **HOW[how])
    assert len(calls) >= network.spec.layers // 2
    assert_same(exits, run_here(network, windows, criterion, **HOW[how]))
    assert (exits.padding == 0) == (family == "bert")  # others mask what is too far away


def test_a_cpu_and_fp32_have_no_kernel_for_ragged_attention():
    states = torch.zeros(3, 8)
    assert ragged.ragged_kernel(states, 2, 0.0) is None
    assert ragged.ragged_kernel(states.bfloat16(), 2, 0.0) is None


@pytest.mark.parametrize("width, heads, there", [(24, 3, True), (24, 2, False), (528, 2, False)])
def test_kernels_are_for_heads_of_some_widths(width, heads, there, monkeypatch):
    monkeypatch.setattr(ragged, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(ragged, "_kind_on", lambda device, drops: plain_kernel)
    states = torch.zeros(3, width, dtype=torch.bfloat16)
    assert (ragged.ragged_kernel(states, heads, 0.0) is not None) == there


@pytest.mark.parametrize("precision, near", [("bf16", 0.5), ("fp16", 0.05)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_predicts_in_16_bits(family, precision, near, cases):
    network, windows = cases(family)
    half = halved(network, precision)
    assert half.head(1).weight is network.head(1).weight
    full = run_here(half, windows, None)
    right = run_here(network, windows, None)
    assert full.logits.dtype == torch.float32
    torch.testing.assert_close(full.logits, right.logits, rtol=near, atol=near)
    assert not torch.equal(full.logits, right.logits)
    early = run_here(half, windows, CRITERIA["token"])
    right = run_here(network, windows, CRITERIA["token"])
    assert (early.exit_layer == right.exit_layer).float().mean() > 0.9
    assert (early.logits.argmax(1) == right.logits.argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize(
    "name, said",
    [("cuda:99", "torch.* sees"), ("gpu0", "is no device"), ("meta", "is not supported")],
)
def test_a_device_that_is_not_there_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        device_named(name)
