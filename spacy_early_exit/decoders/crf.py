"""A linear-chain conditional random field over the exit logits.

Source: Lafferty, McCallum, Pereira, "Conditional Random Fields", ICML 2001.
"""

from dataclasses import dataclass
from typing import Dict, List, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..network.window import Ints
from ..tags import MISSING
from .base import Decoder, Floats, Learned

FORBIDDEN = -1e4  # finite: a forbidden transition in the annotation must not make losses infinite


@dataclass(frozen=True)
class CRFDecoder:
    """The sequence of tags with the largest sum of logits and learnt transitions.

    Transitions that are no valid BIO are forbidden, in training as in decoding. Only that a text
    can't begin with ``I-X`` is for decoding alone: in training a window may begin within an entity.

    loss_weight (float): Weight of the likelihood in training, beside the heads' own losses.
    """

    loss_weight: float

    def parameters(self, tags: int) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): From a tag to the next, and those of first and last words.
        *Shapes:* ``(tags, tags)``, ``(tags,)``, ``(tags,)``
        """
        return {
            "transitions": torch.zeros(tags, tags),
            "start": torch.zeros(tags),
            "end": torch.zeros(tags),
        }

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts by Viterbi, all of them step by step together.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): What it has learnt.
        RETURNS (List[Ints]): The tags of each. *Shape:* ``(words,)``
        """
        transitions = learned["transitions"].detach()
        start, end = learned["start"].detach(), learned["end"].detach()
        forbidden = forbidden_transitions(len(start))
        found: List[Ints] = [np.zeros(0, dtype=np.int64)] * len(logits)
        some = [number for number, text in enumerate(logits) if len(text)]
        if some:
            paths = best_paths(
                [logits[number] for number in some],
                (transitions.cpu() + forbidden).double().numpy(),
                # A text begins as if behind an O.
                (start.cpu() + forbidden[0]).double().numpy(),
                end.cpu().double().numpy(),
            )
            for number, path in zip(some, paths):
                found[number] = path
        return found

    def loss(self, logits: Tensor, tags: Tensor, texts: Tensor, learned: Learned) -> Tensor:
        """Compute the negative log-likelihood; tags that are missing are summed over.

        logits (Tensor): The exit logits. *Shape:* ``(words, tags)``
        tags (Tensor): The right tag of each word, ``MISSING`` where it is not known.
            *Shape:* ``(words,)``
        texts (Tensor): The text of each word. *Shape:* ``(words,)``
        learned (Learned): What it has learnt, with gradients.
        RETURNS (Tensor): Weighted, summed over texts. *Shape:* ``()``
        """
        if not len(logits):
            return logits.sum()
        forbidden = forbidden_transitions(logits.shape[1]).to(logits.device)
        steps = learned["transitions"] + forbidden
        wrong = torch.ones_like(logits).scatter_(1, tags.clamp(min=0)[:, None], 0.0)
        annotated = logits + FORBIDDEN * wrong * (tags != MISSING)[:, None]
        # What is annotated beside everything: one recursion for both.
        both = torch.cat([annotated, logits])
        number = torch.unique_consecutive(texts, return_inverse=True)[1]
        count = int(number[-1]) + 1
        sums = log_partition(
            both, torch.cat([number, number + count]), steps, learned["start"], learned["end"]
        )
        return self.loss_weight * (sums[count:] - sums[:count]).sum()


def forbidden_transitions(tags: int) -> Tensor:
    """RETURNS (Tensor): 0 where a tag may follow another, ``FORBIDDEN`` where ``I-X`` follows
    neither ``B-X`` nor ``I-X``. *Shape:* ``(tags, tags)``
    """
    forbidden = torch.zeros(tags, tags)
    forbidden[:, 2::2] = FORBIDDEN
    for inside in range(2, tags, 2):
        forbidden[[inside - 1, inside], inside] = 0.0
    return forbidden


