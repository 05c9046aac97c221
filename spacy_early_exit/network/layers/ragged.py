"""Attention on ragged batches by kernels that need no padding. They are for GPUs, and for 16 bits.

``torch.nn.attention.varlen`` has one, without dropout; the package flash-attn, if it is installed,
one with dropout. Elsewhere groups of sequences are padded: see ``attention.py``.
"""

import functools
import importlib
import importlib.util
from typing import Any, Callable, Optional, cast

import torch
from torch import Tensor

from ..batch import Running
from ..devices import bounds, is_asynchronous

HALVES = (torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # NVIDIA's Ampere
MULTIPLE, WIDEST = 8, 256  # widths of heads that the kernels take
Kernel = Callable[..., Tensor]


def ragged_kernel(query: Tensor, heads: int, dropout: float) -> Optional[Kernel]:
    """Find a kernel.

    query (Tensor): The queries. *Shape:* ``(queries, width)``
    heads (int): Number of attention heads.
    dropout (float): Dropout rate of the attention weights.
    RETURNS (Optional[Kernel]): Takes queries, keys, values, what is running, the number of heads,
        dropout and scale; None: there is none for them.
    """
    if not is_asynchronous(query.device) or query.dtype not in HALVES:
        return None
    head_width = query.shape[1] // heads
    if head_width % MULTIPLE or head_width > WIDEST:
        return None
    kind = _kind_on(query.device, bool(dropout))
    return None if kind is None else functools.partial(_attend, kind)


@functools.lru_cache
def _kind_on(device: torch.device, drops: bool) -> Optional[Kernel]:
    """RETURNS (Optional[Kernel]): The kernel that a device has."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < OLDEST:
        return None
    if not drops and torch.backends.cuda.is_flash_attention_available():
        return _of_torch
    return _of_flash_attn if importlib.util.find_spec("flash_attn") else None


def _attend(
    kind: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    running: Running,
    heads: int,
    dropout: float,
    scale: Optional[float],
) -> Tensor:
    """RETURNS (Tensor): See ``attention.attend``. *Shape:* ``(queries, width)``"""
    starts, _ = running.cached(bounds), running.cached(pads_nothing)
    longest = max(running.query_lengths), max(running.context_lengths)
    split = (
        rows.view(len(rows), heads, -1) for rows in map(Tensor.contiguous, (query, key, value))
    )
    return kind(*split, *starts, *longest, dropout, scale).reshape(len(query), -1)


def pads_nothing(running: Running) -> bool:
    """RETURNS (bool): True. ``running.has`` it if attention has padded nothing."""
    return True


def _of_torch(*given: Any) -> Tensor:
    """RETURNS (Tensor): *Shape:* ``(queries, heads, width / heads)``"""
    from torch.nn.attention.varlen import varlen_attn

    *tensors_and_longest, _, scale = given
    return cast(Tensor, varlen_attn(*tensors_and_longest, scale=scale))


def _of_flash_attn(*given: Any) -> Tensor:
    """RETURNS (Tensor): *Shape:* ``(queries, heads, width / heads)``"""
    kernel = importlib.import_module("flash_attn").flash_attn_varlen_func
    *tensors_and_longest, dropout, scale = given
    return cast(Tensor, kernel(*tensors_and_longest, dropout_p=dropout, softmax_scale=scale))
