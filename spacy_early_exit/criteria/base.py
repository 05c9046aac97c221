"""What most criteria have in common."""

from typing import Any, Dict, Tuple

from torch import Tensor

from ..network.batch import Batch
from ..network.families import EncoderSpec


class Plain:
    """A criterion with a dial that judges the words at hand by what the heads say, learns nothing
    and remembers nothing. See ``network.criterion``.
    """

    has_threshold = True
    judges_by_states = False

    @property
    def needs_learned(self) -> Tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): What it uses of what the decoder learns: nothing."""
        return ()

    def parameters(self, spec: EncoderSpec) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): It learns nothing."""
        return {}

    def macs(self, layer: int, spec: EncoderSpec, tags: int) -> int:
        """RETURNS (int): It multiplies nothing."""
        return 0

    def start(self, batch: Batch) -> Any:
        """RETURNS (None): It remembers nothing."""
        return None
