"""The layer loop: run a layer, ask who may leave, go on with the rest.

Words that left keep their last state, which the others still attend to (halt-and-copy). A
window whose last word has left takes its context along.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import Iterator, List, Optional, Protocol, Tuple

import torch
from torch import Tensor

from .batch import Batch, Running
from .cost import Visit, price
from .criterion import Criterion, Step
from .exit_network import ExitNetwork


@dataclass(frozen=True)
class Exits:
    """What came out of a batch.

    logits (Tensor): Of each word, from the layer at which it left. *Shape:* ``(words, tags)``
    exit_layer (Tensor): That layer, counted from 1. *Shape:* ``(words,)``
    spent (Tensor): MACs of the method. *Shape:* ``(windows,)``
    full (Tensor): MACs of full depth with one head. *Shape:* ``(windows,)``
    padding (int): MACs that this run spent in attention, on top of ``spent``, on padding and on
        what is masked.
    states (Optional[Tensor]): Each wordpiece's last state, if that was asked for.
        *Shape:* ``(wordpieces, hidden_size)``
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
    """Tag a batch, leaving early.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    criterion (Optional[Criterion]): Who may leave; None: nobody, and only the last head runs.
    threshold (float): The criterion's threshold.
    keep_states (bool): Whether to hand out the wordpieces' states.
    RETURNS (Exits): The logits, exit layers and costs.
    """
    if criterion is None:
        return run_full_depth(network, batch, keep_states)
    if criterion.own_loop is not None:
        return criterion.own_loop.run(network, batch, criterion, threshold, keep_states)
    running, state = Running.all_of(batch), criterion.start(batch)
    trace: List[Visit] = []
    kept = network.encoder.embeddings(batch.ids, batch.offsets)  # (context, width)
    logits = kept.new_zeros(batch.words, network.tags)
    exit_layer = torch.zeros_like(batch.piece_of_word)
    states = torch.zeros_like(kept) if keep_states else None

    for number in range(1, network.spec.layers + 1):
        kept = run_layer(network, number, kept, running)
        of_words = states_of_words(network, kept, running)
        answer = network.logits(number, of_words)
        trace.append(Visit(number, running, running.words, number < network.spec.layers))
        # Who stays is written again after a later layer.
        logits.index_copy_(0, running.words, answer)
        exit_layer.index_fill_(0, running.words, number)
        if states is not None:
            states.index_copy_(0, running.pieces, network.encoder.states(kept))
        if number == network.spec.layers:
            break
        step = Step(
            number, running.words, answer, batch, threshold, network.extra_parameters, of_words
        )
        leaving = criterion.leave(step, state)
        if not leaving.any():
            continue
        after = running.without(leaving)
        if not len(after.words):
            break
        kept, running = running.rows_for(after, kept), after
    return Exits(logits, exit_layer, *price(network.spec, network.tags, trace, criterion), states)


def run_full_depth(network: ExitNetwork, batch: Batch, keep_states: bool = False) -> Exits:
    """Tag a batch with all layers and the last head.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    keep_states (bool): Whether to hand out the wordpieces' states.
    RETURNS (Exits): The logits, exit layers and costs.
    """
    running, last = Running.all_of(batch), network.spec.layers
    kept = network.encoder.embeddings(batch.ids, batch.offsets)
    for number in range(1, last + 1):
        kept = run_layer(network, number, kept, running)
    logits = network.logits(last, states_of_words(network, kept, running))
    trace = [Visit(number, running) for number in range(1, last)]
    trace.append(Visit(last, running, running.words))
    exit_layer = torch.full_like(batch.piece_of_word, last)
    states = network.encoder.states(kept) if keep_states else None
    return Exits(logits, exit_layer, *price(network.spec, network.tags, trace), states)


def states_of_words(network: ExitNetwork, kept: Tensor, running: Running) -> Tensor:
    """RETURNS (Tensor): What exit heads read of the words that have not left.
    *Shape:* ``(active words, hidden_size)``

    network (ExitNetwork): The network.
    kept (Tensor): What the context keeps. *Shape:* ``(context, hidden_size)``
    running (Running): Who is still computed.
    """
    rows = running.rows_of(running.words)
    return network.encoder.states(kept.index_select(0, rows))


