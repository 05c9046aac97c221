import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_early_exit.decoders import BIOViterbi
from spacy_early_exit.decoders.crf import log_partition
from spacy_early_exit.relatives.mean_field import Links, make_ain_decoder, mean_field
from spacy_early_exit.tags import MISSING
from tests.decoders.test_viterbi import is_valid, random_texts


def random_links(order, tags, seed, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    nothing = make_ain_decoder(order=order).parameters(tags)
    return {n: scale * torch.randn(p.shape, generator=draw) for n, p in nothing.items()}


def by_hand(logits, learned, iterations, order):
    """One text, word by word."""
    words, beliefs = len(logits), logits
    for _ in range(iterations):
        q, new = beliefs.softmax(1), logits.clone()
        for i in range(words):
            for j in range(1, order + 1):
                transitions = learned[f"transitions_{j}"]
                if i - j >= 0:
                    new[i] += q[i - j] @ transitions
                if i + j < words:
                    new[i] += transitions @ q[i + j]
                if i == j - 1:
                    new[i] += learned[f"start_{j}"]
                if i == words - j:
                    new[i] += learned[f"end_{j}"]
        beliefs = new
    return beliefs


def together(texts, learned, iterations, order=1):
    lengths = [len(text) for text in texts]
    number = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    logits = torch.from_numpy(np.concatenate(texts))
    return mean_field(logits, Links.of(number, learned, order), iterations).split(lengths)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_words_hear_those_beside_them_and_nobody_else(order, iterations):
    texts, learned = random_texts([5, 1, 2, 9, 3], 2, 0), random_links(order, 5, 0)
    for logits, found in zip(texts, together(texts, learned, iterations, order)):
        expected = by_hand(torch.from_numpy(logits), learned, iterations, order)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 3), st.integers(0, 10**6))
def test_without_transitions_or_without_iterations_it_is_bio_viterbi(lengths, labels, seed):
    texts, tags = random_texts(lengths, labels, seed), 1 + 2 * labels
    plain = [found.tolist() for found in BIOViterbi()(texts, {})]
    for decoder, learned in (
        (make_ain_decoder(3, 2), make_ain_decoder(3, 2).parameters(tags)),
        (make_ain_decoder(0), random_links(1, tags, seed)),
    ):
        assert [found.tolist() for found in decoder(texts, learned)] == plain


def test_backwards_with_everything_turned_around_is_the_same_backwards():
    logits, learned = torch.from_numpy(random_texts([7], 2, 0)[0]), random_links(2, 5, 0)
    turned = {name: parameter.T for name, parameter in learned.items() if parameter.dim() == 2}
    for j in (1, 2):
        turned[f"start_{j}"], turned[f"end_{j}"] = learned[f"end_{j}"], learned[f"start_{j}"]
    text = torch.zeros(7, dtype=torch.long)
    forth = mean_field(logits, Links.of(text, learned, 2), 3)
    back = mean_field(logits.flip(0), Links.of(text, turned, 2), 3)
    torch.testing.assert_close(forth, back.flip(0), atol=1e-4, rtol=1e-4)


def test_with_weak_transitions_it_is_nearly_the_marginals_of_the_exact_crf():
    logits, learned = torch.from_numpy(random_texts([6], 1, 0)[0]), random_links(1, 3, 0, 0.01)
    text = torch.zeros(6, dtype=torch.long)
    unary = logits.clone().requires_grad_(True)
    crf = log_partition(unary, text, learned["transitions_1"], learned["start_1"], learned["end_1"])
    (exact,) = torch.autograd.grad(crf.sum(), unary)
    found = mean_field(logits, Links.of(text, learned, 1), 5).softmax(1)
    alone = logits.softmax(1)
    assert (found - exact).abs().max() < 1e-4 < (alone - exact).abs().max()


def test_it_uses_no_more_of_what_was_learnt_than_its_order():
    texts, learned = random_texts([6, 3], 2, 0), random_links(2, 5, 0)
    nearest = {name: known for name, known in learned.items() if name.endswith("_1")}
    found, expected = (make_ain_decoder(3, 1)(texts, known) for known in (learned, nearest))
    assert [tags.tolist() for tags in found] == [tags.tolist() for tags in expected]
    assert [tags.tolist() for tags in make_ain_decoder(3, 2)(texts, learned)] != [
        tags.tolist() for tags in found
    ]


def test_decodes_valid_sequences_the_same_in_any_batch():
    texts, learned = random_texts((3, 0, 40, 1, 12, 40), 3, 0), random_links(2, 7, 0)
    decoder = make_ain_decoder(3, 2)
    for logits, tags in zip(texts, decoder(texts, learned)):
        assert is_valid(tags)
        assert decoder([logits], learned)[0].tolist() == tags.tolist()
    assert decoder([], learned) == [] and len(decoder(texts[1:2], learned)[0]) == 0


def test_its_loss_is_the_cross_entropy_of_the_beliefs_of_annotated_words():
    texts, learned = random_texts([4, 2], 1, 0), random_links(1, 3, 0)
    tags = [0, 1, MISSING, 2, 1, MISSING]
    beliefs = torch.cat(list(together(texts, learned, 2))).log_softmax(1)
    expected = -sum(beliefs[word, tag] for word, tag in enumerate(tags) if tag != MISSING)
    loss = make_ain_decoder(2).loss(
        torch.from_numpy(np.concatenate(texts)),
        torch.tensor(tags),
        torch.tensor([0, 0, 0, 0, 1, 1]),
        learned,
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("arguments", [{"iterations": -1}, {"order": 0}])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        make_ain_decoder(**arguments)
