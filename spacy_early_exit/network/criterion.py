"""What an exit criterion is."""

from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
    runtime_checkable,
)

import torch
from torch import Tensor

from .batch import Batch
from .families import EncoderSpec

if TYPE_CHECKING:
    from .cost import Cost
    from .loop import Exits


@dataclass(frozen=True)
class Step:
    """What a criterion sees after a layer.

    layer (int): The layer, counted from 1. Criteria are never asked about the last one: all
        remaining words exit there.
    words (Tensor): The words that have not exited, ascending. *Shape:* ``(words,)``
    logits (Tensor): This layer's logits for them. *Shape:* ``(words, tags)``
    batch (Batch): The batch that ``words`` are indices into.
    threshold (Union[float, Tensor]): In (0, 1]; in training, each word may have its own. *Shape:*
        ``(words,)``
    learned (Mapping[str, Tensor]): The learnt parameters of criterion and decoder, by name.
    states (Tensor): The words' states after this layer. *Shape:* ``(words, hidden_size)``
    """

    layer: int
    words: Tensor
    logits: Tensor
    batch: Batch
    threshold: Union[float, Tensor]
    learned: Mapping[str, Tensor]
    states: Tensor


class OwnLoop(NamedTuple):
    """A layer loop for criteria that do not use the exit heads to decide which words exit. See
    ``relatives`` for an example.

    run (Callable[..., Exits]): Takes and returns what ``loop.run_with_exits`` does.
    simulate (Callable[..., Tuple[Tensor, Cost]]): Takes and returns what
        ``simulate.simulate_exits`` does, with the states of all layers.
    """

    run: Callable[..., "Exits"]
    simulate: Callable[..., Tuple[Tensor, "Cost"]]


@runtime_checkable
class Criterion(Protocol):
    """Decides after each layer with an exit head which words may exit.

    It keeps nothing between calls. What it must remember of a batch is in the state that ``start``
    makes and that every ``leave`` of that batch receives. Each word's answer depends on its own
    window alone, so that a text gets the same answer in any batch.
    """

    @property
    def has_threshold(self) -> bool:
        """RETURNS (bool): Whether it uses the ``threshold``."""

    @property
    def own_loop(self) -> Optional["OwnLoop"]:
        """RETURNS (Optional[OwnLoop]): The loop that replaces the common one; None: the common one
        runs.
        """

    @property
    def needs_learned(self) -> Sequence[str]:
        """RETURNS (Sequence[str]): The learnt parameters of the decoder that it needs."""

    def with_window(self, window: int) -> "Criterion":
        """RETURNS (Criterion): The same with another neighbourhood; itself if it has no
        neighbourhood.

        window (int): How many words on each side are neighbours.
        """

    def parameters(self, spec: EncoderSpec) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): Its own learnt parameters, by name, as they are before
        training.
        """

    def macs(self, layer: int, spec: EncoderSpec, tags: int) -> int:
        """RETURNS (int): What judging a word after a layer costs, in addition to the head."""

    def start(self, batch: Batch) -> Any:
        """RETURNS (Any): A new state for a batch."""

    def leave(self, step: Step, state: Any) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""


def checked(criterion: Criterion, step: Step, state: Any) -> Tensor:
    """RETURNS (Tensor): Which words may exit, by a criterion that may be somebody else's. *Shape:*
    ``(words,)``, bool

    criterion (Criterion): The criterion.
    step (Step): What it sees.
    state (Any): What it remembers.
    RAISES (ValueError): If it returns something else than it should.
    """
    leaving = criterion.leave(step, state)
    if leaving.dtype != torch.bool or leaving.shape != step.words.shape:
        raise ValueError(
            f"leave of the criterion {type(criterion).__name__} must return a bool for each of "
            f"step.words, of shape {tuple(step.words.shape)}. It returned {leaving.dtype} "
            f"of shape {tuple(leaving.shape)}."
        )
    return leaving
