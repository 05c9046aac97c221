"""Docs to run on."""

from spacy.tokens import Doc


def unannotated(doc: Doc) -> Doc:
    """RETURNS (Doc): The same words, without annotation."""
    spaces = [bool(token.whitespace_) for token in doc]
    return Doc(doc.vocab, words=[token.text for token in doc], spaces=spaces)
