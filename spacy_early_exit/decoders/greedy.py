"""Every word by itself, as other libraries decode token classifiers."""

from dataclasses import dataclass
from typing import List, Sequence

import numpy as np

from ..network.arrays import Floats, Ints
from ..tags import is_inside
from .base import Decoder, Learned
from .viterbi import Unlearnt


@dataclass(frozen=True)
class Greedy(Unlearnt):
    """The best tag of each word. An ``I-X`` that follows neither ``B-X`` nor ``I-X`` begins an
    entity, as in the CoNLL evaluation script and Hugging Face's pipelines.

    scheme (str): Which tags may follow which: see ``tags``.
    """

    scheme: str = "bio"

    def for_scheme(self, scheme: str) -> "Greedy":
        """RETURNS (Greedy): The same for tags of another scheme.

        RAISES (ValueError): If there is no convention for invalid sequences of it.
        """
        if scheme not in ("bio", "free"):
            raise ValueError(
                f"The decoder Greedy.v1 is for entities and for tags of single words, not for "
                f"{scheme.upper()}. Viterbi.v1 is for any tags."
            )
        return Greedy(scheme)

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): Empty.
        RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``
        """
        best = [text.argmax(1).astype(np.int64) for text in logits]
        if self.scheme == "free":
            return best
        for tags in best:
            before = np.concatenate([[0], tags[:-1]])
            # An I-X that begins an entity becomes B-X, which makes no difference to the next word.
            tags[is_inside(tags) & (before != tags) & (before != tags - 1)] -= 1
        return best


def make_greedy() -> Decoder:
    """Make the decoder ``spacy-early-exit.Greedy.v1``: the best tag of each word, for models whose
    authors decoded like that.

    RETURNS (Decoder): The decoder.
    """
    return Greedy()
