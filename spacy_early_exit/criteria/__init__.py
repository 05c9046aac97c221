"""Exit criteria: who may leave after a layer. One file a criterion."""

from .entropy import SentenceExit, TokenExit, make_sentence_exit, make_token_exit

__all__ = ["SentenceExit", "TokenExit", "make_sentence_exit", "make_token_exit"]
