"""Alignment on raw text, and windows that lose nothing."""

import warnings

import numpy as np
import pytest
import spacy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.network.window import Window
from spacy_early_exit.text.alignment import align, fit, word_offsets
from spacy_early_exit.text.tokenizer import WordpieceTokenizer
from spacy_early_exit.text.windows import batches, cut, runs, share, windows_of
from tests.makers.texts import CHINESE, EMOJI, TEXTS

# Anything that a Doc can be made of: lone surrogates fail inside spaCy.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MIXED = st.lists(
    st.sampled_from(
        [
            *TEXTS,
            *CHINESE,
            *EMOJI,
            "don't",
            "cannot",
            "gonna",
            " ",
            "\n",
            "\u200b",
            "a\u0301",
            "...",
            "x" * 30,
        ]
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer_of(encoders):
    made = {}

    def tokenizer(family):
        if family not in made:
            made[family] = WordpieceTokenizer(HFEncoder(encoders[family]).load().tokenizer)
        return made[family]

    return tokenizer


@pytest.fixture(scope="module")
def zh():
    """Chinese, one word a character."""
    return spacy.blank("zh")


def aligned(doc, tokenizer):
    ((ids, offsets),) = tokenizer([doc.text])
    (pieces,) = align([(ids, offsets)], [word_offsets(doc)])
    return pieces, offsets


def piece_texts(doc, tokenizer) -> dict:
    """The characters of the wordpiece that each word is tagged from."""
    pieces, offsets = aligned(doc, tokenizer)
    return {
        doc[word].text: doc.text[slice(*offsets[piece])]
        for word, piece in zip(pieces.words.tolist(), pieces.piece_of_word.tolist())
    }


def test_contractions_share_a_wordpiece_and_leave_together(tokenizer_of, en):
    doc = en("don't")  # do, n't; wordpieces are those of don, ' and t
    assert [token.text for token in doc] == ["do", "n't"]
    pieces, offsets = aligned(doc, tokenizer_of("bert"))
    assert pieces.words.tolist() == [0, 1]
    covered = [doc.text[start:end] for start, end in offsets.tolist()]
    assert covered == ["don", "'", "t"]
    assert pieces.piece_of_word.tolist() == [0, 0]
    assert set(pieces.unit_of_piece.tolist()) == {0}


@pytest.mark.parametrize(
    "text",
    [
        "I don't",
        "you cannot",
        "gonna go",
        "it's Bob's",
        "etc.).",
        "https://example.com/a/b?c=d",
        "(a)-[b]",
        *TEXTS,
    ],
)
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_a_word_is_tagged_from_the_wordpiece_that_covers_its_first_character(
    family, text, tokenizer_of, en
):
    doc = en(text)
    tokenizer = tokenizer_of(family)
    pieces, offsets = aligned(doc, tokenizer)
    assert pieces.words.tolist() == list(range(len(doc)))
    for word, piece in zip(pieces.words, pieces.piece_of_word):
        start, end = offsets[piece]
        assert start <= doc[int(word)].idx < end


@pytest.mark.parametrize("text", EMOJI)
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_emoji_sequences_are_covered(family, text, tokenizer_of, en):
    doc = en(text)
    pieces, _ = aligned(doc, tokenizer_of(family))
    visible = [token.i for token in doc if any(c.isalnum() for c in token.text)]
    assert set(visible) <= set(pieces.words.tolist())


def test_chinese_characters_share_sentencepieces(tokenizer_of, zh):
    text = "".join(CHINESE)
    doc = zh(text)
    assert len(doc) == len(text)
    pieces, offsets = aligned(doc, tokenizer_of("xlm-roberta"))
    assert pieces.words.tolist() == list(range(len(doc)))
    wide = [(start, end) for start, end in offsets.tolist() if end - start > 1]
    assert wide, "the tokenizer must have learnt pieces of several characters"
    units = pieces.unit_of_piece[pieces.piece_of_word]
    for start, end in wide:
        assert len(set(units[start:end].tolist())) == 1


def test_white_space_and_control_characters_have_no_wordpieces(tokenizer_of, en):
    doc = en("Ann \n\n \x07 lives")
    pieces, _ = aligned(doc, tokenizer_of("bert"))
    assert [doc[int(word)].text for word in pieces.words] == ["Ann", "lives"]


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(ANY_TEXT, MIXED), family=st.sampled_from(["bert", "roberta", "xlm-roberta"]))
def test_alignment_holds_on_any_text(text, family, tokenizer_of, en):
    doc = en.make_doc(text)
    words = word_offsets(doc)
    pieces, offsets = aligned(doc, tokenizer_of(family))
    overlaps = (offsets[:, None, 0] < words[None, :, 1]) & (words[None, :, 0] < offsets[:, None, 1])
    # Exactly the words that some wordpiece overlaps are tagged, each from the first such one.
    covered = np.flatnonzero(overlaps.any(0))
    assert pieces.words.tolist() == covered.tolist()
    assert pieces.piece_of_word.tolist() == [
        int(np.flatnonzero(overlaps[:, word])[0]) for word in covered
    ]
    # Words share a unit if, and only if, a chain of shared wordpieces links them.
    unit_of_word = dict(zip(covered.tolist(), pieces.unit_of_piece[pieces.piece_of_word].tolist()))
    for piece, word in zip(*overlaps.nonzero()):
        assert pieces.unit_of_piece[piece] == unit_of_word[int(word)]
    for left, right in zip(covered.tolist(), covered.tolist()[1:]):
        linked = bool((overlaps[:, left] & overlaps[:, right]).any())
        assert (unit_of_word[left] == unit_of_word[right]) == linked


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.one_of(ANY_TEXT, MIXED), max_size=5))
@example(texts=["", " ", "a", "\u200b", "b"])
def test_texts_are_aligned_together_as_alone(texts, tokenizer_of, en):
    words = [word_offsets(en.make_doc(text)) for text in texts]
    tokenized = tokenizer_of("roberta")(texts)
    together = align(tokenized, words)
    assert len(together) == len(texts)
    for one, of_text, pieces in zip(tokenized, words, together):
        (alone,) = align([one], [of_text])
        for name in ("ids", "unit_of_piece", "words", "piece_of_word"):
            assert getattr(pieces, name).tolist() == getattr(alone, name).tolist()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 10)
)
def test_windows_cover_everything_in_whole_units(unit_sizes, capacity, overlap):
    capacity = max(capacity, *unit_sizes)
    units = np.repeat(np.arange(len(unit_sizes)), unit_sizes)
    found = list(runs(units, capacity, min(overlap, capacity // 2)))
    assert found[0][0] == 0 and found[-1][1] == len(units)
    for start, end in found:
        assert 0 < end - start <= capacity
        assert start == 0 or units[start] != units[start - 1]
        assert end == len(units) or units[end] != units[end - 1]
    for (left, end), (right, right_end) in zip(found, found[1:]):
        assert left < right <= end < right_end


def test_each_word_is_owned_by_the_window_that_shows_most_around_it(tokenizer_of, en):
    tokenizer = tokenizer_of("bert")
    doc = en.make_doc(" ".join(TEXTS * 4))
    pieces, _ = aligned(doc, tokenizer)
    windows = share(cut(0, pieces, tokenizer, 40, 16))
    assert len(windows) > 3
    owners = np.zeros(len(doc), dtype=int)
    for window in windows:
        np.add.at(owners, window.words[window.owned], 1)
    assert (owners == 1).all()
    for left, right in zip(windows, windows[1:]):
        shared = np.intersect1d(left.words, right.words)
        assert len(shared) > 3
        for word in shared.tolist():
            sides = []
            for window in (left, right):
                (at,) = np.flatnonzero(window.words == word)
                place = int(window.piece_of_word[at])
                sides.append((min(place, len(window.ids) - place), bool(window.owned[at])))
            (left_margin, left_owns), (right_margin, right_owns) = sides
            assert left_owns != right_owns
            # A unit may be off the middle by its own length.
            if abs(left_margin - right_margin) > 4:
                assert left_owns == (left_margin > right_margin)


def test_a_word_longer_than_a_window_is_tagged_from_its_first_wordpieces_with_a_warning(
    tokenizer_of, en
):
    tokenizer = tokenizer_of("bert")
    doc = en.make_doc("Ann met " + "x" * 40_000 + " in Oslo")
    ((ids, offsets),) = tokenizer([doc.text])
    # WordPiece gives up on long words: make one wordpiece of each character.
    start = doc[2].idx
    chars = np.arange(start, start + 40_000)
    inner = np.stack([chars, chars + 1], axis=1)
    before, behind = offsets[offsets[:, 1] <= start], offsets[offsets[:, 0] >= start + 40_000]
    offsets = np.concatenate([before, inner, behind])
    ids = np.zeros(len(offsets), dtype=np.int64)
    (pieces,) = align([(ids, offsets)], [word_offsets(doc)])
    with pytest.warns(UserWarning, match="more wordpieces than the 30"):
        pieces = fit(pieces, 30)
    assert pieces.words.tolist() == list(range(len(doc)))
    windows = share(cut(0, pieces, tokenizer, 30, 8))
    assert len(windows) < 6
    owned = np.concatenate([window.words[window.owned] for window in windows])
    assert owned.tolist() == list(range(len(doc)))


def test_batches_hold_windows_of_like_length_up_to_a_number_of_wordpieces(tokenizer_of, en):
    docs = [en.make_doc(text) for text in TEXTS * 5]
    windows = windows_of(docs, tokenizer_of("bert"), 48, 8)
    found = list(batches(windows, 100))
    assert sorted(id(w) for batch in found for w in batch) == sorted(map(id, windows))
    assert all(sum(len(w.ids) for w in batch) <= 100 or len(batch) == 1 for batch in found)
    lengths = [len(window.ids) for batch in found for window in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_ordinary_text_gives_no_warning(tokenizer_of, en):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windows_of([en.make_doc(text) for text in TEXTS], tokenizer_of("bert"), 48, 8)


@pytest.mark.parametrize(
    "lengths, at_once, expected",
    [
        ([512] * 2, 2, [512, 512]),
        ([512] * 4, 2, [1024, 1024]),
        ([512] * 4, 4, [512] * 4),
        ([512] + [20] * 60, 2, [852, 860]),
        ([25] * 200, 2, [1250] * 4),
        ([25] * 410, 1, [1708] * 6),
        ([25] * 20, 4, [250, 250]),  # four would be smaller than need be
        ([25] * 12, 4, [300]),
        ([3000, 30], 2, [3000, 30]),
        ([], 2, []),
    ],
)
def test_batches_that_run_at_once_are_of_one_size(lengths, at_once, expected):
    none = np.zeros(0, dtype=np.int64)
    windows = [
        Window(0, np.zeros(length, dtype=np.int64), none, 0, none, none, none, none)
        for length in lengths
    ]
    found = [sum(len(w.ids) for w in b) for b in batches(windows, 2048, at_once, 250)]
    assert sum(found) == sum(lengths) and len(found) == len(expected)
    assert found == pytest.approx(expected, abs=25)
