"""From a Doc to wordpieces, and to windows of them that fit the encoder.

The text, or each of its spans, is tokenized as a plain Hugging Face run would see it, and aligned
with the Doc's words by character offsets. Words that would share a wordpiece are tokenized one by
one, unless they are to share it. Nothing is truncated: what is longer is cut into overlapping
windows, and each word is tagged in the one that shows most of its surroundings.
"""

import contextlib
import json
import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Literal, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc

from ..network.window import Ints, Window
from .shared_wordpieces import split_shared
from .spans import SpanGetter, word_ranges

if TYPE_CHECKING:
    import tokenizers

# Words that would share a wordpiece are tokenized one by one, or do share it.
SharedWordpieces = Literal["split", "keep"]

Settings = Dict[str, Dict[str, Any]]  # of pre-tokenizers, by their type

# What is before a text.
Before = Literal["nothing", "white space", "word"]

# How pre-tokenizers mark white space before a text, or do not.
MARKED: Settings = {
    "Metaspace": {"prepend_scheme": "always"},
    "ByteLevel": {"add_prefix_space": True},
}
UNMARKED: Settings = {
    "Metaspace": {"prepend_scheme": "never"},
    "ByteLevel": {"add_prefix_space": False},
}


class WordpieceTokenizer:
    """A fast tokenizer of the ``tokenizers`` library, with truncation and padding off.

    Threads may share it: it is never changed after construction.

    serialized (str): The tokenizer as JSON, as in ``tokenizer.json``.
    RAISES (ValueError): If this is no such tokenizer.
    """

    def __init__(self, serialized: str):
        from tokenizers import Tokenizer

        try:
            with panics_as_errors():
                tokenizer = Tokenizer.from_str(serialized)
                # Checkpoints ship with either, e.g. all-MiniLM-L6-v2 with a truncation to 128.
                tokenizer.no_truncation()
                tokenizer.no_padding()
                probe = tokenizer.encode("a")
                marked, unmarked = (_changed(tokenizer, how) for how in (MARKED, UNMARKED))
        except Exception as e:  # the library raises bare Exceptions
            raise ValueError(f"tokenizer.json can't be read by the tokenizers library: {e}") from e
        self._tokenizer: tokenizers.Tokenizer = tokenizer
        self._behind = {"white space": marked, "word": unmarked}
        inner = [i for i, special in enumerate(probe.special_tokens_mask) if not special]
        first, behind = (inner[0], inner[-1] + 1) if inner else (len(probe.ids),) * 2
        self.prefix = np.array(probe.ids[:first], dtype=np.int64)
        self.suffix = np.array(probe.ids[behind:], dtype=np.int64)

    def __reduce__(self) -> Tuple[Any, ...]:
        """Its tokenizers have one vocabulary, which is not to be pickled several times."""
        return WordpieceTokenizer, (self.to_str(),)

    def __call__(self, texts: Sequence[str], before: Before = "nothing") -> List[Tuple[Ints, Ints]]:
        """Tokenize texts.

        texts (Sequence[str]): The texts.
        before (Before): What is before them. Many encoders have a mark of white space in their
            wordpieces: there is one where it is white space, none where it is a word, and nothing
            is as the tokenizer has it.
        RETURNS (List[Tuple[Ints, Ints]]): Of each text, the wordpiece ids without special
            tokens, and the characters they cover. *Shapes:* ``(wordpieces,)``,
            ``(wordpieces, 2)``
        """
        tokenizer = self._behind.get(before, self._tokenizer)
        with panics_as_errors():
            encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (
                np.array(encoding.ids, dtype=np.int64),
                np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            )
            for encoding in encodings
        ]

    def check_fits(self, vocab_size: int) -> None:
        """Refuse a tokenizer that is not the encoder's.

        vocab_size (int): Wordpieces that the encoder knows.
        RAISES (ValueError): If the tokenizer has more.
        """
        ids = [*self._tokenizer.get_vocab(with_added_tokens=True).values()]
        last = max([*ids, *self.prefix.tolist(), *self.suffix.tolist()], default=0)
        if last >= vocab_size:
            raise ValueError(
                f"The tokenizer (tokenizer.json) has wordpieces up to number {last}, and the "
                f"encoder knows {vocab_size}, from 0 on: they are not of one model."
            )

    def to_str(self) -> str:
        """RETURNS (str): The tokenizer as JSON, as in ``tokenizer.json``."""
        serialized: str = self._tokenizer.to_str()
        return serialized


