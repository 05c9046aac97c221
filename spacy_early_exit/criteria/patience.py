"""PABEE: leave where the prediction has stayed the same for some layers.

Source: NeurIPS 2020, "BERT Loses Patience: Fast and Robust Inference with Early Exit", which
classifies sentences one at a time. Here every word or window has a counter of its own, so that
batches of any size give the same.
"""

from dataclasses import dataclass
from typing import Literal, Optional, get_args

import torch
from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import Criterion, Step
from ..network.exit_network import uncertainty
from ..tags import OUTSIDE
from .base import Plain
from .neighbours import Neighbourhoods, largest_by_window

Level = Literal["word", "sentence"]
NEVER = 2**31  # comparisons


@dataclass(frozen=True)
class Streaks:
    """What patience remembers of a batch. Its tensors are written over after every layer.

    tags (Tensor): What was predicted last; -1: nothing yet. *Shape:* ``(words,)``
    lengths (Tensor): How many comparisons in a row have agreed. *Shape:* ``(words,)``
    neighbourhoods (Neighbourhoods): Who is next to whom.
    """

    tags: Tensor
    lengths: Tensor
    neighbourhoods: Neighbourhoods


@dataclass(frozen=True)
class PatienceExit(Plain):
    """Leave where neighbouring layers agreed often enough, and the last one is certain, too.

    patience (int): How many comparisons in a row must agree; 0: nobody leaves.
    level (Level): ``"word"``: a word leaves when it and its neighbours may; ``"sentence"``: a
        window leaves when all its words may, and disagrees when one of them does.
    window (int): How many words to each side are neighbours.
    outside_patience (int): As ``patience``, for words that are in no entity; 0: those never leave.
    min_layer (int): The first layer at which anybody leaves.
    """

    patience: int
    level: Level
    window: int
    outside_patience: int
    min_layer: int

    def start(self, batch: Batch) -> Streaks:
        """RETURNS (Streaks): Nothing predicted so far."""
        tags = torch.full_like(batch.window_of_word, -1)
        return Streaks(tags, torch.zeros_like(tags), Neighbourhoods.of(batch, self.window))

    def leave(self, step: Step, state: Streaks) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may leave. *Shape:* ``(words,)``, bool"""
        tags = step.logits.argmax(1)
        changed = tags != state.tags[step.words]
        if self.level == "sentence":
            changed = self._any_around(step, state, changed)
        lengths = torch.where(changed, 0, state.lengths[step.words] + 1)
        state.tags[step.words], state.lengths[step.words] = tags, lengths
        if not self.patience or step.layer < self.min_layer:
            return torch.zeros_like(changed)
        outside = self.outside_patience or NEVER
        needed = torch.where(tags == OUTSIDE, outside, self.patience)
        # A threshold of 1 leaves it to patience: even a uniform distribution will do.
        unsure = (uncertainty(step.logits) >= step.threshold) & (step.threshold < 1.0)
        return ~self._any_around(step, state, (lengths < needed) | unsure)

    def _any_around(self, step: Step, state: Streaks, flags: Tensor) -> Tensor:
        """RETURNS (Tensor): Whether a word, or one beside it, is flagged. *Shape:* ``(words,)``"""
        if self.level == "word":
            return state.neighbourhoods.largest(step.words, flags.float()) > 0
        by_window = largest_by_window(step.batch, step.words, flags.float())
        return by_window[step.batch.window_of_word[step.words]] > 0


def make_patience_exit(
    patience: int = 2,
    level: Level = "word",
    window: int = 1,
    outside_patience: Optional[int] = None,
    min_layer: int = 1,
) -> Criterion:
    """Make the criterion ``spacy-early-exit.PatienceExit.v1``: PABEE.

    A ``threshold`` of 1 is patience alone, as published. Below, words must be certain as well,
    as for ``TokenExit.v1``: savings between those of two patiences are reached that way.

    patience (int): How many comparisons of neighbouring layers in a row must agree. So nobody
        leaves before layer ``patience + 1``: where there are no more layers than that, and with
        0, nobody leaves at all.
    level (Level): ``"word"`` or ``"sentence"``: who leaves.
    window (int): How many words to each side must be ready, too, or have left. For ``"word"``.
    outside_patience (Optional[int]): Another patience for words that are in no entity, which
        agree from the first layer on even where an entity is found later; 0: those never leave;
        None: the same.
    min_layer (int): The first layer at which anybody leaves, counted from 1.
    RETURNS (Criterion): The criterion.
    RAISES (ValueError): If an argument makes no sense.
    """
    outside = patience if outside_patience is None else outside_patience
    for name, value, least in (
        ("patience", patience, 0),
        ("window", window, 0),
        ("outside_patience", outside, 0),
        ("min_layer", min_layer, 1),
    ):
        if value < least:
            raise ValueError(f"PatienceExit: {name} must be {least} or more, not {value}.")
    if level not in get_args(Level):
        raise ValueError(f"PatienceExit: level must be 'word' or 'sentence', not {level!r}.")
    return PatienceExit(
        patience=patience,
        level=level,
        window=window,
        outside_patience=outside,
        min_layer=min_layer,
    )
