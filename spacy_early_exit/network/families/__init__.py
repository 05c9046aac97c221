"""Which encoders can be run layer by layer: their sizes, and where their weights are found."""

from .checkpoint import read_spec, read_weights, write_config, write_weights
from .spec import EncoderSpec, LayerSizes, check_sizes
from .tables import CURATED, FAMILIES, Attention, Family

__all__ = [
    "CURATED",
    "FAMILIES",
    "Attention",
    "EncoderSpec",
    "Family",
    "LayerSizes",
    "check_sizes",
    "read_spec",
    "read_weights",
    "write_config",
    "write_weights",
]
