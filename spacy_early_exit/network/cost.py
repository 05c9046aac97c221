"""What the method costs, in multiply-accumulates (MACs).

The cost is that of the algorithm, not of a run of it: no padding, every wordpiece that left is
left out at once, keys and values for all wordpieces of running windows, exit heads at the
words that were looked at. So it does not depend on batch, machine or threads.
"""

import operator
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .batch import Batch, Running
from .families import EncoderSpec
from .layers.attention import groups
from .layers.disentangled import place_counts
from .layers.neighbourhood import Neighbourhood, near_pairs, near_pairs_of_all, neighbourhood


def embedding_macs(spec: EncoderSpec, wordpieces: Tensor) -> Tensor:
    """Count the embeddings: look-ups are free, a projection to the hidden width is not.

    spec (EncoderSpec): The sizes of the encoder.
    wordpieces (Tensor): Wordpieces of each window. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    return wordpieces * (spec.embedding_size * spec.hidden_size if spec.projects else 0)


def layer_macs(
    spec: EncoderSpec,
    queries: Tensor,
    context: Tensor,
    pairs: Optional[Tensor] = None,
    places: Optional[Tensor] = None,
) -> Tensor:
    """Count one layer.

    spec (EncoderSpec): The sizes of the encoder.
    queries (Tensor): Wordpieces computed, by window. *Shape:* ``(windows,)``
    context (Tensor): Wordpieces attended to, by window. *Shape:* ``(windows,)``
    pairs (Optional[Tensor]): How often one attends to another, by window; None: all queries attend
        to all wordpieces. *Shape:* ``(windows,)``
    places (Optional[Tensor]): How many relative positions are told apart, by window; None: they
        have no scores. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    width = spec.hidden_size
    projections = 2 * width * width * (queries + context)  # query, output; key, value
    attention = 2 * width * (queries * context if pairs is None else pairs)  # scores, weighted sum
    maps = 3 if spec.table.gated else 2
    feed_forward = maps * width * spec.intermediate_size * queries
    macs = projections + attention + feed_forward
    return macs if places is None else macs + width * places * (queries + context)


def convolution_macs(spec: EncoderSpec, wordpieces: Tensor) -> Tensor:
    """Count the convolution behind the first layer, without what would lie beyond the ends.

    spec (EncoderSpec): The sizes of the encoder.
    wordpieces (Tensor): Wordpieces of each window. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    seen = wordpieces.clone()
    for step in range(1, spec.convolution // 2 + 1):
        seen += 2 * (wordpieces - step).clamp_min(0)
    return spec.hidden_size * spec.hidden_size * seen


def head_macs(spec: EncoderSpec, tags: int, words: Tensor) -> Tensor:
    """Count one exit head.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    words (Tensor): Words it is applied to, by window. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    return spec.hidden_size * tags * words


