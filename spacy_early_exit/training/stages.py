"""The stages of training: how the network runs on a batch, and what its heads are trained on.

Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".
"""

from dataclasses import dataclass
from typing import (
    Any,
    Dict,
    List,
    Literal,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    runtime_checkable,
)

import numpy as np
import torch
import torch.nn.functional as F
from thinc.api import torch2xp, xp2torch
from torch import Tensor

from ..decoders import Decoder
from ..network.arrays import Bools, Ints
from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import Tagger
from ..network.loop import Halting, run_all_heads, run_all_heads_halting
from ..retired import reads_retired
from ..runtime.torch_state import usual_torch
from .halting import RandomHalting, SampledHalting, draw_thresholds, neighbourhoods
from .losses import distillation_loss, layer_weighted, said, word_losses

Pattern = Literal["on_policy", "off_policy", "random"]
UNLIKELY = -1e4  # a logit


class Answers(NamedTuple):
    """What the heads say of a batch while training.

    logits (Tensor): Of every head. *Shape:* ``(layers, words, tags)``
    exit_layer (Tensor): The layer at which each word left. *Shape:* ``(words,)``
    teacher (Optional[Tensor]): What the network said before this stage, at full depth, if the
        stage asks for it. *Shape:* ``(layers, words, tags that it knew)``
    own (Sequence[Sequence[Tensor]]): What else the stage wants back for its loss, batch by batch.
        It learns through those with gradients.
    """

    logits: Tensor
    exit_layer: Tensor
    teacher: Optional[Tensor]
    own: Sequence[Sequence[Tensor]] = ()


class Gradient(NamedTuple):
    """The gradient of a loss.

    logits (Any): By what the heads say, numpy or cupy. *Shape:* ``(layers, words, tags)``
    learned (Dict[str, Any]): By what the decoder has learnt, by name.
    own (Sequence[Tensor]): By what the stage wanted back, where that has gradients.
    """

    logits: Any
    learned: Dict[str, Any]
    own: Sequence[Tensor] = ()


@dataclass(frozen=True)
class JointLogits:
    """What all heads say of all words of some docs, for training.

    logits (Any): *Shape:* ``(layers, words, tags)``, numpy or cupy
    doc (Ints): The doc of each word. *Shape:* ``(words,)``
    word (Ints): Its index in that doc. *Shape:* ``(words,)``
    owned (Bools): Whether it counts, or is but the context of an overlapping window.
        *Shape:* ``(words,)``
    exit_layer (Ints): The layer at which it left. *Shape:* ``(words,)``
    text (Ints): The text it is of: the doc; where the stage runs windows several times, every
        time is a text of its own. *Shape:* ``(words,)``
    learned (Dict[str, Any]): What the decoder has learnt, numpy or cupy.
    teacher (Any): What the network said before this stage of training, if the stage asks for
        it. *Shape:* ``(layers, words, tags that it knew)``, numpy or cupy
    own (Sequence[Sequence[Tensor]]): What else the stage wants back for its loss.
    """

    logits: Any
    doc: Ints
    word: Ints
    owned: Bools
    exit_layer: Ints
    text: Ints
    learned: Dict[str, Any]
    teacher: Any = None
    own: Sequence[Sequence[Tensor]] = ()


@runtime_checkable
class Stage(Protocol):
    """A stage of training."""

    @property
    def needs_teacher(self) -> bool:
        """RETURNS (bool): Whether it needs the network as it was before this stage."""

    @property
    def trains_decoder(self) -> bool:
        """RETURNS (bool): Whether what the decoder learns is learnt."""

    @property
    def trains_criterion(self) -> bool:
        """RETURNS (bool): Whether what the criterion learns is learnt."""

    @property
    def copies(self) -> int:
        """RETURNS (int): How many times it runs every window."""

    def run(
        self,
        network: Tagger,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[Tagger],
    ) -> Answers:
        """RETURNS (Answers): What the heads say of the batch, with gradients."""

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""


@dataclass(frozen=True)
class JointTraining:
    """First stage: all layers on everything, all heads at once, the deeper the heavier.

    distillation (float): Weight of what the earlier heads learn from the deepest.
    detach_early_heads (bool): Whether the encoder learns from the deepest head alone, as that of a
        plain tagger does, and the other heads from its states as they are. (Nor does clipping let
        them touch it: thinc clips the gradient of each parameter by itself.)
    pseudo_labels (bool): Whether the deepest head's own tags take the place of the annotation.
    """

    distillation: float = 0.0
    detach_early_heads: bool = False
    pseudo_labels: bool = False
    needs_teacher = False
    trains_decoder = True
    trains_criterion = False
    copies = 1

    def run(
        self,
        network: Tagger,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[Tagger],
    ) -> Answers:
        """RETURNS (Answers): What the heads say of the batch, with gradients."""
        logits = run_all_heads(network, batch, dropout, self.detach_early_heads)
        return Answers(logits, torch.full_like(batch.piece_of_word, len(logits)), None)

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        deepest = answers.logits[-1].detach()
        if self.pseudo_labels:
            tags = said(deepest, tags)
        losses = word_losses(answers.logits, tags)
        if self.distillation:
            losses = losses + self.distillation * distillation_loss(answers.logits, deepest, tags)
        return layer_weighted(losses)


