"""Exit criteria: which words may exit after a layer. A file for each paper, and
``neighbours``, which several use.
"""

from .entropy import SentenceExit, TokenExit, make_sentence_exit, make_token_exit
from .patience import PatienceExit, make_patience_exit

__all__ = [
    "PatienceExit",
    "SentenceExit",
    "TokenExit",
    "make_patience_exit",
    "make_sentence_exit",
    "make_token_exit",
]
