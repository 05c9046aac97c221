"""What the method costs, in multiply-accumulates (MACs).

The cost is that of the algorithm, not of a run of it. There is no padding, a wordpiece costs
nothing once it has exited, keys and values are computed for all wordpieces of running windows, and
exit heads for the words that were judged. So the cost does not depend on batch, machine or threads.
"""

import operator
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

import torch
from torch import Tensor

from .batch import Batch, Running
from .devices import counts_of, upload
from .families import EncoderSpec, LayerSizes
from .layers.attention import groups
from .layers.disentangled import place_counts
from .layers.neighbourhood import Neighbourhood, near_pairs, near_pairs_of_all, neighbourhood
from .layers.ragged import pads_nothing

if TYPE_CHECKING:
    from .criterion import Criterion

Words = TypeVar("Words", int, Tensor)


def embedding_macs(spec: EncoderSpec, wordpieces: Tensor) -> Tensor:
    """Count the embeddings: look-ups are free, a projection to the hidden width is not.

    spec (EncoderSpec): The sizes of the encoder.
    wordpieces (Tensor): Wordpieces of each window. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    return wordpieces * (spec.embedding_size * spec.hidden_size if spec.projects else 0)


def layer_macs(
    spec: EncoderSpec,
    sizes: LayerSizes,
    queries: Tensor,
    context: Tensor,
    pairs: Optional[Tensor] = None,
    places: Optional[Tensor] = None,
) -> Tensor:
    """Count one layer.

    spec (EncoderSpec): The sizes of the encoder.
    sizes (LayerSizes): Those of the layer.
    queries (Tensor): Wordpieces computed, by window. *Shape:* ``(windows,)``
    context (Tensor): Wordpieces attended to, by window. *Shape:* ``(windows,)``
    pairs (Optional[Tensor]): Pairs of a query and a wordpiece that it attends to, by window; None:
        all queries attend to all wordpieces. *Shape:* ``(windows,)``
    places (Optional[Tensor]): Number of distinct relative positions, by window; None: relative
        positions have no scores. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    width, mixed = spec.hidden_size, sizes.heads * spec.head_width
    projections = 2 * width * mixed * (queries + context)  # query, output; key, value
    attention = 2 * mixed * (queries * context if pairs is None else pairs)  # scores, weighted sum
    maps = 3 if spec.table.gated else 2
    feed_forward = maps * width * sizes.neurons * queries
    macs = projections + attention + feed_forward
    return macs if places is None else macs + mixed * places * (queries + context)