def run_all_heads(
    network: ExitNetwork, batch: Batch, dropout: float = 0.0, detach_early_heads: bool = False
) -> Tensor:
    """Run all layers on everything and every head on every word, for joint training.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    dropout (float): Dropout rate, of embeddings, attention, feed-forward layers and heads.
    detach_early_heads (bool): Whether only the deepest head's gradient reaches the encoder.
    RETURNS (Tensor): *Shape:* ``(layers, words, tags)``
    """
    answers: List[Tensor] = []
    for number, of_words in enumerate(run_all_layers(network, batch, dropout), start=1):
        if detach_early_heads and number < network.spec.layers:
            of_words = of_words.detach()
        answers.append(network.logits(number, of_words, dropout))
    return torch.stack(answers)


def run_all_layers(network: ExitNetwork, batch: Batch, dropout: float = 0.0) -> Iterator[Tensor]:
    """Run all layers on everything.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    dropout (float): Dropout rate.
    YIELDS (Tensor): What each layer makes of the words. *Shape:* ``(words, hidden_size)``
    """
    running = Running.all_of(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    for number in range(1, network.spec.layers + 1):
        kept = run_layer(network, number, kept, running, dropout)
        yield network.encoder.states(kept.index_select(0, batch.piece_of_word))


class Halting(Protocol):
    """Says who leaves after a layer while training."""

    def leave(self, layer: int, words: Tensor, logits: Tensor, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words leave. *Shape:* ``(words,)``, bool

        layer (int): The layer, counted from 1.
        words (Tensor): The words that have not left. *Shape:* ``(words,)``
        logits (Tensor): What this layer's head says of them. *Shape:* ``(words, tags)``
        states (Tensor): What it made of them. *Shape:* ``(words, hidden_size)``
        """


def run_all_heads_halting(
    network: ExitNetwork, batch: Batch, halting: Halting, dropout: float = 0.0
) -> Tuple[Tensor, Tensor]:
    """Train as prediction will run: words leave, keep their state, and are attended to.

    Every head answers for every word, from the state it has by then: for words that left that
    is the kept one. Gradients flow through the kept states.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    halting (Halting): Who leaves.
    dropout (float): Dropout rate. What ``halting`` sees is without the heads' own dropout.
    RETURNS (Tuple[Tensor, Tensor]): The logits, and the layer at which each word left.
        *Shapes:* ``(layers, words, tags)``, ``(words,)``
    """
    running = Running.all_of(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    everything = kept  # of all wordpieces, also of windows that have ended
    exit_layer = torch.full_like(batch.piece_of_word, network.spec.layers)
    answers: List[Tensor] = []
    for number in range(1, network.spec.layers + 1):
        if len(running.words):
            kept = run_layer(network, number, kept, running, dropout)
            everything = running.written_into(everything, kept)
        of_words = network.encoder.states(everything.index_select(0, batch.piece_of_word))
        answers.append(network.logits(number, of_words, dropout))
        if number == network.spec.layers or not len(running.words):
            continue
        after = let_leave(network, halting, number, of_words, running)
        exit_layer[running.words[running.left(after)]] = number
        kept, running = running.rows_for(after, kept), after
    return torch.stack(answers), exit_layer


def let_leave(
    network: ExitNetwork, halting: Halting, number: int, of_words: Tensor, running: Running
) -> Running:
    """Ask who leaves after a layer while training.

    network (ExitNetwork): The network.
    halting (Halting): Who leaves.
    number (int): The layer, counted from 1.
    of_words (Tensor): What exit heads read of all words. *Shape:* ``(words, hidden_size)``
    running (Running): Who is still computed.
    RETURNS (Running): Who is left.
    """
    # It is judged in fp32, in mixed precision as well.
    states = of_words.index_select(0, running.words).float()
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        leaving = halting.leave(number, running.words, network.logits(number, states), states)
    return running.without(leaving) if leaving.any() else running


def run_layer(
    network: ExitNetwork, number: int, kept: Tensor, running: Running, dropout: float = 0.0
) -> Tensor:
    """RETURNS (Tensor): What the context keeps after a layer. *Shape:* ``(context, hidden_size)``

    network (ExitNetwork): The network.
    number (int): The layer, counted from 1.
    kept (Tensor): What the context kept before. *Shape:* ``(context, hidden_size)``
    running (Running): Who is still computed.
    dropout (float): Dropout rate.
    """
    return network.encoder.run_layer(number, kept, running, dropout)