@dataclass(frozen=True)
class SelfSampling:
    """Second stage: words leave while training, as they will when predicting.

    pattern (Pattern): Who decides: ``"on_policy"``: the running pass itself;
        ``"off_policy"``: the network as it was before this stage, at full depth, as in the
        authors' code; ``"random"``: nobody, for comparison.
    max_threshold (float): For every window a threshold is drawn from 0 to this.
    windows (Tuple[int, ...]): And one of these neighbourhoods, where words leave one by one.
    aggressive_share (float): Share of windows that get the largest threshold and the smallest
        neighbourhood.
    full_share (float): Share of windows that stay to the end.
    distillation (float): Weight of what all heads learn from the deepest head as it was
        before this stage.
    pseudo_labels (bool): Whether the tags of that deepest head take the place of the annotation.
    """

    pattern: Pattern
    max_threshold: float
    windows: Tuple[int, ...]
    aggressive_share: float
    full_share: float
    distillation: float
    pseudo_labels: bool = False
    trains_decoder = True
    trains_criterion = False
    copies = 1

    @property
    def needs_teacher(self) -> bool:
        """RETURNS (bool): Whether it needs the network as it was before this stage."""
        return self.pattern == "off_policy" or self.pseudo_labels or self.distillation > 0

    def run(
        self,
        network: Tagger,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[Tagger],
    ) -> Answers:
        """RETURNS (Answers): What the heads say of the batch, with gradients."""
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = run_all_heads(teacher, batch)
        halting = self._halting(network, batch, criterion, taught)
        logits, exit_layer = run_all_heads_halting(network, batch, halting, dropout)
        return Answers(logits, exit_layer, taught)

    def _halting(
        self, network: Tagger, batch: Batch, criterion: Criterion, taught: Optional[Tensor]
    ) -> Halting:
        device = batch.ids.device
        if self.pattern == "random":
            layers = torch.randint(1, network.spec.layers + 1, (batch.words,)).to(device)
            full = torch.rand(batch.windows).to(device) >= 1.0 - self.full_share
            layers[full[batch.window_of_word]] = network.spec.layers
            return RandomHalting(layers)
        criteria = neighbourhoods(criterion, sorted(self.windows))
        thresholds = draw_thresholds(
            batch.windows, self.max_threshold, self.aggressive_share, self.full_share
        )
        choice = torch.randint(len(criteria), (batch.windows,))
        choice[thresholds == self.max_threshold] = 0  # drawn ones are below: these are aggressive
        judged_by = None
        if self.pattern == "off_policy" and taught is not None:
            # No tag that the teacher does not know is likely.
            unknown = network.tags - taught.shape[-1]
            judged_by = F.pad(taught, (0, unknown), value=UNLIKELY)
        return SampledHalting(
            batch=batch,
            thresholds=thresholds.to(device),
            criteria=[(drawn, drawn.start(batch)) for drawn in criteria],
            choice=choice.to(device),
            logits=judged_by,
            learned=network.learned,
        )

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        if self.pseudo_labels and answers.teacher is not None:
            tags = said(answers.teacher[-1], tags)
        losses = word_losses(answers.logits, tags)
        if self.distillation and answers.teacher is not None:
            deepest = answers.teacher[-1]
            losses = losses + self.distillation * distillation_loss(answers.logits, deepest, tags)
        # Heads after a word's exit learn nothing of it.
        layers = torch.arange(1, len(losses) + 1, device=losses.device)
        losses = losses * (layers[:, None] <= answers.exit_layer)
        return layer_weighted(losses)


