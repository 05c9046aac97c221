"""Who leaves while training: drawn for every batch, so that no one budget is learnt by heart."""

from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import Criterion, Step


@dataclass(frozen=True)
class SampledHalting:
    """Words leave by a criterion, with a threshold and a neighbourhood drawn for each window.

    batch (Batch): The batch.
    thresholds (Tensor): Of each window; 0: full depth. *Shape:* ``(windows,)``
    criteria (Sequence[Tuple[Criterion, Any]]): What was drawn among, each with its state.
    choice (Tensor): Which of them each window drew. *Shape:* ``(windows,)``
    learned (Mapping[str, Tensor]): What criterion and decoder have learnt, by name.
    logits (Optional[Tensor]): What to judge by in place of the running pass, such as what a
        frozen network said (off-policy). *Shape:* ``(layers, words, tags)``
    """

    batch: Batch
    thresholds: Tensor
    criteria: Sequence[Tuple[Criterion, Any]]
    choice: Tensor
    learned: Mapping[str, Tensor]
    logits: Optional[Tensor] = None

    def leave(self, layer: int, words: Tensor, logits: Tensor, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words leave. *Shape:* ``(words,)``, bool"""
        if self.logits is not None:
            logits = self.logits[layer - 1, words].float()
        window = self.batch.window_of_word[words]
        thresholds = self.thresholds[window]
        step = Step(layer, words, logits, self.batch, thresholds, self.learned, states)
        leaving = torch.zeros_like(words, dtype=torch.bool)
        for number, (criterion, state) in enumerate(self.criteria):
            mine = self.choice[window] == number
            if mine.any():
                leaving |= mine & criterion.leave(step, state)
        return leaving


@dataclass(frozen=True)
class RandomHalting:
    """Words leave at layers drawn blindly.

    layers (Tensor): The layer of each word. *Shape:* ``(words,)``
    """

    layers: Tensor

    def leave(self, layer: int, words: Tensor, logits: Tensor, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words leave. *Shape:* ``(words,)``, bool"""
        return self.layers[words] <= layer


def draw_thresholds(
    windows: int, most: float, aggressive_share: float, full_share: float
) -> Tensor:
    """Draw a threshold for each window, from 0 to ``most``.

    windows (int): How many.
    most (float): The largest.
    aggressive_share (float): Share of windows that get the largest.
    full_share (float): Share of windows that stay to the end.
    RETURNS (Tensor): *Shape:* ``(windows,)``
    """
    thresholds = torch.rand(windows) * most
    kind = torch.rand(windows)
    thresholds[kind < aggressive_share] = most
    thresholds[kind >= 1.0 - full_share] = 0.0
    return thresholds


def neighbourhoods(criterion: Criterion, windows: Sequence[int]) -> List[Criterion]:
    """The criteria to draw among: the component's with each of some neighbourhoods.

    criterion (Criterion): The component's criterion.
    windows (Sequence[int]): Neighbours to each side; none: the criterion's own.
    RETURNS (List[Criterion]): The criteria; the criterion alone where it has no neighbourhood.
    """
    drawn = [criterion.with_window(window) for window in windows]
    return [criterion] if all(one is criterion for one in drawn) else drawn
