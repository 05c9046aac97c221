"""A transformer encoder that is run one layer at a time, on ragged batches.

All sequences of a batch lie one after the other in one ``(wordpieces, width)`` tensor: linear
layers see no padding. Each kind of layer has a file of its own: see ``SHAPES``.
"""

from typing import Dict, NamedTuple, Optional, Type, cast

import torch
from torch import Tensor, nn

from .batch import Running
from .devices import is_asynchronous
from .families import Attention, EncoderSpec
from .layers.disentangled import DisentangledLayer, PlaceTable
from .layers.layer import Layer, drop_out
from .layers.linear import Linear
from .layers.relative import BiasedLayer, DistanceBias
from .layers.rotary import Rotary, RotaryLayer
from .layers.table import lookup_table


class Shape(NamedTuple):
    """What an encoder is made of.

    layer (Type[Layer]): Its layers.
    shared (Optional[Type[nn.Module]]): Computes, from what is running, what all layers need to know
        of positions.
    """

    layer: Type[Layer]
    shared: Optional[Type[nn.Module]] = None


SHAPES: Dict[Attention, Shape] = {
    "absolute": Shape(Layer),
    "biased": Shape(BiasedLayer, DistanceBias),
    "rotary": Shape(RotaryLayer, Rotary),
    "disentangled": Shape(DisentangledLayer, PlaceTable),
}


class Embeddings(nn.Module):
    """Wordpiece + position + token type, normalised; projected to the hidden width if it differs.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        width = spec.embedding_size
        self.word = lookup_table(spec.vocab_size, width)
        embedded = "position" in spec.table.embeddings
        self.position = lookup_table(spec.positions, width) if embedded else None
        self.token_type = lookup_table(spec.token_types, width) if spec.token_types else None
        self.norm = nn.LayerNorm(width, eps=spec.layer_norm_eps, bias=spec.norm_bias)
        self.project = Linear(width, spec.hidden_size) if spec.projects else None
        self.first_position = spec.first_position

    def forward(self, ids: Tensor, offsets: Tensor, dropout: float = 0.0) -> Tensor:
        """Embed wordpieces.

        ids (Tensor): Wordpiece ids. *Shape:* ``(wordpieces,)``
        offsets (Tensor): Position of each in its sequence, from 0. *Shape:* ``(wordpieces,)``
        dropout (float): Dropout rate.
        RETURNS (Tensor): *Shape:* ``(wordpieces, hidden_size)``
        """
        hidden = self.word(ids)
        if self.position is not None:
            hidden = hidden + self.position(self._positions(ids, offsets))
        if self.token_type is not None:
            hidden = hidden + self.token_type.weight[0]  # one text in each sequence: always type 0
        hidden = drop_out(self.norm(hidden), dropout)
        return hidden if self.project is None else self.project(hidden)

    def _positions(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """RETURNS (Tensor): Row of each wordpiece in the position embedding. *Shape:*
        ``(wordpieces,)``
        """
        positions = offsets + self.first_position
        padding = self.first_position - 1
        if padding < 0:
            return positions
        if not is_asynchronous(ids.device) and not (ids == padding).any():
            return positions
        # A text may spell out the padding token. RoBERTa does not count it in positions.
        is_padding = (ids == padding).long()
        before = is_padding.cumsum(0) - is_padding
        starts = torch.arange(len(ids), device=ids.device) - offsets
        positions = positions - (before - before[starts])
        return torch.where(is_padding.bool(), padding, positions)


class Encoder(nn.Module):
    """Embeddings and layers. It has no ``forward``: see ``loop.py``.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        self.spec = spec
        self.embeddings = Embeddings(spec)
        shape = SHAPES[spec.table.attention]
        numbers = range(1, spec.distinct_layers + 1)
        self.layers = nn.ModuleList(shape.layer(spec, number) for number in numbers)
        self.shared = None if shape.shared is None else shape.shared(spec)
        width, eps = spec.hidden_size, spec.layer_norm_eps
        # If layers do not normalise their sums, as in ModernBERT, heads read them through this
        # norm.
        has_norm = "final_norm" in spec.table.whole
        norm = nn.LayerNorm(width, eps=eps, bias=spec.norm_bias) if has_norm else None
        self.final_norm: Optional[nn.Module] = norm

    def layer(self, number: int) -> Layer:
        """RETURNS (Layer): A layer, counted from 1."""
        return cast(Layer, self.layers[self.spec.own_layer(number)])

    def run_layer(
        self, number: int, kept: Tensor, running: Running, dropout: float = 0.0
    ) -> Tensor:
        """Run a layer: see ``Layer``.

        number (int): The layer, counted from 1.
        kept (Tensor): What each wordpiece keeps. *Shape:* ``(context, width)``
        running (Running): What is still computed.
        dropout (float): Dropout rate.
        RETURNS (Tensor): What each wordpiece keeps now, updated for the queries. *Shape:*
            ``(context, width)``
        """
        layer, rows = self.layer(number), running.queries
        shared = None if self.shared is None else running.cached(self.shared)
        new: Tensor = layer.output_norm(layer(kept, running, shared, dropout))
        return new if rows is None else kept.index_copy(0, rows, new)

    def states(self, kept: Tensor) -> Tensor:
        """RETURNS (Tensor): What exit heads read. *Shape:* ``(any, width)``

        kept (Tensor): What wordpieces keep. *Shape:* ``(any, width)``
        """
        return kept if self.final_norm is None else self.final_norm(kept)
