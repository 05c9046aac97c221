"""Layers that rotate queries and keys by their positions, and attend nearby or everywhere:
ModernBERT's.

They normalise their input, not their output. A state is a sum that grows from layer to layer, and
the exit heads read it through the encoder's last normalisation.
"""

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import torch
from torch import Tensor, nn

from ..batch import Running
from ..families import EncoderSpec
from .attention import attend
from .layer import QKV, Layer, activation_function, drop_out
from .linear import Linear
from .neighbourhood import Neighbourhood, neighbourhood


@dataclass(frozen=True)
class Rotation:
    """The rotation angles of the context's positions.

    cos (Tensor): *Shape:* ``(context, 1, width / heads / 2)``
    sin (Tensor): *Shape:* ``(context, 1, width / heads / 2)``
    """

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, offsets: Tensor, width: int, theta: float) -> "Rotation":
        """RETURNS (Rotation): The angles of some positions.

        offsets (Tensor): The positions. *Shape:* ``(context,)``
        width (int): Width of a head.
        theta (float): The slowest pair of columns is rotated by about 1 / theta per position.
        """
        powers = torch.arange(0, width, 2, device=offsets.device).float() / width
        angles = offsets[:, None].float() * (1.0 / theta**powers)  # (context, width / 2)
        return cls(angles.cos()[:, None], angles.sin()[:, None])

    def at(self, rows: Optional[Tensor]) -> "Rotation":
        """RETURNS (Rotation): The angles of some rows of the context; None: of all."""
        if rows is None:
            return self
        return Rotation(self.cos.index_select(0, rows), self.sin.index_select(0, rows))

    def __call__(self, states: Tensor) -> Tensor:
        """Rotate each head's pairs of columns: each pair has one of the first half and one of the
        second.

        states (Tensor): *Shape:* ``(context, width)``
        RETURNS (Tensor): *Shape:* ``(context, width)``
        """
        rows, width = states.shape
        first, second = states.view(rows, -1, 2 * self.cos.shape[2]).chunk(2, dim=2)
        turned = (
            first * self.cos - second * self.sin,
            second * self.cos + first * self.sin,
        )
        return torch.cat(turned, dim=2).view(rows, width).to(states.dtype)


@dataclass(frozen=True)
class PositionScope:
    """What layers of one kind need to know of positions.

    of_queries (Rotation): The queries' angles.
    of_context (Rotation): The context's angles.
    near (Optional[Neighbourhood]): Which wordpieces attend to which; None: all to all.
    """

    of_queries: Rotation
    of_context: Rotation
    near: Optional[Neighbourhood] = None


class Rotary(nn.Module):
    """Computes angles and neighbourhoods. It has no weights.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        self.width = spec.head_width
        self.thetas = spec.rope_theta, spec.local_rope_theta
        self.reach = spec.local_reach

    def forward(self, running: Running) -> Tuple[PositionScope, PositionScope]:
        """RETURNS (Tuple[PositionScope, PositionScope]): For layers that attend everywhere, and for
        those that attend nearby.

        running (Running): What is still computed.
        """
        near: Neighbourhood = running.cached(neighbourhood, self.reach)
        everywhere, nearby = (
            Rotation.of(running.offsets, self.width, theta) for theta in self.thetas
        )
        return (
            PositionScope(everywhere.at(running.queries), everywhere),
            PositionScope(nearby.at(running.queries), nearby, near),
        )


class RotaryLayer(Layer):
    """One layer of ModernBERT: it normalises its input and has a gated feed-forward layer.

    spec (EncoderSpec): The sizes.
    number (int): Number of the layer, counted from 1.
    """

    def __init__(self, spec: EncoderSpec, number: int = 1):
        nn.Module.__init__(self)
        width, (heads, wide) = spec.hidden_size, spec.own_sizes[number - 1]
        mixed = heads * spec.head_width

        def norm() -> nn.Module:
            return nn.LayerNorm(width, eps=spec.layer_norm_eps, bias=spec.norm_bias)

        # The embeddings are already normalised.
        self.attention_norm = norm() if number > 1 else nn.Identity()
        self.qkv = QKV(width, mixed, bias=spec.attention_bias)
        self.attention_output = Linear(mixed, width, bias=spec.attention_bias)
        self.intermediate_norm = norm()
        self.intermediate = Linear(width, 2 * wide, bias=spec.intermediate_bias)
        self.output = Linear(wide, width, bias=spec.intermediate_bias)
        self.output_norm = nn.Identity()
        self.attention_heads = heads
        self.activation = activation_function(spec.activation)
        self.is_local = spec.is_local(number)

    def forward(
        self, context: Tensor, running: Running, shared: Any = None, dropout: float = 0.0
    ) -> Tensor:
        """Compute the next states of some wordpieces: see ``Layer``.

        context (Tensor): States of all wordpieces. *Shape:* ``(context, width)``
        running (Running): Which of them are queries, and which sequence each belongs to.
        shared (Tuple[PositionScope, PositionScope]): What ``Rotary`` returns.
        dropout (float): Dropout rate, including that of attention weights.
        RETURNS (Tensor): The queries' next states. *Shape:* ``(queries, width)``
        """
        scope: PositionScope = shared[self.is_local]
        rows = running.queries
        normed = self.attention_norm(context)
        if rows is None:
            states = context
            query, key, value = self.qkv(normed)
        else:
            states = context.index_select(0, rows)
            query = self.qkv.query(normed.index_select(0, rows))
            key, value = self.qkv.key_value(normed)
        query, key = scope.of_queries(query), scope.of_context(key)
        near = scope.near
        if near is None:
            mixed = self._attend(query, key, value, running, None, dropout)
        else:
            key, value = near.of_context(key), near.of_context(value)
            lengths = near.query_lengths, near.context_lengths
            heads = self.attention_heads
            mixed = attend(query, key, value, *lengths, heads, dropout, near.mask)
        return self._behind_attention(mixed, states, dropout)

    def _feed_forward(self, mixed: Tensor, states: Tensor, dropout: float) -> Tensor:
        mixed = drop_out(self.attention_output(mixed), dropout)
        states = mixed + states
        wide, gate = self.intermediate(self.intermediate_norm(states)).chunk(2, dim=-1)
        gated = drop_out(self.activation(wide) * gate, dropout)
        sums: Tensor = self.output(gated) + states
        return sums
