"""TR-BERT: small selectors decide after certain layers which words go on.

Source: NAACL 2021, "TR-BERT: Dynamic Token Reduction for Accelerating BERT Inference". There,
sequences keep as many words as the longest in their batch; here, every word is decided on by
itself. ``reduction_training.py`` trains the selectors.
"""

from dataclasses import dataclass
from typing import Dict, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..criteria.base import CriterionBase
from ..network.criterion import Criterion, Step
from ..network.families import EncoderSpec
from .reduction_loop import LATE_HEADS

INNER = 32  # width of a selector
STARTING_LOG_ODDS = 2.0  # of going on, before training: 88 %


@dataclass(frozen=True)
class TokenReduction(CriterionBase):
    """A word exits if the probability that it goes on is below the threshold.

    layers (Tuple[int, ...]): The layers after which selectors decide.
    """

    layers: Tuple[int, ...]
    own_loop = LATE_HEADS

    def parameters(self, spec: EncoderSpec) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): Selectors before training.

        RAISES (ValueError): If the encoder has no layer after one of them.
        """
        if self.layers[-1] >= spec.layers:
            raise ValueError(
                f"TokenReduction: selectors decide which words continue to the next layer, so "
                f"layers must be at most {spec.layers - 1} for this encoder of {spec.layers} "
                f"layers, not {self.layers[-1]}."
            )
        found = {}
        for layer in self.layers:
            found[f"selector_{layer}_in"] = 0.02 * torch.randn(INNER, spec.hidden_size)
            found[f"selector_{layer}_in_bias"] = torch.zeros(INNER)
            found[f"selector_{layer}_out"] = 0.02 * torch.randn(1, INNER)
            found[f"selector_{layer}_out_bias"] = torch.full((1,), STARTING_LOG_ODDS)
        return found

    def macs(self, layer: int, spec: EncoderSpec, tags: int) -> int:
        """RETURNS (int): The cost of judging a word after a layer."""
        return INNER * (spec.hidden_size + 1) if layer in self.layers else 0

    def log_odds(self, step: Step) -> Tensor:
        """Apply the selector of a layer that has one.

        step (Step): What the selector sees.
        RETURNS (Tensor): The log-odds of going on. *Shape:* ``(words,)``
        """
        weights = [
            step.learned[f"selector_{step.layer}_{part}"]
            for part in ("in", "in_bias", "out", "out_bias")
        ]
        inner = F.gelu(F.linear(step.states, weights[0], weights[1]))
        return F.linear(inner, weights[2], weights[3]).squeeze(1)

    def leave(self, step: Step, state: None) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""
        if step.layer not in self.layers:
            return torch.zeros_like(step.words, dtype=torch.bool)
        return self.log_odds(step).sigmoid() < step.threshold


def make_token_reduction(layers: Sequence[int] = (1, 3)) -> Criterion:
    """Make the criterion ``spacy-early-exit.TokenReduction.v1``: TR-BERT. Its selectors are part of
    the pipeline's weights and have to be trained with ``ReductionTraining.v1``.

    layers (Sequence[int]): The layers after which selectors decide, counted from 1. As published,
        these would be the first layer and the one halfway up.
    RETURNS (Criterion): The criterion.
    RAISES (ValueError): If an argument makes no sense.
    """
    chosen = tuple(int(layer) for layer in layers)
    if not chosen or chosen[0] < 1 or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"TokenReduction: layers must ascend, from 1 or more, not {list(layers)}.")
    return TokenReduction(chosen)
