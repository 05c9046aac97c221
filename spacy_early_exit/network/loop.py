"""The layer loop: run a layer, ask who may leave, go on with the rest.

Words that left keep their last state, which the others still attend to (halt-and-copy). A
window whose last word has left takes its context along.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import List, Optional

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
    hidden = network.encoder.embeddings(batch.ids, batch.offsets)  # (context, width)
    logits = hidden.new_zeros(batch.words, network.tags)
    exit_layer = torch.zeros_like(batch.piece_of_word)
    states = torch.zeros_like(hidden) if keep_states else None

    for number in range(1, network.spec.layers + 1):
        is_last = number == network.spec.layers
        hidden = _run_layer(network, number, hidden, running)
        meter.layer(running)
        if criterion is None and not is_last:
            continue
        watches_all = criterion is not None and criterion.watches_left_words and not is_last
        words = running.words_of_windows(batch) if watches_all else running.words
        answer = network.logits(number, hidden.index_select(0, running.rows_of(batch, words)))
        meter.head(words)
        leaving = None
        if criterion is not None and not is_last:
            leaving = criterion.leave(Step(number, words, answer, batch, threshold), state)
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
            states.index_copy_(0, running.pieces, hidden)
        if not len(after.words):
            break
        if len(after.pieces) < len(running.pieces):
            hidden = hidden.index_select(0, running.row_of_piece[after.pieces])
        running = after
    else:
        if states is not None:
            states.index_copy_(0, running.pieces, hidden)
    return Exits(logits, exit_layer, meter.spent, meter.full, meter.padding, states)


def run_all_heads(network: Tagger, batch: Batch, dropout: float = 0.0) -> Tensor:
    """Run all layers on everything and every head on every word, for joint training.

    network (Tagger): The network.
    batch (Batch): The batch.
    dropout (float): Dropout rate, of embeddings, attention, feed-forward layers and heads.
    RETURNS (Tensor): *Shape:* ``(layers, words, tags)``
    """
    running = Running.all_of(batch)
    hidden = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    answers: List[Tensor] = []
    for number in range(1, network.spec.layers + 1):
        hidden = _run_layer(network, number, hidden, running, dropout)
        states = hidden.index_select(0, batch.piece_of_word)
        answers.append(network.logits(number, states, dropout))
    return torch.stack(answers)


def _run_layer(
    network: Tagger, number: int, hidden: Tensor, running: Running, dropout: float = 0.0
) -> Tensor:
    """RETURNS (Tensor): The context's states after a layer: the queries' are new ones."""
    states: Tensor = network.encoder.layer(number)(
        hidden, running.queries, running.query_lengths, running.context_lengths, dropout
    )
    if running.queries is None:
        return states
    return hidden.index_copy(0, running.queries, states)
