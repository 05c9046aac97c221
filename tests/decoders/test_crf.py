import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_early_exit.decoders import BIOViterbi, make_crf_decoder
from spacy_early_exit.decoders.paths import best_paths
from spacy_early_exit.tags import MISSING
from tests.decoders.test_viterbi import is_valid, random_texts


def random_crf(tags, seed, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    shapes = {"transitions": (tags, tags), "start": (tags,), "end": (tags,)}
    return {name: scale * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def score(logits, path, learned) -> float:
    learned = {name: parameter.double().numpy() for name, parameter in learned.items()}
    total = learned["start"][path[0]] + learned["end"][path[-1]]
    total += sum(learned["transitions"][a, b] for a, b in zip(path, path[1:]))
    return float(total + sum(logits[word, tag] for word, tag in enumerate(path)))


def valid_paths(words, tags):
    return [p for p in itertools.product(range(tags), repeat=words) if is_valid(p)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=5), st.integers(0, 2), st.integers(0, 10**6))
def test_finds_the_best_valid_sequence_of_every_text(lengths, labels, seed):
    texts, learned = random_texts(lengths, labels, seed), random_crf(1 + 2 * labels, seed)
    for logits, tags in zip(texts, make_crf_decoder()(texts, learned), strict=True):
        assert len(tags) == len(logits) and is_valid(tags)
        if len(logits):
            best = max(score(logits, p, learned) for p in valid_paths(*logits.shape))
            assert score(logits, tags, learned) == pytest.approx(best, abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 3), st.integers(0, 10**6))
def test_without_transitions_it_is_bio_viterbi(lengths, labels, seed):
    texts, decoder = random_texts(lengths, labels, seed), make_crf_decoder()
    nothing = decoder.parameters(1 + 2 * labels)
    for mine, plain in zip(decoder(texts, nothing), BIOViterbi()(texts, {}), strict=True):
        assert mine.tolist() == plain.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_its_loss_is_the_likelihood_of_all_that_fits_the_annotation(seed):
    labels, learned = 2, random_crf(5, seed)
    texts = random_texts([3, 1, 4, 2], labels, seed)
    annotation = [[1, 2, MISSING], [MISSING], [0, MISSING, MISSING, 4], [3, 0]]
    expected = 0.0
    for logits, known in zip(texts, annotation):
        # In training the first word of a window may be I-X: another window may have the B-X.
        paths = [
            p
            for p in itertools.product(range(5), repeat=len(known))
            if all(t == 0 or t % 2 or b in (t, t - 1) for b, t in zip(p, p[1:]))
        ]
        fits = [p for p in paths if all(k in (MISSING, t) for k, t in zip(known, p))]
        all_of_them, right = (
            np.logaddexp.reduce([score(logits, p, learned) for p in some]) for some in (paths, fits)
        )
        expected += all_of_them - right
    loss = make_crf_decoder(loss_weight=2.0).loss(
        torch.from_numpy(np.concatenate(texts)),
        torch.tensor([tag for known in annotation for tag in known]),
        torch.tensor([5, 5, 5, 2, 9, 9, 9, 9, 3, 3]),  # any numbers, texts behind one another
        learned,
    )
    assert loss.item() == pytest.approx(2.0 * expected, rel=1e-4)


def test_annotation_that_is_no_valid_bio_has_a_finite_loss():
    decoder, logits = make_crf_decoder(), torch.randn(3, 5, requires_grad=True)
    learned = {n: p.requires_grad_(True) for n, p in decoder.parameters(5).items()}
    loss = decoder.loss(logits, torch.tensor([0, 2, 4]), torch.zeros(3, dtype=torch.long), learned)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    nothing = torch.zeros(0, dtype=torch.long)
    assert decoder.loss(logits[:0], nothing, nothing, learned) == 0


def test_a_text_gets_the_same_tags_in_any_batch():
    texts, learned = random_texts((3, 0, 40, 1, 12, 40), 3, 0), random_crf(7, 0)
    decoder = make_crf_decoder()
    for logits, tags in zip(texts, decoder(texts, learned)):
        assert decoder([logits], learned)[0].tolist() == tags.tolist()
    assert decoder([], learned) == [] and len(decoder(texts[1:2], learned)[0]) == 0


def test_long_texts_lose_no_precision():
    logits = np.tile(np.array([[0.0, 5.0, 5.01]], dtype=np.float32), (20_000, 1))
    free = np.zeros((3, 3))
    assert (best_paths([logits], free[0], free, free[0])[0] == 2).all()


@pytest.mark.parametrize("loss_weight", [0.0, -1.0, float("nan"), float("inf")])
def test_nonsense_is_refused(loss_weight):
    with pytest.raises(ValueError, match="loss_weight"):
        make_crf_decoder(loss_weight)
