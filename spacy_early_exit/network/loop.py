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
from .cost import Meter
from .criterion import Criterion, Step
from .exit_network import Tagger


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
    network: Tagger,
    batch: Batch,
    criterion: Optional[Criterion],
    threshold: float = 0.0,
    keep_states: bool = False,
) -> Exits:
    """Tag a batch, leaving early.

    network (Tagger): The network.
    batch (Batch): The batch.
    criterion (Optional[Criterion]): Who may leave; None: nobody, and only the last head runs.
    threshold (float): The criterion's dial.
    keep_states (bool): Whether to hand out the wordpieces' states.
    RETURNS (Exits): The logits, exit layers and costs.
    """
    running = Running.all_of(batch)
    meter = Meter(network.spec, network.tags, batch)
    state = None if criterion is None else criterion.start(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets)  # (context, width)
    logits = kept.new_zeros(batch.words, network.tags)
    exit_layer = torch.zeros_like(batch.piece_of_word)
    states = torch.zeros_like(kept) if keep_states else None

    for number in range(1, network.spec.layers + 1):
        is_last = number == network.spec.layers
        kept = run_layer(network, number, kept, running)
        meter.layer(number, running)
        if criterion is None and not is_last:
            continue
        words = running.words
        of_words = network.encoder.states(kept.index_select(0, running.rows_of(batch, words)))
        by_states = criterion is not None and criterion.judges_by_states and not is_last
        answer = logits[:0]
        if not by_states:
            answer = network.logits(number, of_words)
            meter.head(words)
        leaving = None
        if criterion is not None and not is_last:
            step = Step(number, words, answer, batch, threshold, network.learned, of_words)
            leaving = criterion.leave(step, state)
            meter.judging(words, criterion.macs(number, network.spec, network.tags))
        if not by_states:
            # Who stays is written again after a later layer.
            logits.index_copy_(0, words, answer)
            exit_layer.index_fill_(0, words, number)
        if leaving is None or not leaving.any():
            continue
        after = running.without(batch, leaving)
        if by_states:
            left = running.left(after)
            gone = words[left]
            logits.index_copy_(0, gone, network.logits(number, of_words[left]))
            exit_layer.index_fill_(0, gone, number)
            meter.head(gone)
        if states is not None:
            states.index_copy_(0, running.pieces, network.encoder.states(kept))
        if not len(after.words):
            break
        if len(after.pieces) < len(running.pieces):
            kept = kept.index_select(0, running.row_of_piece[after.pieces])
        running = after
    else:
        if states is not None:
            states.index_copy_(0, running.pieces, network.encoder.states(kept))
    return Exits(logits, exit_layer, meter.spent, meter.full, meter.padding, states)


def run_all_heads(
    network: Tagger, batch: Batch, dropout: float = 0.0, detach_early_heads: bool = False
) -> Tensor:
    """Run all layers on everything and every head on every word, for joint training.

    network (Tagger): The network.
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


def run_all_layers(network: Tagger, batch: Batch, dropout: float = 0.0) -> Iterator[Tensor]:
    """Run all layers on everything.

    network (Tagger): The network.
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
    network: Tagger,
    batch: Batch,
    halting: Halting,
    dropout: float = 0.0,
    copies: int = 1,
    branch_after: int = 1,
) -> Tuple[Tensor, Tensor]:
    """Train as prediction will run: words leave, keep their state, and are attended to.

    Every head answers for every word, from the state it has by then: for words that left that
    is the kept one. Gradients flow through the kept states.

    network (Tagger): The network.
    batch (Batch): The batch.
    halting (Halting): Who leaves.
    dropout (float): Dropout rate. What ``halting`` sees is without the heads' own dropout.
    copies (int): How often every window is run, with words leaving on their own in each.
    branch_after (int): The layer until which the copies are one, and nobody leaves before it.
    RETURNS (Tuple[Tensor, Tensor]): The logits, and the layer at which each word left, of all
        words of ``batch.repeated(copies)``. *Shapes:* ``(layers, words, tags)``, ``(words,)``
    """
    running = Running.all_of(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    everything = kept  # of all wordpieces, also of windows that have ended
    exit_layer = torch.full_like(batch.piece_of_word, network.spec.layers)
    answers: List[Tensor] = []
    for number in range(1, network.spec.layers + 1):
        if len(running.words):
            kept = run_layer(network, number, kept, running, dropout)
            whole = len(running.pieces) == len(batch.ids)
            everything = kept if whole else everything.index_copy(0, running.pieces, kept)
        of_words = everything.index_select(0, batch.piece_of_word)
        of_words = network.encoder.states(of_words)
        answers.append(network.logits(number, of_words, dropout))
        if copies > 1 and number < branch_after:
            continue
        if copies > 1 and number == branch_after:
            batch = batch.repeated(copies)
            running, exit_layer = Running.all_of(batch), exit_layer.repeat(copies)
            kept, of_words = kept.repeat(copies, 1), of_words.repeat(copies, 1)
            everything, answers = kept, [answer.repeat(copies, 1) for answer in answers]
        if number == network.spec.layers or not len(running.words):
            continue
        # Who leaves is judged in fp32, in mixed precision as well.
        states = of_words.index_select(0, running.words).float()
        with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
            leaving = halting.leave(number, running.words, network.logits(number, states), states)
        if not leaving.any():
            continue
        after = running.without(batch, leaving)
        exit_layer[running.words[running.left(after)]] = number
        kept = kept.index_select(0, running.row_of_piece[after.pieces])
        running = after
    return torch.stack(answers), exit_layer


def run_layer(
    network: Tagger, number: int, kept: Tensor, running: Running, dropout: float = 0.0
) -> Tensor:
    """RETURNS (Tensor): What the context keeps after a layer. *Shape:* ``(context, hidden_size)``

    network (Tagger): The network.
    number (int): The layer, counted from 1.
    kept (Tensor): What the context kept before. *Shape:* ``(context, hidden_size)``
    running (Running): Who is still computed.
    dropout (float): Dropout rate.
    """
    return network.encoder.run_layer(number, kept, running, dropout)
