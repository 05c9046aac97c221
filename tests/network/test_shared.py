"""One pass for several tasks: the fast loop is the plain one, and no task changes another's answer
unless it holds words back.
"""

import random
from dataclasses import replace
from itertools import product

import pytest
import torch

from spacy_early_exit.criteria import SentenceExit, TokenExit, make_patience_exit
from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.reference import run_shared_reference
from spacy_early_exit.network.shared import Reader, run_shared, simulate_shared
from spacy_early_exit.text.windows import windows_of
from tests.makers.marks import rest_slow
from tests.makers.networks import network_of
from tests.makers.texts import TEXTS, texts_of_all_lengths

CPU = torch.device("cpu")
TIE = 1e-5
CRITERIA = {
    "token": TokenExit(window=0),
    "token, window of 2": TokenExit(window=2),
    "sentence": SentenceExit(),
    "patience": make_patience_exit(patience=1, window=1),
    "never": None,
}
NEVER_HOLDS_BACK = TokenExit(window=0)  # at a threshold that no uncertainty reaches
HOW = {
    "copy": {},
    "drop": {"kv": "drop"},
    "halt special": {"halt_special": True},
    "both": {"kv": "drop", "halt_special": True},
}


FAMILIES = ["modernbert", "deberta-v2", "mpnet"]
PAIRS = [("token", "token, window of 2"), ("patience", "sentence")]


class Cached(dict):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def __missing__(self, key):
        self[key] = self.make(key)
        return self[key]


@pytest.fixture(scope="module")
def families(encoders):
    return Cached(lambda family: network_of(encoders[family]))


@pytest.fixture(scope="module")
def windows(families, en):
    def cut(family):
        trained = families[family]
        docs = [en.make_doc(text) for text in [*TEXTS, *texts_of_all_lengths(count=16)]]
        return windows_of(docs, trained.tokenizer, trained.network.spec.max_wordpieces, 8)

    return Cached(cut)


def heads_over(network, tags, seed, spread=0.6, head_window=2):
    """Other heads over the same encoder, which see more of it."""
    other = ExitNetwork(network.spec, tags, head_window)
    other.encoder = network.encoder
    torch.manual_seed(seed)
    for head in other.heads.values():
        of_one = spread * (network.spec.hidden_size / head.in_features) ** 0.5
        torch.nn.init.normal_(head.weight, std=of_one)
        torch.nn.init.normal_(head.bias, std=0.1)
    return other


def readers_of(network, first, second, threshold, other_threshold=None):
    one = Reader("names", network, CRITERIA[first], threshold)
    other = threshold if other_threshold is None else other_threshold
    return [one, Reader("tags", heads_over(network, 11, seed=5), CRITERIA[second], other)]


def cuts_of(windows, how, sizes=(1, 5, 64)):
    shuffled = random.Random(3).sample(windows, len(windows))
    for size in sizes:
        for start in range(0, len(shuffled), size):
            yield Batch.of(shuffled[start : start + size], CPU, **how)


def assert_same(found, plain, network, batch, readers) -> bool:
    """Exit layers are the same, except where an uncertainty is a hair's breadth from the
    threshold: then some hair's breadth must move words in the reference as well. Whether it was so.
    """
    if all_equal(found, plain):
        for mine, other in zip(found, plain, strict=True):
            torch.testing.assert_close(mine.logits, other.logits, rtol=1e-4, atol=1e-4)
        return False
    for side in (-TIE, TIE):
        nudged = [replace(reader, threshold=reader.threshold + side) for reader in readers]
        if not all_equal(run_shared_reference(network, batch, nudged), plain):
            return True
    raise AssertionError("words left elsewhere, and no uncertainty is near the threshold")


def all_equal(found, other) -> bool:
    """Whether all tasks let all words leave after the same layers."""
    pairs = zip(found, other, strict=True)
    return all(torch.equal(one.exit_layer, two.exit_layer) for one, two in pairs)


def test_a_difference_is_no_tie_by_itself(families, windows):
    network = families["bert"].network
    readers = readers_of(network, "token", "token", 0.3)
    batch = Batch.of(windows["bert"][:8], CPU)
    with torch.inference_mode():
        plain = run_shared_reference(network, batch, readers)
        assert not assert_same(plain, plain, network, batch, readers)
        wrong = run_shared_reference(network, batch, readers_of(network, "token", "token", 0.5))
        with pytest.raises(AssertionError, match="no uncertainty is near"):
            assert_same(wrong, plain, network, batch, readers)


