"""What a cut encoder is trained with: its last head alone, by itself or from a teacher.

For ``spacy train --code``. It is no part of the package: people who cut an encoder need no
early exits.
"""

from dataclasses import dataclass, field
from typing import Any, List, Optional

import spacy
import torch
from torch import Tensor

from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.criterion import Criterion
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.training.base import Answers
from spacy_early_exit.training.losses import distillation_loss, word_losses


@dataclass(frozen=True)
class SingleHead:
    """Train the last head alone.

    teacher (Optional[str]): A trained pipeline with the same tokenizer and labels, whose last
        head is taught from.
    distillation (float): How much.
    """

    teacher: Optional[str]
    distillation: float
    needs_teacher = False
    trains_decoder = True
    trains_criterion = False
    copies = 1
    loaded: List[Any] = field(default_factory=list, compare=False)

    def run(
        self,
        network: ExitNetwork,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[ExitNetwork],
    ) -> Answers:
        """RETURNS (Answers): What the heads say of the batch, with gradients."""
        logits = run_all_heads(network, batch, dropout)
        taught = None
        if self.teacher is not None:
            if not self.loaded:
                pipe = spacy.load(self.teacher).get_pipe("early_exit_ner")
                self.loaded.append(pipe.model.shims[0].trained.network)
            with torch.no_grad():
                taught = run_all_heads(self.loaded[0], batch)[-1:].expand_as(logits)
        return Answers(logits, torch.full_like(batch.piece_of_word, len(logits)), taught)

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        last = answers.logits[-1:]
        losses = word_losses(last, tags)
        if answers.teacher is not None:
            taught = distillation_loss(last, answers.teacher[-1], tags)
            losses = losses + self.distillation * taught
        return losses.sum()


@spacy.registry.misc("benchmark.SingleHead.v1")
def make_single_head(teacher: Optional[str] = None, distillation: float = 1.0) -> SingleHead:
    """RETURNS (SingleHead): The stage."""
    return SingleHead(teacher, distillation)
