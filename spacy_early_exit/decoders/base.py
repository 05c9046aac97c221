"""What a decoder is."""

from typing import List, Protocol, Sequence

import numpy as np
from numpy.typing import NDArray

from ..network.window import Ints

Floats = NDArray[np.float32]


class Decoder(Protocol):
    """Chooses the tags of texts. Each text's answer depends on nothing else."""

    def __call__(self, logits: Sequence[Floats]) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        RETURNS (List[Ints]): The tags of each. *Shape:* ``(words,)``
        """