def _changed(tokenizer: "tokenizers.Tokenizer", settings: Settings) -> "tokenizers.Tokenizer":
    """RETURNS (Tokenizer): A tokenizer whose pre-tokenizers have other settings: itself, if they
    have these; otherwise another, whose vocabulary is the same in memory.

    tokenizer (Tokenizer): The tokenizer.
    settings (Settings): The other settings.
    """
    from tokenizers import Tokenizer

    if tokenizer.pre_tokenizer is None:
        return tokenizer
    steps = json.loads(tokenizer.pre_tokenizer.__getstate__())
    changed = _with(steps, settings)
    if changed == steps:
        return tokenizer
    shell = {"pre_tokenizer": changed, "model": {"type": "BPE", "vocab": {}, "merges": []}}
    absent = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    about = {"version": "1.0", "added_tokens": [], **dict.fromkeys(absent), **shell}
    made = Tokenizer.from_str(json.dumps(about))
    made.model = tokenizer.model
    if tokenizer.normalizer is not None:  # which older versions refuse to take
        made.normalizer = tokenizer.normalizer
    return made


def _with(step: Any, settings: Settings) -> Any:
    """RETURNS (Any): A pre-tokenizer, as JSON, with other settings, and so those inside of it."""
    if isinstance(step, list):
        return [_with(part, settings) for part in step]
    if isinstance(step, dict):
        inside = {name: _with(part, settings) for name, part in step.items()}
        return {**inside, **settings.get(str(step.get("type")), {})}
    return step


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """A panic of the tokenizers library, which is in Rust, is no ``Exception``: it would pass
    whatever keeps one bad text from its batch.

    RAISES (ValueError): In place of a panic.
    """
    try:
        yield
    except BaseException as e:
        if type(e).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizers library panicked: {e}") from e


@dataclass(frozen=True)
class Wordpieces:
    """The wordpieces of a text and the words they cover.

    ids (Ints): Wordpiece ids, without special tokens. *Shape:* ``(wordpieces,)``
    unit_of_piece (Ints): The unit of each wordpiece, ascending from 0. *Shape:*
        ``(wordpieces,)``
    words (Ints): The words that some wordpiece covers, ascending. *Shape:* ``(words,)``
    piece_of_word (Ints): The wordpiece that each is tagged from: the first that covers some of it.
        *Shape:* ``(words,)``
    """

    ids: Ints
    unit_of_piece: Ints
    words: Ints
    piece_of_word: Ints


def word_offsets(doc: Doc) -> Ints:
    """RETURNS (Ints): First character of each word, and the one behind. *Shape:* ``(words, 2)``"""
    offsets: Ints = doc.to_array(["IDX", "LENGTH"]).reshape(-1, 2).astype(np.int64)
    offsets[:, 1] += offsets[:, 0]
    return offsets


def align(ids: Ints, piece_offsets: Ints, words: Ints) -> Wordpieces:
    """Find the wordpieces of each word, and the words that share some.

    ids (Ints): Wordpiece ids. *Shape:* ``(wordpieces,)``
    piece_offsets (Ints): First character of each wordpiece, and the one behind, in order.
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
    # The first wordpiece that reaches a word covers it, or the word has none.
    reaching = np.searchsorted(reach, number, side="left")
    inside = reaching < len(rows)
    inside[inside] = first[reaching[inside]] <= number[inside]
    return Wordpieces(ids, units, number[inside], rows[reaching[inside]])


def fit(pieces: Wordpieces, capacity: int) -> Wordpieces:
    """Make every unit fit a window.

    A longer unit is cut. Words are tagged from the part with their first character; parts
    that no word is tagged from are dropped, with a warning.

    pieces (Wordpieces): The wordpieces of a text.
    capacity (int): Wordpieces that a window holds beside the special tokens.
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
        f"from its first {capacity}; the others are left out. All other words are tagged as "
        f"ever. Python shows this warning once.",
        stacklevel=2,
    )
    kept = np.cumsum(tagged) - 1  # new row of each wordpiece
    _, units = np.unique(units[tagged], return_inverse=True)
    return Wordpieces(
        pieces.ids[tagged], units.astype(np.int64), pieces.words, kept[pieces.piece_of_word]
    )


