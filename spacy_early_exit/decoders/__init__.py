"""Decoders: from the words' exit logits to tags. One file a decoder."""

from .base import Decoder, Floats
from .viterbi import BIOViterbi, make_bio_viterbi

__all__ = ["BIOViterbi", "Decoder", "Floats", "make_bio_viterbi"]
