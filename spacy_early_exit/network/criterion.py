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

from torch import Tensor

from .batch import Batch
from .families import EncoderSpec

if TYPE_CHECKING:
    from .cost import Cost
    from .loop import Exits


@dataclass(frozen=True)
class Step:
    """What a criterion sees after a layer.

    layer (int): The layer, counted from 1. The last one is never asked about: it takes all.
    words (Tensor): The words that have not left, ascending. *Shape:* ``(words,)``
    logits (Tensor): What this layer's head says of them. *Shape:* ``(words, tags)``
    batch (Batch): The batch that ``words`` are indices into.
    threshold (Union[float, Tensor]): In (0, 1]; in training each word may have one of its own.
        *Shape:* ``(words,)``
    learned (Mapping[str, Tensor]): What criterion and decoder have learnt, by name.
    states (Tensor): What this layer made of the words. *Shape:* ``(words, hidden_size)``
    """

    layer: int
    words: Tensor
    logits: Tensor
    batch: Batch
    threshold: Union[float, Tensor]
    learned: Mapping[str, Tensor]
    states: Tensor


class OwnLoop(NamedTuple):
    """A layer loop for criteria that ask others than the exit heads who may leave. See
    ``relatives`` for one.

    run (Callable[..., Exits]): Takes and gives what ``loop.run_with_exits`` does.
    simulate (Callable[..., Tuple[Tensor, Cost]]): Takes and gives what
        ``simulate.simulate_exits`` does, with the states of all layers.
    """

    run: Callable[..., "Exits"]
    simulate: Callable[..., Tuple[Tensor, "Cost"]]


@runtime_checkable
class Criterion(Protocol):
    """Decides after each layer which words may leave.

    It keeps nothing between calls: what it must remember of a batch is the state that
    ``start`` makes and every ``leave`` of that batch receives. Each word's answer depends on
    its own window alone, so that a text gets the same answer in any batch.
    """

    @property
    def has_threshold(self) -> bool:
        """RETURNS (bool): Whether the ``threshold`` means anything to it."""

    @property
    def own_loop(self) -> Optional["OwnLoop"]:
        """RETURNS (Optional[OwnLoop]): What runs it in place of the common loop; None: nothing
        does.
        """

    @property
    def needs_learned(self) -> Sequence[str]:
        """RETURNS (Sequence[str]): What it needs of what the decoder has learnt."""

    def with_window(self, window: int) -> "Criterion":
        """RETURNS (Criterion): The same with another neighbourhood; itself where there is none.

        window (int): How many words to each side are neighbours.
        """

    def parameters(self, spec: EncoderSpec) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): What it learns itself, by name, as it is before training."""

    def macs(self, layer: int, spec: EncoderSpec, tags: int) -> int:
        """RETURNS (int): What judging a word after a layer costs, beside the head."""

    def start(self, batch: Batch) -> Any:
        """RETURNS (Any): A fresh state for a batch."""

    def leave(self, step: Step, state: Any) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may leave. *Shape:* ``(words,)``, bool"""
