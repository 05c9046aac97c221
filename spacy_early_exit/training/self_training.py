"""Self-training: a new network learns the tags that an earlier one, its teacher, gives to text
without annotation. Each word has a weight, found by looking one step ahead at labelled text.

Source: KDD 2021, "Meta Self-training for Few-shot Neural Sequence Labeling". In its authors' code
the loss on labelled text ignores the first tag, and labels are also given to special tokens. Here,
all annotated words count, and no other tokens.
"""

from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Literal, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from ..network.all_heads import run_all_heads
from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import ExitNetwork
from ..network.window import Window
from ..tags import MISSING
from ..text.windows import batches
from .base import Answers, Labelled, Stage, check_bounds
from .look_ahead import gradient_on, normalised, slopes_along
from .loss_decay import LossDecay
from .losses import layer_weighted, word_losses
from .pseudo_labels import (
    Labels,
    certainty,
    most_confident,
    pseudo_labels,
    stability,
    target_losses,
)
from .taught import taught_by

OBSERVE_EVERY = 10  # steps between two looks at the losses of all labelled texts, as published


class Lesson(NamedTuple):
    """What a student learns from a batch.

    targets (Tensor): The probability that each tag is right. *Shape:* ``(words, tags)``
    weights (Tensor): The weight of each word; a row for each head, or one for all. *Shape:*
        ``(heads or 1, words)``
    """

    targets: Tensor
    weights: Tensor


@dataclass
class Count:
    """What is logged of the weights of the steps since the last evaluation.

    words (int): Weights that were found.
    weighted (int): How many are not 0.
    total (float): Their sum, before those of a batch are divided by their mean.
    """

    words: int = 0
    weighted: int = 0
    total: float = 0.0


