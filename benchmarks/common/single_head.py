"""What a cut encoder is trained with: its last head alone, by itself or from a teacher.

For ``spacy train --code``. It is no part of the package: people who cut an encoder need no
early exits.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

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
    known: Dict[bytes, Tensor] = field(default_factory=dict, compare=False)

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
            taught = last_logits(self.loaded[0], batch, self.known).expand_as(logits)
        return Answers(logits, torch.full_like(batch.piece_of_word, len(logits)), taught)

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        last = answers.logits[-1:]
        losses = word_losses(last, tags)
        if answers.teacher is not None:
            taught = distillation_loss(last, answers.teacher[-1], tags)
            losses = losses + self.distillation * taught
        return losses.sum()


@torch.no_grad()
def last_logits(network: ExitNetwork, batch: Batch, known: Dict[bytes, Tensor]) -> Tensor:
    """RETURNS (Tensor): The logits of the last head. *Shape:* ``(1, words, tags)``

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    known (Dict[bytes, Tensor]): Logits by wordpieces and words of their window, computed once for
        all epochs. *Shapes:* ``(words of the window, tags)``
    """
    windows = zip(batch.ids.split(batch.lengths), batch.piece_of_word.split(batch.word_counts))
    keys, start = [], 0
    for ids, words in windows:
        keys.append(b"|".join(part.cpu().numpy().tobytes() for part in (ids, words - start)))
        start += len(ids)
    if not all(key in known for key in keys):
        logits = run_all_heads(network, batch)[-1]
        known.update(zip(keys, logits.split(batch.word_counts)))
    return torch.cat([known[key] for key in keys])[None]


@spacy.registry.misc("benchmark.SingleHead.v1")
def make_single_head(teacher: Optional[str] = None, distillation: float = 1.0) -> SingleHead:
    """RETURNS (SingleHead): The stage."""
    return SingleHead(teacher, distillation)
