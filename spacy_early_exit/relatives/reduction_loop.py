"""How token reduction runs: selectors decide, and heads only run for words that exit.

While training, every window is tried several times, and words exit independently in each try. Up to
the first selector, all tries share one computation.
"""

from dataclasses import replace
from typing import List, Tuple

import torch
from torch import Tensor

from ..network.all_heads import Halting, let_leave
from ..network.batch import Batch, Running
from ..network.cost import Cost, Visit, price
from ..network.criterion import Criterion, OwnLoop, Step
from ..network.exit_network import ExitNetwork
from ..network.loop import Exits, states_of_words
from ..network.seen import around, logits_of_words, not_dropped


def run_late_heads(
    network: ExitNetwork, batch: Batch, criterion: Criterion, threshold: float, keep_states: bool
) -> Exits:
    """Tag a batch: see ``network.loop.run_with_exits``."""
    running, state = Running.all_of(batch), criterion.start(batch)
    trace: List[Visit] = []
    kept = network.encoder.embeddings(batch.ids, batch.offsets)
    logits = network.head(network.spec.layers).weight.new_zeros(batch.words, network.tags)
    exit_layer = torch.zeros_like(batch.piece_of_word)
    states = network.encoder.states(torch.zeros_like(kept)) if keep_states else None
    for number in range(1, network.spec.layers + 1):
        kept = network.encoder.run_layer(number, kept, running)
        of_words = states_of_words(network, kept, running)
        if states is not None:
            states.index_copy_(0, running.pieces, network.encoder.states(kept))
        after = _selected(network, number, of_words, running, criterion, state, threshold)
        left = running.gone(after)
        gone = running.words.index_select(0, left)
        trace.append(Visit(number, running, gone, number < network.spec.layers))
        if len(gone):  # otherwise there may be no head
            of_gone = of_words.index_select(0, left)
            encoder = network.encoder
            answer = logits_of_words(network, number, gone, of_gone, encoder, kept, running)
            logits.index_copy_(0, gone, answer)
            exit_layer.index_fill_(0, gone, number)
        if not len(after.words):
            break
        kept, running = running.rows_for(after, kept), after
    cost = price(network.spec, network.tags, trace, criterion, network.head_window)
    return Exits(logits, exit_layer, *cost, states)


def simulate_late_heads(
    network: ExitNetwork,
    batch: Batch,
    logits: Tensor,
    states: Tensor,
    criterion: Criterion,
    threshold: float,
) -> Tuple[Tensor, Cost]:
    """Let words exit by their states at full depth: see ``network.simulate.simulate_exits``."""
    running, state = Running.all_of(batch), criterion.start(batch)
    trace: List[Visit] = []
    exit_layer = torch.zeros_like(batch.piece_of_word)
    for number in range(1, network.spec.layers + 1):
        of_words = states[number - 1, running.words]
        after = _selected(network, number, of_words, running, criterion, state, threshold)
        gone = running.words.index_select(0, running.gone(after))
        exit_layer.index_fill_(0, gone, number)
        trace.append(Visit(number, running, gone, number < network.spec.layers))
        running = after
        if not len(running.words):
            break
    return exit_layer, price(network.spec, network.tags, trace, criterion, network.head_window)


LATE_HEADS = OwnLoop(run_late_heads, simulate_late_heads)


def _selected(
    network: ExitNetwork,
    number: int,
    of_words: Tensor,
    running: Running,
    criterion: Criterion,
    state: object,
    threshold: float,
) -> Running:
    """RETURNS (Running): What goes on after a layer: nothing after the last one."""
    words, batch = running.words, running.batch
    if number == network.spec.layers:
        return running.after(torch.ones_like(words, dtype=torch.bool))
    unasked = of_words.new_zeros(len(words), network.tags)
    step = Step(number, words, unasked, batch, threshold, network.extra_parameters, of_words)
    leaving = criterion.leave(step, state)
    return running.after(leaving)


def repeated(batch: Batch, copies: int) -> Batch:
    """RETURNS (Batch): All windows several times: the whole batch, repeated.

    batch (Batch): The batch.
    copies (int): The number of repetitions.
    """
    device = batch.ids.device

    def shifted(values: Tensor, step: int) -> Tensor:
        shift = step * torch.arange(copies, device=device)
        return (values + shift[:, None]).flatten()

    # The units of special tokens follow those of all words.
    special = batch.unit_of_piece >= batch.units
    units = torch.where(
        special.repeat(copies),
        shifted(batch.unit_of_piece + (copies - 1) * batch.units, batch.windows),
        shifted(batch.unit_of_piece, batch.units),
    )
    return replace(
        batch,
        ids=batch.ids.repeat(copies),
        offsets=batch.offsets.repeat(copies),
        window_of_piece=shifted(batch.window_of_piece, batch.windows),
        unit_of_piece=units,
        piece_of_word=shifted(batch.piece_of_word, len(batch.ids)),
        window_of_word=shifted(batch.window_of_word, batch.windows),
        unit_of_word=shifted(batch.unit_of_word, batch.units),
        lengths=batch.lengths * copies,
        word_counts=batch.word_counts * copies,
        units=batch.units * copies,
    )


def run_tries(
    network: ExitNetwork,
    batch: Batch,
    halting: Halting,
    copies: int,
    branch_after: int,
    dropout: float,
) -> Tuple[Tensor, Tensor]:
    """Run all heads on several tries of every window: as
    ``network.all_heads.run_all_heads_halting`` would on the repeated batch, but what all tries
    share is computed once.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    halting (Halting): Decides which words exit.
    copies (int): How often every window is tried.
    branch_after (int): The layer up to which the tries share one computation. No word exits before
        it.
    dropout (float): Dropout rate. The logits that ``halting`` sees have no dropout of the heads.
    RETURNS (Tuple[Tensor, Tensor]): The logits, and the number of the head at which each word
        exited, for all words of the repeated batch. *Shapes:* ``(heads, words, tags)``,
        ``(words,)``
    """
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    answers: List[Tensor] = []
    before = Running.all_of(batch)
    for number in range(1, branch_after + 1):
        kept = network.encoder.run_layer(number, kept, before, dropout)
        of_words = network.encoder.states(kept.index_select(0, batch.piece_of_word))
        if number not in network.exit_layers:
            continue
        seen = around(network.reach(number), of_words, batch)
        answers.append(network.logits(number, seen, dropout).repeat(copies, 1))
    batch = repeated(batch, copies)
    running = Running.all_of(batch)
    everything = kept = kept.repeat(copies, 1)
    of_words = of_words.repeat(copies, 1)
    exit_layer = torch.full_like(batch.piece_of_word, network.spec.layers)
    for number in range(branch_after, network.spec.layers):
        if len(running.words) and number in network.exit_layers:
            after = let_leave(network, halting, number, of_words, running)
            exit_layer.index_fill_(0, running.words, number)
            exit_layer.index_fill_(0, after.words, network.spec.layers)
            kept, running = running.rows_for(after, kept), after
        if len(running.words):
            kept = network.encoder.run_layer(number + 1, kept, running, dropout)
            everything = running.written_into(everything, kept)
        of_words = network.encoder.states(everything.index_select(0, batch.piece_of_word))
        if number + 1 not in network.exit_layers:
            continue
        seen = around(network.reach(number + 1), of_words, batch, not_dropped(running))
        answers.append(network.logits(number + 1, seen, dropout))
    return torch.stack(answers), network.numbers_of_heads(exit_layer)
