"""The network in int8, for faster prediction on CPUs.

Weights have a scale for each output. States have a scale for each row, computed on the fly, so that
a product does not depend on the batch. Everything else stays in fp32: embeddings, normalisations,
attention, exit heads.
"""

import functools
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from ..exit_network import ExitNetwork
from .packed import Done, keep, padded, with_linears

ZERO = 128  # the unsigned byte that stands for 0.0


class Bytes(NamedTuple):
    """Rows as bytes.

    values (Tensor): uint8, ``ZERO`` for 0.0. *Shape:* ``(rows, width)``
    scales (Tensor): The value of one step in each row. *Shape:* ``(rows, 1)``
    """

    values: Tensor
    scales: Tensor


def quantize_rows(rows: Tensor) -> Bytes:
    """RETURNS (Bytes): Rows, each with the scale for its largest value.

    rows (Tensor): *Shape:* ``(rows, width)``
    """
    largest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True))
    scales = largest.clamp_min_(1e-20).div_(127.0)
    # Conversion truncates; adding a half makes it round. Converting straight to uint8 is half as
    # fast as by way of int16 (torch 2.13).
    shifted = (rows * scales.reciprocal()).add_(ZERO + 0.5)
    return Bytes(shifted.to(torch.int16).to(torch.uint8), scales)


class Int8Linear(nn.Module):
    """A linear layer whose product is computed in bytes.

    weight (Tensor): fp32. *Shape:* ``(outputs, inputs)``
    bias (Optional[Tensor]): *Shape:* ``(outputs,)``
    """

    def __init__(self, weight: Tensor, bias: Optional[Tensor] = None):
        super().__init__()
        most = largest_weight()
        scales = weight.detach().abs().amax(1).clamp_min(1e-20) / most  # (outputs,)
        values = (weight.detach() / scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(values, None)
        self.scales = scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int64)
        self.bias = torch.zeros(len(scales)) if bias is None else bias.detach()

    def forward(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``

        states (Tensor): *Shape:* ``(rows, inputs)``
        """
        return self.of(self.prepared(states))[: len(states)]

    def prepared(self, states: Tensor) -> Bytes:
        """RETURNS (Bytes): The states as bytes, possibly with more rows."""
        return quantize_rows(padded(states))

    def of(self, rows: Bytes) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``"""
        product: Tensor = _product(rows.values, self.packed, self.scales, self.zeros)
        return product.mul_(rows.scales).add_(self.bias)


def quantized(network: ExitNetwork, done: Done = keep) -> ExitNetwork:
    """Make a network that predicts in int8. It shares what stays in fp32 with the original.

    network (ExitNetwork): The network, on a CPU.
    done (Callable): Called with each linear map of the original that is not needed any more.
    RETURNS (ExitNetwork): The network to predict with; it can be neither trained nor saved.
    RAISES (ValueError): If it is on a GPU, or torch has no such products on this machine.
    """
    check_for_int8(network.device)
    largest_weight()
    return with_linears(network, Int8Linear, done)


def check_for_int8(device: torch.device) -> None:
    """RAISES (ValueError): If a device does not predict in int8: GPUs don't.

    device (torch.device): The device.
    """
    if device.type != "cpu":
        raise ValueError(
            f'quantize = "int8" is for CPUs, but the network is on {device}. Set quantize = null, '
            f"or device = 'cpu'."
        )


def _product(values: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """RETURNS (Tensor): Bytes times packed weights, scaled as the weights are, fp32."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        values, 1.0, ZERO, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


@functools.lru_cache(maxsize=1)
def largest_weight() -> int:
    """Find out which weights this machine multiplies exactly.

    Processors without VNNI add pairs of products in 16 bits, which weights of 8 bits would
    overflow. There, weights have 7 bits.

    RETURNS (int): 127 or 63.
    RAISES (ValueError): If torch has no such products on this machine.
    """
    values = torch.full((4, 64), 255, dtype=torch.uint8)
    for most in (127, 63):
        weight = torch.full((16, 64), most, dtype=torch.int8)
        scales, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
        try:
            packed = torch.ops.onednn.qlinear_prepack(weight, None)
            product = _product(values, packed, scales, zeros)
        except (AttributeError, RuntimeError) as e:
            raise ValueError(
                f'quantize = "int8" needs products that torch {torch.__version__} does not have on '
                f"this machine ({type(e).__name__}). Set quantize = null, or try a newer torch."
            ) from e
        if bool((product == float((255 - ZERO) * most * 64)).all()):
            return most
    raise ValueError(
        'quantize = "int8": int8 products are wrong on this machine. Set quantize = null.'
    )
