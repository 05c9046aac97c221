"""Which words exit while training. It is drawn for every batch, so that the network does not adapt
to a single budget.
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import Criterion, Step
from ..network.devices import is_asynchronous


@dataclass(frozen=True)
class SampledHalting:
    """Words exit by a criterion, with a threshold and a neighbourhood drawn for each window.

    batch (Batch): The batch.
    thresholds (Tensor): The threshold of each window; 0: full depth. *Shape:* ``(windows,)``
    criteria (Sequence[Tuple[Criterion, Any]]): The criteria to draw from, each with its state.
    choice (Tensor): Index of the criterion that each window drew. *Shape:* ``(windows,)``
    learned (Mapping[str, Tensor]): The learnt parameters of criterion and decoder, by name.
    logits (Optional[Mapping[int, Tensor]]): The logits to judge by instead of those of the running
        pass, by layer, such as those of a frozen network (off-policy). *Shapes:* ``(words, tags)``
    """

    batch: Batch
    thresholds: Tensor
    criteria: Sequence[Tuple[Criterion, Any]]
    choice: Tensor
    learned: Mapping[str, Tensor]
    logits: Optional[Mapping[int, Tensor]] = None

    def leave(self, layer: int, words: Tensor, logits: Tensor, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words exit. *Shape:* ``(words,)``, bool"""
        if self.logits is not None:
            logits = self.logits[layer][words].float()
        window = self.batch.window_of_word[words]
        thresholds = self.thresholds[window]
        step = Step(layer, words, logits, self.batch, thresholds, self.learned, states)
        leaving = torch.zeros_like(words, dtype=torch.bool)
        for number, (criterion, state) in enumerate(self.criteria):
            mine = self.choice[window] == number
            if is_asynchronous(words.device) or mine.any():  # to find out would be to wait
                leaving |= mine & criterion.leave(step, state)
        return leaving


