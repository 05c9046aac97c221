"""AIN: mean-field inference in a conditional random field, unrolled for some iterations.

Words tell adjacent words what they believe, all at once and several times: no step has to wait for
the word before. Source: EMNLP 2020, "AIN: Fast and Accurate Sequence Labeling with Approximate
Inference Network".
"""

from dataclasses import dataclass, replace
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..decoders.base import Decoder, Learned
from ..decoders.viterbi import Viterbi
from ..network.arrays import Floats, Ints
from ..tags import MISSING


@dataclass(frozen=True)
class Links:
    """Which words tell which, within texts.

    transitions (List[Tuple[Tensor, Tensor]]): Scores from words 1, 2, ... before a word; and
        whether those belong to its text. *Shapes:* ``(tags, tags)``, ``(words - distance, 1)``
    ends (Tensor): What the ends of a text tell the words next to them. *Shape:* ``(words, tags)``
    """

    transitions: List[Tuple[Tensor, Tensor]]
    ends: Tensor

    @classmethod
    def of(cls, texts: Tensor, learned: Learned, order: int) -> "Links":
        """Find out which words tell which.

        texts (Tensor): The text of each word. The words of a text are adjacent. *Shape:*
            ``(words,)``
        learned (Learned): ``transitions_j`` between words that are j apart; ``start_j`` and
            ``end_j`` of the j-th word from either end of a text; for j from 1 on.
        order (int): How far apart words that tell each other may be.
        RETURNS (Links): The links.
        """
        lengths = torch.unique_consecutive(texts, return_counts=True)[1]
        number = torch.arange(len(lengths), device=texts.device).repeat_interleave(lengths)
        ends = lengths.cumsum(0)[number]
        words = torch.arange(len(texts), device=texts.device)
        from_start, from_end = words - (ends - lengths[number]), ends - 1 - words
        transitions: List[Tuple[Tensor, Tensor]] = []
        ends = learned["start_1"].new_zeros(len(texts), len(learned["start_1"]))
        for apart in range(1, order + 1):
            beside = (from_start[apart:] >= apart).to(ends.dtype)[:, None]
            transitions.append((learned[f"transitions_{apart}"], beside))
            ends = ends + (from_start == apart - 1)[:, None] * learned[f"start_{apart}"]
            ends = ends + (from_end == apart - 1)[:, None] * learned[f"end_{apart}"]
        return cls(transitions, ends)

    def messages(self, beliefs: Tensor) -> Tensor:
        """Sum what words hear.

        beliefs (Tensor): A distribution for each word. *Shape:* ``(words, tags)``
        RETURNS (Tensor): The sums. *Shape:* ``(words, tags)``
        """
        heard = self.ends.clone()
        for apart, (transitions, beside) in enumerate(self.transitions, start=1):
            heard[apart:] += beside * (beliefs[:-apart] @ transitions)
            heard[:-apart] += beside * (beliefs[apart:] @ transitions.T)
        return heard


def mean_field(logits: Tensor, links: Links, iterations: int) -> Tensor:
    """Let words tell each other what they believe.

    logits (Tensor): The logits of each word by itself. *Shape:* ``(words, tags)``
    links (Links): Which words tell which.
    iterations (int): How often; 0: never, and the logits are returned as they are.
    RETURNS (Tensor): Beliefs, as logits. *Shape:* ``(words, tags)``
    """
    beliefs = logits
    for _ in range(iterations):
        beliefs = logits + links.messages(beliefs.softmax(1))
    return beliefs


@dataclass(frozen=True)
class AINDecoder:
    """Each word's best tag after some iterations of mean-field inference, as a valid sequence.

    iterations (int): Number of iterations.
    order (int): How far apart words that tell each other may be.
    scheme (str): Which tags may follow which: see ``tags``.
    """

    iterations: int
    order: int
    scheme: str = "bio"

    def for_scheme(self, scheme: str) -> "AINDecoder":
        """RETURNS (AINDecoder): The same for tags of another scheme."""
        return replace(self, scheme=scheme)

    def parameters(self, tags: int) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): What ``Links.of`` takes, all 0. *Shapes:*
        ``(tags, tags)`` or ``(tags,)``
        """
        found = {}
        for distance in range(1, self.order + 1):
            found[f"transitions_{distance}"] = torch.zeros(tags, tags)
            found[f"start_{distance}"] = torch.zeros(tags)
            found[f"end_{distance}"] = torch.zeros(tags)
        return found

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): Its learnt parameters.
        RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``
        """
        lengths = [len(text) for text in logits]
        if not sum(lengths):
            return [np.zeros(0, dtype=np.int64) for _ in logits]
        texts = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        known = {name: parameter.detach().cpu() for name, parameter in learned.items()}
        own = torch.from_numpy(np.concatenate(logits))
        beliefs = mean_field(own, Links.of(texts, known, self.order), self.iterations).numpy()
        return Viterbi(self.scheme)(np.split(beliefs, np.cumsum(lengths)[:-1]), {})

    def loss(self, logits: Tensor, tags: Tensor, texts: Tensor, learned: Learned) -> Tensor:
        """Compute the cross-entropy of the beliefs, through all iterations.

        logits (Tensor): The exit logits. *Shape:* ``(words, tags)``
        tags (Tensor): The right tag of each word, ``MISSING`` if it is not known. *Shape:*
            ``(words,)``
        texts (Tensor): The text of each word. *Shape:* ``(words,)``
        learned (Learned): Its learnt parameters, with gradients.
        RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``
        """
        beliefs = mean_field(logits, Links.of(texts, learned, self.order), self.iterations)
        return F.cross_entropy(beliefs, tags, ignore_index=MISSING, reduction="sum")


def make_ain_decoder(iterations: int = 3, order: int = 1) -> Decoder:
    """Make the decoder ``spacy-early-exit.AINDecoder.v1``. It has to be trained: its transitions
    are part of the pipeline's weights.

    iterations (int): How often words tell each other what they believe; 0: never.
    order (int): 1: adjacent words tell each other; 2: words two apart do, too.
    RETURNS (Decoder): The decoder.
    RAISES (ValueError): If an argument makes no sense.
    """
    if iterations < 0:
        raise ValueError(f"AINDecoder: iterations must be 0 or more, not {iterations}.")
    if order < 1:
        raise ValueError(f"AINDecoder: order must be 1 or more, not {order}.")
    return AINDecoder(iterations, order)
