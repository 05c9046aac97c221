"""A transformer encoder that is run one layer at a time, on ragged batches.

All sequences of a batch lie behind one another in one ``(wordpieces, width)`` tensor: linear
layers see no padding. A layer takes *queries*, the wordpieces that are still being computed,
and a *context*, all wordpieces that they may attend to.
"""

from typing import Callable, Literal, Optional, Sequence, Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend
from .families import EncoderSpec

# Rows of feed-forward that are computed at once when predicting on a CPU: their wide states, 1.5 MB
# for MiniLM, stay in its cache. Measured: see benchmarks/NOTES.md.
ROWS = 256
KeptState = Literal["post_norm", "pre_norm"]


class Embeddings(nn.Module):
    """Wordpiece + position + token type, normalised; projected to the hidden width if it differs.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        width = spec.embedding_size
        self.word = nn.Embedding(spec.vocab_size, width)
        self.position = nn.Embedding(spec.positions, width)
        self.token_type = nn.Embedding(spec.token_types, width) if spec.token_types else None
        self.norm = nn.LayerNorm(width, eps=spec.layer_norm_eps)
        self.project = nn.Linear(width, spec.hidden_size) if width != spec.hidden_size else None
        self.first_position = spec.first_position

    def forward(self, ids: Tensor, offsets: Tensor, dropout: float = 0.0) -> Tensor:
        """Embed wordpieces.

        ids (Tensor): Wordpiece ids. *Shape:* ``(wordpieces,)``
        offsets (Tensor): Position of each in its sequence, from 0. *Shape:* ``(wordpieces,)``
        dropout (float): Dropout rate.
        RETURNS (Tensor): *Shape:* ``(wordpieces, hidden_size)``
        """
        hidden = self.word(ids) + self.position(self._positions(ids, offsets))
        if self.token_type is not None:
            hidden = hidden + self.token_type.weight[0]  # one text a sequence: always type 0
        hidden = F.dropout(self.norm(hidden), dropout, training=dropout > 0)
        return hidden if self.project is None else self.project(hidden)

    def _positions(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """RETURNS (Tensor): Row of each in the position embedding. *Shape:* ``(wordpieces,)``"""
        positions = offsets + self.first_position
        padding = self.first_position - 1
        if padding < 0 or not (ids == padding).any():
            return positions
        # The text spells out the padding token. RoBERTa counts positions without it.
        is_padding = (ids == padding).long()
        before = is_padding.cumsum(0) - is_padding
        starts = torch.arange(len(ids), device=ids.device) - offsets
        positions = positions - (before - before[starts])
        return torch.where(is_padding.bool(), padding, positions)


class QKV(nn.Linear):
    """Queries, keys and values in one matrix.

    One product gives all of them where every wordpiece is a query, another one keys with values
    where only some are.

    width (int): Of the states, and of each of the three.
    """

    def __init__(self, width: int):
        super().__init__(width, 3 * width)

    def forward(self, states: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """RETURNS (Tuple[Tensor, Tensor, Tensor]): Of all rows. *Shapes:* ``(rows, width)``"""
        query, key, value = super().forward(states).chunk(3, dim=-1)
        return query, key, value

    def query(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Queries alone. *Shape:* ``(rows, width)``"""
        width = self.in_features
        return F.linear(states, self.weight[:width], self.bias[:width])

    def key_value(self, states: Tensor) -> Tuple[Tensor, Tensor]:
        """RETURNS (Tuple[Tensor, Tensor]): Keys and values. *Shapes:* ``(rows, width)``"""
        width = self.in_features
        key, value = F.linear(states, self.weight[width:], self.bias[width:]).chunk(2, dim=1)
        return key, value


