"""What tasks read from Docs, and copies of Docs."""

from typing import TYPE_CHECKING

import numpy as np
from spacy.tokens import Doc, Token

from ..network.arrays import Bools, Ints

if TYPE_CHECKING:
    from ..model.predict import DocExits


def is_space(token: Token) -> bool:
    """RETURNS (bool): Whether a token is white space. ``Token.is_space`` asks its vocabulary, which
    may have no lexical attributes.
    """
    return bool(token.text.isspace())


def spaces(doc: Doc) -> Bools:
    """RETURNS (Bools): Which tokens are white space. *Shape:* ``(tokens,)``"""
    return np.array([is_space(token) for token in doc], dtype=np.bool_)


def same_words(doc: Doc) -> Doc:
    """RETURNS (Doc): The words of a Doc, without annotation."""
    spaces = [bool(token.whitespace_) for token in doc]
    return Doc(doc.vocab, words=[token.text for token in doc], spaces=spaces)


def copy_sentences(source: Doc, target: Doc) -> None:
    """Copy sentence boundaries, if there are any, from another Doc of the same text.

    source (Doc): The other Doc. It may be tokenized differently.
    target (Doc): The Doc, changed in place, unless its sentences come from a parse.
    """
    if source.has_annotation("SENT_START") and not target.has_annotation("DEP"):
        starts = {token.idx for token in source if token.is_sent_start}
        for token in target:
            token.is_sent_start = token.idx in starts


def exit_layers(doc: Doc, exits: "DocExits") -> Ints:
    """RETURNS (Ints): The layer at which each word exited, from 1; 0 for words without wordpieces.
    *Shape:* ``(words of the Doc,)``
    """
    layers = np.zeros(len(doc), dtype=np.int64)
    layers[exits.words] = exits.exit_layer
    return layers
