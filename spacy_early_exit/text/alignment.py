"""Which words each wordpiece covers, by character offsets."""

import warnings
from dataclasses import dataclass

import numpy as np
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


def align(ids: Ints, piece_offsets: Ints, words: Ints) -> Wordpieces:
    """Find the wordpieces of each word, and the words that share wordpieces.

    ids (Ints): Wordpiece ids. *Shape:* ``(wordpieces,)``
    piece_offsets (Ints): First character of each wordpiece, and the one after its last, in order.
        *Shape:* ``(wordpieces, 2)``
    words (Ints): The same for the words. *Shape:* ``(doc words, 2)``
    RETURNS (Wordpieces): The alignment. Wordpieces that cover no word, such as one of a lone
        space, belong to the unit before them.
    """
    # The words first .. last are those that a wordpiece overlaps.
    first = np.searchsorted(words[:, 1], piece_offsets[:, 0], side="right")
    last = np.searchsorted(words[:, 0], piece_offsets[:, 1], side="left") - 1
    covering = first <= last
    if not covering.any():
        return Wordpieces(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
    rows = covering.nonzero()[0]
    first, reach = first[rows], np.maximum.accumulate(last[rows])
    starts_unit = np.ones(len(rows), dtype=bool)
    starts_unit[1:] = first[1:] > reach[:-1]
    units = np.full(len(ids), -1, dtype=np.int64)
    units[rows] = np.cumsum(starts_unit) - 1
    units = np.maximum(np.maximum.accumulate(units), 0)
    number = np.arange(len(words))
    # The first wordpiece that reaches a word covers it; otherwise the word has none.
    reaching = np.searchsorted(reach, number, side="left")
    inside = reaching < len(rows)
    inside[inside] = first[reaching[inside]] <= number[inside]
    return Wordpieces(ids, units, number[inside], rows[reaching[inside]])


def fit(pieces: Wordpieces, capacity: int) -> Wordpieces:
    """Make every unit fit a window.

    Longer units are cut. Words are tagged from the part with their first character. Parts that no
    word is tagged from are dropped, with a warning.

    pieces (Wordpieces): The wordpieces of a text.
    capacity (int): Wordpieces that a window holds in addition to the special tokens.
    RETURNS (Wordpieces): The same, unless a unit was too long.
    """
    if not len(pieces.ids) or np.bincount(pieces.unit_of_piece).max() <= capacity:
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
