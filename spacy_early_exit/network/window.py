"""The network's input: one sequence of wordpieces and the words in it."""

from dataclasses import dataclass

from .arrays import Bools, Ints


@dataclass(frozen=True)
class Window:
    """A sequence that fits the encoder.

    doc (int): Index of the doc that it belongs to.
    ids (Ints): Wordpiece ids, special tokens included. *Shape:* ``(wordpieces,)``
    unit_of_piece (Ints): The unit of each wordpiece, from 0; -1 for special tokens. A unit is
        the words that share a wordpiece, with all their wordpieces. *Shape:*
        ``(wordpieces,)``
    units (int): Number of units.
    words (Ints): The words in it, as indices into the doc, ascending. *Shape:* ``(words,)``
    piece_of_word (Ints): The wordpiece that each word is tagged from. *Shape:* ``(words,)``
    unit_of_word (Ints): The unit of each word. *Shape:* ``(words,)``
    owned (Bools): Whether each word is tagged from this window. Otherwise it is only context here,
        because an overlapping window shows more of its surroundings. *Shape:* ``(words,)``
    """

    doc: int
    ids: Ints
    unit_of_piece: Ints
    units: int
    words: Ints
    piece_of_word: Ints
    unit_of_word: Ints
    owned: Bools
