"""Which words each wordpiece covers, by character offsets."""

import warnings
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
from numpy.typing import ArrayLike
from spacy.tokens import Doc

from ..network.arrays import Ints


@dataclass(frozen=True)
class Wordpieces:
    """The wordpieces of a text and the words they cover.

    ids (Ints): Wordpiece ids, without special tokens. *Shape:* ``(wordpieces,)``
    unit_of_piece (Ints): The unit of each wordpiece, ascending from 0. *Shape:*
        ``(wordpieces,)``
    words (Ints): The words that have a wordpiece, ascending. *Shape:* ``(words,)``
    piece_of_word (Ints): The wordpiece that each word is tagged from: the first that covers part of
        it. *Shape:* ``(words,)``
    """

    ids: Ints
    unit_of_piece: Ints
    words: Ints
    piece_of_word: Ints


def word_offsets(doc: Doc) -> Ints:
    """RETURNS (Ints): Start and end of each word in the text. *Shape:* ``(words, 2)``"""
    offsets: Ints = doc.to_array(["IDX", "LENGTH"]).reshape(-1, 2).astype(np.int64)
    offsets[:, 1] += offsets[:, 0]
    return offsets


def align(tokenized: Sequence[Tuple[Ints, Ints]], words: Sequence[Ints]) -> List[Wordpieces]:
    """Find the wordpieces of each word, and the words that share wordpieces, in all texts at once.

    tokenized (Sequence[Tuple[Ints, Ints]]): For each text, wordpiece ids, and the first character
        of each wordpiece and the one after its last, in order. *Shapes:* ``(wordpieces,)``,
        ``(wordpieces, 2)``
    words (Sequence[Ints]): The characters of its words, in the same way. *Shape of each:*
        ``(doc words, 2)``
    RETURNS (List[Wordpieces]): The alignment of each text. Wordpieces that cover no word, such as
        one of a lone space, belong to the unit before them.
    """
    if not tokenized:
        return []
    # The texts one after the other, so far apart that nothing of one touches another.
    texts = np.arange(len(words) + 1)
    piece_counts, word_counts = [len(ids) for ids, _ in tokenized], [len(of) for of in words]
    text_of_piece = np.repeat(texts[:-1], piece_counts)
    text_of_word = np.repeat(texts[:-1], word_counts)
    of_pieces, of_words = np.concatenate([of for _, of in tokenized]), np.concatenate(words)
    apart = 1 + max(int(of_pieces.max(initial=0)), int(of_words.max(initial=0)))
    of_pieces = of_pieces + apart * text_of_piece[:, None]
    of_words = of_words + apart * text_of_word[:, None]

    # The words first .. last are those that a wordpiece overlaps.
    first = np.searchsorted(of_words[:, 1], of_pieces[:, 0], side="right")
    last = np.searchsorted(of_words[:, 0], of_pieces[:, 1], side="left") - 1
    rows = np.flatnonzero(first <= last)
    first, reach = first[rows], np.maximum.accumulate(last[rows])
    starts_unit = np.ones(len(rows), dtype=bool)
    starts_unit[1:] = first[1:] > reach[:-1]
    units = np.full(len(of_pieces), -1, dtype=np.int64)
    units[rows] = np.cumsum(starts_unit) - 1
    # In each text they count from 0.
    unit_counts = np.bincount(text_of_piece[rows[starts_unit]], minlength=len(words))
    units = np.maximum.accumulate(units) - _starts(unit_counts)[text_of_piece]
    units = np.maximum(units, 0)
    number = np.arange(len(of_words))
    # The first wordpiece that reaches a word covers it; otherwise the word has none.
    reaching = np.searchsorted(reach, number, side="left")
    inside = reaching < len(rows)
    inside[inside] = first[reaching[inside]] <= number[inside]
    number, tagged = number[inside], rows[reaching[inside]]

    text_of_found = text_of_word[number]
    piece_starts = _starts(piece_counts)
    covered = number - _starts(word_counts)[text_of_found]
    piece_of_word = tagged - piece_starts[text_of_found]
    bounds = np.searchsorted(text_of_found, texts).tolist()
    nothing = np.zeros(0, dtype=np.int64)
    return [
        Wordpieces(ids, units[start : start + len(ids)], covered[low:high], piece_of_word[low:high])
        if low < high
        else Wordpieces(nothing, nothing, nothing, nothing)
        for (ids, _), start, low, high in zip(tokenized, piece_starts, bounds, bounds[1:])
    ]


def fit(pieces: Wordpieces, capacity: int) -> Wordpieces:
    """Make every unit fit a window.

    Longer units are cut. Words are tagged from the part with their first character. Parts that no
    word is tagged from are dropped, with a warning.

    pieces (Wordpieces): The wordpieces of a text.
    capacity (int): Wordpieces that a window holds in addition to the special tokens.
    RETURNS (Wordpieces): The same, unless a unit was too long.
    """
    if len(pieces.ids) <= capacity or np.bincount(pieces.unit_of_piece).max() <= capacity:
        return pieces
    firsts = np.searchsorted(pieces.unit_of_piece, pieces.unit_of_piece)
    part = (np.arange(len(pieces.ids)) - firsts) // capacity
    starts = np.ones(len(part), dtype=bool)
    starts[1:] = (np.diff(pieces.unit_of_piece) != 0) | (np.diff(part) != 0)
    units = np.cumsum(starts) - 1
    tagged = np.isin(units, units[pieces.piece_of_word])
    warnings.warn(
        f"A word has more wordpieces than the {capacity} that a window holds. It is tagged "
        f"from its first {capacity}, and the others are ignored. All other words are tagged as "
        f"usual. Python shows this warning once.",
        stacklevel=2,
    )
    kept = np.cumsum(tagged) - 1  # new row of each wordpiece
    _, units = np.unique(units[tagged], return_inverse=True)
    return Wordpieces(
        pieces.ids[tagged], units.astype(np.int64), pieces.words, kept[pieces.piece_of_word]
    )


def _starts(counts: ArrayLike) -> Ints:
    """RETURNS (Ints): Where each text starts, by how many each has."""
    starts: Ints = np.cumsum(counts, dtype=np.int64) - np.asarray(counts, dtype=np.int64)
    return starts
