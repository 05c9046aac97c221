"""The layer loop: run a layer, ask which words may exit, go on with the rest.

Words that exit keep their last state, and the others still attend to it (halt-and-copy). A window
whose last word has exited is removed from the context, too. The criterion says which words may exit
(``criteria/entropy.py`` has the default), ``batch.Running`` keeps those that share a wordpiece
together.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import List, Optional

import torch
from torch import Tensor

from .batch import Batch, Running
from .cost import Visit, price
from .criterion import Criterion, Step, checked
from .exit_network import ExitNetwork
from .seen import logits_of_words


@dataclass(frozen=True)
class Exits:
    """The results of a batch.

    logits (Tensor): The logits of each word, from the layer at which it exited. *Shape:*
        ``(words, tags)``
    exit_layer (Tensor): That layer, counted from 1. *Shape:* ``(words,)``
    spent (Tensor): MACs of the method. *Shape:* ``(windows,)``
    full (Tensor): MACs of full depth with one head. *Shape:* ``(windows,)``
    padding (int): MACs that attention spent on padding and on masked pairs, in addition to
        ``spent``.
    states (Optional[Tensor]): Each wordpiece's last state, if asked for. *Shape:*
        ``(wordpieces, hidden_size)``
    """

    logits: Tensor
    exit_layer: Tensor
    spent: Tensor
    full: Tensor
    padding: int
    states: Optional[Tensor] = None


def run_with_exits(
    network: ExitNetwork,
    batch: Batch,
    criterion: Optional[Criterion],
    threshold: float = 0.0,
    keep_states: bool = False,
) -> Exits:
    """Tag a batch with early exits.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    criterion (Optional[Criterion]): Decides which words exit; None: no word exits, and only the
        last head runs.
    threshold (float): The criterion's threshold.
    keep_states (bool): Whether to return the wordpieces' states.
    RETURNS (Exits): The logits, exit layers and costs.
    """
    if criterion is None:
        return run_full_depth(network, batch, keep_states)
    if criterion.own_loop is not None:
        return criterion.own_loop.run(network, batch, criterion, threshold, keep_states)
    running, state = Running.all_of(batch), criterion.start(batch)
    trace: List[Visit] = []
    kept = network.encoder.embeddings(batch.ids, batch.offsets)  # (context, width)
    logits = network.head(network.spec.layers).weight.new_zeros(batch.words, network.tags)
    exit_layer = torch.zeros_like(batch.piece_of_word)
    states = network.encoder.states(torch.zeros_like(kept)) if keep_states else None

    for number in range(1, network.spec.layers + 1):
        kept = network.encoder.run_layer(number, kept, running)
        if number not in network.exit_layers:
            trace.append(Visit(number, running))
            continue
        of_words = states_of_words(network, kept, running)
        words, encoder = running.words, network.encoder
        answer = logits_of_words(network, number, words, of_words, encoder, kept, running)
        trace.append(Visit(number, running, running.words, number < network.spec.layers))
        # Words that stay are overwritten after a later layer.
        logits.index_copy_(0, running.words, answer)
        exit_layer.index_fill_(0, running.words, number)
        if states is not None:
            states.index_copy_(0, running.pieces, network.encoder.states(kept))
        if number == network.spec.layers:
            break
        step = Step(
            number, running.words, answer, batch, threshold, network.extra_parameters, of_words
        )
        after = running.after(checked(criterion, step, state))
        if after is running:
            continue
        if not len(after.words):
            break
        kept, running = running.rows_for(after, kept), after
    cost = price(network.spec, network.tags, trace, criterion, network.head_window)
    return Exits(logits, exit_layer, *cost, states)


def run_full_depth(network: ExitNetwork, batch: Batch, keep_states: bool = False) -> Exits:
    """Tag a batch with all layers and the last head.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    keep_states (bool): Whether to return the wordpieces' states.
    RETURNS (Exits): The logits, exit layers and costs.
    """
    running, last = Running.all_of(batch), network.spec.layers
    kept = network.encoder.embeddings(batch.ids, batch.offsets)
    for number in range(1, last + 1):
        kept = network.encoder.run_layer(number, kept, running)
    logits = network.logits(last, states_of_words(network, kept, running))
    trace = [Visit(number, running) for number in range(1, last)]
    trace.append(Visit(last, running, running.words))
    exit_layer = torch.full_like(batch.piece_of_word, last)
    states = network.encoder.states(kept) if keep_states else None
    return Exits(logits, exit_layer, *price(network.spec, network.tags, trace), states)


def states_of_words(network: ExitNetwork, kept: Tensor, running: Running) -> Tensor:
    """RETURNS (Tensor): What exit heads read, for the words that have not exited. *Shape:*
    ``(active words, hidden_size)``

    network (ExitNetwork): The network.
    kept (Tensor): What the context keeps. *Shape:* ``(context, hidden_size)``
    running (Running): What is still computed.
    """
    rows = running.rows_of(running.words)
    return network.encoder.states(kept.index_select(0, rows))
