"""Stages of training for passes that several tasks read."""

from dataclasses import dataclass
from typing import Any, Optional, Protocol, runtime_checkable

from torch import Tensor

from ..network.all_heads import Halting
from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import ExitNetwork
from .halting import Drawn, SpeedupDraws
from .joint import JointTraining


@runtime_checkable
class SharedStage(Protocol):
    """A stage that says which words exit, and leaves it to others to run the encoder."""

    @property
    def detach_early_heads(self) -> bool:
        """RETURNS (bool): Whether only the deepest head's gradient reaches the encoder."""

    @property
    def draws(self) -> Optional[SpeedupDraws]:
        """RETURNS (Optional[SpeedupDraws]): What it draws speedups with; None: it draws none."""

    def halting(
        self,
        network: ExitNetwork,
        batch: Batch,
        criterion: Criterion,
        taught: Optional[Tensor],
        drawn: Optional[Drawn] = None,
    ) -> Optional[Halting]:
        """RETURNS (Optional[Halting]): Decides which words exit; None: no word exits.

        network (ExitNetwork): The network.
        batch (Batch): The batch.
        criterion (Criterion): The component's criterion.
        taught (Optional[Tensor]): The teacher's logits, if there is a teacher. *Shape:*
            ``(heads or 1, words, tags that it knew)``
        drawn (Optional[Drawn]): What is drawn for the batch, for all tasks; None: for it alone.
        """

    def see(
        self,
        halting: Optional[Halting],
        logits: Tensor,
        network: ExitNetwork,
        batch: Batch,
        criterion: Criterion,
    ) -> None:
        """See the logits of a batch, which may change what is drawn for the next.

        halting (Optional[Halting]): What decided which words exit.
        logits (Tensor): The logits of every head. *Shape:* ``(heads, words, tags)``
        network (ExitNetwork): The network.
        batch (Batch): The batch.
        criterion (Criterion): The component's criterion.
        """


@dataclass(frozen=True)
class Learner:
    """How a task learns from a shared pass.

    stage (SharedStage): Its stage of training.
    criterion (Criterion): Its criterion, by which a stage may let words exit.
    teacher (Optional[ExitNetwork]): The network as it was before this stage, if the stage needs it.
    deepest (bool): Whether the stage needs its deepest head alone.
    """

    stage: SharedStage
    criterion: Criterion
    teacher: Optional[ExitNetwork]
    deepest: bool = False


def learner_of(pipe: Any, learns: bool) -> Learner:
    """RETURNS (Learner): How a component learns from a shared pass.

    pipe (EarlyExitPipe): The component.
    learns (bool): Whether it is the one that learns now. Of the others, some may be frozen.
    RAISES (ValueError): If it learns, and its stage runs the encoder itself.
    """
    stage = pipe.training
    if not isinstance(stage, SharedStage):
        if not learns:
            return Learner(JointTraining(), pipe.criterion, None)
        raise ValueError(
            f"'{pipe.name}' shares an encoder, and {type(stage).__name__} can't train in a shared "
            f"pass. Train with JointTraining.v1 or SelfSampling.v1."
        )
    teacher = pipe._shim.teacher() if getattr(stage, "needs_teacher", False) else None
    return Learner(stage, pipe.criterion, teacher, getattr(stage, "needs_deepest_alone", False))
