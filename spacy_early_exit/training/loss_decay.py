"""Which labelled texts are drawn: those whose loss still falls, more often than others.

Source: KDD 2021, "Meta Self-training for Few-shot Neural Sequence Labeling".
"""

from collections import deque
from typing import Deque, List

import torch
from torch import Tensor

REMEMBERED = 5  # losses of each text
UNKNOWN = 10.0  # the score while there are fewer than two losses
LEAST = 1e-5


class LossDecay:
    """Draws labelled texts by how much their loss has fallen.

    texts (int): How many there are.
    """

    def __init__(self, texts: int):
        self.texts = texts
        self.losses: Deque[Tensor] = deque(maxlen=REMEMBERED)

    def observe(self, losses: Tensor) -> None:
        """Take note of the losses of all texts at one time.

        losses (Tensor): The mean loss of each text. *Shape:* ``(texts,)``
        """
        self.losses.append(losses.detach().cpu())

    def chances(self) -> Tensor:
        """RETURNS (Tensor): The chance of each text to be drawn first. Where no loss falls, all
        have the same. *Shape:* ``(texts,)``
        """
        scores = torch.full((self.texts,), UNKNOWN)
        if len(self.losses) > 1:
            *before, latest = self.losses
            scores = (torch.stack(before).mean(0) - latest).clamp(min=0.0)
        smoothed = scores + scores.max() + LEAST  # none has less than half of another's chance
        return smoothed / smoothed.sum()

    def draw(self, count: int) -> List[int]:
        """RETURNS (List[int]): Different texts, as many as asked for or all there are.

        count (int): How many.
        """
        drawn: List[int] = torch.multinomial(self.chances(), min(count, self.texts)).tolist()
        return drawn
