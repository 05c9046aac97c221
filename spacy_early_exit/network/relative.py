"""Where queries and context stand to one another, for the attention that asks for it; and a bias by
distance, MPNet's.
"""

import math
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from .attention import groups, padding
from .batch import Running
from .families import EncoderSpec


@dataclass(frozen=True)
class Fixed:
    """What is added to scores whatever queries and keys are: a ``Bias``.

    of_group (Sequence[Tensor]): *Shapes:* ``(group, heads or 1, longest queries, longest context)``
    """

    of_group: Sequence[Tensor]

    def __call__(self, group: int, query: Tensor, key: Tensor) -> Tensor:
        """RETURNS (Tensor): See ``Bias``."""
        return self.of_group[group]


def distances(running: Running) -> List[Tuple[Tensor, Tensor]]:
    """Say how far behind each wordpiece of its context each query stands.

    running (Running): Who is computed.
    RETURNS (List[Tuple[Tensor, Tensor]]): For each group of ``attention.groups``, the position of
        the query without that of the other, and whether there is such another.
        *Shapes:* ``(group, longest queries, longest context)``, ``(group, 1, longest context)``
    """
    found = []
    q_lengths, k_lengths = running.query_lengths, running.context_lengths
    q_start = k_start = 0
    for start, end in groups(q_lengths, k_lengths):
        q_index, _ = padding(q_lengths[start:end], running.offsets.device)
        k_index, k_valid = padding(k_lengths[start:end], running.offsets.device)
        of_queries = running.query_offsets[q_start + q_index]  # (group, longest queries)
        of_context = running.offsets[k_start + k_index]  # (group, longest context)
        found.append((of_queries[:, :, None] - of_context[:, None, :], k_valid[:, None, :]))
        q_start += sum(q_lengths[start:end])
        k_start += sum(k_lengths[start:end])
    return found


class DistanceBias(nn.Module):
    """A learnt bias of the scores for each head and distance, the same in all layers.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        self.table = nn.Embedding(spec.distance_buckets, spec.attention_heads)
        self.longest = spec.max_wordpieces

    def forward(self, running: Running) -> Fixed:
        """RETURNS (Fixed): The bias.

        running (Running): Who is computed.
        """
        by_distance = self.by_distance().T.contiguous()  # (heads, distances)
        found = []
        for distance, valid in distances(running):
            bias = by_distance[:, distance + self.longest - 1].transpose(0, 1)
            found.append(bias.masked_fill(~valid[:, None], float("-inf")))
        return Fixed(found)

    def by_distance(self) -> Tensor:
        """RETURNS (Tensor): The bias of each distance, from the smallest to the largest that two
        wordpieces can have. *Shape:* ``(2 * longest - 1, heads)``
        """
        ahead = torch.arange(1 - self.longest, self.longest, device=self.table.weight.device)
        rows: Tensor = self.table(bucket_of(ahead, self.table.num_embeddings))
        return rows


def bucket_of(distance: Tensor, buckets: int, farthest: int = 128) -> Tensor:
    """Sort distances into buckets as T5 and MPNet do: exact while small, then ever coarser.

    distance (Tensor): Position of a query without that of what it attends to. *Shape:* any
    buckets (int): How many there are, half of them for what stands behind the query.
    farthest (int): From here on all distances share a bucket.
    RETURNS (Tensor): *Shape:* that of ``distance``
    """
    half = buckets // 2
    exact = half // 2
    away = distance.abs()
    octaves = torch.log(away.clamp_min(1).float() / exact) / math.log(farthest / exact)
    coarse = exact + (octaves * (half - exact)).to(torch.long)
    of_side = torch.where(away < exact, away, coarse.clamp_max(half - 1))
    return torch.where(distance < 0, of_side + half, of_side)
