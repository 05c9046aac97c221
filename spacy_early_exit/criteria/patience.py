"""PABEE: exit when the prediction has stayed the same for some layers.

Source: NeurIPS 2020, "BERT Loses Patience: Fast and Robust Inference with Early Exit", which
classifies sentences one at a time. Here every word has its own counter, so that batches of any size
give the same answers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import Criterion, Step
from ..network.exit_network import uncertainty
from ..retired import reads_retired
from .base import CriterionBase
from .neighbours import Neighbourhoods


@dataclass(frozen=True)
class Streaks:
    """What patience remembers of a batch. Its tensors are overwritten after every layer.

    tags (Tensor): The last predicted tag; -1: none yet. *Shape:* ``(words,)``
    lengths (Tensor): How many comparisons in a row have agreed. *Shape:* ``(words,)``
    neighbourhoods (Neighbourhoods): The words' neighbours.
    """

    tags: Tensor
    lengths: Tensor
    neighbourhoods: Neighbourhoods


@dataclass(frozen=True)
class PatienceExit(CriterionBase):
    """A word exits when successive layers have agreed often enough on it and its neighbours, and
    the last one is certain, too.

    patience (int): How many comparisons in a row must agree; 0: no word exits.
    window (int): How many words on each side are neighbours.
    """

    patience: int
    window: int

    def with_window(self, window: int) -> "PatienceExit":
        """RETURNS (PatienceExit): The same with another neighbourhood."""
        return replace(self, window=window)

    def start(self, batch: Batch) -> Streaks:
        """RETURNS (Streaks): A state without predictions."""
        tags = torch.full_like(batch.window_of_word, -1)
        return Streaks(tags, torch.zeros_like(tags), Neighbourhoods.of(batch, self.window))

    def leave(self, step: Step, state: Streaks) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""
        tags = step.logits.argmax(1)
        changed = tags != state.tags[step.words]
        lengths = torch.where(changed, 0, state.lengths[step.words] + 1)
        state.tags[step.words], state.lengths[step.words] = tags, lengths
        if not self.patience:
            return torch.zeros_like(changed)
        # With a threshold of 1 only patience decides: even a uniform distribution will do.
        unsure = (uncertainty(step.logits) >= step.threshold) & (step.threshold < 1.0)
        held = (lengths < self.patience) | unsure
        return state.neighbourhoods.largest(step.words, held.float()) == 0


@reads_retired("PatienceExit")
def make_patience_exit(patience: int = 2, window: int = 1) -> Criterion:
    """Make the criterion ``spacy-early-exit.PatienceExit.v1``: PABEE.

    A ``threshold`` of 1 means patience alone, as published. With a smaller one, words must be
    certain as well, as for ``TokenExit.v1``. That reaches speedups between those of two patiences.

    patience (int): How many comparisons of successive layers must agree in a row. So no word exits
        before head ``patience + 1``. If there are no more heads than that, or with 0, no word
        exits early.
    window (int): How many words on each side must be ready, too, or have exited.
    RETURNS (Criterion): The criterion.
    RAISES (ValueError): If an argument makes no sense.
    """
    for name, value in (("patience", patience), ("window", window)):
        if value < 0:
            raise ValueError(f"PatienceExit: {name} must be 0 or more, not {value}.")
    return PatienceExit(patience, window)
