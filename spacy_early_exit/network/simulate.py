"""What leaving early would cost and decide, if the states were those of full depth.

From the logits of all heads at full depth, without computing a layer again. Exact where windows
leave as a whole: then nobody attends to a state that was kept. Where words leave one by one it is
an approximation, good enough to know where to look.
"""

from typing import Sequence, Tuple

import torch
from torch import Tensor

from .batch import Batch, Running
from .cost import Meter
from .criterion import Criterion, Step
from .tagger import Tagger


def simulate_exits(
    network: Tagger, batch: Batch, logits: Tensor, criterion: Criterion, threshold: float
) -> Tuple[Tensor, Meter]:
    """Let words leave by what the heads say at full depth.

    network (Tagger): The network.
    batch (Batch): The batch.
    logits (Tensor): Of every head. *Shape:* ``(layers, words, tags)``
    criterion (Criterion): Who may leave.
    threshold (float): The criterion's dial, above 0.
    RETURNS (Tuple[Tensor, Meter]): The layer at which each word leaves, and the costs.
        *Shape:* ``(words,)``
    """
    spec, running = network.spec, Running.all_of(batch)
    meter = Meter(spec, logits.shape[2], batch)
    state = criterion.start(batch)
    exit_layer = torch.full_like(batch.piece_of_word, spec.layers)
    for number in range(1, spec.layers + 1):
        is_last = number == spec.layers
        meter.layer(running)
        watches_all = criterion.watches_left_words and not is_last
        words = running.words_of_windows(batch) if watches_all else running.words
        meter.head(words)
        if is_last:
            break
        step = Step(number, words, logits[number - 1, words], batch, threshold, network.learned)
        leaving = criterion.leave(step, state)
        if watches_all:
            leaving = leaving[torch.searchsorted(words, running.words)]
        if not leaving.any():
            continue
        after = running.without(batch, leaving)
        stays = torch.zeros_like(exit_layer, dtype=torch.bool)
        stays[after.words] = True
        exit_layer[running.words[~stays[running.words]]] = number
        running = after
        if not len(running.words):
            break
    return exit_layer, meter


def simulated_saving(
    network: Tagger,
    answers: Sequence[Tuple[Batch, Tensor]],
    criterion: Criterion,
    threshold: float,
) -> float:
    """RETURNS (float): Full-depth cost / simulated cost, over batches with their logits."""
    spent = full = 0
    for batch, logits in answers:
        _, meter = simulate_exits(network, batch, logits, criterion, threshold)
        spent, full = spent + int(meter.spent.sum()), full + int(meter.full.sum())
    return full / spent if spent else 1.0
