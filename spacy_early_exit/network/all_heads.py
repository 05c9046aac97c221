"""Every head for every word: what training needs, with everything at full depth or with words that
leave as they will when predicting.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from typing import Iterator, List, Protocol, Tuple

import torch
from torch import Tensor

from .batch import Batch, Running
from .exit_network import ExitNetwork


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
        kept = network.encoder.run_layer(number, kept, running, dropout)
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
            kept = network.encoder.run_layer(number, kept, running, dropout)
            everything = running.written_into(everything, kept)
        of_words = network.encoder.states(everything.index_select(0, batch.piece_of_word))
        answers.append(network.logits(number, of_words, dropout))
        if number == network.spec.layers or not len(running.words):
            continue
        after = let_leave(network, halting, number, of_words, running)
        exit_layer[running.words[running.departed(after)]] = number
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
