"""From Docs to windows of wordpieces that fit the encoder, and to batches of these.

The text, or each of its spans, is tokenized as a plain Hugging Face run would see it, and aligned
with the Doc's words by character offsets. Words that would share a wordpiece are tokenized one by
one, unless the setting is ``"keep"``. Nothing is truncated: long texts are cut into overlapping
windows, and each word is tagged in the window that shows most of its surroundings.
"""

import math
from dataclasses import replace
from typing import Iterator, List, Literal, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc

from ..network.arrays import Ints
from ..network.window import Window
from .alignment import Wordpieces, align, fit, word_offsets
from .shared_wordpieces import split_shared
from .spans import SpanGetter, word_ranges
from .tokenizer import WordpieceTokenizer

# Words that would share a wordpiece are tokenized one by one ("split") or do share it ("keep").
SharedWordpieces = Literal["split", "keep"]


def windows_of(
    docs: Sequence[Doc],
    tokenizer: WordpieceTokenizer,
    length: int,
    overlap: int,
    get_spans: Optional[SpanGetter] = None,
    shared: SharedWordpieces = "split",
) -> List[Window]:
    """Cut docs into windows.

    docs (Sequence[Doc]): The docs.
    tokenizer (WordpieceTokenizer): The encoder's tokenizer.
    length (int): Maximum number of wordpieces in a window, including special tokens.
    overlap (int): Wordpieces that neighbouring windows of a text should share.
    get_spans (Optional[SpanGetter]): Gets the spans that the encoder sees separately; None: whole
        docs.
    shared (SharedWordpieces): Whether words that would share a wordpiece are tokenized one by one
        (``"split"``) or do share it (``"keep"``).
    RETURNS (List[Window]): All windows, in order. A doc without wordpieces has none.
    """
    capacity = length - len(tokenizer.prefix) - len(tokenizer.suffix)
    words = [word_offsets(doc) for doc in docs]
    texts, spans = [], []
    for number, (doc, ranges) in enumerate(zip(docs, word_ranges(docs, get_spans))):
        text = doc.text
        for start, end in ranges:
            end_char = words[number][end - 1, 1] if end < len(doc) else len(text)
            texts.append(text[words[number][start, 0] : end_char])
            spans.append((number, start, end))
    of_spans = [words[number][start:end] for number, start, end in spans]
    of_spans = [of_span - of_span[0, 0] for of_span in of_spans]
    tokenized = tokenizer(texts)
    aligned = align(tokenized, of_spans)
    if shared == "split":
        split = split_shared(texts, tokenized, aligned, of_spans, tokenizer)
        again = align([*split.values()], [of_spans[place] for place in split])
        for place, pieces in zip(split, again):
            aligned[place] = pieces
    windows: List[List[Window]] = [[] for _ in docs]
    for (number, start, _), pieces in zip(spans, aligned):
        pieces = fit(pieces, capacity)
        if start:
            pieces = replace(pieces, words=pieces.words + start)
        windows[number].extend(cut(number, pieces, tokenizer, capacity, overlap))
    return [window for of_doc in windows for window in share(of_doc)]


def runs(unit_of_piece: Ints, capacity: int, overlap: int) -> Iterator[Tuple[int, int]]:
    """Cut a text into overlapping runs of whole units.

    unit_of_piece (Ints): The unit of each wordpiece. No unit is longer than ``capacity``. *Shape:*
        ``(wordpieces,)``
    capacity (int): Wordpieces that a window holds.
    overlap (int): Wordpieces that a window should share with the next; fewer if they would not be
        whole units.
    YIELDS (Tuple[int, int]): First wordpiece of a window, and the one after its last.
    """
    total = len(unit_of_piece)
    if 0 < total <= capacity:
        yield 0, total
        return
    starts = np.flatnonzero(np.diff(unit_of_piece, prepend=-1))
    bounds = np.append(starts, total)
    start = 0
    while total:
        end = int(bounds[np.searchsorted(bounds, start + capacity, side="right") - 1])
        yield start, end
        if end == total:
            return
        back = int(bounds[np.searchsorted(bounds, end - overlap, side="left")])
        # The next window must end later: it must have room for the unit after this one.
        room = int(bounds[np.searchsorted(bounds, end, side="right")]) - capacity
        start = max(back, int(bounds[np.searchsorted(bounds, room, side="left")]))


