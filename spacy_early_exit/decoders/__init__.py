"""Decoders: from the words' exit logits to tags. One file for each decoder."""

from .base import Decoder, Learned
from .crf import CRFDecoder, make_crf_decoder
from .greedy import Greedy, make_greedy
from .viterbi import BIOViterbi, Viterbi, make_bio_viterbi, make_viterbi

__all__ = [
    "BIOViterbi",
    "CRFDecoder",
    "Decoder",
    "Greedy",
    "Learned",
    "Viterbi",
    "make_bio_viterbi",
    "make_crf_decoder",
    "make_greedy",
    "make_viterbi",
]
