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
from .exit_network import Tagger


def simulate_exits(
    network: Tagger,
    batch: Batch,
    logits: Tensor,
    states: Tensor,
    criterion: Criterion,
    threshold: float,
) -> Tuple[Tensor, Meter]:
    """Let words leave by what the heads say at full depth.

    network (Tagger): The network.
    batch (Batch): The batch.
    logits (Tensor): Of every head. *Shape:* ``(layers, words, tags)``
    states (Tensor): Of every layer; empty if the criterion does not judge by them.
        *Shape:* ``(layers, words, hidden_size)``
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
        meter.layer(number, running)
        words = running.words
        if is_last or not criterion.judges_by_states:
            meter.head(words)
        if is_last:
            break
        seen = logits[number - 1, words], states[number - 1, words]
        step = Step(number, words, seen[0], batch, threshold, network.learned, seen[1])
        leaving = criterion.leave(step, state)
        meter.judging(words, criterion.macs(number, spec, logits.shape[2]))
        if not leaving.any():
            continue
        after = running.without(batch, leaving)
        gone = running.words[running.left(after)]
        if criterion.judges_by_states:
            meter.head(gone)
        exit_layer[gone] = number
        running = after
        if not len(running.words):
            break
    return exit_layer, meter


def simulated_saving(
    network: Tagger,
    answers: Sequence[Tuple[Batch, Tensor, Tensor]],
    criterion: Criterion,
    threshold: float,
) -> float:
    """RETURNS (float): Full-depth cost / simulated cost, over batches with their logits."""
    spent = full = 0
    for batch, logits, states in answers:
        _, meter = simulate_exits(network, batch, logits, states, criterion, threshold)
        spent, full = spent + int(meter.spent.sum()), full + int(meter.full.sum())
    return full / spent if spent else 1.0
