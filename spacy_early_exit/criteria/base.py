"""What most criteria have in common."""

from typing import Any, ClassVar, Dict, Optional, Tuple, TypeVar

from torch import Tensor

from ..network.batch import Batch
from ..network.criterion import OwnLoop
from ..network.families import EncoderSpec

Own = TypeVar("Own", bound="CriterionBase")


class CriterionBase:
    """A criterion with a threshold. It judges words by the logits of the heads, learns nothing and
    remembers nothing. See ``network.criterion``.
    """

    has_threshold = True
    own_loop: ClassVar[Optional[OwnLoop]] = None

    @property
    def needs_learned(self) -> Tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): The learnt parameters of the decoder that it needs: none."""
        return ()

    def with_window(self: Own, window: int) -> Own:
        """RETURNS (CriterionBase): Itself: it has no neighbours."""
        return self

    def parameters(self, spec: EncoderSpec) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): It learns nothing."""
        return {}

    def macs(self, layer: int, spec: EncoderSpec, tags: int) -> int:
        """RETURNS (int): 0: it multiplies nothing."""
        return 0

    def start(self, batch: Batch) -> Any:
        """RETURNS (None): It remembers nothing."""
        return None
