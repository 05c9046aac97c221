"""The positions of queries and context relative to each other, for the kinds of attention that need
them; and MPNet's bias by distance.
"""

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Running
from ..families import EncoderSpec
from .attention import Bias, groups, padding
from .layer import Layer
from .table import lookup_table


@dataclass(frozen=True)
class FixedBias:
    """What is added to scores, regardless of queries and keys: a ``Bias``.

    of_group (Sequence[Tensor]): *Shapes:* ``(group, heads or 1, longest queries, longest context)``
    """

    of_group: Sequence[Tensor]

    def __call__(self, group: int, query: Tensor, key: Tensor) -> Tensor:
        """RETURNS (Tensor): See ``Bias``."""
        return self.of_group[group]


@dataclass(frozen=True)
class SomeHeads:
    """The part of a bias that concerns some of its heads: a ``Bias``.

    bias (Bias): The bias of all heads.
    heads (Tensor): These heads, counted from 0. *Shape:* ``(heads,)``
    """

    bias: Bias
    heads: Tensor

    def __call__(self, group: int, query: Tensor, key: Tensor) -> Tensor:
        """RETURNS (Tensor): See ``Bias``."""
        return self.bias(group, query, key).index_select(1, self.heads)


def distances(
    of_queries: Tensor,
    of_context: Tensor,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
) -> List[Tuple[Tensor, Tensor]]:
    """Compute the distance of each query from each wordpiece of its context.

    of_queries (Tensor): Positions of the queries. *Shape:* ``(queries,)``
    of_context (Tensor): Positions of the context. *Shape:* ``(context,)``
    query_lengths (Sequence[int]): Queries of each sequence.
    context_lengths (Sequence[int]): Wordpieces of each sequence.
    RETURNS (List[Tuple[Tensor, Tensor]]): For each group of ``attention.groups``, the position of
        the query minus that of the wordpiece, and whether there is such a wordpiece. *Shapes:*
        ``(group, longest queries, longest context)``, ``(group, 1, longest context)``
    """
    found = []
    q_start = k_start = 0
    for start, end in groups(query_lengths, context_lengths, of_queries.device):
        q_lengths, k_lengths = query_lengths[start:end], context_lengths[start:end]
        q_index, _ = padding(q_lengths, of_queries.device)
        k_index, k_valid = padding(k_lengths, of_context.device)
        q_place, k_place = of_queries[q_start + q_index], of_context[k_start + k_index]
        found.append((q_place[:, :, None] - k_place[:, None, :], k_valid[:, None, :]))
        q_start, k_start = q_start + sum(q_lengths), k_start + sum(k_lengths)
    return found


def distances_of(running: Running) -> List[Tuple[Tensor, Tensor]]:
    """RETURNS (List[Tuple[Tensor, Tensor]]): ``distances`` of the queries in their windows."""
    lengths = running.query_lengths, running.context_lengths
    return distances(running.query_offsets, running.offsets, *lengths)


class DistanceBias(nn.Module):
    """A learnt bias of the scores for each head and distance, the same in all layers.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        self.table = lookup_table(spec.distance_buckets, spec.attention_heads)
        self.longest = spec.max_wordpieces

    def forward(self, running: Running) -> FixedBias:
        """RETURNS (FixedBias): The bias.

        running (Running): What is still computed.
        """
        by_distance = self.by_distance()
        found = []
        for distance, valid in distances_of(running):
            # The gradient of plain indexing is summed in an order that depends on threads.
            bias = F.embedding(distance + self.longest - 1, by_distance)
            bias = bias.permute(0, 3, 1, 2).contiguous()  # (group, heads, queries, context)
            found.append(bias.masked_fill(~valid[:, None], float("-inf")))
        return FixedBias(found)

    def by_distance(self) -> Tensor:
        """RETURNS (Tensor): The bias of each distance, from the smallest to the largest that two
        wordpieces can have. *Shape:* ``(2 * longest - 1, heads)``
        """
        ahead = torch.arange(1 - self.longest, self.longest, device=self.table.weight.device)
        rows: Tensor = self.table(bucket_of(ahead, self.table.num_embeddings))
        return rows


class BiasedLayer(Layer):
    """One layer of MPNet.

    spec (EncoderSpec): The sizes.
    number (int): Number of the layer, counted from 1.
    """

    kept: Optional[Tensor]

    def __init__(self, spec: EncoderSpec, number: int = 1):
        super().__init__(spec, number)
        # All layers share the table of biases, so it has the heads of an encoder that is not slim.
        kept = torch.tensor(spec.kept_heads[number - 1], device="cpu") if spec.kept_heads else None
        self.register_buffer("kept", kept, persistent=False)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        running: Running,
        bias: Optional[Bias],
        dropout: float,
        scale: Optional[float] = None,
    ) -> Tensor:
        """RETURNS (Tensor): See ``attend``. *Shape:* ``(queries, width)``"""
        if self.kept is not None and bias is not None:
            bias = SomeHeads(bias, self.kept)
        return super()._attend(query, key, value, running, bias, dropout, scale)


def bucket_of(distance: Tensor, buckets: int, farthest: int = 128) -> Tensor:
    """Sort distances into buckets as T5 and MPNet do: exact if small, then increasingly coarse.

    distance (Tensor): Position of a query minus that of what it attends to. *Shape:* any
    buckets (int): Number of buckets, half of them for what follows the query.
    farthest (int): From this distance on, all share a bucket.
    RETURNS (Tensor): *Shape:* that of ``distance``
    """
    half = buckets // 2
    exact = half // 2
    away = distance.abs()
    octaves = torch.log(away.clamp_min(1).float() / exact) / math.log(farthest / exact)
    coarse = exact + (octaves * (half - exact)).to(torch.long)
    of_side = torch.where(away < exact, away, coarse.clamp_max(half - 1))
    return torch.where(distance < 0, of_side + half, of_side)