class Layer(nn.Module):
    """One post-norm transformer layer, as in BERT and its relatives.

    spec (EncoderSpec): The sizes.
    """

    def __init__(self, spec: EncoderSpec):
        super().__init__()
        width = spec.hidden_size
        self.qkv = QKV(width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=spec.layer_norm_eps)
        self.intermediate = nn.Linear(width, spec.intermediate_size)
        self.output = nn.Linear(spec.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=spec.layer_norm_eps)
        self.attention_heads = spec.attention_heads
        self.activation = activation_function(spec.activation)

    def forward(
        self,
        context: Tensor,
        rows: Optional[Tensor],
        query_lengths: Sequence[int],
        context_lengths: Sequence[int],
        dropout: float = 0.0,
    ) -> Tensor:
        """Compute the next states of some wordpieces, before the layer's last normalisation.

        context (Tensor): States of all wordpieces. *Shape:* ``(context, width)``
        rows (Optional[Tensor]): Rows of ``context`` that are queries, ascending; None: all.
            *Shape:* ``(queries,)``
        query_lengths (Sequence[int]): Queries of each sequence.
        context_lengths (Sequence[int]): Wordpieces of each sequence.
        dropout (float): Dropout rate, of attention weights too.
        RETURNS (Tensor): What ``output_norm`` makes the queries' next states of.
            *Shape:* ``(queries, width)``
        """
        if rows is None:
            states = context
            query, key, value = self.qkv(states)
        else:
            states = context.index_select(0, rows)
            query = self.qkv.query(states)
            key, value = self.qkv.key_value(context)
        mixed = attend(
            query, key, value, query_lengths, context_lengths, self.attention_heads, dropout
        )
        if torch.is_grad_enabled() or len(states) <= ROWS or states.device.type != "cpu":
            return self._feed_forward(mixed, states, dropout)
        parts = zip(torch.split(mixed, ROWS), torch.split(states, ROWS))
        return torch.cat([self._feed_forward(*part, dropout) for part in parts])

    def _feed_forward(self, mixed: Tensor, states: Tensor, dropout: float) -> Tensor:
        """RETURNS (Tensor): What is left to do once attention has mixed values. Each row by itself.
        *Shape:* ``(queries, width)``
        """
        mixed = F.dropout(self.attention_output(mixed), dropout, training=dropout > 0)
        states = self.attention_norm(mixed + states)
        wide = self.activation(self.intermediate(states))
        wide = F.dropout(self.output(wide), dropout, training=dropout > 0)
        sums: Tensor = wide + states
        return sums


class Encoder(nn.Module):
    """Embeddings and layers. It has no forward of its own: see ``loop.py``.

    What wordpieces keep when they leave is either a layer's finished state (``"post_norm"``), or
    the sum before the layer's last normalisation, which each later layer's normalisation is then
    applied to (``"pre_norm"``, as the ACL 2021 paper's authors did in their second stage).

    spec (EncoderSpec): The sizes.
    kept_state (KeptState): What is kept.
    """

    def __init__(self, spec: EncoderSpec, kept_state: KeptState = "post_norm"):
        super().__init__()
        self.spec = spec
        self.kept_state = kept_state
        self.embeddings = Embeddings(spec)
        self.layers = nn.ModuleList(Layer(spec) for _ in range(spec.layers))

    def layer(self, number: int) -> Layer:
        """RETURNS (Layer): A layer, counted from 1."""
        return cast(Layer, self.layers[number - 1])

    def run_layer(
        self,
        number: int,
        kept: Tensor,
        rows: Optional[Tensor],
        query_lengths: Sequence[int],
        context_lengths: Sequence[int],
        dropout: float = 0.0,
    ) -> Tensor:
        """Run a layer: see ``Layer``.

        number (int): The layer, counted from 1.
        kept (Tensor): What each wordpiece keeps. *Shape:* ``(context, width)``
        rows (Optional[Tensor]): The queries; None: all. *Shape:* ``(queries,)``
        query_lengths (Sequence[int]): Queries of each sequence.
        context_lengths (Sequence[int]): Wordpieces of each sequence.
        dropout (float): Dropout rate.
        RETURNS (Tensor): What each keeps now, new for the queries. *Shape:* ``(context, width)``
        """
        layer = self.layer(number)
        context = self.states(number - 1, kept)
        new: Tensor = layer(context, rows, query_lengths, context_lengths, dropout)
        if self.kept_state == "post_norm":
            new = layer.output_norm(new)
        return new if rows is None else kept.index_copy(0, rows, new)

    def states(self, number: int, kept: Tensor) -> Tensor:
        """RETURNS (Tensor): States behind a layer, 0: the embeddings. *Shape:* ``(any, width)``

        number (int): The layer.
        kept (Tensor): What wordpieces keep. *Shape:* ``(any, width)``
        """
        if self.kept_state == "post_norm" or not number:
            return kept
        states: Tensor = self.layer(number).output_norm(kept)
        return states


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
