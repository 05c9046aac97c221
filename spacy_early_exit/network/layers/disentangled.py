"""Layers that score contents and relative positions separately: DeBERTa's.

A query asks with its content for a wordpiece's content and for its relative position, and the
relative position of the query asks for the wordpiece's content. Relative positions are rows of one
table that all layers share; each layer reads them through its own maps of queries and keys.
"""

from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..batch import Running
from ..devices import compacted
from ..families import EncoderSpec
from .attention import Bias
from .layer import Layer, activation_function, drop_out
from .linear import linear
from .relative import distances_of
from .table import lookup_table

KINDS = 3  # kinds of scores are added, and so are their variances


@dataclass(frozen=True)
class RelativePositions:
    """The positions of queries and context relative to each other.

    states (Tensor): The rows of the table that occur. *Shape:* ``(met, width)``
    of_group (Sequence[Tuple[Tensor, Tensor]]): For each group of ``attention.groups``, the row of
        each pair, and whether there is such a wordpiece. *Shapes:*
        ``(group, longest queries, longest context)``, ``(group, 1, longest context)``
    """

    states: Tensor
    of_group: Sequence[Tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PlaceBias:
    """What positions add to scores: a ``Bias``.

    places (RelativePositions): The relative positions.
    query (Tensor): What relative positions ask for. *Shape:* ``(met, heads, width / heads)``
    key (Tensor): What they answer with. *Shape:* ``(met, heads, width / heads)``
    scale (float): Factor of the products.
    """

    places: RelativePositions
    query: Tensor
    key: Tensor
    scale: float

    def __call__(self, group: int, query: Tensor, key: Tensor) -> Tensor:
        """RETURNS (Tensor): See ``Bias``."""
        rows, valid = self.places.of_group[group]
        rows = rows[:, None].expand(-1, query.shape[1], -1, -1)  # (group, heads, queries, context)
        to_place = torch.einsum("ghqd,rhd->ghqr", query, self.key).gather(3, rows)
        of_place = torch.einsum("ghkd,rhd->ghkr", key, self.query).gather(3, rows.transpose(2, 3))
        bias = (to_place + of_place.transpose(2, 3)) * self.scale
        return bias.masked_fill(~valid[:, None], float("-inf"))


class PlaceTable(nn.Module):
    """The table of relative positions.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        self.spec = spec
        self.table = lookup_table(2 * spec.place_span, spec.hidden_size)
        self.norm = nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)

    def forward(self, running: Running) -> RelativePositions:
        """RETURNS (RelativePositions): The relative positions.

        running (Running): What is still computed.
        """
        device = running.offsets.device
        farthest = running.longest - 1
        start, end = places_within(self.spec, torch.tensor(running.longest)).tolist()
        away = torch.arange(-farthest, farthest + 1, device=device)
        row_of = place_of(self.spec, away) - start
        pairs = distances_of(running)
        return RelativePositions(
            states=self.norm(self.table(torch.arange(start, end, device=device))),
            of_group=[(row_of[distance + farthest], valid) for distance, valid in pairs],
        )


class Convolution(nn.Conv1d):
    """A convolution over the wordpieces of each window, with zeros beyond its ends.

    width (int): Width of the states.
    seen (int): How many wordpieces it sees. An odd number.
    """

    def __init__(self, width: int, seen: int):
        super().__init__(width, width, seen)

    def forward(self, states: Tensor, running: Running) -> Tensor:  # type: ignore[override]
        """RETURNS (Tensor): The convolved states. *Shape:* ``(context, width)``

        states (Tensor): States of all wordpieces. *Shape:* ``(context, width)``
        running (Running): Which window each belongs to. No word has exited yet.
        """
        side = self.kernel_size[0] // 2
        window = running.batch.window_of_piece
        found = linear(states, self.weight[:, :, side], self.bias)
        for step in range(1, side + 1):
            is_followed = window[step:] == window[:-step]
            count = sum(max(length - step, 0) for length in running.batch.lengths)
            rows = torch.arange(len(is_followed), device=window.device)
            first = compacted(rows, is_followed, count)
            ahead, back = self.weight[:, :, side + step], self.weight[:, :, side - step]
            one, other = states.index_select(0, first), states.index_select(0, first + step)
            found = found.index_add(0, first, linear(other, ahead))
            found = found.index_add(0, first + step, linear(one, back))
        return found


class DisentangledLayer(Layer):
    """One layer of DeBERTa.

    The first layer's input may also go through a convolution, which is added to the layer's output.
    At that point all wordpieces are still computed.

    spec (EncoderSpec): The sizes.
    number (int): Number of the layer, counted from 1.
    """

    def __init__(self, spec: EncoderSpec, number: int = 1):
        super().__init__(spec, number)
        self.convolution = None
        if number == 1 and spec.convolution:
            self.convolution = Convolution(spec.hidden_size, spec.convolution)
            self.convolution_activation = activation_function(spec.convolution_activation)
            self.inner_norm = nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)

    def forward(
        self, context: Tensor, running: Running, shared: Any = None, dropout: float = 0.0
    ) -> Tensor:
        """Compute the next states of some wordpieces: see ``Layer``.

        context (Tensor): States of all wordpieces. *Shape:* ``(context, width)``
        running (Running): Which of them are queries, and which sequence each belongs to.
        shared (RelativePositions): What ``PlaceTable`` returns.
        dropout (float): Dropout rate, including that of attention weights.
        RETURNS (Tensor): The input of ``output_norm``, which returns the queries' next states.
            *Shape:* ``(queries, width)``
        """
        sums = super().forward(context, running, shared, dropout)
        if self.convolution is None:
            return sums
        mixed = drop_out(self.convolution(context, running), dropout)
        added: Tensor = self.inner_norm(sums) + self.convolution_activation(mixed)
        return added

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        running: Running,
        shared: Any,
        dropout: float,
        scale: Optional[float] = None,
    ) -> Tensor:
        """RETURNS (Tensor): See ``attend``. *Shape:* ``(queries, width)``"""
        places: RelativePositions = shared
        states = drop_out(places.states, dropout)
        shape = (len(states), self.attention_heads, -1)
        scale = (KINDS * (query.shape[1] // self.attention_heads)) ** -0.5
        of_place, to_place = self.qkv.query(states), self.qkv.key(states)
        bias: Bias = PlaceBias(places, of_place.view(shape), to_place.view(shape), scale)
        return super()._attend(query, key, value, running, bias, dropout, scale)


def place_of(spec: EncoderSpec, distance: Tensor) -> Tensor:
    """Find the row of distances in the table: exact if small, then increasingly coarse.

    spec (EncoderSpec): The sizes.
    distance (Tensor): Position of a query minus that of what it attends to. *Shape:* any
    RETURNS (Tensor): *Shape:* that of ``distance``
    """
    span = spec.place_span
    if spec.place_farthest:
        half = span // 2
        away = distance.abs().clamp_min(half).float()
        # The logarithm is in fp32, as in Hugging Face: another precision could cross a whole
        # number.
        octaves = torch.log(away / half) / torch.log(torch.tensor((spec.place_farthest - 1) / half))
        coarse = (half + torch.ceil(octaves * (half - 1))).long()
        distance = torch.where(distance.abs() <= half, distance, distance.sign() * coarse)
    return (distance + span).clamp(0, 2 * span - 1)


def places_within(spec: EncoderSpec, lengths: Tensor) -> Tensor:
    """Find the rows of the table that occur in sequences.

    spec (EncoderSpec): The sizes.
    lengths (Tensor): Wordpieces of each sequence. *Shape:* any
    RETURNS (Tensor): The first row, and the one after the last.
        *Shape:* that of ``lengths``, and ``2``
    """
    return torch.stack([place_of(spec, 1 - lengths), place_of(spec, lengths - 1) + 1], dim=-1)


def place_counts(spec: EncoderSpec, lengths: Tensor) -> Tensor:
    """RETURNS (Tensor): How many rows occur in sequences. *Shape:* that of ``lengths``

    spec (EncoderSpec): The sizes.
    lengths (Tensor): Wordpieces of each sequence. *Shape:* any
    """
    start, end = places_within(spec, lengths).unbind(-1)
    return end - start
