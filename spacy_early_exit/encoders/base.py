"""What a source of encoders is, and what it returns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from ..network.families import EncoderSpec


@dataclass(frozen=True)
class PretrainedEncoder:
    """A loaded encoder.

    spec (EncoderSpec): Its sizes.
    weights (Dict[str, Tensor]): Its parameters, by our names.
    tokenizer (str): Its tokenizer, as the JSON of the ``tokenizers`` library.
    """

    spec: "EncoderSpec"
    weights: Dict[str, "Tensor"]
    tokenizer: str


@runtime_checkable
class EncoderSource(Protocol):
    """Something that can be asked for an encoder, at ``nlp.initialize``."""

    def load(self) -> PretrainedEncoder:
        """RETURNS (PretrainedEncoder): The encoder."""
