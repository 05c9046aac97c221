"""What a stage of training is, and what goes into and out of it."""

from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Optional, Protocol, Sequence, Tuple, runtime_checkable

import numpy as np
import torch
from thinc.api import torch2xp, xp2torch
from torch import Tensor

from ..decoders import Decoder
from ..network.arrays import Bools, Ints
from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import ExitNetwork
from ..network.window import Window
from ..runtime.torch_state import usual_torch


class Answers(NamedTuple):
    """The output of the heads for a batch while training.

    logits (Tensor): The logits of every head. *Shape:* ``(heads, words, tags)``
    exit_head (Tensor): The number, counted from 1, of the head at which each word exited. *Shape:*
        ``(words,)``
    teacher (Optional[Tensor]): The logits of the network before this stage, at full depth, if the
        stage needs them. *Shape:* ``(heads, words, tags that it knew)``
    own (Sequence[Sequence[Tensor]]): What else the stage needs for its loss, batch by batch. It
        learns through the tensors that have gradients.
    """

    logits: Tensor
    exit_head: Tensor
    teacher: Optional[Tensor]
    own: Sequence[Sequence[Tensor]] = ()


class Gradient(NamedTuple):
    """The gradient of a loss.

    logits (Any): The gradient with respect to the logits, numpy or cupy. *Shape:*
        ``(heads, words, tags)``
    learned (Dict[str, Any]): With respect to the decoder's learnt parameters, by name.
    own (Sequence[Tensor]): With respect to what else the stage needed, where it has gradients.
    """

    logits: Any
    learned: Dict[str, Any]
    own: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Places:
    """Where the words of some windows are.

    doc (Ints): The doc of each word. *Shape:* ``(words,)``
    word (Ints): Its index in that doc. *Shape:* ``(words,)``
    owned (Bools): Whether it counts. Otherwise it is only context for an overlapping window.
        *Shape:* ``(words,)``
    """

    doc: Ints
    word: Ints
    owned: Bools

    @classmethod
    def of(cls, windows: Sequence[Window]) -> "Places":
        """RETURNS (Places): The places of all words of windows, one after the other.

        windows (Sequence[Window]): The windows.
        """
        nothing = np.zeros(0, dtype=np.int64)
        return Places(
            doc=np.concatenate([nothing, *(np.full(len(w.words), w.doc) for w in windows)]),
            word=np.concatenate([nothing, *(window.words for window in windows)]),
            owned=np.concatenate([nothing == 1, *(window.owned for window in windows)]),
        )


@dataclass(frozen=True)
class JointLogits(Places):
    """The output of all heads for all words of some docs, for training.

    logits (Any): The logits. *Shape:* ``(heads, words, tags)``, numpy or cupy
    exit_head (Ints): The number, counted from 1, of the head at which it exited. *Shape:*
        ``(words,)``
    text (Ints): The text that it belongs to. That is the doc; but if the stage runs windows several
        times, each time counts as a separate text. *Shape:* ``(words,)``
    learned (Dict[str, Any]): The decoder's learnt parameters, numpy or cupy.
    teacher (Any): The logits of the network before this stage of training, if the stage needs them.
        *Shape:* ``(heads, words, tags that it knew)``, numpy or cupy
    own (Sequence[Sequence[Tensor]]): What else the stage needs for its loss.
    """

    logits: Any
    exit_head: Ints
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
        """RETURNS (bool): Whether the decoder's parameters are trained."""

    @property
    def trains_criterion(self) -> bool:
        """RETURNS (bool): Whether the criterion's parameters are trained."""

    @property
    def copies(self) -> int:
        """RETURNS (int): How many times it runs every window."""

    def run(
        self,
        network: ExitNetwork,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[ExitNetwork],
    ) -> Answers:
        """RETURNS (Answers): The logits of all heads for the batch, with gradients."""

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""


class Labelled(NamedTuple):
    """A labelled window.

    window (Window): The window.
    tags (Ints): The right tag of each of its words, ``MISSING`` where it is not known. *Shape:*
        ``(words,)``
    """

    window: Window
    tags: Ints


@runtime_checkable
class SelfTraining(Protocol):
    """A stage that trains a new network, the student, on the tags of the one that it starts from,
    its teacher.
    """

    def learn_by(self, labelled: Sequence[Labelled], wordpieces: int) -> None:
        """Take labelled windows, and begin anew.

        labelled (Sequence[Labelled]): The windows.
        wordpieces (int): Maximum number of wordpieces in a batch.
        """

    def figures(self) -> Dict[str, float]:
        """RETURNS (Dict[str, float]): What is logged beside the scores."""


@usual_torch()
def loss_and_gradient(
    stage: Stage, decoder: Decoder, scores: JointLogits, tags: Any
) -> Tuple[float, Gradient]:
    """Compute the loss of a stage and a decoder, and its gradient. Input and output are arrays, as
    thinc expects. The decoder sees each word's logits at its exit, as when predicting.

    stage (Stage): The stage.
    decoder (Decoder): The decoder.
    scores (JointLogits): The logits of all heads.
    tags (Any): The right tags, numpy. *Shape:* ``(words,)``
    RETURNS (Tuple[float, Gradient]): The loss and its gradient.
    """
    logits = xp2torch(scores.logits).detach().requires_grad_(True)
    right, exit_head = (
        torch.from_numpy(array).to(logits.device) for array in (tags, scores.exit_head)
    )
    teacher = None if scores.teacher is None else xp2torch(scores.teacher)
    own = [[t.detach().requires_grad_(t.requires_grad) for t in part] for part in scores.own]
    value = stage.loss(Answers(logits, exit_head, teacher, own), right)
    # A pipeline may also hold parameters that another decoder learnt.
    with torch.device("meta"):
        names = decoder.parameters(logits.shape[2]) if stage.trains_decoder else {}
    learned = {
        name: xp2torch(array).detach().requires_grad_(True)
        for name, array in scores.learned.items()
        if name in names
    }
    if learned:
        words = torch.arange(len(right), device=logits.device)
        of_exits = logits[exit_head - 1, words]
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
    """Assemble texts from their windows for a decoder, so that it sees what it will see when
    predicting.

    RETURNS (Tuple[Ints, Ints]): The words whose answers count, text by text, and the text of
        each. *Shapes:* ``(owned words,)``
    """
    order = np.lexsort((scores.word, scores.text))
    order = order[scores.owned[order]]
    return order, scores.text[order]


def check_bounds(stage: str, **bounds: Tuple[float, float]) -> None:
    """Refuse numbers that are not between 0 and their bound.

    stage (str): The name of the stage.
    **bounds (Tuple[float, float]): Each number, and its largest valid value.
    RAISES (ValueError): If one is out of bounds. The message names it.
    """
    for name, (value, most) in bounds.items():
        if not 0.0 <= value <= most:
            limits = "0 or more" if most == float("inf") else f"between 0 and {most:g}"
            raise ValueError(f"{stage}: {name} must be {limits}, not {value}.")