@usual_torch()
def loss_and_gradient(
    stage: Stage, decoder: Decoder, scores: JointLogits, tags: Any
) -> Tuple[float, Gradient]:
    """Compute the loss of a stage and a decoder and its gradient, arrays in and out as thinc wants
    it. The decoder sees what every word said where it left, as when predicting.

    stage (Stage): The stage.
    decoder (Decoder): The decoder.
    scores (JointLogits): What the heads say.
    tags (Any): numpy. *Shape:* ``(words,)``
    RETURNS (Tuple[float, Gradient]): The loss and its gradient.
    """
    logits = xp2torch(scores.logits).detach().requires_grad_(True)
    right, exit_layer = (
        torch.from_numpy(array).to(logits.device) for array in (tags, scores.exit_layer)
    )
    teacher = None if scores.teacher is None else xp2torch(scores.teacher)
    own = [[t.detach().requires_grad_(t.requires_grad) for t in part] for part in scores.own]
    value = stage.loss(Answers(logits, exit_layer, teacher, own), right)
    # A pipeline may hold what another decoder has learnt.
    with torch.device("meta"):
        names = decoder.parameters(logits.shape[2]) if stage.trains_decoder else {}
    learned = {
        name: xp2torch(array).detach().requires_grad_(True)
        for name, array in scores.learned.items()
        if name in names
    }
    if learned:
        words = torch.arange(len(right), device=logits.device)
        of_exits = logits[exit_layer - 1, words]
        order, texts = (torch.from_numpy(array).to(logits.device) for array in by_text(scores))
        loss = decoder.loss(of_exits.index_select(0, order), right[order], texts, learned)
        value = value + loss / stage.copies
    of_stage = [tensor for part in own for tensor in part if tensor.requires_grad]
    variables = [logits, *learned.values(), *of_stage]
    found = torch.autograd.grad(value, variables, materialize_grads=True)
    return float(value.detach()), Gradient(
        logits=torch2xp(found[0]),
        learned={name: torch2xp(slope) for name, slope in zip(learned, found[1:])},
        own=found[1 + len(learned) :],
    )


def by_text(scores: JointLogits) -> Tuple[Ints, Ints]:
    """Put texts together from their windows, for a decoder, which is to see what it will see when
    predicting.

    RETURNS (Tuple[Ints, Ints]): The words whose answers count, text by text, and the text of
        each. *Shapes:* ``(owned words,)``
    """
    order = np.lexsort((scores.word, scores.text))
    order = order[scores.owned[order]]
    return order, scores.text[order]


@reads_retired("JointTraining")
def make_joint_training(
    distillation: float = 0.0,
    detach_early_heads: bool = False,
    pseudo_labels: bool = False,
) -> Stage:
    """Make the stage ``spacy-early-exit.JointTraining.v1``.

    distillation (float): Weight of what the earlier heads learn from the deepest one's
        distribution; 0: nothing.
    detach_early_heads (bool): Whether the encoder learns from the deepest head alone. That spares
        full depth the compromise; a second stage then shapes the earlier layers.
    pseudo_labels (bool): Whether annotated words are trained on the tag that the deepest head
        gives them, rather than on the annotation.
    RETURNS (Stage): The stage.
    RAISES (ValueError): If an argument makes no sense.
    """
    _check("JointTraining", distillation=(distillation, float("inf")))
    return JointTraining(
        distillation=distillation,
        detach_early_heads=detach_early_heads,
        pseudo_labels=pseudo_labels,
    )


@reads_retired("SelfSampling")
def make_self_sampling(
    pattern: Pattern = "on_policy",
    max_threshold: float = 0.3,
    windows: Sequence[int] = (0, 1, 2, 3),
    aggressive_share: float = 0.0,
    full_share: float = 0.2,
    distillation: float = 0.0,
    pseudo_labels: bool = False,
) -> Stage:
    """Make the stage ``spacy-early-exit.SelfSampling.v1``.

    pattern (Pattern): Who decides which words leave: ``"on_policy"``, ``"off_policy"`` or
        ``"random"``.
    max_threshold (float): The largest threshold that is drawn.
    windows (Sequence[int]): The neighbourhoods to draw from; empty: the criterion's own.
    aggressive_share (float): Share of windows that get the largest threshold and the smallest
        neighbourhood.
    full_share (float): Share of windows that stay to the end.
    distillation (float): Weight of what all heads learn from the first stage's deepest head.
    pseudo_labels (bool): Whether annotated words are trained on the tag that the first stage's
        deepest head gives them, rather than on the annotation.
    RETURNS (Stage): The stage.
    RAISES (ValueError): If an argument makes no sense.
    """
    if pattern not in ("on_policy", "off_policy", "random"):
        raise ValueError(
            f"SelfSampling: pattern must be 'on_policy', 'off_policy' or 'random', not {pattern!r}."
        )
    drawn: List[int] = [int(window) for window in windows]
    _check(
        "SelfSampling",
        max_threshold=(max_threshold, 1.0),
        smallest_window=(min(drawn, default=0), float("inf")),
        aggressive_share=(aggressive_share, 1.0),
        full_share=(full_share, 1.0),
        aggressive_and_full_share=(aggressive_share + full_share, 1.0),
        distillation=(distillation, float("inf")),
    )
    return SelfSampling(
        pattern=pattern,
        max_threshold=max_threshold,
        windows=tuple(drawn),
        aggressive_share=aggressive_share,
        full_share=full_share,
        distillation=distillation,
        pseudo_labels=pseudo_labels,
    )


def _check(stage: str, **bounds: Tuple[float, float]) -> None:
    for name, (value, most) in bounds.items():
        if not 0.0 <= value <= most:
            limits = "0 or more" if most == float("inf") else f"between 0 and {most:g}"
            raise ValueError(f"{stage}: {name} must be {limits}, not {value}.")
