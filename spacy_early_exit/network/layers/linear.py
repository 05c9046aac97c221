"""Linear maps of ragged batches, whose number of rows is another one each time."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# CPUs multiply in 16 bits with oneDNN, which compiles a product for every new number of rows. That
# takes longer than most products, so there are multiples of this only. Measured: see
# benchmarks/notes/engine.md.
MULTIPLE = 64


class Linear(nn.Linear):
    """A linear map that is fast in 16 bits, whatever the number of rows."""

    def forward(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``

        states (Tensor): *Shape:* ``(rows, inputs)``
        """
        return linear(states, self.weight, self.bias)


def linear(states: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Apply a linear map. In 16 bits on a CPU, rows are padded to a multiple of ``MULTIPLE``.

    states (Tensor): *Shape:* ``(rows, inputs)``
    weight (Tensor): *Shape:* ``(outputs, inputs)``
    bias (Optional[Tensor]): *Shape:* ``(outputs,)``
    RETURNS (Tensor): *Shape:* ``(rows, outputs)``
    """
    rows = len(states)
    missing = -rows % MULTIPLE
    if not missing or states.device.type != "cpu":
        return F.linear(states, weight, bias)
    if torch.is_autocast_enabled("cpu"):
        states = states.to(torch.get_autocast_dtype("cpu"))  # fewer bytes are padded
    elif states.dtype == torch.float32:
        return F.linear(states, weight, bias)
    return F.linear(F.pad(states, (0, 0, 0, missing)), weight, bias)[:rows]
