"""Bookkeeping on devices that compute while Python goes on, such as GPUs.

There, Python prepares work in advance, unless it has to wait for a value: a number that it asks for
(``tolist``, ``item``, ``if tensor``), or the size of a result that depends on values (``nonzero``,
boolean masks, ``bincount``). On a CPU nothing waits, and what is simplest there is fastest. So
what differs is here: on a GPU, all that must be known after a layer is read at once. Copies to a
GPU wait, too, unless their memory is pinned.
"""

from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, List, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .batch import Running
    from .loop import Exits


def is_asynchronous(device: torch.device) -> bool:
    """RETURNS (bool): Whether Python goes on while the device computes."""
    return device.type != "cpu"


def device_named(name: str) -> torch.device:
    """RETURNS (torch.device): A device that a setting names.

    name (str): Its name, such as ``"cuda"`` or ``"cuda:1"``.
    RAISES (ValueError): If there is no such device, or torch can't use it. The message says what
        to do.
    """
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ValueError(
            f"device = {name!r} is no device: it may be 'cuda', 'cuda:1' or 'cpu', or null for "
            f"where spaCy puts models."
        ) from e
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(
            f"device = {name!r} is not supported: it may be 'cuda', 'cuda:1', 'mps' or 'cpu', or "
            f"null for where spaCy puts models."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device = {name!r}, but torch {torch.__version__} sees no GPU here. Install a build "
            f"of torch for GPUs (pytorch.org says which), or set device = null."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device = {name!r}, but torch sees {torch.cuda.device_count()} here, counted from 0."
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())  # which "cuda:0" names as well
    return device


def upload(numbers: Union[Tensor, Sequence[int]], device: torch.device) -> Tensor:
    """Copy numbers to a device, without waiting for it.

    numbers (Union[Tensor, Sequence[int]]): A tensor on the CPU, or whole numbers.
    device (torch.device): The device.
    RETURNS (Tensor): The copy; on a CPU, the tensor itself. *Shape:* that of ``numbers``
    """
    found = torch.as_tensor(numbers, dtype=torch.int64)
    if not is_asynchronous(device):
        return found
    if device.type == "cuda":
        found = found.pin_memory()
    # On Apple's GPUs, torch may read memory that is not pinned when it is something else already.
    return found.to(device, non_blocking=device.type != "mps")


def counts_of(owners: Tensor, most: int) -> Tensor:
    """RETURNS (Tensor): How often each number occurs. *Shape:* ``(most,)``

    owners (Tensor): Numbers. *Shape:* any one axis
    most (int): They are smaller than this.
    """
    if not is_asynchronous(owners.device):
        return torch.bincount(owners, minlength=most)
    return owners.new_zeros(most).index_add_(0, owners, torch.ones_like(owners))


def compacted(values: Tensor, kept: Tensor, count: int) -> Tensor:
    """RETURNS (Tensor): Those values that are kept. *Shape:* ``(count,)``

    values (Tensor): *Shape:* ``(values,)``
    kept (Tensor): Which ones are kept. *Shape:* ``(values,)``, bool
    count (int): How many that are.
    """
    if not is_asynchronous(values.device):
        return values[kept]
    places = torch.where(kept, kept.cumsum(0) - 1, len(values))  # all others: behind the end
    return values.new_empty(len(values) + 1).scatter_(0, places, values)[:count]


