"""The ragged batch, and the bookkeeping of what is still being computed.

A batch is made of *windows* (sequences of wordpieces, special tokens included), *words* (what is
tagged) and *units*: the words that share a wordpiece, with all their wordpieces. The words of a
unit exit together. The special tokens of a window form one more unit, which exits with the window's
first word or with its last.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Callable, Dict, List, Literal, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from .devices import compacted, is_asynchronous, upload, without_waiting
from .layers.attention import lengths_of
from .window import Window

KV = Literal["copy", "drop"]


@dataclass(frozen=True)
class Batch:
    """Windows, one after the other. All indices refer to the batch as a whole.

    ids (Tensor): Wordpiece ids. *Shape:* ``(wordpieces,)``
    offsets (Tensor): Position of each wordpiece in its window. *Shape:* ``(wordpieces,)``
    window_of_piece (Tensor): *Shape:* ``(wordpieces,)``
    unit_of_piece (Tensor): *Shape:* ``(wordpieces,)``
    piece_of_word (Tensor): The wordpiece that a word is tagged from. *Shape:* ``(words,)``
    window_of_word (Tensor): *Shape:* ``(words,)``
    unit_of_word (Tensor): *Shape:* ``(words,)``
    lengths (List[int]): Wordpieces of each window.
    word_counts (List[int]): Words of each window.
    units (int): Number of units, not counting those of the special tokens. These follow: the one of
        window ``i`` is ``units + i``.
    kv (KV): Whether words that have exited stay in the context that others attend to, with the
        state they kept (``"copy"``), or are removed from it (``"drop"``).
    halt_special (bool): Whether special tokens exit with the first word of their window or stay
        until its last word has exited. Other words attend to them either way.
    """

    ids: Tensor
    offsets: Tensor
    window_of_piece: Tensor
    unit_of_piece: Tensor
    piece_of_word: Tensor
    window_of_word: Tensor
    unit_of_word: Tensor
    lengths: List[int]
    word_counts: List[int]
    units: int
    kv: KV
    halt_special: bool

    @property
    def windows(self) -> int:
        """RETURNS (int): Number of windows."""
        return len(self.lengths)

    @property
    def words(self) -> int:
        """RETURNS (int): Number of words."""
        return len(self.piece_of_word)

    @cached_property
    def words_of_window(self) -> Tensor:
        """RETURNS (Tensor): Number of words of each window. *Shape:* ``(windows,)``"""
        return upload(self.word_counts, self.ids.device)

    def on_cpu(self) -> "Batch":
        """RETURNS (Batch): The same batch, on the CPU."""
        if not is_asynchronous(self.ids.device):
            return self
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: Dict[str, Any] = {n: v.cpu() for n, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    @classmethod
    def of(
        cls,
        windows: Sequence[Window],
        device: torch.device,
        kv: KV = "copy",
        halt_special: bool = False,
    ) -> "Batch":
        """Put windows one after the other.

        windows (Sequence[Window]): At least one; each has at least one word.
        device (torch.device): The device of the tensors.
        kv (KV): Whether others attend to words that have exited.
        halt_special (bool): Whether special tokens exit with the first word of their window.
        RETURNS (Batch): The batch.
        """
        lengths = [len(window.ids) for window in windows]
        word_counts = [len(window.words) for window in windows]
        unit_counts = [window.units for window in windows]
        first_unit = np.cumsum(unit_counts) - unit_counts
        first_piece = np.cumsum(lengths) - lengths
        units = sum(unit_counts)
        unit_of_piece = [
            np.where(window.unit_of_piece < 0, units + i, window.unit_of_piece + first_unit[i])
            for i, window in enumerate(windows)
        ]
        number = np.arange(len(windows))

        def tensor(array: "np.ndarray") -> Tensor:
            contiguous = np.ascontiguousarray(array, dtype=np.int64)
            return upload(torch.from_numpy(contiguous), device)

        return cls(
            ids=tensor(np.concatenate([window.ids for window in windows])),
            offsets=tensor(np.arange(sum(lengths)) - np.repeat(first_piece, lengths)),
            window_of_piece=tensor(np.repeat(number, lengths)),
            unit_of_piece=tensor(np.concatenate(unit_of_piece)),
            piece_of_word=tensor(
                np.concatenate([w.piece_of_word + p for w, p in zip(windows, first_piece)])
            ),
            window_of_word=tensor(np.repeat(number, word_counts)),
            unit_of_word=tensor(
                np.concatenate([w.unit_of_word + u for w, u in zip(windows, first_unit)])
            ),
            lengths=lengths,
            word_counts=word_counts,
            units=units,
            kv=kv,
            halt_special=halt_special,
        )


@dataclass(frozen=True)
class Running:
    """What is still being computed, between two layers.

    batch (Batch): The batch.
    words (Tensor): Words that have not exited. *Shape:* ``(active words,)``
    pieces (Tensor): The context: wordpieces of the windows that have not ended. If ``kv`` is
        ``"drop"``, it excludes those that have exited. They are also the rows of the hidden states.
        *Shape:* ``(context,)``
    queries (Optional[Tensor]): Rows of the context that are still computed; None: all of
        them. *Shape:* ``(queries,)``
    row_of_piece (Tensor): Row of each wordpiece of the batch in the context; meaningless for
        wordpieces that are not part of it. *Shape:* ``(wordpieces,)``
    query_lengths (List[int]): Queries of each running window.
    context_lengths (List[int]): Wordpieces of each running window.
    windows (Tensor): Windows that have not ended. *Shape:* ``(running windows,)``
    longest (int): The most wordpieces of one of them, including those that were dropped; 0: all
        have ended.
    """

    batch: Batch
    words: Tensor
    pieces: Tensor
    queries: Optional[Tensor]
    row_of_piece: Tensor
    query_lengths: List[int]
    context_lengths: List[int]
    windows: Tensor
    longest: int
    _known: Dict[Any, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def offsets(self) -> Tensor:
        """RETURNS (Tensor): Position of the context in its windows. *Shape:* ``(context,)``"""
        return self.batch.offsets.index_select(0, self.pieces)

    @cached_property
    def query_offsets(self) -> Tensor:
        """RETURNS (Tensor): Position of the queries in their windows. *Shape:* ``(queries,)``"""
        queries = self.queries
        return self.offsets if queries is None else self.offsets.index_select(0, queries)

    @cached_property
    def lengths(self) -> Tensor:
        """RETURNS (Tensor): Wordpieces of each running window, including those that were dropped.
        *Shape:* ``(running windows,)``
        """
        lengths = upload(self.batch.lengths, self.windows.device)
        return lengths.index_select(0, self.windows)

    def cached(self, make: Callable[..., Any], *settings: Any) -> Any:
        """RETURNS (Any): What ``make`` returned on the first call. The encoder keeps here what its
        layers need to know of positions, until a word exits.

        make (Callable[..., Any]): Makes it from this object and the settings.
        *settings (Any): The settings.
        """
        known = (make, *settings)
        if known not in self._known:
            self._known[known] = make(self, *settings)
        return self._known[known]

    def has(self, make: Callable[..., Any], *settings: Any) -> bool:
        """RETURNS (bool): Whether ``cached`` has been asked for the same."""
        return (make, *settings) in self._known

    @classmethod
    def all_of(cls, batch: Batch) -> "Running":
        """RETURNS (Running): The state before the first layer: no word has exited."""
        device = batch.ids.device
        pieces = torch.arange(len(batch.ids), device=device)
        return cls(
            batch=batch,
            words=torch.arange(batch.words, device=device),
            pieces=pieces,
            queries=None,
            row_of_piece=pieces,
            query_lengths=batch.lengths,
            context_lengths=batch.lengths,
            windows=torch.arange(batch.windows, device=device),
            longest=max(batch.lengths),
        )

    def after(self, leaving: Tensor) -> "Running":
        """Let words exit: see ``without``.

        leaving (Tensor): Which of ``words`` may exit. *Shape:* ``(active words,)``
        RETURNS (Running): What is still computed; the same object if no word exits.
        """
        return self.after_counting(leaving, ())[0]

    def after_counting(
        self, leaving: Tensor, marks: Sequence[Tensor]
    ) -> Tuple["Running", List[int]]:
        """Let words exit, and count what a device would have to be waited for once more.

        leaving (Tensor): Which of ``words`` may exit. *Shape:* ``(active words,)``
        marks (Sequence[Tensor]): Booleans. *Shapes:* any one axis
        RETURNS (Tuple[Running, List[int]]): As ``after``; and how many of each are true.
        """
        if is_asynchronous(leaving.device):
            return without_waiting(self, leaving, marks)
        after = self.without(leaving) if leaving.any() else self
        return after, [int(mark.sum()) for mark in marks]

    def without(self, leaving: Tensor) -> "Running":
        """Let words exit.

        A unit exits when all its words may; a window ends with its last unit.

        leaving (Tensor): Which of ``words`` may exit. *Shape:* ``(active words,)``
        RETURNS (Running): What is still computed. Its ``words`` may be empty.
        """
        batch, device = self.batch, leaving.device
        # One flag for each unit. Those of the special tokens are at the end and stay with their
        # window.
        alive = torch.zeros(batch.units + batch.windows, dtype=torch.bool, device=device)
        unit_of_word = batch.unit_of_word[self.words]
        alive[unit_of_word[~leaving]] = True
        words = self.words[alive[unit_of_word]]
        left = torch.bincount(batch.window_of_word[words], minlength=batch.windows)
        window_runs = left > 0
        alive[batch.units :] = window_runs
        if batch.halt_special:
            alive[batch.units :] = window_runs & (left == batch.words_of_window)
        stays = window_runs[batch.window_of_piece[self.pieces]]
        if batch.kv == "drop":
            unit = batch.unit_of_piece[self.pieces]
            stays &= alive[unit] | (unit >= batch.units)
        pieces = self.pieces[stays]
        queries = alive[batch.unit_of_piece[pieces]].nonzero().squeeze(1)
        row_of_piece = self.row_of_piece
        if len(pieces) < len(self.pieces):
            row_of_piece = torch.zeros_like(row_of_piece)
            row_of_piece[pieces] = torch.arange(len(pieces), device=device)
        windows = window_runs.nonzero().squeeze(1)
        window_of_piece = batch.window_of_piece[pieces]
        counts = lengths_of(window_of_piece[queries], batch.windows)
        context = batch.lengths
        if batch.kv == "drop":
            context = lengths_of(window_of_piece, batch.windows)
        running: List[int] = windows.tolist()
        return Running(
            batch=batch,
            words=words,
            pieces=pieces,
            queries=queries if len(queries) < len(pieces) else None,
            row_of_piece=row_of_piece,
            query_lengths=[counts[i] for i in running],
            context_lengths=[context[i] for i in running],
            windows=windows,
            longest=max((batch.lengths[i] for i in running), default=0),
        )

    def departed(self, after: "Running") -> Tensor:
        """RETURNS (Tensor): Which of ``words`` have exited by a later state. *Shape:* ``(words,)``

        after (Running): The later state.
        """
        return ~torch.isin(self.words, after.words, assume_unique=True)

    def gone(self, after: "Running") -> Tensor:
        """RETURNS (Tensor): Places in ``words`` of those that have exited by a later state.
        *Shape:* ``(words that have exited,)``

        after (Running): The later state.
        """
        places = torch.arange(len(self.words), device=self.words.device)
        return compacted(places, self.departed(after), len(self.words) - len(after.words))

    def rows_of(self, words: Tensor) -> Tensor:
        """RETURNS (Tensor): Row of each word's wordpiece in the context. *Shape:* ``(words,)``"""
        return self.row_of_piece[self.batch.piece_of_word[words]]

    def rows_for(self, after: "Running", kept: Tensor) -> Tensor:
        """RETURNS (Tensor): The rows that are still in the context of a later state. *Shape:*
        ``(later context, width)``

        after (Running): The later state.
        kept (Tensor): All rows of the context. *Shape:* ``(context, width)``
        """
        if len(after.pieces) == len(self.pieces):
            return kept
        return kept.index_select(0, self.row_of_piece[after.pieces])

    def written_into(self, everything: Tensor, kept: Tensor) -> Tensor:
        """RETURNS (Tensor): The rows of all wordpieces of the batch, with those of the context
        updated. *Shape:* ``(wordpieces, width)``

        everything (Tensor): The previous rows of all wordpieces. *Shape:* ``(wordpieces, width)``
        kept (Tensor): All rows of the context. *Shape:* ``(context, width)``
        """
        if len(kept) == len(everything):
            return kept
        return everything.index_copy(0, self.pieces, kept)
