"""The network in 16 bits, for faster prediction on GPUs, and on CPUs with AMX.

The encoder's weights and states have 16 bits. Exit heads, and so uncertainties and thresholds, stay
in fp32: what is left of a threshold in 16 bits would be a few steps.
"""

import copy
from typing import Dict, Literal, Optional

import torch
from torch import Tensor, nn

from ..exit_network import ExitNetwork
from .packed import PackedLinear, can_pack, with_linears

Precision = Literal["fp32", "bf16", "fp16", "int8"]
HALVES: Dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class InFp32(nn.Module):
    """What exit heads read, in fp32.

    norm (Optional[nn.Module]): The norm that they read it through; None: as it is.
    """

    def __init__(self, norm: Optional[nn.Module]):
        super().__init__()
        self.norm = norm

    def forward(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): fp32. *Shape:* that of ``states``"""
        return (states if self.norm is None else self.norm(states)).float()


def halved(network: ExitNetwork, precision: Precision) -> ExitNetwork:
    """Make a network that predicts in 16 bits. It shares its exit heads with the original. On CPUs
    that multiply bfloat16, its weights are packed.

    network (ExitNetwork): The network.
    precision (Precision): ``"bf16"`` or ``"fp16"``.
    RETURNS (ExitNetwork): The network to predict with; it can be neither trained nor saved.
    RAISES (ValueError): If its GPU has no bfloat16.
    """
    device = network.device
    if precision == "bf16" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ValueError(
                    f'precision = "bf16" needs a GPU with bfloat16 (NVIDIA\'s have it from Ampere '
                    f"on), which {torch.cuda.get_device_name(device)} is not. Set precision to "
                    f"'fp16' or 'fp32'."
                )
    dtype = HALVES[precision]
    known = {id(parameter): parameter for parameter in network.parameters()}
    for parameter in network.encoder.parameters():  # in fp32 they would be copied first
        in_16_bits = nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
        known[id(parameter)] = in_16_bits
    copied = copy.deepcopy(network, known)
    encoder = copied.encoder.to(dtype)
    encoder.final_norm = InFp32(encoder.final_norm)
    return with_linears(copied, PackedLinear) if can_pack(dtype, device) else copied
