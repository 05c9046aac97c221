"""SENTEE and TOKEE: exit when the normalised entropy is below the threshold.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass, replace

from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import Criterion, Step
from ..network.exit_network import uncertainty
from ..retired import reads_retired
from .base import CriterionBase
from .neighbours import Neighbourhoods, largest_by_window


@dataclass(frozen=True)
class SentenceExit(CriterionBase):
    """SENTEE: a window exits when its most uncertain word is below the threshold."""

    def leave(self, step: Step, state: None) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""
        worst = largest_by_window(step.batch, step.words, uncertainty(step.logits))
        return worst[step.batch.window_of_word[step.words]] < step.threshold


@dataclass(frozen=True)
class TokenExit(CriterionBase):
    """TOKEE: a word exits when it and its neighbours are below the threshold. Words that have
    already exited no longer count.

    window (int): How many words on each side are its neighbours, within its window of wordpieces.
    """

    window: int

    def with_window(self, window: int) -> "TokenExit":
        """RETURNS (TokenExit): The same with another neighbourhood."""
        return replace(self, window=window)

    def start(self, batch: Batch) -> Neighbourhoods:
        """RETURNS (Neighbourhoods): The words' neighbours."""
        return Neighbourhoods.of(batch, self.window)

    def leave(self, step: Step, state: Neighbourhoods) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""
        return state.largest(step.words, uncertainty(step.logits)) < step.threshold


def make_sentence_exit() -> Criterion:
    """Make the criterion ``spacy-early-exit.SentenceExit.v1``: whole windows exit.

    RETURNS (Criterion): The criterion.
    """
    return SentenceExit()


@reads_retired("TokenExit")
def make_token_exit(window: int = 1) -> Criterion:
    """Make the criterion ``spacy-early-exit.TokenExit.v1``: single words exit.

    window (int): How many words on each side must be certain, too. At least 0.
    RETURNS (Criterion): The criterion.
    RAISES (ValueError): If an argument makes no sense.
    """
    if window < 0:
        raise ValueError(f"TokenExit: window must be 0 or more words, not {window}.")
    return TokenExit(window)
