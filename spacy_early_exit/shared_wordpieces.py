"""Words that share a wordpiece are tokenized one by one, so that the network can tell them apart.

The words of *don't* are *do* and *n't*, and its wordpieces *don*, *'* and *t*; in Chinese a word may
be a character and a wordpiece several. All other wordpieces stay those of the text as a whole.
"""

from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from .network.window import Ints

if TYPE_CHECKING:
    from .wordpieces import Wordpieces, WordpieceTokenizer

Tokenized = Tuple[Ints, Ints]  # as WordpieceTokenizer gives it: ids, and the characters they cover


class SharedUnit(NamedTuple):
    """Words of a text that share a wordpiece, or are linked by others that do.

    text (int): The text's number.
    rows (Tuple[int, int]): Their first wordpiece, and the one behind the last.
    start (int): First character of the first of them.
    words (List[int]): First character of each, without words of white space.
    bounds (List[int]): Characters at which they are cut: white space stays with the word behind
        it. One more than there are parts.
    """

    text: int
    rows: Tuple[int, int]
    start: int
    words: List[int]
    bounds: List[int]

    def joined(self, parts: Sequence[Tokenized]) -> "SharedUnit":
        """RETURNS (SharedUnit): The same, not cut before words that have no wordpiece by
        themselves, such as accents that combine: they stay with the word before.

        parts (Sequence[Tokenized]): Each word by itself.
        """
        kept = [n for n, (_, of) in enumerate(parts) if (of[:, 1] > self.words[n]).any()]
        inner = [self.bounds[n] for n in kept[1:]]
        return self._replace(bounds=[self.bounds[0], *inner, self.bounds[-1]])


def split_shared(
    texts: Sequence[str],
    tokenized: Sequence[Tokenized],
    aligned: Sequence["Wordpieces"],
    words: Sequence[Ints],
    tokenizer: "WordpieceTokenizer",
) -> Dict[int, Tokenized]:
    """Tokenize words that share a wordpiece one by one.

    texts (Sequence[str]): The texts.
    tokenized (Sequence[Tokenized]): Their wordpieces.
    aligned (Sequence[Wordpieces]): Which words these cover.
    words (Sequence[Ints]): First character of each word, and the one behind. *Shape of each:*
        ``(words, 2)``
    tokenizer (WordpieceTokenizer): The tokenizer.
    RETURNS (Dict[int, Tokenized]): The wordpieces of those texts that have others now, by number.
    """
    units = [
        unit
        for n, pieces in enumerate(aligned)
        for unit in _shared_units(n, texts[n], tokenized[n][1], pieces, words[n])
    ]
    parts = _tokenize(texts, units, tokenizer)
    units = [unit.joined(of_unit) for unit, of_unit in zip(units, parts)]
    fewer = [n for n, unit in enumerate(units) if len(unit.bounds) <= len(parts[n])]
    for n, of_unit in zip(fewer, _tokenize(texts, [units[n] for n in fewer], tokenizer)):
        parts[n] = of_unit
    new: Dict[int, List[Tuple[SharedUnit, List[Tokenized]]]] = {}
    for unit, of_unit in zip(units, parts):
        if len(of_unit) > 1:
            new.setdefault(unit.text, []).append((unit, of_unit))
    return {n: _replaced(tokenized[n], of_text) for n, of_text in new.items()}


def _shared_units(
    number: int, text: str, offsets: Ints, pieces: "Wordpieces", words: Ints
) -> Iterator[SharedUnit]:
    """YIELDS (SharedUnit): The units of a text that have several words, not counting white space."""
    unit_of_word = pieces.unit_of_piece[pieces.piece_of_word]
    starts = np.flatnonzero(np.diff(unit_of_word, prepend=-1))
    ends = np.append(starts[1:], len(unit_of_word))
    several = ends - starts > 1
    for first, behind in zip(starts[several].tolist(), ends[several].tolist()):
        of_unit = words[pieces.words[first:behind]].tolist()
        visible = [(start, end) for start, end in of_unit if not text[start:end].isspace()]
        if len(visible) < 2:
            continue
        start, end = of_unit[0][0], of_unit[-1][1]
        row = int(pieces.piece_of_word[first])
        last = row + int(np.searchsorted(offsets[row:, 0], end))
        # White space before is the first word's, unless a wordpiece before stands for it.
        is_taken = row > 0 and offsets[row - 1, 1] == start
        begin = start - 1 if start and text[start - 1].isspace() and not is_taken else start
        bounds = [begin, *(end for _, end in visible[:-1]), end]
        yield SharedUnit(number, (row, last), start, [start for start, _ in visible], bounds)


def _tokenize(
    texts: Sequence[str], units: Sequence[SharedUnit], tokenizer: "WordpieceTokenizer"
) -> List[List[Tokenized]]:
    """RETURNS (List[List[Tokenized]]): The wordpieces of each part of each unit, by itself."""
    parts = [
        [_part(texts[unit.text], start, end) for start, end in zip(unit.bounds, unit.bounds[1:])]
        for unit in units
    ]
    known: Dict[Tuple[str, bool], Tokenized] = {}
    for goes_on in (False, True):
        some = list(dict.fromkeys(part for of in parts for part in of if part[1] == goes_on))
        if some:
            known.update(zip(some, tokenizer([part for part, _ in some], goes_on)))
    return [
        [
            _moved(known[part], begin, unit.start)
            for part, begin in zip(of_unit, unit.bounds)
        ]
        for unit, of_unit in zip(units, parts)
    ]


def _part(text: str, start: int, end: int) -> Tuple[str, bool]:
    """RETURNS (Tuple[str, bool]): A stretch of a text, and whether it goes on with what is before,
    without white space between.
    """
    return text[start:end], start > 0 and not text[start].isspace()


def _moved(tokenized: Tokenized, begin: int, start: int) -> Tokenized:
    """RETURNS (Tokenized): The wordpieces of a part that begins somewhere in a text. White space
    before the first word helps to tokenize it, and is covered by none of them.
    """
    ids, offsets = tokenized[0], tokenized[1] + begin
    if begin < start:
        inside = offsets[:, 1] > start
        return ids[inside], np.maximum(offsets[inside], start)
    return ids, offsets


def _replaced(
    tokenized: Tokenized, units: Sequence[Tuple[SharedUnit, List[Tokenized]]]
) -> Tokenized:
    """RETURNS (Tokenized): The wordpieces of a text, with others in place of those of some units."""
    ids, offsets = tokenized
    new: List[Tokenized] = []
    behind = 0
    for unit, parts in units:
        first, last = unit.rows
        new += [(ids[behind:first], offsets[behind:first]), *parts]
        behind = last
    new.append((ids[behind:], offsets[behind:]))
    return np.concatenate([of for of, _ in new]), np.concatenate([of for _, of in new])
