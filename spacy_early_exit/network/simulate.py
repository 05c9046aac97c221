"""What early exits would cost and decide, if the states were those of full depth.

This uses the logits of all heads at full depth and computes no layer again. It is exact if windows
exit as a whole: then no word attends to a kept state. If words exit one by one, it is an
approximation, good enough to know where to look.
"""

from typing import List, Sequence, Tuple

import torch
from torch import Tensor

from .batch import Batch, Running
from .cost import Cost, Visit, price
from .criterion import Criterion, Step
from .exit_network import ExitNetwork


def simulate_exits(
    network: ExitNetwork,
    batch: Batch,
    logits: Tensor,
    states: Tensor,
    criterion: Criterion,
    threshold: float,
) -> Tuple[Tensor, Cost]:
    """Let words exit by the logits of the heads at full depth.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    logits (Tensor): The logits of every head. *Shape:* ``(heads, words, tags)``
    states (Tensor): The states of every layer; without columns unless the criterion has its own
        loop. *Shape:* ``(layers, words, hidden_size)``
    criterion (Criterion): Decides which words exit.
    threshold (float): The criterion's threshold, above 0.
    RETURNS (Tuple[Tensor, Cost]): The layer at which each word exits, and the costs. *Shape:*
        ``(words,)``
    """
    if criterion.own_loop is not None:
        return criterion.own_loop.simulate(network, batch, logits, states, criterion, threshold)
    spec, running, state = network.spec, Running.all_of(batch), criterion.start(batch)
    trace: List[Visit] = []
    exit_layer = torch.zeros_like(batch.piece_of_word)
    for number in range(1, spec.layers + 1):
        if number not in network.exit_layers:
            trace.append(Visit(number, running))
            continue
        words = running.words
        exit_layer.index_fill_(0, words, number)
        trace.append(Visit(number, running, words, number < spec.layers))
        if number == spec.layers:
            break
        seen = logits[network.number_of_head(number) - 1, words], states[number - 1, words]
        step = Step(number, words, seen[0], batch, threshold, network.extra_parameters, seen[1])
        running = running.after(criterion.leave(step, state))
        if not len(running.words):
            break
    return exit_layer, price(spec, network.tags, trace, criterion, network.head_window)


def simulated_speedup(
    network: ExitNetwork,
    answers: Sequence[Tuple[Batch, Tensor, Tensor]],
    criterion: Criterion,
    threshold: float,
) -> float:
    """RETURNS (float): Full-depth cost / simulated cost, over batches and their logits."""
    spent = full = 0
    for batch, logits, states in answers:
        _, cost = simulate_exits(network, batch, logits, states, criterion, threshold)
        spent, full = spent + int(cost.spent.sum()), full + int(cost.full.sum())
    return full / spent if spent else 1.0