def full_macs(spec: EncoderSpec, tags: int, wordpieces: Tensor, words: Tensor) -> Tensor:
    """Count the encoder at full depth with one head at its last layer.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    wordpieces (Tensor): Wordpieces of each window. *Shape:* ``(windows,)``
    words (Tensor): Words of each window. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    near = spec.local_layers
    places = place_counts(spec, wordpieces) if spec.place_span else None
    layers = (spec.layers - near) * layer_macs(spec, wordpieces, wordpieces, places=places)
    if near:
        pairs = near_pairs_of_all(wordpieces, spec.local_reach)
        layers += near * layer_macs(spec, wordpieces, wordpieces, pairs)
    if spec.convolution:
        layers += convolution_macs(spec, wordpieces)
    return embedding_macs(spec, wordpieces) + layers + head_macs(spec, tags, words)


class Meter:
    """Counts what a run of the layer loop costs.

    What is counted alike in all layers is noted, and counted once at the end.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    batch (Batch): The batch that runs.
    """

    def __init__(self, spec: EncoderSpec, tags: int, batch: Batch):
        self.spec, self.tags, self.batch = spec, tags, batch
        self.wordpieces = self._counts(batch.lengths)  # (windows,)
        self.padding = 0
        self._more = embedding_macs(spec, self.wordpieces)  # (windows,)
        self._layers: List[Running] = []
        self._heads: List[Tensor] = []

    @property
    def full(self) -> Tensor:
        """RETURNS (Tensor): What full depth costs. *Shape:* ``(windows,)``"""
        return full_macs(self.spec, self.tags, self.wordpieces, self.batch.words_of_window)

    @property
    def spent(self) -> Tensor:
        """RETURNS (Tensor): What has been counted until now. *Shape:* ``(windows,)``"""
        queries = self._counts([n for running in self._layers for n in running.query_lengths])
        context = self._counts([n for running in self._layers for n in running.context_lengths])
        windows = [running.windows for running in self._layers]
        nowhere = self.batch.window_of_word[:0]
        spent = self._more.index_add(
            0, torch.cat([nowhere, *windows]), layer_macs(self.spec, queries, context)
        )
        return spent + head_macs(self.spec, self.tags, self._by_window([nowhere, *self._heads]))

    def layer(self, number: int, running: Running) -> None:
        """Count a layer, and apart from it what attention really computed for padding, for what is
        too far away to be attended to, and for relative positions as such, which depend on no text.

        number (int): The layer, counted from 1.
        running (Running): Who was computed.
        """
        spec, queries, context = self.spec, running.query_lengths, running.context_lengths
        if spec.is_local(number):
            near: Neighbourhood = running.once(neighbourhood, spec.local_reach)
            queries, context = near.query_lengths, near.context_lengths
            self._count_near(running, sum(map(operator.mul, queries, context)))
        elif spec.place_span:
            self._count_places(running)
        else:
            self._layers.append(running)
        if spec.convolution and number == 1:
            self._more += convolution_macs(spec, self.wordpieces)
        for start, end in groups(queries, context):
            q, k = queries[start:end], context[start:end]
            padded = len(q) * max(q) * max(k) - sum(map(operator.mul, q, k))
            self.padding += 2 * spec.hidden_size * padded

    def _count_near(self, running: Running, done: int) -> None:
        spec, queries, context = self.spec, *self._lengths(running)
        pairs = running.once(near_pairs, spec.local_reach)
        self.padding += 2 * spec.hidden_size * (done - int(pairs.sum()))
        self._more[running.windows] += layer_macs(spec, queries, context, pairs)

    def _count_places(self, running: Running) -> None:
        spec, queries, context = self.spec, *self._lengths(running)
        places = place_counts(spec, running.lengths)
        self._more[running.windows] += layer_macs(spec, queries, context, places=places)
        width, most = spec.hidden_size, int(places.max())
        done = 2 * width * most  # each as a query and as a key
        for start, end in groups(running.query_lengths, running.context_lengths):
            longest = int(queries[start:end].max() + context[start:end].max())
            done += (end - start) * longest * most
        self.padding += width * (done - int((places * (queries + context)).sum()))

    def head(self, words: Tensor) -> None:
        """Count an exit head at some words of the batch."""
        self._heads.append(words)

    def judging(self, words: Tensor, macs: int) -> None:
        """Count what a criterion multiplies itself, at some words of the batch."""
        if macs:
            self._more += macs * self._by_window([words])

    def _by_window(self, words: Sequence[Tensor]) -> Tensor:
        owners = self.batch.window_of_word[torch.cat(list(words))]
        return torch.bincount(owners, minlength=self.batch.windows)

    def _lengths(self, running: Running) -> Tuple[Tensor, Tensor]:
        return self._counts(running.query_lengths), self._counts(running.context_lengths)

    def _counts(self, lengths: Sequence[int]) -> Tensor:
        return torch.tensor(lengths, dtype=torch.int64, device=self.batch.ids.device)
