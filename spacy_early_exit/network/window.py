"""The network's input: one sequence of wordpieces with the words in it."""

from dataclasses import dataclass

from .arrays import Bools, Ints


@dataclass(frozen=True)
class Window:
    """A sequence that fits the encoder.

    doc (int): Which of the docs at hand it belongs to.
    ids (Ints): Wordpiece ids, special tokens included. *Shape:* ``(wordpieces,)``
    unit_of_piece (Ints): The unit of each wordpiece, from 0; -1 for special tokens. A unit is
        the words that share a wordpiece, with all their wordpieces. *Shape:*
        ``(wordpieces,)``
    units (int): Number of units.
    words (Ints): The words in it, as indices into the doc, ascending. *Shape:* ``(words,)``
    piece_of_word (Ints): The wordpiece that each is tagged from. *Shape:* ``(words,)``
    unit_of_word (Ints): The unit of each. *Shape:* ``(words,)``
    owned (Bools): Whether each is tagged from this window, or is but context here, because
        an overlapping window sees more of its surroundings. *Shape:* ``(words,)``
    """

    doc: int
    ids: Ints
    unit_of_piece: Ints
    units: int
    words: Ints
    piece_of_word: Ints
    unit_of_word: Ints
    owned: Bools
