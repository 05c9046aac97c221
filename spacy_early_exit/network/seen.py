"""What exit heads see: the state of a word and, if the heads are made for it, those of the words
beside it.

Early layers have hardly looked around, so that a name's second word is hard to know by its own
state. Its neighbours' states are there anyway: of those that have exited, the states they kept.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Batch, Running
from .encoder import Encoder
from .exit_network import ExitNetwork


def around(reach: int, states: Tensor, batch: Batch, alive: Optional[Tensor] = None) -> Tensor:
    """Put the states of all words beside those of their neighbours.

    reach (int): How many words on each side are seen.
    states (Tensor): The states of all words of the batch. *Shape:* ``(words, hidden_size)``
    batch (Batch): The batch.
    alive (Optional[Tensor]): Which words were not dropped from the context: others are not seen.
        None: all. *Shape:* ``(words,)``, bool
    RETURNS (Tensor): From the first neighbour to the last, zeros where there is none. *Shape:*
        ``(words, (2 * reach + 1) * hidden_size)``
    """
    if not reach:
        return states
    words = torch.arange(batch.words, device=states.device)
    parts = []
    for step in range(-reach, reach + 1):
        beside, there = _beside(batch, words, step, alive)
        seen = states.index_select(0, beside).where(there[:, None], 0.0) if step else states
        parts.append(seen)
    return torch.cat(parts, dim=1)


def logits_of_words(
    network: ExitNetwork,
    number: int,
    words: Tensor,
    states: Tensor,
    encoder: Encoder,
    kept: Tensor,
    running: Running,
) -> Tensor:
    """Apply the exit head of a layer to words that it ran for: as ``ExitNetwork.logits`` does
    to what ``around`` returns, but rows are multiplied where they are, in place of being copied
    together first.

    network (ExitNetwork): The network that has the heads.
    number (int): The layer, counted from 1.
    words (Tensor): The words. *Shape:* ``(some words,)``
    states (Tensor): Their states. *Shape:* ``(some words, hidden_size)``
    encoder (Encoder): The encoder that ran.
    kept (Tensor): What the context keeps. *Shape:* ``(context, hidden_size)``
    running (Running): What is still computed.
    RETURNS (Tensor): *Shape:* ``(some words, tags)``
    """
    reach = network.reach(number)
    if not reach:
        return network.logits(number, states)
    head, alive = network.head(number), not_dropped(running)
    weights = head.weight.chunk(2 * reach + 1, dim=1)
    logits = F.linear(states, weights[reach], head.bias)
    for step in range(-reach, reach + 1):
        if step:
            beside, there = _beside(running.batch, words, step, alive)
            rows = encoder.states(kept.index_select(0, running.rows_of(beside)))
            # Not a product: what another text's rows hold, be it NaN, must not get in.
            logits += F.linear(rows, weights[reach + step]).where(there[:, None], 0.0)
    return logits


def _beside(
    batch: Batch, words: Tensor, step: int, alive: Optional[Tensor]
) -> Tuple[Tensor, Tensor]:
    """RETURNS (Tuple[Tensor, Tensor]): The word so many places on from each of some words, and
    whether there is one in the same window. If not, the former is any word. *Shapes:*
    ``(some words,)``
    """
    beside = (words + step).clamp(0, batch.words - 1)
    same = batch.window_of_word[beside] == batch.window_of_word[words]
    there = same & (beside - words == step)
    return beside, there if alive is None else there & alive[beside]


def not_dropped(running: Running) -> Optional[Tensor]:
    """RETURNS (Optional[Tensor]): Which words were not dropped from the context; None: all.
    *Shape:* ``(words,)``, bool

    running (Running): What is still computed.
    """
    if running.batch.kv == "copy":
        return None
    nothing = torch.zeros_like(running.batch.piece_of_word, dtype=torch.bool)
    return nothing.index_fill_(0, running.words, True)