@pytest.mark.parametrize(
    "family, how, first, second, threshold",
    rest_slow(
        [
            *product(FAMILIES, HOW, ["token"], ["token, window of 2"], [0.3]),
            *product(["bert"], HOW, CRITERIA, CRITERIA, [0.1, 0.3, 0.6]),
        ],
        lambda family, how, first, second, threshold: (
            (
                (first, second) in PAIRS
                and threshold == 0.3
                and (family == "bert" or (how == "both" and first == "token"))
            )
            or (family, how, second, threshold) == ("bert", "copy", "never", 0.3)
        ),
    ),
)
@pytest.mark.takes(seconds=15)
def test_the_fast_pass_equals_the_plain_one(
    family, how, first, second, threshold, families, windows
):
    network = families[family].network
    readers = readers_of(network, first, second, threshold)
    ties = batches = 0
    layers = set()
    with torch.inference_mode():
        for batch in cuts_of(windows[family], HOW[how]):
            found = run_shared(network, batch, readers)
            plain = run_shared_reference(network, batch, readers)
            batches += 1
            ties += assert_same(found, plain, network, batch, readers)
            layers |= {(k, n) for k, e in enumerate(found) for n in e.exit_layer.tolist()}
    print(f"{ties} ties in {batches} batches, left at {sorted(layers)}")
    assert ties <= 0.02 * batches
    if "token" in (first, second) and threshold == 0.3:
        assert len(layers) > 3, "the test must see words leave at several layers"


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "never"])
@pytest.mark.parametrize("how", HOW)
def test_a_task_that_never_holds_a_word_back_changes_nothing(how, criterion, families, windows):
    """To the last bit, at every threshold; and the pass costs what it does alone and the heads of
    the other task.
    """
    network = families["bert"].network
    other = Reader("tags", heads_over(network, 3, seed=5), NEVER_HOLDS_BACK, 2.0)
    with torch.inference_mode():
        for threshold in (0.05, 0.2, 0.4, 0.7, 1.0):
            reader = Reader("names", network, CRITERIA[criterion], threshold)
            for batch in cuts_of(windows["bert"], HOW[how], sizes=(7, 64)):
                alone = run_with_exits(network, batch, reader.criterion, threshold)
                first, second = run_shared(network, batch, [reader, other])
                assert torch.equal(first.logits, alone.logits)
                assert torch.equal(first.exit_layer, alone.exit_layer)
                assert set(second.exit_layer.tolist()) == {1}
                heads = network.spec.hidden_size * 3 * batch.words_of_window
                seen = 2 * other.network.reach(1) + 1
                assert torch.equal(first.spent, alone.spent + seen * heads)
                assert torch.equal(first.full, alone.full + heads)
                assert first.padding == alone.padding
                for shared, one in zip(run_shared(network, batch, [other, reader]), "ba"):
                    expected = second if one == "b" else first
                    assert torch.equal(shared.logits, expected.logits)


def test_one_task_alone_is_the_common_loop(families, windows):
    network = families["bert"].network
    with torch.inference_mode():
        for criterion, threshold in [(None, 0.0), (TokenExit(window=1), 0.3)]:
            for batch in cuts_of(windows["bert"], {}, sizes=(9,)):
                alone = run_with_exits(network, batch, criterion, threshold)
                (found,) = run_shared(network, batch, [Reader("", network, criterion, threshold)])
                assert torch.equal(found.logits, alone.logits)
                assert torch.equal(found.exit_layer, alone.exit_layer)
                assert torch.equal(found.spent, alone.spent)
                assert torch.equal(found.full, alone.full) and found.padding == alone.padding


def test_a_text_alone_gets_the_answers_of_any_batch(families, windows):
    network = families["bert"].network
    readers = readers_of(network, "token, window of 2", "token", 0.35, 0.2)
    ties = 0
    with torch.inference_mode():
        together = run_shared(network, Batch.of(windows["bert"], CPU), readers)
        start = 0
        for number, window in enumerate(windows["bert"]):
            words = slice(start, start + len(window.words))
            start = words.stop
            for alone, all_of_them in zip(
                run_shared(network, Batch.of([window], CPU), readers), together
            ):
                if not torch.equal(alone.exit_layer, all_of_them.exit_layer[words]):
                    ties += 1
                    continue
                torch.testing.assert_close(
                    alone.logits, all_of_them.logits[words], rtol=1e-4, atol=1e-4
                )
                assert int(alone.spent) == int(all_of_them.spent[number]) or ties
                assert int(alone.full) == int(all_of_them.full[number])
    assert ties <= 1


def test_each_answer_is_frozen_where_its_task_was_sure(families, windows):
    """A word whose tag is sure first keeps that head's logits although the word goes on for its
    name: they are those of full depth's own head, since every word goes on.
    """
    network = families["bert"].network
    readers = readers_of(network, "never", "token", 0.0, 0.4)
    with torch.inference_mode():
        for batch in cuts_of(windows["bert"], {}, sizes=(8,)):
            names, tags = run_shared(network, batch, readers)
            every = run_all_heads(readers[1].network, batch)
            words = torch.arange(batch.words)
            torch.testing.assert_close(tags.logits, every[tags.exit_layer - 1, words])
            torch.testing.assert_close(names.logits, run_all_heads(network, batch)[-1])
    assert len(set(tags.exit_layer.tolist())) > 1


def test_the_simulation_is_exact_where_windows_exit_as_a_whole(families, windows):
    network = families["bert"].network
    readers = readers_of(network, "sentence", "sentence", 0.6, 0.5)
    with torch.inference_mode():
        for batch in cuts_of(windows["bert"], {}, sizes=(8,)):
            (found, _) = run_shared(network, batch, readers)
            logits = [run_all_heads(reader.network, batch) for reader in readers]
            cost = simulate_shared(network, batch, logits, readers)
            assert torch.equal(cost.spent, found.spent) and torch.equal(cost.full, found.full)
    assert int(found.spent.sum()) < int(found.full.sum())
