"""What most criteria have in common."""

from typing import Any, ClassVar, Dict, Optional, Tuple, TypeVar

from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import OwnLoop
from ..network.families import EncoderSpec

Own = TypeVar("Own", bound="CriterionBase")


class CriterionBase:
    """A criterion with a threshold that judges the words at hand by what the heads say, learns
    nothing and remembers nothing. See ``network.criterion``.
    """

    has_threshold = True
    own_loop: ClassVar[Optional[OwnLoop]] = None

    @property
    def needs_learned(self) -> Tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): What it uses of what the decoder learns: nothing."""
        return ()

    def with_window(self: Own, window: int) -> Own:
        """RETURNS (CriterionBase): Itself: it looks at no neighbours."""
        return self

    def parameters(self, spec: EncoderSpec) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): It learns nothing."""
        return {}

    def macs(self, layer: int, spec: EncoderSpec, tags: int) -> int:
        """RETURNS (int): It multiplies nothing."""
        return 0

    def start(self, batch: Batch) -> Any:
        """RETURNS (None): It remembers nothing."""
        return None
