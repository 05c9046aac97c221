"""The layer loop: run a layer, ask who may leave, go on with the rest.

Words that left keep their last state, which the others still attend to (halt-and-copy). A
window whose last word has left takes its context along.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import List, Optional, Protocol, Tuple

import torch
from torch import Tensor

from .batch import Batch, Running
from .cost import Meter
from .criterion import Criterion, Step
from .tagger import Tagger


@dataclass(frozen=True)
class Exits:
    """What came out of a batch.

    logits (Tensor): Of each word, from the layer at which it left. *Shape:* ``(words, tags)``
    exit_layer (Tensor): That layer, counted from 1. *Shape:* ``(words,)``
    spent (Tensor): MACs of the method. *Shape:* ``(windows,)``
    full (Tensor): MACs of full depth with one head. *Shape:* ``(windows,)``
    padding (int): MACs that this run spent on padding in attention, on top of ``spent``.
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
        kept = _run_layer(network, number, kept, running)
        meter.layer(running)
        if criterion is None and not is_last:
            continue
        watches_all = criterion is not None and criterion.watches_left_words and not is_last
        words = running.words_of_windows(batch) if watches_all else running.words
        of_words = kept.index_select(0, running.rows_of(batch, words))
        answer = network.logits(number, network.encoder.states(number, of_words))
        meter.head(words)
        leaving = None
        if criterion is not None and not is_last:
            step = Step(number, words, answer, batch, threshold, network.learned)
            leaving = criterion.leave(step, state)
        if watches_all and leaving is not None:
            mine = torch.searchsorted(words, running.words)
            answer, leaving = answer.index_select(0, mine), leaving[mine]
        # Who stays is written again after a later layer.
        logits.index_copy_(0, running.words, answer)
        exit_layer.index_fill_(0, running.words, number)
        if leaving is None or not leaving.any():
            continue
        after = running.without(batch, leaving)
        if states is not None:
            states.index_copy_(0, running.pieces, network.encoder.states(number, kept))
        if not len(after.words):
            break
        if len(after.pieces) < len(running.pieces):
            kept = kept.index_select(0, running.row_of_piece[after.pieces])
        running = after
    else:
        if states is not None:
            states.index_copy_(0, running.pieces, network.encoder.states(number, kept))
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
    running = Running.all_of(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    answers: List[Tensor] = []
    for number in range(1, network.spec.layers + 1):
        kept = _run_layer(network, number, kept, running, dropout)
        of_words = network.encoder.states(number, kept.index_select(0, batch.piece_of_word))
        if detach_early_heads and number < network.spec.layers:
            of_words = of_words.detach()
        answers.append(network.logits(number, of_words, dropout))
    return torch.stack(answers)


class Halting(Protocol):
    """Says who leaves after a layer while training."""

    def leave(self, layer: int, words: Tensor, logits: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words leave. *Shape:* ``(words,)``, bool

        layer (int): The layer, counted from 1.
        words (Tensor): The words that have not left. *Shape:* ``(words,)``
        logits (Tensor): What this layer's head says of them. *Shape:* ``(words, tags)``
        """


def run_all_heads_halting(
    network: Tagger, batch: Batch, halting: Halting, dropout: float = 0.0
) -> Tuple[Tensor, Tensor]:
    """Train as prediction will run: words leave, keep their state, and are attended to.

    Every head answers for every word, from the state it has by then: for words that left that
    is the kept one. Gradients flow through the kept states.

    network (Tagger): The network.
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
            kept = _run_layer(network, number, kept, running, dropout)
            whole = len(running.pieces) == len(batch.ids)
            everything = kept if whole else everything.index_copy(0, running.pieces, kept)
        of_words = everything.index_select(0, batch.piece_of_word)
        of_words = network.encoder.states(number, of_words)
        answers.append(network.logits(number, of_words, dropout))
        if number == network.spec.layers or not len(running.words):
            continue
        with torch.no_grad():
            seen = network.logits(number, of_words[running.words])
            leaving = halting.leave(number, running.words, seen)
        if not leaving.any():
            continue
        after = running.without(batch, leaving)
        stays = torch.zeros_like(exit_layer, dtype=torch.bool)
        stays[after.words] = True
        exit_layer[running.words[~stays[running.words]]] = number
        kept = kept.index_select(0, running.row_of_piece[after.pieces])
        running = after
    return torch.stack(answers), exit_layer


def _run_layer(
    network: Tagger, number: int, kept: Tensor, running: Running, dropout: float = 0.0
) -> Tensor:
    """RETURNS (Tensor): What the context keeps after a layer."""
    return network.encoder.run_layer(
        number, kept, running.queries, running.query_lengths, running.context_lengths, dropout
    )
