"""SENTEE and TOKEE: leave where the normalised entropy is below the threshold.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import Literal, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import Criterion, Step
from ..network.tagger import uncertainty

LeftWords = Literal["ignore", "hold"]


@dataclass(frozen=True)
class SentenceExit:
    """SENTEE: a window leaves when its most uncertain word is below the threshold."""

    has_threshold = True
    watches_left_words = False

    def start(self, batch: Batch) -> None:
        """It remembers nothing."""

    def leave(self, step: Step, state: None) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may leave. *Shape:* ``(words,)``, bool"""
        window = step.batch.window_of_word[step.words]
        worst = torch.zeros(step.batch.windows, device=window.device)
        worst.scatter_reduce_(0, window, uncertainty(step.logits), "amax")
        return worst[window] < step.threshold


@dataclass(frozen=True)
class TokenExit:
    """TOKEE: a word leaves when it and its neighbours are below the threshold.

    window (int): How many words to each side are its neighbours, within its window of
        wordpieces.
    left_words (LeftWords): Whether words that already left still count: ``"ignore"``: they do
        not; ``"hold"``: they do, with the uncertainty that the running layer's head has about
        their kept state, as in the authors' code.
    """

    window: int
    left_words: LeftWords
    has_threshold = True

    @property
    def watches_left_words(self) -> bool:
        """RETURNS (bool): Whether heads are run on words that already left, too."""
        return self.left_words == "hold"

    def start(self, batch: Batch) -> Tuple[Tensor, int]:
        """Lay all words on one line, with a gap between windows that no neighbourhood spans.

        batch (Batch): The batch.
        RETURNS (Tuple[Tensor, int]): Place of each word on that line, and how far to look: no
            further than the longest window. *Shape:* ``(words,)``
        """
        words = torch.arange(batch.words, device=batch.window_of_word.device)
        reach = min(self.window, int(torch.bincount(batch.window_of_word).max()))
        return words + reach * batch.window_of_word, reach

    def leave(self, step: Step, state: Tuple[Tensor, int]) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may leave. *Shape:* ``(words,)``, bool"""
        line_places, reach = state
        own = uncertainty(step.logits)
        if reach == 0:
            return own < step.threshold
        line = own.new_zeros(int(line_places[-1]) + 1)  # a gap, or who left, holds nobody
        places = line_places[step.words]
        line[places] = own
        worst = F.max_pool1d(line[None], 2 * reach + 1, 1, reach)[0]
        return worst[places] < step.threshold


def make_sentence_exit() -> Criterion:
    """Make the criterion ``spacy-early-exit.SentenceExit.v1``: whole windows leave.

    RETURNS (Criterion): The criterion.
    """
    return SentenceExit()


def make_token_exit(window: int = 1, left_words: LeftWords = "ignore") -> Criterion:
    """Make the criterion ``spacy-early-exit.TokenExit.v1``: single words leave.

    window (int): How many words to each side must be certain, too. At least 0.
    left_words (LeftWords): Whether words that already left still count: ``"ignore"`` or
        ``"hold"``.
    RETURNS (Criterion): The criterion.
    RAISES (ValueError): If an argument makes no sense.
    """
    if window < 0:
        raise ValueError(f"TokenExit: window must be 0 or more words, not {window}.")
    if left_words not in ("ignore", "hold"):
        raise ValueError(f"TokenExit: left_words must be 'ignore' or 'hold', not {left_words!r}.")
    return TokenExit(window=window, left_words=left_words)
