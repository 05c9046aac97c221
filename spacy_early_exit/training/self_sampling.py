"""The second stage: words exit while training, as they will when predicting.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import List, Literal, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.all_heads import Halting, run_all_heads_halting
from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import ExitNetwork
from ..retired import reads_retired
from .base import Answers, Stage, check_bounds
from .halting import (
    Drawn,
    RandomHalting,
    SampledHalting,
    SpeedupDraws,
    draw_thresholds,
    neighbourhoods,
)
from .losses import distillation_loss, layer_weighted, pseudo_tags, word_losses
from .taught import taught_by

Pattern = Literal["on_policy", "off_policy", "random"]

UNLIKELY = -1e4  # a logit


@dataclass(frozen=True)
class SelfSampling:
    """Second stage: words exit while training, as they will when predicting.

    pattern (Pattern): What decides which words exit: ``"on_policy"``: the running pass itself;
        ``"off_policy"``: the network as it was before this stage, at full depth, as in the authors'
        code; ``"random"``: chance, for comparison. A word whose layer has no head exits at the
        next one.
    max_threshold (float): A threshold from 0 to this is drawn for every window.
    draws (Optional[SpeedupDraws]): What draws the thresholds instead.
    windows (Tuple[int, ...]): One of these neighbourhoods is drawn, too, if words exit one by one.
    aggressive_share (float): Share of windows that get the largest threshold and the smallest
        neighbourhood.
    full_share (float): Share of windows that run at full depth.
    distillation (float): Weight of what all heads learn from the deepest head as it was
        before this stage.
    pseudo_labels (bool): Whether the tags of that deepest head replace the annotation.
    """

    pattern: Pattern
    max_threshold: float
    windows: Tuple[int, ...]
    aggressive_share: float
    full_share: float
    distillation: float
    pseudo_labels: bool = False
    draws: Optional[SpeedupDraws] = None
    trains_decoder = True
    trains_criterion = False
    detach_early_heads = False
    copies = 1

    @property
    def needs_teacher(self) -> bool:
        """RETURNS (bool): Whether it needs the network as it was before this stage."""
        return self.pattern == "off_policy" or self.pseudo_labels or self.distillation > 0

    @property
    def needs_deepest_alone(self) -> bool:
        """RETURNS (bool): Whether it needs nothing of the teacher but the deepest head."""
        return self.pattern != "off_policy"

    def run(
        self,
        network: ExitNetwork,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[ExitNetwork],
    ) -> Answers:
        """RETURNS (Answers): The logits of all heads for the batch, with gradients."""
        taught = None
        if teacher is not None:
            taught = taught_by(teacher, batch, self.needs_deepest_alone)
        halting = self.halting(network, batch, criterion, taught)
        logits, exit_head = run_all_heads_halting(network, batch, halting, dropout)
        self.see(halting, logits, network, batch, criterion)
        return Answers(logits, exit_head, taught)

    def see(
        self,
        halting: Optional[Halting],
        logits: Tensor,
        network: ExitNetwork,
        batch: Batch,
        criterion: Criterion,
    ) -> None:
        """Let what draws thresholds see what the words do that ran at full depth."""
        if self.draws is not None and isinstance(halting, SampledHalting):
            # It asks for many numbers. On the CPU, a GPU is waited for only here.
            batch, thresholds = batch.on_cpu(), halting.thresholds.cpu()
            words = torch.nonzero(thresholds[batch.window_of_word] == 0).squeeze(1)
            learned = {name: known.cpu() for name, known in network.extra_parameters.items()}
            logits = logits.detach().float().cpu()
            self.draws.see(logits, words, batch, criterion, learned, network.exit_layers)

    def halting(
        self,
        network: ExitNetwork,
        batch: Batch,
        criterion: Criterion,
        taught: Optional[Tensor],
        drawn: Optional[Drawn] = None,
    ) -> Halting:
        """RETURNS (Halting): Decides which words exit.

        drawn (Optional[Drawn]): What is drawn for the batch; None: it is drawn for this task alone.
        """
        device, windows, depth = batch.ids.device, batch.windows, network.spec.layers
        drawn = Drawn([self.draws]) if drawn is None else drawn
        if self.pattern == "random":
            layers = drawn.once("layers", lambda: torch.randint(1, depth + 1, (batch.words,)))
            layers = layers.to(device)
            full = drawn.kind(windows).to(device) >= 1.0 - self.full_share
            layers[full[batch.window_of_word]] = depth
            return RandomHalting(layers)
        criteria = neighbourhoods(criterion, sorted(self.windows))
        if self.draws is not None:
            thresholds = self.draws.draw(windows, self.full_share, drawn)
        else:
            thresholds = draw_thresholds(
                windows, self.max_threshold, self.aggressive_share, self.full_share, drawn
            )
        many = len(criteria)
        choice = drawn.once(f"one of {many}", lambda: torch.randint(many, (windows,)))
        choice[thresholds == self.max_threshold] = 0  # drawn ones are smaller: these are aggressive
        judged_by = None
        if self.pattern == "off_policy" and taught is not None:
            # Tags that the teacher does not know are unlikely.
            unknown = network.tags - taught.shape[-1]
            padded = F.pad(taught, (0, unknown), value=UNLIKELY)
            judged_by = dict(zip(network.exit_layers, padded))
        return SampledHalting(
            batch=batch,
            thresholds=thresholds.to(device),
            criteria=[(drawn, drawn.start(batch)) for drawn in criteria],
            choice=choice.to(device),
            logits=judged_by,
            learned=network.extra_parameters,
        )

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        if self.pseudo_labels and answers.teacher is not None:
            tags = pseudo_tags(answers.teacher[-1], tags)
        losses = word_losses(answers.logits, tags)
        if self.distillation and answers.teacher is not None:
            deepest = answers.teacher[-1]
            losses = losses + self.distillation * distillation_loss(answers.logits, deepest, tags)
        # Heads after a word's exit learn nothing from it.
        heads = torch.arange(1, len(losses) + 1, device=losses.device)
        losses = losses * (heads[:, None] <= answers.exit_head)
        return layer_weighted(losses)


@reads_retired("SelfSampling")
def make_self_sampling(
    pattern: Pattern = "on_policy",
    max_threshold: float = 0.3,
    windows: Sequence[int] = (0, 1, 2, 3),
    aggressive_share: float = 0.0,
    full_share: float = 0.2,
    distillation: float = 4.0,
    pseudo_labels: bool = False,
    max_speedup: Optional[float] = None,
) -> Stage:
    """Make the stage ``spacy-early-exit.SelfSampling.v1``.

    pattern (Pattern): What decides which words exit: ``"on_policy"``, ``"off_policy"`` or
        ``"random"``.
    max_threshold (float): The largest threshold that is drawn.
    windows (Sequence[int]): The neighbourhoods to draw from; empty: the criterion's own.
    aggressive_share (float): Share of windows that get the largest threshold and the smallest
        neighbourhood.
    full_share (float): Share of windows that run at full depth.
    distillation (float): Weight of what all heads learn from the first stage's deepest head.
    pseudo_labels (bool): Whether annotated words are trained on the tag that the first stage's
        deepest head gives them, rather than on the annotation.
    max_speedup (Optional[float]): Draw a speedup from 1 to this for each window, and take the
        threshold that gives it on the texts that are trained on, as the network is by then. For
        small corpora, which are soon learnt by heart. None: ``max_threshold`` decides.
    RETURNS (Stage): The stage.
    RAISES (ValueError): If an argument makes no sense.
    """
    if pattern not in ("on_policy", "off_policy", "random"):
        raise ValueError(
            f"SelfSampling: pattern must be 'on_policy', 'off_policy' or 'random', not {pattern!r}."
        )
    drawn: List[int] = [int(window) for window in windows]
    check_bounds(
        "SelfSampling",
        max_threshold=(max_threshold, 1.0),
        smallest_window=(min(drawn, default=0), float("inf")),
        aggressive_share=(aggressive_share, 1.0),
        full_share=(full_share, 1.0),
        aggressive_and_full_share=(aggressive_share + full_share, 1.0),
        distillation=(distillation, float("inf")),
    )
    if max_speedup is not None and not 1.0 < max_speedup < float("inf"):
        raise ValueError(f"SelfSampling: max_speedup must be above 1, or null, not {max_speedup}.")
    if max_speedup is not None and aggressive_share:
        raise ValueError(
            "SelfSampling: aggressive_share is a share of windows that get max_threshold. With "
            "max_speedup there is no such threshold: set aggressive_share = 0."
        )
    return SelfSampling(
        pattern=pattern,
        max_threshold=max_threshold,
        windows=tuple(drawn),
        aggressive_share=aggressive_share,
        full_share=full_share,
        distillation=distillation,
        pseudo_labels=pseudo_labels,
        draws=None if max_speedup is None else SpeedupDraws(max_speedup),
    )
