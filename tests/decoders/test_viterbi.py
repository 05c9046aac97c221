import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_early_exit.decoders import BIOViterbi, make_viterbi
from spacy_early_exit.decoders.viterbi import joined, search


def is_valid(tags) -> bool:
    return all(
        tag == 0 or tag % 2 == 1 or before in (tag, tag - 1)
        for before, tag in zip([0, *tags], tags)
    )


def best_by_brute_force(logits) -> float:
    words, tags = logits.shape
    return max(
        sum(logits[word, tag] for word, tag in enumerate(path))
        for path in itertools.product(range(tags), repeat=words)
        if is_valid(path)
    )


def random_texts(lengths, labels, seed):
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(n, 1 + 2 * labels)).astype(np.float32) for n in lengths]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=5), st.integers(0, 2), st.integers(0, 10**6))
def test_finds_the_best_valid_sequence_of_every_text(lengths, labels, seed):
    texts = random_texts(lengths, labels, seed)
    for logits, tags in zip(texts, BIOViterbi()(texts, {}), strict=True):
        assert len(tags) == len(logits) and is_valid(tags)
        if len(logits):
            found = sum(logits[word, tag] for word, tag in enumerate(tags))
            assert found == pytest.approx(best_by_brute_force(logits), abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 3), st.integers(0, 10**6))
def test_searching_broken_runs_equals_searching_whole_texts(lengths, labels, seed):
    texts = random_texts(lengths, labels, seed)
    for logits, tags in zip(texts, BIOViterbi()(texts, {}), strict=True):
        if len(logits):
            assert search([logits], [False])[0].tolist() == tags.tolist()


def test_segments_with_a_run_in_common_are_united():
    assert joined([(4, 4), (0, 1), (2, 3), (1, 1), (3, 4), (6, 9), (7, 8)]) == [
        (0, 1), (2, 4), (6, 9),
    ]  # fmt: skip


def test_other_tags_than_bio_need_the_decoder_for_any():
    assert BIOViterbi().for_scheme("bio") == BIOViterbi()
    with pytest.raises(ValueError, match="Viterbi.v1 is for any"):
        BIOViterbi().for_scheme("free")


def test_the_decoder_for_any_tags_follows_its_scheme():
    texts = random_texts([3, 0, 40, 1], labels=3, seed=0)
    bio, free = (make_viterbi().for_scheme(scheme)(texts, {}) for scheme in ("bio", "free"))
    for logits, valid, expected, best in zip(texts, bio, BIOViterbi()(texts, {}), free):
        assert valid.tolist() == expected.tolist()
        assert best.tolist() == logits.argmax(1).tolist()
    assert any(valid.tolist() != best.tolist() for valid, best in zip(bio, free))
    assert make_viterbi()([], {}) == []


def test_it_learns_nothing():
    assert BIOViterbi().parameters(7) == {}
    nobody = torch.zeros(2, dtype=torch.int64)
    assert BIOViterbi().loss(torch.ones(2, 7), nobody, nobody, {}).item() == 0.0


def test_a_text_gets_the_same_tags_in_any_batch():
    draw = np.random.default_rng(0)
    texts = [draw.normal(size=(n, 7)).astype(np.float32) for n in (3, 0, 40, 1, 12, 40)]
    together = BIOViterbi()(texts, {})
    for logits, tags in zip(texts, together):
        assert BIOViterbi()([logits], {})[0].tolist() == tags.tolist()
    assert BIOViterbi()([], {}) == []


def test_long_texts_lose_no_precision():
    logits = np.tile(np.array([[0.0, 5.0, 5.01]], dtype=np.float32), (20_000, 1))
    tags = BIOViterbi()([logits], {})[0]
    assert tags[0] == 1 and (tags[1:] == 2).all()


def test_is_fast_enough_not_to_be_seen():
    draw = np.random.default_rng(0)
    texts = [draw.normal(size=(16, 13)).astype(np.float32) for _ in range(1000)]
    seconds = []
    for _ in range(5):
        start = time.thread_time()  # the machine may have other work
        BIOViterbi()(texts, {})
        seconds.append(time.thread_time() - start)
    # The encoder takes seconds for these 16,000 words.
    assert min(seconds) < 0.25