@dataclass(frozen=True)
class RandomHalting:
    """Words exit at layers drawn at random.

    layers (Tensor): The layer of each word. *Shape:* ``(words,)``
    """

    layers: Tensor

    def leave(self, layer: int, words: Tensor, logits: Tensor, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words exit. *Shape:* ``(words,)``, bool"""
        return self.layers[words] <= layer


class Drawn:
    """What is drawn for a batch. Each number is drawn when it is first asked for, and then known:
    tasks that learn from one pass get the same, since they are at one threshold when predicting. If
    each drew its own, few words would exit, as they stay until all tasks are sure.

    draws (Sequence[Optional[SpeedupDraws]]): What the tasks draw speedups with, if they do.
    """

    def __init__(self, draws: "Sequence[Optional[SpeedupDraws]]" = ()):
        curves = [one.speedups for one in draws if one is not None and one.speedups is not None]
        # A pass is not faster than the slowest of its tasks.
        self.speedups = torch.stack(curves).amin(0) if curves else None
        self.most = min((one.most for one in draws if one is not None), default=1.0)
        self._known: Dict[str, Tensor] = {}

    def once(self, name: str, draw: Callable[[], Tensor]) -> Tensor:
        """RETURNS (Tensor): A copy of what was drawn under a name.

        name (str): The name.
        draw (Callable[[], Tensor]): Draws it, if it was not drawn yet.
        """
        if name not in self._known:
            self._known[name] = draw()
        return self._known[name].clone()

    def share(self, windows: int) -> Tensor:
        """RETURNS (Tensor): How far up each window goes, from 0 to 1. *Shape:* ``(windows,)``"""
        return self.once("share", lambda: torch.rand(windows))

    def kind(self, windows: int) -> Tensor:
        """RETURNS (Tensor): From 0 to 1: windows with small ones are aggressive, those with large
        ones run at full depth. *Shape:* ``(windows,)``
        """
        return self.once("kind", lambda: torch.rand(windows))


def draw_thresholds(
    windows: int, most: float, aggressive_share: float, full_share: float, drawn: Drawn
) -> Tensor:
    """Draw a threshold for each window, from 0 to ``most``.

    windows (int): Number of windows.
    most (float): The largest threshold.
    aggressive_share (float): Share of windows that get the largest threshold.
    full_share (float): Share of windows that run at full depth.
    drawn (Drawn): What is drawn for the batch.
    RETURNS (Tensor): *Shape:* ``(windows,)``
    """
    thresholds = drawn.share(windows) * most
    kind = drawn.kind(windows)
    thresholds[kind < aggressive_share] = most
    thresholds[kind >= 1.0 - full_share] = 0.0
    return thresholds


class SpeedupDraws:
    """Draws thresholds by the speedups that they give, as the network is by then.

    Texts that are trained on are soon known by heart, above all those of a small corpus: their
    words would exit after the first layer at thresholds that other texts need for 2X. Deeper heads
    would hardly be trained on words that are still there.

    max_speedup (float): Speedups are drawn from 1 to this.
    """

    THRESHOLDS = torch.tensor([10 ** (step / 4) for step in range(-28, 1)])
    NEW = 0.1  # weight of the last batch

    def __init__(self, max_speedup: float):
        self.max_speedup = max_speedup
        self.speedups: Optional[Tensor] = None  # that these thresholds give
        self.most = max_speedup

    def draw(self, windows: int, full_share: float, drawn: Drawn) -> Tensor:
        """Draw a threshold for each window. Until a batch has been seen, all run at full depth.

        windows (int): Number of windows.
        full_share (float): Share of windows that run at full depth.
        drawn (Drawn): What is drawn for the batch, and the speedups that thresholds give.
        RETURNS (Tensor): *Shape:* ``(windows,)``
        """
        if drawn.speedups is None:
            return torch.zeros(windows)
        speedups = 1.0 + drawn.share(windows) * (min(self.max_speedup, drawn.most) - 1.0)
        place = torch.searchsorted(drawn.speedups, speedups).clamp_max(len(self.THRESHOLDS) - 1)
        full = drawn.kind(windows) >= 1.0 - full_share
        return torch.where(full, 0.0, self.THRESHOLDS[place])

    @torch.no_grad()
    def see(
        self,
        logits: Tensor,
        words: Tensor,
        batch: Batch,
        criterion: Criterion,
        learned: Mapping[str, Tensor],
        exit_layers: Sequence[int],
    ) -> None:
        """See what words would do that ran at full depth.

        logits (Tensor): The logits of every head, in fp32. *Shape:* ``(heads, words, tags)``
        words (Tensor): The words that ran at full depth. *Shape:* ``(words,)``
        batch (Batch): The batch.
        criterion (Criterion): Decides which words exit.
        learned (Mapping[str, Tensor]): The learnt parameters of criterion and decoder, by name.
        exit_layers (Sequence[int]): The layers of the heads, the last of which is the deepest.
        """
        if not len(words):
            return
        # Where the first head is deep, no threshold gives more than its layer.
        self.most = min(self.max_speedup, exit_layers[-1] / exit_layers[0])
        nothing = logits.new_zeros(len(words), 0)  # instead of states
        spent = []
        for threshold in self.THRESHOLDS.tolist():
            state, left, layers, last = criterion.start(batch), words, 0, 0
            for number, of_head in zip(exit_layers, logits):
                layers += (number - last) * len(left)
                last = number
                if number == exit_layers[-1] or not len(left):
                    break
                seen = of_head[left]
                step = Step(number, left, seen, batch, threshold, learned, nothing[: len(left)])
                left = left[~criterion.leave(step, state)]
            spent.append(layers)
        now = exit_layers[-1] * len(words) / torch.tensor(spent, dtype=torch.float32)
        before = now if self.speedups is None else self.speedups
        # Rising, so that it can be searched: some criteria are not quite monotonous.
        self.speedups = torch.lerp(before, now, self.NEW).cummax(0).values


def neighbourhoods(criterion: Criterion, windows: Sequence[int]) -> List[Criterion]:
    """Make the criteria to draw from: the component's, with each of the given neighbourhoods.

    criterion (Criterion): The component's criterion.
    windows (Sequence[int]): Numbers of neighbours on each side; empty: the criterion's own.
    RETURNS (List[Criterion]): The criteria; only the criterion itself if it has no neighbourhood.
    """
    drawn = [criterion.with_window(window) for window in windows]
    return [criterion] if all(one is criterion for one in drawn) else drawn
