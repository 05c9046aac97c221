"""Linear maps of ragged batches, whose number of rows differs each time."""

import functools
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# CPUs multiply bfloat16 with oneDNN, which compiles a product for every new number of rows. That
# takes longer than most products, so while training rows are padded to a multiple of this.
# Measured: see benchmarks/notes/engine.md.
MULTIPLE = 64


class Linear(nn.Linear):
    """A linear map that trains fast in mixed precision, whatever the number of rows."""

    def forward(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``

        states (Tensor): *Shape:* ``(rows, inputs)``
        """
        return linear(states, self.weight, self.bias)


def linear(states: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Apply a linear map. In mixed precision on a CPU, rows are padded to a multiple of
    ``MULTIPLE``.

    states (Tensor): *Shape:* ``(rows, inputs)``
    weight (Tensor): *Shape:* ``(outputs, inputs)``
    bias (Optional[Tensor]): *Shape:* ``(outputs,)``
    RETURNS (Tensor): *Shape:* ``(rows, outputs)``
    """
    if not (states.device.type == "cpu" and _is_compiled()):
        return F.linear(states, weight, bias)
    rows = len(states)
    missing = -rows % MULTIPLE
    states = states.bfloat16()  # before padding, which then copies fewer bytes
    return F.linear(F.pad(states, (0, 0, 0, missing)), weight, bias)[:rows]


def _is_compiled() -> bool:
    """RETURNS (bool): Whether this thread computes products in a precision that has them compiled:
    bfloat16 by autocast, with oneDNN.
    """
    if not torch.is_autocast_enabled("cpu"):
        return False
    told: Any = torch.backends.mkldnn  # it has no types
    in_bfloat16 = torch.get_autocast_dtype("cpu") == torch.bfloat16
    return in_bfloat16 and bool(told.enabled) and multiplies_bfloat16()


@functools.cache
def multiplies_bfloat16() -> bool:
    """RETURNS (bool): Whether torch has oneDNN multiply bfloat16 on this processor."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False
