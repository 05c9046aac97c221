"""Attention on ragged batches: padded only within groups of sequences of similar length."""

from typing import Iterator, List, Optional, Protocol, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import compacted, is_asynchronous, upload

# A group may hold at most this many cells of its score matrix per needed cell. Measured
# with trained exits on tweets: see benchmarks/notes/engine.md.
MAX_PADDING = 1.5
# Sequences of at least this many wordpieces are attended to one by one: then a call costs little
# compared with its work, and nothing is padded.
ALONE = 192
# On a GPU a call costs as much as much padding: groups are larger there. Not measured.
MAX_PADDING_ON_GPU = 4.0


class Bias(Protocol):
    """What is added to the scores of a group of sequences: see ``groups``."""

    def __call__(self, group: int, query: Tensor, key: Tensor) -> Tensor:
        """RETURNS (Tensor): What is added, with minus infinity for pairs that must not attend; or,
        as bool, which pairs may. *Shape:*
        ``(group, heads or 1, longest queries or 1, longest context)``

        group (int): The number of the group.
        query (Tensor): *Shape:* ``(group, heads, longest queries, width / heads)``
        key (Tensor): *Shape:* ``(group, heads, longest context, width / heads)``
        """


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    heads: int,
    dropout: float = 0.0,
    bias: Optional[Bias] = None,
    scale: Optional[float] = None,
) -> Tensor:
    """Scaled dot-product attention of each sequence's queries to its own context.

    query (Tensor): *Shape:* ``(queries, width)``
    key (Tensor): *Shape:* ``(context, width)``
    value (Tensor): *Shape:* ``(context, width)``
    query_lengths (Sequence[int]): Queries of each sequence, each at least 1.
    context_lengths (Sequence[int]): Wordpieces of each sequence, each at least 1.
    heads (int): Number of attention heads.
    dropout (float): Dropout rate of the attention weights.
    bias (Optional[Bias]): What is added to the scores; the bias masks padding itself.
    scale (Optional[float]): Factor of the products; None: 1 / sqrt(width / heads).
    RETURNS (Tensor): *Shape:* ``(queries, width)``
    """
    parts = []
    q_start = k_start = 0
    for group, (start, end) in enumerate(groups(query_lengths, context_lengths, query.device)):
        q_lengths, k_lengths = query_lengths[start:end], context_lengths[start:end]
        q_end, k_end = q_start + sum(q_lengths), k_start + sum(k_lengths)
        q_cells, k_cells = cells(q_lengths, query.device), cells(k_lengths, key.device)
        q_heads = _split_heads(query[q_start:q_end], len(q_lengths), q_cells, heads)
        k_heads = _split_heads(key[k_start:k_end], len(k_lengths), k_cells, heads)
        v_heads = _split_heads(value[k_start:k_end], len(k_lengths), k_cells, heads)
        mask: Optional[Tensor] = None
        if bias is not None:
            mask = bias(group, q_heads, k_heads)
        elif k_cells is not None:
            mask = k_cells[1][:, None, None, :]  # (group, 1, 1, longest)
        mixed = F.scaled_dot_product_attention(
            q_heads, k_heads, v_heads, attn_mask=mask, dropout_p=dropout, scale=scale
        )  # (group, heads, longest, width / heads)
        mixed = mixed.transpose(1, 2).reshape(-1, query.shape[1])
        if q_cells is not None:
            mixed = mixed.index_select(0, _cells_of_rows(q_lengths, q_cells[1]))
        parts.append(mixed)
        q_start, k_start = q_end, k_end
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def groups(
    query_lengths: Sequence[int], context_lengths: Sequence[int], device: torch.device
) -> Iterator[Tuple[int, int]]:
    """Cut a batch into runs of sequences whose attention is padded to the longest of the run.

    query_lengths (Sequence[int]): Queries of each sequence.
    context_lengths (Sequence[int]): Wordpieces of each sequence, best in sorted order.
    device (torch.device): Where they are computed.
    YIELDS (Tuple[int, int]): First sequence of a group, and the one after its last.
    """
    most, alone = MAX_PADDING, float(ALONE)
    if is_asynchronous(device):
        most, alone = MAX_PADDING_ON_GPU, float("inf")
    start, needed, longest_q, longest_k = 0, 0, 0, 0
    for i, (q, k) in enumerate(zip(query_lengths, context_lengths)):
        wider_q, wider_k = max(longest_q, q), max(longest_k, k)
        padded = (i + 1 - start) * wider_q * wider_k
        if i > start and (longest_k >= alone or padded > most * (needed + q * k)):
            yield start, i
            start, needed, wider_q, wider_k = i, 0, q, k
        needed += q * k
        longest_q, longest_k = wider_q, wider_k
    yield start, len(query_lengths)


def padding(lengths: Sequence[int], device: torch.device) -> Tuple[Tensor, Tensor]:
    """Find the places of ragged sequences' rows in a padded rectangle.

    lengths (Sequence[int]): Rows of each sequence.
    device (torch.device): The device of the answer.
    RETURNS (Tuple[Tensor, Tensor]): Row of each cell (a padding cell repeats its sequence's
        first row), and whether the cell is a row. *Shapes:* ``(sequences, longest)``
    """
    counts = upload(lengths, device)
    starts = counts.cumsum(0) - counts
    cells = torch.arange(max(lengths), device=device)
    valid = cells < counts[:, None]
    return torch.where(valid, starts[:, None] + cells, starts[:, None]), valid


def cells(lengths: Sequence[int], device: torch.device) -> Optional[Tuple[Tensor, Tensor]]:
    """RETURNS (Optional[Tuple[Tensor, Tensor]]): See ``padding``; None if there is nothing to pad,
    so that the rectangle is the rows in their order.

    lengths (Sequence[int]): Rows of each sequence.
    device (torch.device): The device of the answer.
    """
    return None if min(lengths) == max(lengths) else padding(lengths, device)


def _cells_of_rows(lengths: Sequence[int], valid: Tensor) -> Tensor:
    """RETURNS (Tensor): The cell of each row. *Shape:* ``(rows,)``

    lengths (Sequence[int]): Rows of each sequence.
    valid (Tensor): Which cells are rows. *Shape:* ``(sequences, longest)``
    """
    if not is_asynchronous(valid.device):
        return valid.view(-1).nonzero().squeeze(1)
    cells = torch.arange(valid.numel(), device=valid.device)
    return compacted(cells, valid.view(-1), sum(lengths))


def _split_heads(
    rows: Tensor, sequences: int, padded: Optional[Tuple[Tensor, Tensor]], heads: int
) -> Tensor:
    if padded is not None:
        rows = rows.index_select(0, padded[0].view(-1))
    return rows.view(sequences, len(rows) // sequences, heads, -1).transpose(1, 2)


def lengths_of(owners: Tensor, sequences: int) -> List[int]:
    """Count the rows of each sequence.

    owners (Tensor): Sequence of each row. *Shape:* ``(rows,)``
    sequences (int): Number of sequences.
    RETURNS (List[int]): Rows of each sequence.
    """
    counts: List[int] = torch.bincount(owners, minlength=sequences).tolist()
    return counts
