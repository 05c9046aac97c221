"""The first stage: every head on every word, all at once.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from ..network.all_heads import Halting, run_all_heads
from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import ExitNetwork
from ..retired import reads_retired
from .base import Answers, Stage, check_bounds
from .halting import Drawn
from .losses import distillation_loss, layer_weighted, pseudo_tags, word_losses


@dataclass(frozen=True)
class JointTraining:
    """First stage: all layers on everything and all heads at once; deeper heads have more weight.

    distillation (float): Weight of what the earlier heads learn from the deepest one.
    detach_early_heads (bool): Whether only the deepest head's gradient reaches the encoder, as in a
        plain tagger. The other heads then learn from the encoder's states as they are. (Gradient
        clipping doesn't let them influence it either: thinc clips the gradient of each parameter
        separately.)
    pseudo_labels (bool): Whether the deepest head's own tags replace the annotation.
    """

    distillation: float = 0.0
    detach_early_heads: bool = True
    pseudo_labels: bool = False
    needs_teacher = False
    trains_decoder = True
    trains_criterion = False
    draws = None
    copies = 1

    def run(
        self,
        network: ExitNetwork,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[ExitNetwork],
    ) -> Answers:
        """RETURNS (Answers): The logits of all heads for the batch, with gradients."""
        logits = run_all_heads(network, batch, dropout, self.detach_early_heads)
        return Answers(logits, torch.full_like(batch.piece_of_word, len(logits)), None)

    def halting(
        self,
        network: ExitNetwork,
        batch: Batch,
        criterion: Criterion,
        taught: Optional[Tensor],
        drawn: Optional[Drawn] = None,
    ) -> Optional[Halting]:
        """RETURNS (None): No word exits."""
        return None

    def see(
        self,
        halting: Optional[Halting],
        logits: Tensor,
        network: ExitNetwork,
        batch: Batch,
        criterion: Criterion,
    ) -> None:
        """Nothing is drawn."""

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        deepest = answers.logits[-1].detach()
        if self.pseudo_labels:
            tags = pseudo_tags(deepest, tags)
        losses = word_losses(answers.logits, tags)
        if self.distillation:
            losses = losses + self.distillation * distillation_loss(answers.logits, deepest, tags)
        return layer_weighted(losses)


@reads_retired("JointTraining")
def make_joint_training(
    distillation: float = 0.0,
    detach_early_heads: bool = True,
    pseudo_labels: bool = False,
) -> Stage:
    """Make the stage ``spacy-early-exit.JointTraining.v1``.

    distillation (float): Weight of what the earlier heads learn from the deepest one's
        distribution; 0: nothing.
    detach_early_heads (bool): Whether the encoder learns from the deepest head alone. Full depth
        then makes no compromise: F was higher at full depth and at 2X than if all heads teach the
        encoder, with or without a second stage that then shapes the earlier layers.
    pseudo_labels (bool): Whether annotated words are trained on the tag that the deepest head
        gives them, rather than on the annotation.
    RETURNS (Stage): The stage.
    RAISES (ValueError): If an argument makes no sense.
    """
    check_bounds("JointTraining", distillation=(distillation, float("inf")))
    return JointTraining(
        distillation=distillation,
        detach_early_heads=detach_early_heads,
        pseudo_labels=pseudo_labels,
    )
