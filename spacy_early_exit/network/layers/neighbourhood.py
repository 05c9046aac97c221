"""Which wordpieces attend to which in layers that only attend nearby."""

from dataclasses import dataclass
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from ..batch import Running
from ..devices import is_asynchronous, upload
from .relative import FixedBias, distances

# Windows longer than this many times a query's reach are cut into blocks of queries, each with its
# own context. Measured: see benchmarks/notes/engine.md.
LONG = 4
# To know the blocks is to wait for a GPU, so it computes more in vain. Not measured.
LONG_ON_GPU = 16


@dataclass(frozen=True)
class Neighbourhood:
    """Sequences of neighbouring queries, and what each of them may attend to.

    query_lengths (List[int]): Queries of each sequence.
    context_lengths (List[int]): Wordpieces of each sequence.
    rows (Optional[Tensor]): The rows of the context that these are. Sequences may share rows. None:
        the context as it is. *Shape:* ``(sum of context_lengths,)``
    mask (Optional[FixedBias]): Which of them are near enough; None: all.
    """

    query_lengths: List[int]
    context_lengths: List[int]
    rows: Optional[Tensor] = None
    mask: Optional[FixedBias] = None

    def of_context(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): States of what is attended to, sequence by sequence.
        *Shape:* ``(sum of context_lengths, width)``
        """
        return states if self.rows is None else states.index_select(0, self.rows)


def neighbourhood(running: Running, reach: int) -> Neighbourhood:
    """Find out which wordpieces are near enough.

    running (Running): What is still computed.
    reach (int): How far a query attends to either side.
    RETURNS (Neighbourhood): The neighbourhood.
    """
    longest = running.longest
    plain = Neighbourhood(running.query_lengths, running.context_lengths)
    if longest - 1 <= reach:
        return plain
    long = LONG_ON_GPU if is_asynchronous(running.windows.device) else LONG
    found = plain if longest <= long * reach else _in_blocks(running, reach)
    near = distances(
        running.query_offsets,
        found.of_context(running.offsets),
        found.query_lengths,
        found.context_lengths,
    )
    masks = [((away.abs() <= reach) & valid)[:, None] for away, valid in near]
    return Neighbourhood(found.query_lengths, found.context_lengths, found.rows, FixedBias(masks))


def _in_blocks(running: Running, reach: int) -> Neighbourhood:
    """RETURNS (Neighbourhood): Queries in blocks of at most twice the reach, without a mask."""
    queries, context, apart = _far_apart(running, reach)
    block = queries // apart * apart + queries % apart // (2 * reach)
    _, counts = torch.unique_consecutive(block, return_counts=True)  # (blocks,)
    ends = counts.cumsum(0)
    first = torch.searchsorted(context, queries[ends - counts] - reach)
    lengths = torch.searchsorted(context, queries[ends - 1] + reach, right=True) - first
    # The rows of a block are consecutive, starting from its first.
    start = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    rows = torch.arange(len(start), device=start.device) - start + first.repeat_interleave(lengths)
    return Neighbourhood(counts.tolist(), lengths.tolist(), rows)


def near_pairs(running: Running, reach: int) -> Tensor:
    """Count the pairs of a query and a wordpiece that is near enough.

    running (Running): What is still computed.
    reach (int): How far a query attends to either side.
    RETURNS (Tensor): Pairs of each running window. *Shape:* ``(running windows,)``
    """
    queries, context, apart = _far_apart(running, reach)
    first = torch.searchsorted(context, queries - reach)
    pairs = torch.searchsorted(context, queries + reach, right=True) - first  # (queries,)
    found = torch.zeros_like(running.windows)
    return found.index_add_(0, queries // apart, pairs)


def near_pairs_of_all(lengths: Tensor, reach: int) -> Tensor:
    """RETURNS (Tensor): The same if no word has exited. *Shape:* ``(windows,)``

    lengths (Tensor): Wordpieces of each window. *Shape:* ``(windows,)``
    reach (int): How far a query attends to either side.
    """
    side = (lengths - 1).clamp_max(reach)
    return lengths + 2 * side * lengths - side * (side + 1)


def _far_apart(running: Running, reach: int) -> Tuple[Tensor, Tensor, int]:
    """RETURNS (Tuple[Tensor, Tensor, int]): Positions of queries and context as if the windows
    followed one another, too far apart to reach each other; and the distance between them.
    *Shapes:* ``(queries,)``, ``(context,)``
    """
    apart = running.longest + reach
    device = running.windows.device
    number = torch.arange(len(running.windows), device=device)

    def places(offsets: Tensor, lengths: List[int]) -> Tensor:
        counts = upload(lengths, device)
        return offsets + apart * number.repeat_interleave(counts, output_size=len(offsets))

    return (
        places(running.query_offsets, running.query_lengths),
        places(running.offsets, running.context_lengths),
        apart,
    )
