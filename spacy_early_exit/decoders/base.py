"""What a decoder is."""

from typing import Dict, List, Mapping, Protocol, Sequence, runtime_checkable

from torch import Tensor

from ..network.arrays import Floats, Ints

Learned = Mapping[str, Tensor]

FORBIDDEN = -1e4  # finite: forbidden transitions in an annotation must not make losses infinite


@runtime_checkable
class Decoder(Protocol):
    """Chooses the tags of texts. The answer for a text depends on that text alone.

    Its learnt parameters are kept with the weights of the network, and passed to it on every call.
    """

    def for_scheme(self, scheme: str) -> "Decoder":
        """Adapt the decoder to the tags of a task.

        scheme (str): Which tags may follow which: see ``tags``.
        RETURNS (Decoder): The same decoder for these tags.
        RAISES (ValueError): If it does not support these tags.
        """

    def parameters(self, tags: int) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): Its learnt parameters, by name, as they are before training.
        Every axis is as long as there are tags. Empty: it learns nothing.
        """

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): Its learnt parameters.
        RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``
        """

    def loss(self, logits: Tensor, tags: Tensor, texts: Tensor, learned: Learned) -> Tensor:
        """Compute the loss. This is only called if there is something to learn.

        logits (Tensor): The exit logits. *Shape:* ``(words, tags)``
        tags (Tensor): The right tag of each word, ``MISSING`` if it is not known. *Shape:*
            ``(words,)``
        texts (Tensor): The text of each word. The words of a text are adjacent. *Shape:*
            ``(words,)``
        learned (Learned): Its learnt parameters, with gradients.
        RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``
        """
