"""What a decoder is."""

from typing import Dict, List, Mapping, Protocol, Sequence, runtime_checkable

from torch import Tensor

from ..network.arrays import Floats, Ints

Learned = Mapping[str, Tensor]

FORBIDDEN = -1e4  # finite: a forbidden transition in the annotation must not make losses infinite


@runtime_checkable
class Decoder(Protocol):
    """Chooses the tags of texts. Each text's answer depends on nothing else.

    What it learns is kept with the weights of the network, and handed to it on every call.
    """

    def for_scheme(self, scheme: str) -> "Decoder":
        """Adapt it to the tags of a task.

        scheme (str): Which tags may follow which: see ``tags``.
        RETURNS (Decoder): The same for these tags.
        RAISES (ValueError): If it is for others alone.
        """

    def parameters(self, tags: int) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): What it learns, by name, as it is before training. Every
        axis is as long as there are tags. Empty: nothing.
        """

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): What it has learnt.
        RETURNS (List[Ints]): The tags of each. *Shape:* ``(words,)``
        """

    def loss(self, logits: Tensor, tags: Tensor, texts: Tensor, learned: Learned) -> Tensor:
        """Say how wrong it is. Asked only if there is something to learn.

        logits (Tensor): The exit logits. *Shape:* ``(words, tags)``
        tags (Tensor): The right tag of each word, ``MISSING`` where it is not known.
            *Shape:* ``(words,)``
        texts (Tensor): The text of each word: those of one follow one another.
            *Shape:* ``(words,)``
        learned (Learned): What it has learnt, with gradients.
        RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``
        """