def convolution_macs(spec: EncoderSpec, wordpieces: Tensor) -> Tensor:
    """Count the convolution after the first layer, without the zeros beyond the ends.

    spec (EncoderSpec): The sizes of the encoder.
    wordpieces (Tensor): Wordpieces of each window. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    seen = wordpieces.clone()
    for step in range(1, spec.convolution // 2 + 1):
        seen += 2 * (wordpieces - step).clamp_min(0)
    return spec.hidden_size * spec.hidden_size * seen


def head_macs(spec: EncoderSpec, tags: int, words: Words, reach: int = 0) -> Words:
    """Count one exit head.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    words (Words): Words that it is applied to, one number or by window. *Shape:* ``(windows,)``
    reach (int): How many words on each side it sees.
    RETURNS (Words): MACs, as ``words``.
    """
    return (2 * reach + 1) * spec.hidden_size * tags * words


def full_macs(spec: EncoderSpec, tags: int, wordpieces: Tensor, words: Tensor) -> Tensor:
    """Count the encoder at full depth with one head at its last layer.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    wordpieces (Tensor): Wordpieces of each window. *Shape:* ``(windows,)``
    words (Tensor): Words of each window. *Shape:* ``(windows,)``
    RETURNS (Tensor): MACs of each window. *Shape:* ``(windows,)``
    """
    macs = embedding_macs(spec, wordpieces) + head_macs(spec, tags, words)
    places = place_counts(spec, wordpieces) if spec.place_span else None
    near = near_pairs_of_all(wordpieces, spec.local_reach) if spec.local_layers else None
    for (sizes, is_local), count in spec.layer_kinds.items():
        pairs, of_places = (near, None) if is_local else (None, places)
        macs = macs + count * layer_macs(spec, sizes, wordpieces, wordpieces, pairs, of_places)
    if spec.convolution:
        macs = macs + convolution_macs(spec, wordpieces)
    return macs


class Visit(NamedTuple):
    """What a run of the layer loop did at a layer.

    number (int): The layer, counted from 1.
    running (Running): What was computed.
    heads (Optional[Tensor]): The words that its exit head was applied to; None: none.
        *Shape:* ``(words,)``
    judged (bool): Whether the criterion judged all words that had not exited.
    """

    number: int
    running: Running
    heads: Optional[Tensor] = None
    judged: bool = False


class Cost(NamedTuple):
    """What a run costs.

    spent (Tensor): MACs of the method. *Shape:* ``(windows,)``
    full (Tensor): MACs of full depth with one head. *Shape:* ``(windows,)``
    padding (int): MACs that attention spent in addition: on padding, on wordpieces too far away to
        be attended to, and on relative positions themselves, which do not depend on the text.
    """

    spent: Tensor
    full: Tensor
    padding: int


def price(
    spec: EncoderSpec,
    tags: int,
    trace: Sequence[Visit],
    criterion: Optional["Criterion"] = None,
    head_window: int = 0,
) -> Cost:
    """Count what a run cost. Layers with the same count are counted together.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    trace (Sequence[Visit]): What the run did, layer by layer.
    criterion (Optional[Criterion]): The criterion that was used.
    head_window (int): How many words on each side the heads see, except the deepest.
    RETURNS (Cost): The cost.
    """
    batch = trace[0].running.batch
    wordpieces = _counts(batch.lengths, batch)
    spent = embedding_macs(spec, wordpieces)
    padding: Union[int, Tensor] = 0  # read once, at the end
    alike: Dict[LayerSizes, List[Running]] = {}
    if spec.convolution:
        spent = spent + convolution_macs(spec, wordpieces)
    for number, running, _, judged in trace:
        queries, context = running.query_lengths, running.context_lengths
        sizes = spec.layer_sizes[number - 1]
        pads = not running.has(pads_nothing)
        if spec.is_local(number):
            near: Neighbourhood = running.cached(neighbourhood, spec.local_reach)
            queries, context = near.query_lengths, near.context_lengths
            done = sum(map(operator.mul, queries, context))
            pads = pads or near.mask is not None
            padding += _price_near(spec, sizes, running, done, spent)
        elif spec.place_span:
            padding += _price_places(spec, sizes, running, spent)
        else:
            alike.setdefault(sizes, []).append(running)
        pairs = _padded_pairs(queries, context, batch.ids.device) if pads else 0
        padding += 2 * sizes.heads * spec.head_width * pairs
        own = criterion.macs(number, spec, tags) if judged and criterion is not None else 0
        if own:
            spent += own * words_by_window([running.words], batch)
    for sizes, layers in alike.items():
        spent.index_add_(
            0,
            torch.cat([running.windows for running in layers]),
            layer_macs(
                spec,
                sizes,
                _counts([n for running in layers for n in running.query_lengths], batch),
                _counts([n for running in layers for n in running.context_lengths], batch),
            ),
        )
    for reach, is_deepest in ((head_window, False), (0, True)):
        of_these = [visit for visit in trace if (visit.number == spec.layers) == is_deepest]
        heads = [visit.heads for visit in of_these if visit.heads is not None]
        spent += head_macs(spec, tags, words_by_window(heads, batch), reach)
    full = full_macs(spec, tags, wordpieces, batch.words_of_window)
    return Cost(spent, full, int(padding))


def _price_near(
    spec: EncoderSpec, sizes: LayerSizes, running: Running, done: int, spent: Tensor
) -> Tensor:
    """Add the cost of a layer that attends nearby.

    RETURNS (Tensor): MACs spent on wordpieces that are too far away. *Shape:* ``()``
    """
    pairs = running.cached(near_pairs, spec.local_reach)
    spent[running.windows] += layer_macs(spec, sizes, *_lengths(running), pairs)
    in_vain: Tensor = done - pairs.sum()
    return 2 * sizes.heads * spec.head_width * in_vain


def _price_places(spec: EncoderSpec, sizes: LayerSizes, running: Running, spent: Tensor) -> Tensor:
    """Add the cost of a layer that scores relative positions.

    RETURNS (Tensor): MACs spent on relative positions themselves. *Shape:* ``()``
    """
    queries, context = _lengths(running)
    places = place_counts(spec, running.lengths)
    spent[running.windows] += layer_macs(spec, sizes, queries, context, places=places)
    most = int(place_counts(spec, torch.tensor(running.longest)))  # more for longer windows
    done = 2 * spec.hidden_size * most  # each as a query and as a key
    lengths = running.query_lengths, running.context_lengths
    for start, end in groups(*lengths, running.windows.device):
        longest = sum(max(part[start:end]) for part in lengths)
        done += (end - start) * longest * most
    mixed = sizes.heads * spec.head_width
    return mixed * (done - (places * (queries + context)).sum())


def _padded_pairs(queries: Sequence[int], context: Sequence[int], device: torch.device) -> int:
    """RETURNS (int): Pairs that attention computes in vain, since it pads groups."""
    pairs = 0
    for start, end in groups(queries, context, device):
        q, k = queries[start:end], context[start:end]
        pairs += len(q) * max(q) * max(k) - sum(map(operator.mul, q, k))
    return pairs


def words_by_window(words: Sequence[Tensor], batch: Batch) -> Tensor:
    """RETURNS (Tensor): How many of the given words each window has. *Shape:* ``(windows,)``"""
    nowhere = batch.window_of_word[:0]
    owners = torch.cat([nowhere, *(batch.window_of_word[some] for some in words)])
    return counts_of(owners, batch.windows)


def _lengths(running: Running) -> Tuple[Tensor, Tensor]:
    """RETURNS (Tuple[Tensor, Tensor]): Queries and context of each running window.
    *Shapes:* ``(running windows,)``
    """
    batch = running.batch
    return _counts(running.query_lengths, batch), _counts(running.context_lengths, batch)


def _counts(lengths: Sequence[int], batch: Batch) -> Tensor:
    return upload(lengths, batch.ids.device)