def cut(
    doc: int, pieces: Wordpieces, tokenizer: WordpieceTokenizer, capacity: int, overlap: int
) -> List[Window]:
    """Cut a text into windows.

    doc (int): The doc's index, which the windows carry.
    pieces (Wordpieces): Its wordpieces, every unit at most ``capacity`` long.
    tokenizer (WordpieceTokenizer): The tokenizer that made them.
    capacity (int): Wordpieces that a window holds in addition to the special tokens.
    overlap (int): Wordpieces that neighbouring windows should share.
    RETURNS (List[Window]): The windows, in order. Each still owns all its words: see ``share``.
    """
    parts = [_part(pieces, *run) for run in runs(pieces.unit_of_piece, capacity, overlap)]
    return [_window(doc, part, tokenizer) for part in parts]


def _part(pieces: Wordpieces, start: int, end: int) -> Wordpieces:
    """RETURNS (Wordpieces): A run of whole units, whose wordpieces and units count from 0.

    pieces (Wordpieces): The wordpieces of a text.
    start (int): Its first wordpiece.
    end (int): The wordpiece after its last.
    """
    if end - start == len(pieces.ids):
        return pieces
    inside = slice(*np.searchsorted(pieces.piece_of_word, [start, end]))
    units = pieces.unit_of_piece[start:end]
    return Wordpieces(
        pieces.ids[start:end],
        units - units[0],
        pieces.words[inside],
        pieces.piece_of_word[inside] - start,
    )


def _window(doc: int, pieces: Wordpieces, tokenizer: WordpieceTokenizer) -> Window:
    """RETURNS (Window): Wordpieces between the encoder's special tokens.

    doc (int): The index of their doc.
    pieces (Wordpieces): The wordpieces.
    tokenizer (WordpieceTokenizer): The tokenizer that made them.
    """
    prefix, suffix = tokenizer.prefix, tokenizer.suffix
    first, last = len(prefix), len(prefix) + len(pieces.ids)
    unit_of_piece = np.full(last + len(suffix), -1)
    unit_of_piece[first:last] = pieces.unit_of_piece
    return Window(
        doc=doc,
        ids=np.concatenate([prefix, pieces.ids, suffix]),
        unit_of_piece=unit_of_piece,
        units=int(pieces.unit_of_piece[-1]) + 1,
        words=pieces.words,
        piece_of_word=pieces.piece_of_word + first,
        unit_of_word=pieces.unit_of_piece[pieces.piece_of_word],
        owned=np.ones(len(pieces.words), dtype=bool),
    )


def share(windows: Sequence[Window]) -> List[Window]:
    """Assign each word of a text to the window that shows most of its surroundings.

    windows (Sequence[Window]): All windows of the text, which may overlap.
    RETURNS (List[Window]): The same windows, each owning only the words assigned to it.
    """
    if len(windows) < 2:
        return list(windows)
    first = min(int(window.words[0]) for window in windows)
    last = max(int(window.words[-1]) for window in windows)
    most, owner = np.full(last + 1, -1.0), np.full(last + 1, -1)
    for number, window in enumerate(windows):
        shown = _shown(window, first, last)
        better = shown >= most[window.words]
        words = window.words[better]
        most[words], owner[words] = shown[better], number
    return [
        replace(window, owned=owner[window.words] == number)
        for number, window in enumerate(windows)
    ]


def _shown(window: Window, first: int, last: int) -> NDArray[np.float64]:
    """RETURNS (NDArray): For each word of the window, the number of wordpieces to the nearer end.
    Words that share a wordpiece count as one. The ends of the text do not count as ends, since
    nothing is hidden there. *Shape:* ``(words,)``
    """
    units = window.unit_of_piece[window.unit_of_piece >= 0]
    before = np.searchsorted(units, window.unit_of_word).astype(np.float64)
    after = len(units) - before
    if window.words[0] == first:
        before[:] = np.inf
    if window.words[-1] == last:
        after[:] = np.inf
    return np.minimum(before, after)


def batches(
    windows: Sequence[Window], wordpieces: int, at_once: int = 1, least: int = 1
) -> Iterator[List[Window]]:
    """Group windows of similar length.

    windows (Sequence[Window]): The windows, in any order.
    wordpieces (int): A batch holds at most this many; a longer window is a batch of its own.
    at_once (int): How many batches run in parallel. The number of batches is a multiple of it, and
        they are of about the same size.
    least (int): Batches are not made smaller than this for that purpose.
    YIELDS (List[Window]): Batches, longest windows first.
    """
    left = sum(len(window.ids) for window in windows)
    parts = math.ceil(left / wordpieces)
    parts = max(parts, min(math.ceil(parts / at_once) * at_once, left // least))
    batch: List[Window] = []
    size = 0
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        length = len(window.ids)
        if batch and (size + length > wordpieces or size + length / 2 > left / parts):
            yield batch
            left, parts = left - size, max(parts - 1, 1)
            batch, size = [], 0
        batch.append(window)
        size += length
    if batch:
        yield batch
