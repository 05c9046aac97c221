"""The cost is what a run on one document multiplies, and nothing else."""

from itertools import product

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spacy_early_exit.criteria import SentenceExit, TokenExit
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.text.windows import windows_of
from tests.makers.marks import rest_slow
from tests.makers.networks import network_of
from tests.makers.texts import TEXTS, texts_of_all_lengths

CPU = torch.device("cpu")
COUNTED = ["bert", "electra", "distilbert", "xlm-roberta", "albert", "albert-in-groups"]
COUNTED += ["modernbert", "modernbert-with-biases", "mpnet", "deberta-v2"]
COUNTED += ["deberta-v2-with-convolution"]


def counted(network, batch, criterion, threshold):
    """The cost that a run reports, and the multiply-accumulates that torch counts in it."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        exits = run_with_exits(network, batch, criterion, threshold)
    extra = exits.padding  # what is masked, and what depends on no text
    assert extra == 0 or network.spec.local_layers or network.spec.place_span
    return exits, counter.get_total_flops() / 2 - extra


CRITERIA = [SentenceExit(), TokenExit(0), TokenExit(1)]


@pytest.mark.parametrize(
    "family, threshold, criterion",
    rest_slow(
        product(COUNTED, [0.0, 0.05, 0.2, 0.5, 1.0], CRITERIA),
        lambda family, threshold, criterion: (
            family == "bert" or (threshold, criterion) == (0.2, CRITERIA[2])
        ),
    ),
    ids=str,
)
def test_cost_equals_torchs_own_count_at_every_threshold(
    family, threshold, criterion, encoders, en
):
    assert_counted(network_of(encoders[family]), en, TEXTS, criterion, threshold)


@pytest.mark.parametrize(
    "threshold", rest_slow([(0.0,), (0.05,), (0.2,), (1.0,)], lambda threshold: threshold == 0.2)
)
def test_cost_equals_torchs_own_count_on_the_real_encoder(threshold, minilm, en):
    trained = network_of(minilm, spread=0.3)
    texts = [*TEXTS, " ".join(TEXTS)]
    assert_counted(trained, en, texts, TokenExit(1), threshold)


@pytest.mark.parametrize("kv", ["copy", "drop"])
@pytest.mark.parametrize("halt_special", [False, True])
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "mpnet", "deberta-v2"])
def test_cost_equals_torchs_own_count_whatever_becomes_of_what_left(
    family, halt_special, kv, encoders, en
):
    trained = network_of(encoders[family], spread=0.3)
    how = {"kv": kv, "halt_special": halt_special}
    assert_counted(trained, en, TEXTS, TokenExit(1), 0.2, **how)


def assert_counted(trained, nlp, texts, criterion, threshold, **how):
    length = trained.network.spec.max_wordpieces
    for text in texts:
        for window in windows_of([nlp.make_doc(text)], trained.tokenizer, length, 8):
            batch = Batch.of([window], CPU, **how)
            exits, macs = counted(
                trained.network, batch, criterion if threshold else None, threshold
            )
            assert int(exits.spent) == macs


def test_full_depth_has_a_closed_form(encoders, en):
    trained = network_of(encoders["bert"])
    spec = trained.network.spec
    (window,) = windows_of([en.make_doc(TEXTS[0])], trained.tokenizer, 48, 8)
    exits, macs = counted(trained.network, Batch.of([window], CPU), None, 0.0)
    n, h, wide, words = len(window.ids), spec.hidden_size, spec.intermediate_size, len(window.words)
    layer = n * (4 * h * h + 2 * h * wide) + 2 * n * n * h
    assert int(exits.full) == int(exits.spent) == macs
    assert macs == spec.layers * layer + words * h * trained.network.tags


def test_a_window_costs_the_same_alone_and_in_any_batch(encoders, en):
    trained = network_of(encoders["bert"])
    docs = [en.make_doc(text) for text in texts_of_all_lengths(count=30)]
    windows = windows_of(docs, trained.tokenizer, 48, 8)
    criterion = TokenExit(1)
    alone = [
        run_with_exits(trained.network, Batch.of([window], CPU), criterion, 0.2)
        for window in windows
    ]
    together = run_with_exits(trained.network, Batch.of(windows, CPU), criterion, 0.2)
    assert together.spent.tolist() == [int(exits.spent) for exits in alone]
    assert together.full.tolist() == [int(exits.full) for exits in alone]
    assert together.padding > 0
    assert together.spent.sum() < together.full.sum()


def test_unless_told_otherwise_what_left_is_attended_to_and_special_tokens_stay(encoders, en):
    trained = network_of(encoders["bert"])
    batch = Batch.of(windows_of([en.make_doc("Ann")], trained.tokenizer, 48, 8), CPU)
    assert (batch.kv, batch.halt_special) == ("copy", False)
    assert run_with_exits(trained.network, batch, TokenExit(1), 0.2).states is None
