"""Neighbouring words: the largest value among a word and its neighbours."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.batch import Batch


@dataclass(frozen=True)
class Neighbourhoods:
    """All words of a batch on one line. The gaps between windows are too wide for any
    neighbourhood.

    places (Tensor): Place of each word on that line. *Shape:* ``(words,)``
    reach (int): How many words on each side are neighbours.
    length (int): Places on the line.
    """

    places: Tensor
    reach: int
    length: int

    @classmethod
    def of(cls, batch: Batch, reach: int) -> "Neighbourhoods":
        """Lay out a batch.

        batch (Batch): The batch.
        reach (int): How many words on each side are neighbours, at most as many as the longest
            window has.
        RETURNS (Neighbourhoods): The line.
        """
        words = torch.arange(batch.words, device=batch.window_of_word.device)
        reach = min(reach, max(batch.word_counts))
        length = batch.words + reach * (batch.windows - 1)
        return cls(words + reach * batch.window_of_word, reach, length)

    def largest(self, words: Tensor, values: Tensor) -> Tensor:
        """Find the largest value among each word and its neighbours.

        words (Tensor): The words that count. Gaps and words that are not listed count as 0.
            *Shape:* ``(words,)``
        values (Tensor): One for each word, at least 0. *Shape:* ``(words,)``
        RETURNS (Tensor): *Shape:* ``(words,)``
        """
        if self.reach == 0:
            return values
        line = values.new_zeros(self.length)
        places = self.places[words]
        line[places] = values
        return F.max_pool1d(line[None], 2 * self.reach + 1, 1, self.reach)[0][places]


def largest_by_window(batch: Batch, words: Tensor, values: Tensor) -> Tensor:
    """Find the largest value in each window.

    batch (Batch): The batch.
    words (Tensor): The words that count. *Shape:* ``(words,)``
    values (Tensor): One for each word, at least 0. *Shape:* ``(words,)``
    RETURNS (Tensor): 0 for windows without such words. *Shape:* ``(windows,)``
    """
    largest = torch.zeros(batch.windows, device=values.device)
    return largest.scatter_reduce_(0, batch.window_of_word[words], values, "amax")