@dataclass
class MetaSelfTraining:
    """A new network learns from a teacher's tags. Words that overlapping windows share count in
    each of them. ``make_meta_self_training`` describes the fields that are not described here.

    labelled (List[Labelled]): The labelled windows.
    wordpieces (int): Maximum number of wordpieces in a batch of labelled windows.
    """

    labels: Labels
    weights: Literal["look_ahead", "equal"]
    weight_per_head: bool
    labelled_texts: int
    sampling: Literal["loss_decay", "uniform"]
    confidence: Optional[Literal["heads", "dropout"]]
    keep: float
    passes: int
    detach_early_heads: bool
    labelled: List[Labelled] = field(default_factory=list, repr=False)
    wordpieces: int = 0
    needs_teacher = True
    trains_decoder = False
    trains_criterion = False
    copies = 1

    def learn_by(self, labelled: Sequence[Labelled], wordpieces: int) -> None:
        """Take the labelled windows by which words are weighted, and begin anew.

        labelled (Sequence[Labelled]): The windows.
        wordpieces (int): Maximum number of wordpieces in a batch.
        """
        self.labelled, self.wordpieces = list(labelled), wordpieces
        self._decay, self._step, self._count = LossDecay(len(self.labelled)), 0, Count()

    def __post_init__(self) -> None:
        self.learn_by(self.labelled, self.wordpieces)

    def figures(self) -> Dict[str, float]:
        """RETURNS (Dict[str, float]): What is logged beside the scores, of the words since the last
        call: ``pseudo_weighted`` is the share that has a weight, ``pseudo_weight`` the mean weight
        before those of a batch are divided by their mean; 1 with ``weights="equal"``.
        """
        seen, self._count = self._count, Count()
        words = max(seen.words, 1)
        return {"pseudo_weighted": seen.weighted / words, "pseudo_weight": seen.total / words}

    def run(
        self,
        network: ExitNetwork,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[ExitNetwork],
    ) -> Answers:
        """RETURNS (Answers): The logits of all heads for the batch, with gradients unless no word
        has a weight.

        RAISES (ValueError): If there is nothing labelled to look at.
        """
        assert teacher is not None  # as needs_teacher asks for
        taught = taught_by(teacher, batch, deepest=self.confidence != "heads")
        targets = pseudo_labels(taught[-1], self.labels, network.tags)
        weights = self._weights(network, batch, targets)
        if self.confidence is not None:
            selected = self._selected(teacher, batch, dropout, taught)
            if self.labels == "sampled":  # of another tag than the best, nothing has been judged
                selected &= targets.argmax(-1) == taught[-1].argmax(-1)
            weights = normalised(weights * selected)
        self._count.words += weights.numel()
        self._count.weighted += int((weights > 0).sum())
        # Without a gradient there is no step: not even momentum or weight decay moves a weight.
        with torch.set_grad_enabled(bool((weights > 0).any())):
            logits = run_all_heads(network, batch, dropout, self.detach_early_heads)
        return Answers(
            logits,
            torch.full_like(batch.piece_of_word, len(logits)),
            None,
            [Lesson(targets, weights)],
        )

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        if not answers.own:  # no words
            return answers.logits.sum()
        lessons = [Lesson(*part) for part in answers.own]
        targets = torch.cat([lesson.targets for lesson in lessons])
        weights = torch.cat([lesson.weights for lesson in lessons], dim=1)
        return layer_weighted(target_losses(answers.logits, targets) * weights)

    def _selected(
        self, teacher: ExitNetwork, batch: Batch, dropout: float, taught: Tensor
    ) -> Tensor:
        """RETURNS (Tensor): Which words' tags are believed. *Shape:* ``(words,)``, bool"""
        if self.confidence == "heads":
            confidence = stability(taught.float())
        else:
            confidence = certainty(teacher, batch, self.passes, dropout)
        return most_confident(confidence, taught[-1].argmax(-1), self.keep)

    def _weights(self, network: ExitNetwork, batch: Batch, targets: Tensor) -> Tensor:
        """RETURNS (Tensor): The weight of each word. *Shape:* ``(heads or 1, words)``"""
        rows = len(network.exit_layers) if self.weight_per_head else 1
        if self.weights == "equal":
            self._count.total += rows * len(targets)
            return targets.new_ones(rows, len(targets))
        if not self.labelled:
            raise ValueError(
                "MetaSelfTraining has no labelled texts to weight words by. Initialize the "
                "component with them: set labelled in [initialize.components], as in "
                "configs/meta_self_training.cfg. Or set weights = 'equal'."
            )
        # A matter of small differences: in fp32 even where training is not.
        with torch.autocast(batch.ids.device.type, enabled=False):
            if self.sampling == "loss_decay" and self._step % OBSERVE_EVERY == 0:
                self._decay.observe(self._losses(network))
            self._step += 1
            drawn = self._decay.draw(self.labelled_texts)
            labelled = self._batches([self.labelled[i] for i in drawn], network.device)
            direction = gradient_on(
                network, ((batch, tags) for batch, tags, _ in labelled), self.detach_early_heads
            )
            slopes = slopes_along(
                network,
                batch,
                lambda logits: target_losses(logits, targets),
                direction,
                self.detach_early_heads,
            )
        if not self.weight_per_head:
            depth = torch.arange(1, len(slopes) + 1, dtype=slopes.dtype, device=slopes.device)
            slopes = (slopes * depth[:, None]).sum(0, keepdim=True)  # as layer_weighted does
        self._count.total += float(slopes.clamp(min=0.0).sum())
        return normalised(slopes)

    def _losses(self, network: ExitNetwork) -> Tensor:
        """RETURNS (Tensor): The mean loss of each labelled window. *Shape:* ``(labelled,)``"""
        found = torch.zeros(len(self.labelled))
        with torch.no_grad():
            for batch, tags, numbers in self._batches(self.labelled, network.device):
                losses = word_losses(run_all_heads(network, batch)[-1:], tags)[0]
                known = (tags != MISSING).to(losses.dtype)
                sums = losses.new_zeros(batch.windows, 2).index_add(
                    0, batch.window_of_word, torch.stack([losses, known], dim=1)
                )
                found[numbers] = (sums[:, 0] / sums[:, 1].clamp(min=1.0)).float().cpu()
        return found

    def _batches(
        self, labelled: Sequence[Labelled], device: torch.device
    ) -> Iterator[Tuple[Batch, Tensor, List[int]]]:
        """YIELDS (Tuple[Batch, Tensor, List[int]]): A batch of labelled windows, the right tags of
        its words, and the indices of the windows.
        """
        windows: List[Window] = [one.window for one in labelled]
        number = {id(window): i for i, window in enumerate(windows)}
        for some in batches(windows, self.wordpieces):
            numbers = [number[id(window)] for window in some]
            tags = np.concatenate([labelled[i].tags for i in numbers])
            yield Batch.of(some, device), torch.from_numpy(tags).to(device), numbers


