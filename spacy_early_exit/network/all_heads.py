"""Every head for every word, as training needs it: with everything at full depth, or with words
exiting as they will when predicting.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from typing import Iterable, Iterator, List, Protocol, Tuple

import torch
from torch import Tensor

from .batch import Batch, Running
from .exit_network import ExitNetwork
from .seen import around, not_dropped


def run_all_heads(
    network: ExitNetwork, batch: Batch, dropout: float = 0.0, detach_early_heads: bool = False
) -> Tensor:
    """Run all layers on everything and every head on every word, for joint training.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    dropout (float): Dropout rate, of embeddings, attention, feed-forward layers and heads.
    detach_early_heads (bool): Whether only the deepest head's gradient reaches the encoder.
    RETURNS (Tensor): The logits. *Shape:* ``(heads, words, tags)``
    """
    last = network.spec.layers
    states = (
        of_words.detach() if detach_early_heads and number < last else of_words
        for number, of_words in enumerate(run_all_layers(network, batch, dropout), start=1)
    )
    return all_logits(network, batch, states, dropout)


def all_logits(
    network: ExitNetwork,
    batch: Batch,
    states: Iterable[Tensor],
    dropout: float = 0.0,
    first: int = 1,
) -> Tensor:
    """Apply heads to the states of all words at full depth.

    network (ExitNetwork): The network that has the heads.
    batch (Batch): The batch.
    states (Iterable[Tensor]): The words' states, layer by layer. *Shapes:*
        ``(words, hidden_size)``
    dropout (float): Dropout rate.
    first (int): The layer of the first states, counted from 1.
    RETURNS (Tensor): The logits. *Shape:* ``(heads, words, tags)``
    """
    answers = []
    for number, of_words in enumerate(states, start=first):
        if number not in network.exit_layers:
            continue
        seen = around(network.reach(number), of_words, batch)
        answers.append(network.logits(number, seen, dropout))
    return torch.stack(answers)


def run_all_layers(network: ExitNetwork, batch: Batch, dropout: float = 0.0) -> Iterator[Tensor]:
    """Run all layers on everything.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    dropout (float): Dropout rate.
    YIELDS (Tensor): The words' states after each layer. *Shape:* ``(words, hidden_size)``
    """
    running = Running.all_of(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    for number in range(1, network.spec.layers + 1):
        kept = network.encoder.run_layer(number, kept, running, dropout)
        yield network.encoder.states(kept.index_select(0, batch.piece_of_word))


class Halting(Protocol):
    """Decides which words exit after a layer while training."""

    def leave(self, layer: int, words: Tensor, logits: Tensor, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words exit. *Shape:* ``(words,)``, bool

        layer (int): The layer, counted from 1.
        words (Tensor): The words that have not exited. *Shape:* ``(words,)``
        logits (Tensor): This layer's logits for them. *Shape:* ``(words, tags)``
        states (Tensor): Their states after this layer. *Shape:* ``(words, hidden_size)``
        """


def run_all_heads_halting(
    network: ExitNetwork, batch: Batch, halting: Halting, dropout: float = 0.0
) -> Tuple[Tensor, Tensor]:
    """Train as prediction will run: words exit, keep their state, and are attended to.

    Every head answers for every word, from the state that the word has by then: words that have
    exited have the state they kept. Gradients flow through the kept states.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    halting (Halting): Decides which words exit.
    dropout (float): Dropout rate. The logits that ``halting`` sees have no dropout of the heads.
    RETURNS (Tuple[Tensor, Tensor]): The logits, and the number, counted from 1, of the head at
        which each word exited. *Shapes:* ``(heads, words, tags)``, ``(words,)``
    """
    running = Running.all_of(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    everything = kept  # of all wordpieces, including those of windows that have ended
    exit_head = torch.zeros_like(batch.piece_of_word)
    answers: List[Tensor] = []
    for number in range(1, network.spec.layers + 1):
        if len(running.words):
            kept = network.encoder.run_layer(number, kept, running, dropout)
            everything = running.written_into(everything, kept)
        if number not in network.exit_layers:
            continue
        exit_head.index_fill_(0, running.words, network.number_of_head(number))
        of_words = network.encoder.states(everything.index_select(0, batch.piece_of_word))
        seen = around(network.reach(number), of_words, batch, not_dropped(running))
        answers.append(network.logits(number, seen, dropout))
        if number == network.spec.layers or not len(running.words):
            continue
        after = let_leave(network, halting, number, of_words, running)
        kept, running = running.rows_for(after, kept), after
    return torch.stack(answers), exit_head


def let_leave(
    network: ExitNetwork, halting: Halting, number: int, of_words: Tensor, running: Running
) -> Running:
    """Let words exit after a layer while training.

    network (ExitNetwork): The network.
    halting (Halting): Decides which words exit.
    number (int): The layer, counted from 1.
    of_words (Tensor): What exit heads read, for all words. *Shape:* ``(words, hidden_size)``
    running (Running): What is still computed.
    RETURNS (Running): What is still computed after that.
    """
    # The decision is made in fp32, even in mixed precision.
    of_words = of_words.float()
    states = of_words.index_select(0, running.words)
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        alive = not_dropped(running)
        seen = around(network.reach(number), of_words, running.batch, alive)
        logits = network.logits(number, seen.index_select(0, running.words))
        leaving = halting.leave(number, running.words, logits, states)
    return running.after(leaving)
