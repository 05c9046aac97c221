"""A post-norm transformer layer, on ragged batches: that of BERT and of all encoders that kept it.

A layer takes *queries*, which are the wordpieces still being computed, and a *context*, which is
all wordpieces that they may attend to.
"""

from typing import Any, Callable, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Running
from ..families import EncoderSpec
from .attention import Bias, attend
from .linear import Linear, linear
from .ragged import ragged_kernel

# Rows of the feed-forward layer that are computed at once when predicting on a CPU: their wide
# states, 1.5 MB for MiniLM, then stay in its cache. Measured: see benchmarks/notes/engine.md.
ROWS = 256


class QKV(Linear):
    """Queries, keys and values in one matrix.

    If every wordpiece is a query, one product computes all three. Otherwise one product computes
    the queries and another one the keys and values.

    states (int): Width of the states.
    width (int): Width of each of the three, which is that of all heads together.
    bias (bool): Whether it has a bias.
    """

    def __init__(self, states: int, width: int, bias: bool = True):
        super().__init__(states, 3 * width, bias)
        self.width = width

    def forward(self, states: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """RETURNS (Tuple[Tensor, Tensor, Tensor]): Of all rows. *Shapes:* ``(rows, width)``"""
        query, key, value = super().forward(states).chunk(3, dim=-1)
        return query, key, value

    def query(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Queries alone. *Shape:* ``(rows, width)``"""
        width = self.width
        bias = None if self.bias is None else self.bias[:width]
        return linear(states, self.weight[:width], bias)

    def key(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Keys alone. *Shape:* ``(rows, width)``"""
        width = self.width
        bias = None if self.bias is None else self.bias[width : 2 * width]
        return linear(states, self.weight[width : 2 * width], bias)

    def key_value(self, states: Tensor) -> Tuple[Tensor, Tensor]:
        """RETURNS (Tuple[Tensor, Tensor]): Keys and values. *Shapes:* ``(rows, width)``"""
        width = self.width
        bias = None if self.bias is None else self.bias[width:]
        key, value = linear(states, self.weight[width:], bias).chunk(2, dim=1)
        return key, value


class Layer(nn.Module):
    """One post-norm transformer layer, as in BERT and its relatives.

    spec (EncoderSpec): The sizes.
    number (int): Number of the layer, counted from 1.
    """

    def __init__(self, spec: EncoderSpec, number: int = 1):
        super().__init__()
        width, sizes = spec.hidden_size, spec.own_sizes[number - 1]
        mixed = sizes.heads * spec.head_width
        self.qkv = QKV(width, mixed)
        self.attention_output = Linear(mixed, width)
        self.attention_norm: nn.Module = nn.LayerNorm(width, eps=spec.layer_norm_eps)
        self.intermediate = Linear(width, sizes.neurons)
        self.output = Linear(sizes.neurons, width)
        self.output_norm: nn.Module = nn.LayerNorm(width, eps=spec.layer_norm_eps)
        self.attention_heads = sizes.heads
        self.activation = activation_function(spec.activation)

    def forward(
        self, context: Tensor, running: Running, shared: Any = None, dropout: float = 0.0
    ) -> Tensor:
        """Compute the next states of some wordpieces, before the layer's last normalisation.

        context (Tensor): States of all wordpieces. *Shape:* ``(context, width)``
        running (Running): Which of them are queries, and which sequence each belongs to.
        shared (Any): What the encoder gives to all its layers: what is added to scores, or nothing.
        dropout (float): Dropout rate, including that of attention weights.
        RETURNS (Tensor): The input of ``output_norm``, which returns the queries' next states.
            *Shape:* ``(queries, width)``
        """
        rows = running.queries
        if rows is None:
            states = context
            query, key, value = self.qkv(states)
        else:
            states = context.index_select(0, rows)
            query = self.qkv.query(states)
            key, value = self.qkv.key_value(context)
        mixed = self._attend(query, key, value, running, shared, dropout)
        return self._behind_attention(mixed, states, dropout)

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
        if bias is None and (kernel := ragged_kernel(query, self.attention_heads, dropout)):
            return kernel(query, key, value, running, self.attention_heads, dropout, scale)
        lengths = running.query_lengths, running.context_lengths
        return attend(query, key, value, *lengths, self.attention_heads, dropout, bias, scale)

    def _behind_attention(self, mixed: Tensor, states: Tensor, dropout: float) -> Tensor:
        if torch.is_grad_enabled() or len(states) <= ROWS or states.device.type != "cpu":
            return self._feed_forward(mixed, states, dropout)
        parts = zip(torch.split(mixed, ROWS), torch.split(states, ROWS))
        return torch.cat([self._feed_forward(*part, dropout) for part in parts])

    def _feed_forward(self, mixed: Tensor, states: Tensor, dropout: float) -> Tensor:
        """RETURNS (Tensor): The rest of the layer, after attention has mixed values. Each row is
        computed by itself. *Shape:* ``(queries, width)``
        """
        mixed = drop_out(self.attention_output(mixed), dropout)
        states = self.attention_norm(mixed + states)
        wide = self.activation(self.intermediate(states))
        wide = drop_out(self.output(wide), dropout)
        sums: Tensor = wide + states
        return sums


MOST_DROPPED = 0.999  # beyond it, steps of 2 ** -16 are too coarse


def drop_out(states: Tensor, rate: float) -> Tensor:
    """RETURNS (Tensor): The states, with some set to 0. *Shape:* as ``states``

    states (Tensor): *Shape:* any
    rate (float): The share that is set to 0; 0: none, and no torch call, which would slow down
        single texts.
    """
    if rate <= 0:
        return states
    if states.device.type != "cpu" or rate > MOST_DROPPED:
        return F.dropout(states, rate)
    return states * _kept(states, rate)


def _kept(states: Tensor, rate: float) -> Tensor:
    """Draw what dropout keeps: four values at once. torch's own took three times as long, a tenth
    of a step of training. Measured: see benchmarks/notes/engine.md.

    states (Tensor): The states.
    rate (float): The share that is set to 0, in steps of 2 ** -16.
    RETURNS (Tensor): 0, or the factor that keeps the mean. *Shape:* as ``states``
    """
    dropped = round(rate * 2**16)
    drawn = torch.empty(-(-states.numel() // 4), dtype=torch.int64, device=states.device)
    drawn = drawn.random_(-(2**63), None).view(torch.int16)[: states.numel()]
    kept = drawn.view(states.shape) >= dropped - 2**15
    return kept.to(states.dtype) * (2**16 / (2**16 - dropped))


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """RETURNS (Callable[[Tensor], Tensor]): The activation that Hugging Face calls ``name``."""
    if name == "gelu":
        return F.gelu
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return _gelu_tanh
    if name == "relu":
        return torch.relu
    return F.silu


def _gelu_tanh(states: Tensor) -> Tensor:
    return F.gelu(states, approximate="tanh")
