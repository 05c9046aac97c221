"""A linear-chain conditional random field over the exit logits.

Source: Lafferty, McCallum, Pereira, "Conditional Random Fields", ICML 2001.
"""

from dataclasses import dataclass, replace
from typing import Dict, List, Sequence

import torch
from torch import Tensor

from ..network.arrays import Floats, Ints
from ..tags import MISSING, grammar
from .base import FORBIDDEN, Decoder, Learned
from .paths import best_paths


@dataclass(frozen=True)
class CRFDecoder:
    """The sequence of tags with the largest sum of logits and learnt transitions.

    Invalid transitions are forbidden, both in training and in decoding. How a text may begin and
    end is only restricted in decoding: in training it is learnt.

    loss_weight (float): Weight of the likelihood in training, next to the heads' own losses.
    scheme (str): Which tags may follow which: see ``tags``.
    """

    loss_weight: float
    scheme: str = "bio"

    def for_scheme(self, scheme: str) -> "CRFDecoder":
        """RETURNS (CRFDecoder): The same for tags of another scheme."""
        return replace(self, scheme=scheme)

    def parameters(self, tags: int) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): The scores of transitions from a tag to the next, of first
        words and of last words. *Shapes:* ``(tags, tags)``, ``(tags,)``, ``(tags,)``
        """
        return {
            "transitions": torch.zeros(tags, tags),
            "start": torch.zeros(tags),
            "end": torch.zeros(tags),
        }

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts by Viterbi, step by step for all of them together.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): Its learnt parameters.
        RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``
        """
        start, transitions, end = (
            learned[name].detach().cpu().double().numpy()
            for name in ("start", "transitions", "end")
        )
        valid = grammar(self.scheme, len(start))
        return best_paths(
            logits,
            start + FORBIDDEN * ~valid.begins,
            transitions + FORBIDDEN * ~valid.follows,
            end + FORBIDDEN * ~valid.ends,
        )

    def loss(self, logits: Tensor, tags: Tensor, texts: Tensor, learned: Learned) -> Tensor:
        """Compute the negative log-likelihood; missing tags are summed over.

        logits (Tensor): The exit logits. *Shape:* ``(words, tags)``
        tags (Tensor): The right tag of each word, ``MISSING`` if it is not known. *Shape:*
            ``(words,)``
        texts (Tensor): The text of each word. *Shape:* ``(words,)``
        learned (Learned): Its learnt parameters, with gradients.
        RETURNS (Tensor): The weighted loss, summed over texts. *Shape:* ``()``
        """
        if not len(logits):
            return logits.sum()
        forbidden = torch.from_numpy(~grammar(self.scheme, logits.shape[1]).follows)
        steps = learned["transitions"] + FORBIDDEN * forbidden.to(logits)
        wrong = torch.ones_like(logits).scatter_(1, tags.clamp(min=0)[:, None], 0.0)
        annotated = logits + FORBIDDEN * wrong * (tags != MISSING)[:, None]
        # The annotated sequences next to all sequences: one recursion for both.
        both = torch.cat([annotated, logits])
        number = torch.unique_consecutive(texts, return_inverse=True)[1]
        count = int(number[-1]) + 1
        sums = log_partition(
            both, torch.cat([number, number + count]), steps, learned["start"], learned["end"]
        )
        return self.loss_weight * (sums[count:] - sums[:count]).sum()


def log_partition(
    logits: Tensor, texts: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """Sum over all sequences of tags.

    logits (Tensor): *Shape:* ``(words, tags)``
    texts (Tensor): The text of each word: 0, 1, ..., ascending. *Shape:* ``(words,)``
    transitions (Tensor): Scores from a tag to the next. *Shape:* ``(tags, tags)``
    start (Tensor): Scores of first words. *Shape:* ``(tags,)``
    end (Tensor): Scores of last words. *Shape:* ``(tags,)``
    RETURNS (Tensor): The logarithm of the sum, for each text. *Shape:* ``(texts,)``
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


def make_crf_decoder(loss_weight: float = 1.0) -> Decoder:
    """Make the decoder ``spacy-early-exit.CRFDecoder.v1``. It has to be trained: its transitions
    are part of the pipeline's weights.

    loss_weight (float): Weight of its likelihood in training, next to the heads' own losses.
    RETURNS (Decoder): The decoder.
    RAISES (ValueError): If an argument makes no sense.
    """
    if not 0 < loss_weight < float("inf"):
        raise ValueError(f"CRFDecoder: loss_weight must be above 0, not {loss_weight}.")
    return CRFDecoder(loss_weight)