def runs(unit_of_piece: Ints, capacity: int, overlap: int) -> Iterator[Tuple[int, int]]:
    """Cut a text into overlapping runs of whole units.

    unit_of_piece (Ints): The unit of each wordpiece; none longer than ``capacity``.
        *Shape:* ``(wordpieces,)``
    capacity (int): Wordpieces that a window holds.
    overlap (int): Wordpieces that a window should share with the next; less where they would
        not be whole units.
    YIELDS (Tuple[int, int]): First wordpiece of a window, and the one behind its last.
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
        # The next window must end further on: it must have room for the unit behind.
        room = int(bounds[np.searchsorted(bounds, end, side="right")]) - capacity
        start = max(back, int(bounds[np.searchsorted(bounds, room, side="left")]))


def cut(
    doc: int, pieces: Wordpieces, tokenizer: WordpieceTokenizer, capacity: int, overlap: int
) -> List[Window]:
    """Cut a text into windows.

    doc (int): The text's number, for the windows to carry.
    pieces (Wordpieces): Its wordpieces, every unit at most ``capacity`` long.
    tokenizer (WordpieceTokenizer): The tokenizer that made them.
    capacity (int): Wordpieces that a window holds beside the special tokens.
    overlap (int): Wordpieces that neighbouring windows should share.
    RETURNS (List[Window]): The windows, in order. Each owns all its words still: see ``share``.
    """
    prefix, suffix = tokenizer.prefix, tokenizer.suffix
    windows = []
    for start, end in runs(pieces.unit_of_piece, capacity, overlap):
        inside = slice(*np.searchsorted(pieces.piece_of_word, [start, end]))
        piece_of_word = pieces.piece_of_word[inside] - start
        units = pieces.unit_of_piece[start:end] - pieces.unit_of_piece[start]
        unit_of_piece = np.full(len(prefix) + len(units) + len(suffix), -1)
        unit_of_piece[len(prefix) : len(prefix) + len(units)] = units
        windows.append(
            Window(
                doc=doc,
                ids=np.concatenate([prefix, pieces.ids[start:end], suffix]),
                unit_of_piece=unit_of_piece,
                units=int(units[-1]) + 1,
                words=pieces.words[inside],
                piece_of_word=piece_of_word + len(prefix),
                unit_of_word=units[piece_of_word],
                owned=np.ones(len(piece_of_word), dtype=bool),
            )
        )
    return windows


def share(windows: Sequence[Window]) -> List[Window]:
    """Let each word of a text be owned by the one window that shows most around it.

    windows (Sequence[Window]): All windows of the text, which may overlap.
    RETURNS (List[Window]): The same, each owning its own words only.
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
    """RETURNS (NDArray): Wordpieces to the nearer end of the window, for each of its words; words
    that share a wordpiece count as one. The ends of the text, its first and its last word, are no
    end: nothing is hidden there. *Shape:* ``(words,)``
    """
    units = window.unit_of_piece[window.unit_of_piece >= 0]
    before = np.searchsorted(units, window.unit_of_word).astype(np.float64)
    behind = len(units) - before
    if window.words[0] == first:
        before[:] = np.inf
    if window.words[-1] == last:
        behind[:] = np.inf
    return np.minimum(before, behind)


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
    length (int): Wordpieces of a window, special tokens included.
    overlap (int): Wordpieces that neighbouring windows of a text should share.
    get_spans (Optional[SpanGetter]): Gets the spans that are texts of their own; None: whole docs.
    shared (SharedWordpieces): Whether words that would share a wordpiece are tokenized one by one
        (``"split"``), or share it (``"keep"``).
    RETURNS (List[Window]): All windows, in order. A doc without wordpieces has none.
    """
    capacity = length - len(tokenizer.prefix) - len(tokenizer.suffix)
    words = [word_offsets(doc) for doc in docs]
    texts, spans = [], []
    for number, (doc, ranges) in enumerate(zip(docs, word_ranges(docs, get_spans))):
        text = doc.text
        for start, end in ranges:
            behind = words[number][end - 1, 1] if end < len(doc) else len(text)
            texts.append(text[words[number][start, 0] : behind])
            spans.append((number, start, end))
    of_spans = [words[number][start:end] for number, start, end in spans]
    of_spans = [of_span - of_span[0, 0] for of_span in of_spans]
    tokenized = tokenizer(texts)
    aligned = [align(ids, of, of_span) for (ids, of), of_span in zip(tokenized, of_spans)]
    if shared == "split":
        split = split_shared(texts, tokenized, aligned, of_spans, tokenizer)
        for place, (ids, of) in split.items():
            aligned[place] = align(ids, of, of_spans[place])
    windows: List[List[Window]] = [[] for _ in docs]
    for (number, start, _), pieces in zip(spans, aligned):
        pieces = fit(pieces, capacity)
        pieces = replace(pieces, words=pieces.words + start)
        windows[number].extend(cut(number, pieces, tokenizer, capacity, overlap))
    return [window for of_doc in windows for window in share(of_doc)]


def batches(
    windows: Sequence[Window], wordpieces: int, at_once: int = 1, least: int = 1
) -> Iterator[List[Window]]:
    """Group windows of like length.

    windows (Sequence[Window]): The windows, in any order.
    wordpieces (int): A batch holds at most this many; a longer window is a batch of its own.
    at_once (int): How many batches run beside one another: as many, or twice as many ..., of
        about the same size are made.
    least (int): But none smaller than this only for that.
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