def make_meta_self_training(
    labels: Labels = "sampled",
    weights: Literal["look_ahead", "equal"] = "look_ahead",
    weight_per_head: bool = False,
    labelled_texts: int = 16,
    sampling: Literal["loss_decay", "uniform"] = "loss_decay",
    confidence: Optional[Literal["heads", "dropout"]] = None,
    keep: float = 0.5,
    passes: int = 5,
    detach_early_heads: bool = True,
) -> Stage:
    """Make the stage ``spacy-early-exit.MetaSelfTraining.v1``.

    The teacher is the pipeline that ``start_from`` names, the student begins with the pre-trained
    encoder. It is trained on texts whose annotation, if any, is ignored. Parameters of a decoder
    are not trained.

    labels (Labels): What the student learns: ``"sampled"``: tags drawn from the teacher's softmax;
        ``"argmax"``: its best tags; ``"soft"``: its distribution, sharpened.
    weights (str): ``"look_ahead"``: the weight of a word is how much a step on its loss would lower
        the loss on labelled texts, and nothing if it would raise it; ``"equal"``: all weights are
        1.
    weight_per_head (bool): Whether each head has weights of its own; otherwise one weight counts
        for a word's loss at all heads.
    labelled_texts (int): Number of labelled texts that each batch is weighted by, drawn anew.
    sampling (str): How they are drawn: ``"loss_decay"``: those whose loss still falls more often
        than others; ``"uniform"``: all alike.
    confidence (Optional[str]): Which of the teacher's tags are believed; the other words get no
        weight. ``"heads"``: those that its heads agree on from an early layer on; ``"dropout"``:
        those that passes with dropout agree on; None: all. A drawn tag that is not its best one is
        not believed.
    keep (float): The share of words that is believed, of each tag.
    passes (int): Number of passes with dropout.
    detach_early_heads (bool): Whether the encoder learns from the deepest head alone.
    RETURNS (Stage): The stage.
    RAISES (ValueError): If an argument makes no sense.
    """
    choices = {
        "labels": (labels, ("sampled", "argmax", "soft")),
        "weights": (weights, ("look_ahead", "equal")),
        "sampling": (sampling, ("loss_decay", "uniform")),
        "confidence": (confidence, (None, "heads", "dropout")),
    }
    for name, (given, known) in choices.items():
        if given not in known:
            listed = " or ".join("null" if one is None else repr(one) for one in known)
            raise ValueError(f"MetaSelfTraining: {name} must be {listed}, not {given!r}.")
    for name, count in (("labelled_texts", labelled_texts), ("passes", passes)):
        if count < 1:
            raise ValueError(f"MetaSelfTraining: {name} must be 1 or more, not {count}.")
    check_bounds("MetaSelfTraining", keep=(keep, 1.0))
    return MetaSelfTraining(
        labels=labels,
        weights=weights,
        weight_per_head=weight_per_head,
        labelled_texts=labelled_texts,
        sampling=sampling,
        confidence=confidence,
        keep=keep,
        passes=passes,
        detach_early_heads=detach_early_heads,
    )
