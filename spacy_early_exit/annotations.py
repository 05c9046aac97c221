"""What becomes of the network's answer for a Doc, whatever the task."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc

from .network.window import Ints

if TYPE_CHECKING:
    from .model import DocExits

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """The answer for one Doc.

    exits (DocExits): What the network says.
    tags (Ints): The decoded tag of each word that has wordpieces. *Shape:* ``(words,)``
    """

    exits: "DocExits"
    tags: Ints


def same_words(doc: Doc) -> Doc:
    """RETURNS (Doc): The words of a Doc, without annotation."""
    spaces = [bool(token.whitespace_) for token in doc]
    return Doc(doc.vocab, words=[token.text for token in doc], spaces=spaces)


def exit_layers(doc: Doc, exits: "DocExits") -> Ints:
    """RETURNS (Ints): The layer at which each word left, from 1; 0 without wordpieces.
    *Shape:* ``(words of the Doc,)``
    """
    layers = np.zeros(len(doc), dtype=np.int64)
    layers[exits.words] = exits.exit_layer
    return layers
