"""Words that share a wordpiece are tokenized one by one, so that the network can tell them apart.

The words of *don't* are *do* and *n't*; its wordpieces are *don*, *'* and *t*. In Chinese, a word
may be one character and a wordpiece several. All other wordpieces stay those of the text as a
whole.
"""

from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from ..network.arrays import Ints

if TYPE_CHECKING:
    from .alignment import Wordpieces
    from .tokenizer import Before, WordpieceTokenizer

Tokenized = Tuple[Ints, Ints]  # what WordpieceTokenizer returns: ids and the characters they cover


class SharedUnit(NamedTuple):
    """Words of a text that share a wordpiece, directly or through other words.

    text (int): The text's number.
    rows (Tuple[int, int]): Their first wordpiece, and the one after the last.
    words (List[Tuple[str, Before]]): Each word, except white space, with a space in front if white
        space precedes it; and what precedes it.
    spans (List[Tuple[int, int]]): Start and end of each word in the text.
    """

    text: int
    rows: Tuple[int, int]
    words: List[Tuple[str, "Before"]]
    spans: List[Tuple[int, int]]


def split_shared(
    texts: Sequence[str],
    tokenized: Sequence[Tokenized],
    aligned: Sequence["Wordpieces"],
    words: Sequence[Ints],
    tokenizer: "WordpieceTokenizer",
) -> Dict[int, Tokenized]:
    """Tokenize words that share a wordpiece one by one.

    Words that have no wordpiece by themselves, such as combining accents and the joiners in emoji,
    share one with an adjacent word. If only one word has wordpieces then, there is nothing to tell
    apart, and all words keep sharing what they shared.

    texts (Sequence[str]): The texts.
    tokenized (Sequence[Tokenized]): Their wordpieces.
    aligned (Sequence[Wordpieces]): Which words the wordpieces cover.
    words (Sequence[Ints]): Start and end of each word in its text. *Shape of each:*
        ``(words, 2)``
    tokenizer (WordpieceTokenizer): The tokenizer.
    RETURNS (Dict[int, Tokenized]): The new wordpieces of the texts that change, by number.
    """
    units = [
        unit
        for number, pieces in enumerate(aligned)
        for unit in _shared_units(number, texts[number], tokenized[number], pieces, words[number])
    ]
    known: Dict[Tuple[str, Before], Tokenized] = {}
    for before in {before for unit in units for _, before in unit.words}:
        some = {word: None for unit in units for word in unit.words if word[1] == before}
        known.update(zip(some, tokenizer([word for word, _ in some], before)))
    new: Dict[int, List[Tuple[Tuple[int, int], List[Tokenized]]]] = {}
    for unit in units:
        apart = [
            _moved(*known[word], word[1], start) for word, (start, _) in zip(unit.words, unit.spans)
        ]
        covered = [
            bool(len(of)) and of[-1, 1] > start for (_, of), (start, _) in zip(apart, unit.spans)
        ]
        if sum(covered) > 1:
            _cover_others([of for _, of in apart], covered, unit.spans)
            new.setdefault(unit.text, []).append((unit.rows, apart))
    return {number: _replaced(tokenized[number], others) for number, others in new.items()}


def _shared_units(
    number: int, text: str, tokenized: Tokenized, pieces: "Wordpieces", words: Ints
) -> Iterator[SharedUnit]:
    """YIELDS (SharedUnit): The units of a text that have several words other than white space."""
    if not len(pieces.words) or pieces.unit_of_piece[-1] + 1 == len(pieces.words):
        return  # there are as many units as words
    unit_of_word = pieces.unit_of_piece[pieces.piece_of_word]
    firsts = np.flatnonzero(np.diff(unit_of_word, prepend=-1))
    counts = np.diff(firsts, append=len(unit_of_word))
    firsts, counts = firsts[counts > 1], counts[counts > 1]
    covered, offsets = words[pieces.words], tokenized[1]
    rows = pieces.piece_of_word[firsts]
    ends = np.searchsorted(offsets[:, 0], covered[firsts + counts - 1, 1])
    units = zip(firsts.tolist(), counts.tolist(), rows.tolist(), ends.tolist())
    for first, count, row, row_end in units:
        of_unit = covered[first : first + count].tolist()
        visible = [(start, end) for start, end in of_unit if not text[start:end].isspace()]
        if len(visible) < 2:
            continue
        before_each = [_before(text, start) for start, _ in visible]
        if row and offsets[row - 1, 1] == visible[0][0]:
            before_each[0] = "word"  # a wordpiece stands for the white space already
        seen = [
            (" " * (before == "white space") + text[start:end], before)
            for (start, end), before in zip(visible, before_each)
        ]
        yield SharedUnit(number, (row, row_end), seen, visible)


def _before(text: str, start: int) -> "Before":
    """RETURNS (Before): What precedes a word.

    text (str): The text.
    start (int): The word's first character.
    """
    if not start:
        return "nothing"
    return "white space" if text[start - 1].isspace() else "word"


def _moved(ids: Ints, offsets: Ints, before: "Before", start: int) -> Tokenized:
    """RETURNS (Tokenized): The wordpieces of a word, moved to its place in a text.

    ids (Ints): Their ids. *Shape:* ``(wordpieces,)``
    offsets (Ints): The characters they cover, as if the word were a text. *Shape:*
        ``(wordpieces, 2)``
    before (Before): What precedes the word. No wordpiece covers the space that was added in front.
    start (int): The word's first character.
    """
    moved: Ints = offsets + (start - (before == "white space"))
    return ids, np.maximum(moved, start) if before == "white space" else moved


def _cover_others(
    offsets: Sequence[Ints], covered: Sequence[bool], spans: Sequence[Tuple[int, int]]
) -> None:
    """Let words that have no wordpiece by themselves share one with an adjacent word: the last one
    of the word before, or, if there is none, the first one of the word after.

    offsets (Sequence[Ints]): The characters that each word's wordpieces cover, changed in place.
        *Shape of each:* ``(wordpieces, 2)``
    covered (Sequence[bool]): Whether wordpieces cover part of each word. For some words they do.
    spans (Sequence[Tuple[int, int]]): Start and end of each word.
    """
    first = list(covered).index(True)
    last = first
    for number, (_, end) in enumerate(spans):
        if covered[number]:
            last = number
        elif number > first:
            offsets[last][-1, 1] = end
    if first:
        covering = int(np.argmax(offsets[first][:, 1] > spans[first][0]))
        offsets[first][covering, 0] = spans[0][0]


def _replaced(
    tokenized: Tokenized, units: Sequence[Tuple[Tuple[int, int], List[Tokenized]]]
) -> Tokenized:
    """RETURNS (Tokenized): The wordpieces of a text, with those of some units replaced."""
    ids, offsets = tokenized
    new: List[Tokenized] = []
    done = 0
    for (first, end), words in units:
        new += [(ids[done:first], offsets[done:first]), *words]
        done = end
    new.append((ids[done:], offsets[done:]))
    return np.concatenate([of for of, _ in new]), np.concatenate([of for _, of in new])
