"""Exit criteria: who may leave after a layer. One file a criterion."""

from .belief import BeliefExit, make_belief_exit
from .entropy import SentenceExit, TokenExit, make_sentence_exit, make_token_exit
from .patience import PatienceExit, make_patience_exit
from .reduction import TokenReduction, make_token_reduction

__all__ = [
    "BeliefExit",
    "PatienceExit",
    "SentenceExit",
    "TokenExit",
    "TokenReduction",
    "make_belief_exit",
    "make_patience_exit",
    "make_sentence_exit",
    "make_token_exit",
    "make_token_reduction",
]