def log_partition(
    logits: Tensor, texts: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """Sum over all sequences of tags.

    logits (Tensor): *Shape:* ``(words, tags)``
    texts (Tensor): The text of each word: 0, 1, ..., ascending. *Shape:* ``(words,)``
    transitions (Tensor): From a tag to the next. *Shape:* ``(tags, tags)``
    start (Tensor): Of first words. *Shape:* ``(tags,)``
    end (Tensor): Of last words. *Shape:* ``(tags,)``
    RETURNS (Tensor): Its logarithm for each text. *Shape:* ``(texts,)``
    """
    lengths = torch.bincount(texts)
    offsets = torch.arange(len(texts), device=texts.device) - (lengths.cumsum(0) - lengths)[texts]
    longest = int(lengths.max())
    padded = logits.new_zeros(len(lengths), longest, logits.shape[1])
    padded = padded.index_put((texts, offsets), logits)
    runs = torch.arange(longest, device=texts.device) < lengths[:, None]  # (texts, longest)
    total = padded[:, 0] + start
    for step in range(1, longest):
        after = (total[:, :, None] + transitions).logsumexp(1) + padded[:, step]
        total = torch.where(runs[:, step, None], after, total)
    return (total + end).logsumexp(1)


def best_paths(
    logits: Sequence[Floats],
    transitions: "NDArray[np.float64]",
    start: "NDArray[np.float64]",
    end: "NDArray[np.float64]",
) -> List[Ints]:
    """Viterbi, all texts step by step together.

    logits (Sequence[Floats]): Of each text, none empty. *Shape:* ``(words, tags)``
    transitions (NDArray[np.float64]): From a tag to the next. *Shape:* ``(tags, tags)``
    start (NDArray[np.float64]): Of first words. *Shape:* ``(tags,)``
    end (NDArray[np.float64]): Of last words. *Shape:* ``(tags,)``
    RETURNS (List[Ints]): The best sequence of each. *Shape:* ``(words,)``
    """
    order = sorted(range(len(logits)), key=lambda text: -len(logits[text]))
    lengths = np.array([len(logits[text]) for text in order], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    scores = np.concatenate([logits[text] for text in order]).astype(np.float64)
    running = [int(np.searchsorted(-lengths, -step, side="left")) for step in range(lengths[0])]
    before = np.zeros(scores.shape, dtype=np.int64)  # the best tag of the word before
    last = np.zeros(len(order), dtype=np.int64)
    total = start + scores[starts]
    for step, texts in enumerate(running):
        rows = starts[:texts] + step
        if step:
            steps = total[:texts, :, None] + transitions
            before[rows] = best = steps.argmax(1)
            total = np.take_along_axis(steps, best[:, None], axis=1)[:, 0] + scores[rows]
        total -= total.max(1, keepdims=True)  # long sums stay exact
        ends = lengths[:texts] == step + 1
        last[:texts][ends] = (total[ends] + end).argmax(1)
    tag, answer = last, np.zeros(len(scores), dtype=np.int64)
    for step, texts in reversed(list(enumerate(running))):
        rows = starts[:texts] + step
        answer[rows] = tag[:texts]
        tag[:texts] = before[rows, tag[:texts]]
    found: List[Ints] = [answer[:0]] * len(order)
    for text, first, length in zip(order, starts, lengths):
        found[text] = answer[first : first + length]
    return found


def make_crf_decoder(loss_weight: float = 1.0) -> Decoder:
    """Make the decoder ``spacy-early-exit.CRFDecoder.v1``. It has to be trained: its transitions
    are part of the pipeline's weights.

    loss_weight (float): Weight of its likelihood in training, beside the heads' own losses.
    RETURNS (Decoder): The decoder.
    RAISES (ValueError): If an argument makes no sense.
    """
    if not 0 < loss_weight < float("inf"):
        raise ValueError(f"CRFDecoder: loss_weight must be above 0, not {loss_weight}.")
    return CRFDecoder(loss_weight)
