"""The network with its weights packed in advance, for faster prediction on CPUs.

torch computes fp32 products with MKL, which leaves half of an AMD processor unused. oneDNN does
not, if weights are in its own order. In bfloat16 torch uses oneDNN anyway, but would order weights
for every product. Measured: see benchmarks/notes/engine.md and benchmarks/notes/speed.md.
"""

import copy
import functools
import platform
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, Tuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.torch_state import usual_torch
from ..exit_network import ExitNetwork
from ..gates import weight_of
from ..layers.layer import QKV, ROWS, Layer
from ..layers.linear import multiplies_bfloat16

# oneDNN compiles a product for every new number of rows, which takes longer than a small product,
# and keeps what it compiled, about 200 KB each. So there are few numbers: up to so many rows, they
# are multiples of this.
MULTIPLES = ((32, 8), (256, 32), (1024, 64))
MULTIPLE = 128  # of more rows
VENDORS = ("AuthenticAMD", "HygonGenuine")
Rows = TypeVar("Rows")
Done = Callable[[nn.Module], None]


class Linear(Protocol[Rows]):
    """A linear layer that is only used for prediction."""

    def prepared(self, states: Tensor) -> Rows:
        """RETURNS (Rows): Rows as ``of`` takes them, possibly more."""

    def of(self, rows: Rows) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``"""


class PackedLinear(nn.Module):
    """A linear layer with weights in oneDNN's order.

    weight (Tensor): *Shape:* ``(outputs, inputs)``
    bias (Optional[Tensor]): *Shape:* ``(outputs,)``
    """

    def __init__(self, weight: Tensor, bias: Optional[Tensor] = None):
        super().__init__()
        # In the order that is best for this many rows at once; other numbers work with it, too.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``

        states (Tensor): *Shape:* ``(rows, inputs)``
        """
        return self.of(self.prepared(states))[: len(states)]

    def prepared(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): The states, possibly with more rows. *Shape:* ``(rows, inputs)``"""
        return padded(states)

    def of(self, rows: Tensor) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``"""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self.packed, self.bias, "none", [], ""
        )
        return product


def padded(rows: Tensor) -> Tensor:
    """RETURNS (Tensor): The rows, padded to one of the numbers of rows that products have."""
    count = len(rows)
    multiple = next((multiple for most, multiple in MULTIPLES if count <= most), MULTIPLE)
    return F.pad(rows, (0, 0, 0, -count % multiple)) if count % multiple else rows


class SplitQKV(nn.Module):
    """Queries by themselves, keys and values in one product.

    qkv (QKV): The layer as it is trained.
    linear (Callable): Makes a layer to predict with, from a weight and a bias.
    """

    def __init__(self, qkv: QKV, linear: Callable[[Tensor, Optional[Tensor]], nn.Module]):
        super().__init__()
        width = qkv.width
        bias = (None, None) if qkv.bias is None else (qkv.bias[:width], qkv.bias[width:])
        self.query = linear(qkv.weight[:width], bias[0])
        self._key_value = linear(qkv.weight[width:], bias[1])

    def forward(self, states: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """RETURNS (Tuple[Tensor, Tensor, Tensor]): Of all rows. *Shapes:* ``(rows, width)``"""
        query, key_value = cast(Linear[Any], self.query), cast(Linear[Any], self._key_value)
        rows, count = query.prepared(states), len(states)
        key, value = key_value.of(rows)[:count].chunk(2, dim=1)
        return query.of(rows)[:count], key, value

    def key(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Keys. Values are computed, too. *Shape:* ``(rows, width)``"""
        return self.key_value(states)[0]

    def key_value(self, states: Tensor) -> Tuple[Tensor, Tensor]:
        """RETURNS (Tuple[Tensor, Tensor]): *Shapes:* ``(rows, width)``"""
        key, value = self._key_value(states).chunk(2, dim=1)
        return key, value


def keep(linear: nn.Module) -> None:
    """Do nothing with a linear map that is not needed any more."""


def packed(network: ExitNetwork, done: Done = keep) -> ExitNetwork:
    """Make a network that predicts with packed weights. It shares embeddings and heads with the
    original.

    network (ExitNetwork): The network, on a CPU.
    done (Callable): Called with each linear map of the original that is not needed any more.
    RETURNS (ExitNetwork): The network to predict with; it can be neither trained nor saved.
    """
    return with_linears(network, PackedLinear, done)


def with_linears(
    network: ExitNetwork,
    linear: Callable[[Tensor, Optional[Tensor]], nn.Module],
    done: Done = keep,
) -> ExitNetwork:
    """RETURNS (ExitNetwork): A network that shares everything except the linear maps of its layers.

    network (ExitNetwork): The network, on a CPU.
    linear (Callable): Makes a layer to predict with, from a weight and a bias.
    done (Callable): Called with each linear map of the original that is not needed any more.
    """
    # The dictionary must not outlive this line: it would keep what is done with.
    copied = copy.deepcopy(network, {id(one): one for one in network.parameters()})
    for layer, original in zip(copied.encoder.layers, network.encoder.layers):
        new, old = cast(Layer, layer), cast(Layer, original)
        if isinstance(new.qkv, SplitQKV):  # the same layer again
            continue
        new.qkv = cast(QKV, SplitQKV(old.qkv, linear))
        done(old.qkv)
        for name in ("attention_output", "intermediate", "output"):
            trained = getattr(old, name)
            setattr(new, name, linear(weight_of(trained), trained.bias))
            done(trained)
    return copied


def is_worth_packing(network: ExitNetwork) -> bool:
    """RETURNS (bool): Whether products are faster with packed weights: fp32 on a processor that MKL
    is slow on. False if torch is told not to use oneDNN.

    network (ExitNetwork): The network.
    """
    weight = network.head(network.spec.layers).weight
    in_fp32 = weight.dtype == torch.float32
    return in_fp32 and _is_faster_here() and can_pack(weight.dtype, weight.device)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """RETURNS (bool): Whether there are fast products with packed weights. False if torch is told
    not to use oneDNN.

    dtype (torch.dtype): The dtype of weights and states.
    device (torch.device): Where they are.
    """
    told: Any = torch.backends.mkldnn  # it has no types
    return device.type == "cpu" and bool(told.enabled) and _has_products(dtype)


@functools.cache
def _has_products(dtype: torch.dtype) -> bool:
    backends: Any = torch.backends
    if not backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    if dtype == torch.bfloat16 and not multiplies_bfloat16():
        return False
    try:
        with usual_torch(), torch.inference_mode():
            PackedLinear(torch.zeros(16, 16, dtype=dtype))(torch.zeros(2, 16, dtype=dtype))
    except (AttributeError, RuntimeError):  # a torch without it
        return False
    return True


@functools.lru_cache(maxsize=1)
def _is_faster_here() -> bool:
    backends: Any = torch.backends
    if not backends.mkl.is_available():
        return False
    try:
        vendor = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # Windows reports it here
        vendor = platform.processor()
    return any(name in vendor for name in VENDORS)