def without_waiting(
    running: "Running", leaving: Tensor, marks: Sequence[Tensor] = ()
) -> Tuple["Running", List[int]]:
    """Let words exit: see ``Running.without``. It waits for the device once, to read the numbers of
    words, queries and wordpieces of each window.

    running (Running): What was computed.
    leaving (Tensor): Which of its words may exit. *Shape:* ``(active words,)``
    marks (Sequence[Tensor]): Booleans, whose true ones are counted in the same wait. *Shapes:* any
        one axis
    RETURNS (Tuple[Running, List[int]]): What is still computed, the same object if no word exits;
        and the counts.
    """
    batch = running.batch
    unit_of_word = batch.unit_of_word[running.words]
    window_of_word = batch.window_of_word[running.words]
    unit_of_piece = batch.unit_of_piece[running.pieces]
    window_of_piece = batch.window_of_piece[running.pieces]

    def by_window(windows: Tensor, which: Tensor) -> Tensor:
        return windows.new_zeros(batch.windows).index_add_(0, windows, which.long())

    staying = unit_of_word.new_zeros(batch.units + batch.windows)
    alive = staying.index_add_(0, unit_of_word, (~leaving).long()) > 0
    word_stays = alive[unit_of_word]
    words = by_window(window_of_word, word_stays)
    window_runs = words > 0
    special = window_runs
    if batch.halt_special:
        special = window_runs & (words == batch.words_of_window)
    alive[batch.units :] = special
    stays = window_runs[window_of_piece]
    if batch.kv == "drop":
        stays = stays & (alive[unit_of_piece] | (unit_of_piece >= batch.units))
    is_query = stays & alive[unit_of_piece]
    queries, context = by_window(window_of_piece, is_query), by_window(window_of_piece, stays)
    counted = [words, queries, context, *(mark.sum()[None] for mark in marks)]
    counts: List[int] = torch.cat(counted).tolist()  # here it waits
    of_windows, of_marks = counts[: 3 * batch.windows], counts[3 * batch.windows :]
    words_left, query_counts, context_counts = (
        of_windows[start : start + batch.windows]
        for start in range(0, len(of_windows), batch.windows)
    )
    if sum(words_left) == len(running.words):
        return running, of_marks
    number = torch.arange(batch.windows, device=leaving.device)
    windows = compacted(number, window_runs, sum(map(bool, words_left)))
    new_rows = stays.cumsum(0) - 1
    pieces, row_of_piece = running.pieces, running.row_of_piece
    if sum(context_counts) < len(pieces):
        pieces = compacted(pieces, stays, sum(context_counts))
        row_of_piece = torch.zeros_like(row_of_piece)
        row_of_piece.index_copy_(0, running.pieces, new_rows.clamp_min(0))
    is_partial = sum(query_counts) < len(pieces)
    of_queries, of_context = _cumulated(queries[windows]), _cumulated(context[windows])
    after = replace(
        running,
        words=compacted(running.words, word_stays, sum(words_left)),
        pieces=pieces,
        queries=compacted(new_rows, is_query, sum(query_counts)) if is_partial else None,
        row_of_piece=row_of_piece,
        query_lengths=list(compress(query_counts, words_left)),
        context_lengths=list(compress(context_counts, words_left)),
        windows=windows,
        longest=max(compress(batch.lengths, words_left), default=0),
        _known={(bounds,): (of_queries, of_context)},
    )
    return after, of_marks


def bounds(running: "Running") -> Tuple[Tensor, Tensor]:
    """RETURNS (Tuple[Tensor, Tensor]): The first query and the first wordpiece of each running
    window, and the ends of the last, as kernels for ragged attention take them: int32. *Shapes:*
    ``(running windows + 1,)``
    """
    device = running.windows.device
    lengths = running.query_lengths, running.context_lengths
    of_queries, of_context = (_cumulated(upload(part, device)) for part in lengths)
    return of_queries, of_context


def _cumulated(lengths: Tensor) -> Tensor:
    return F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def fetched(exits: "Exits") -> "Exits":
    """RETURNS (Exits): The same on the CPU, without states. It waits for the device twice."""
    if not is_asynchronous(exits.logits.device):
        return exits
    numbers = torch.cat([exits.exit_layer, exits.spent, exits.full]).cpu()
    sizes = [len(part) for part in (exits.exit_layer, exits.spent, exits.full)]
    exit_layer, spent, full = torch.split(numbers, sizes)
    logits = exits.logits.cpu()
    return replace(exits, logits=logits, exit_layer=exit_layer, spent=spent, full=full, states=None)
