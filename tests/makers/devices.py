"""A device that pretends: its tensors lie on the CPU, but say that they do not, and every operation
that would wait for a GPU is noted.

It stands in for a GPU wherever the question is not how fast one is: it refuses to mix its tensors
with those of the CPU, as a GPU does.
"""

import traceback

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")  # a name that torch knows everywhere
aten = torch.ops.aten
# The sizes of their results depend on values, or they return a value.
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.equal.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class Pretended(torch.Tensor):
    """A tensor on the device.

    real (torch.Tensor): What it holds, on the CPU.
    """

    @staticmethod
    def __new__(cls, real):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
            requires_grad=real.requires_grad,
        )
        made.held = real
        return made

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the device's mode")


class Device(TorchDispatchMode):
    """Runs what is done with its tensors, and notes what waits.

    waits (list): Where in the package a GPU would have been waited for, and the operation.
    """

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        ours = [each for each in tensors if isinstance(each, Pretended)]
        others = [each for each in tensors if not isinstance(each, Pretended)]
        if any(each.device == DEVICE for each in others):
            raise AssertionError(f"{func}: made there of Python's numbers, for which a GPU waits")
        goes_there = bool(ours)
        if func is aten.copy_.default:
            goes_there = isinstance(args[0], Pretended)
        if kwargs.get("device") is not None:
            goes_there = kwargs["device"] == DEVICE
            kwargs["device"] = torch.device("cpu")
        if func in COPIES:
            if bool(others) if goes_there else bool(ours):
                self._note(func, not kwargs.pop("non_blocking", False))
        elif ours:
            strays = any(each.dim() for each in others)
            if strays and func not in INDEXING:
                raise RuntimeError(f"{func}: a tensor on the device and one on the CPU")
            self._note(func, strays or _waits(func, args, kwargs))
        if func is aten._fused_sdp_choice.default and ours:
            return 0  # the plain way: the others ask which device it is
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func._schema.is_mutable and func._schema.arguments[0].is_write:
            return args[0]
        return tree_map(_shown, found) if goes_there else found

    def _note(self, func, waits):
        if waits:
            self.waits.append(f"{_place()}: {func}")


def _place():
    """The line of the package that asked for it."""
    for frame in reversed(traceback.extract_stack()):
        if "/spacy_early_exit/" in frame.filename:
            return f"{frame.filename.rpartition('/spacy_early_exit/')[2]}:{frame.lineno}"
    return "elsewhere"


def _waits(func, args, kwargs):
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if func in INDEXING:
        masks = (torch.bool, torch.uint8)
        return any(each is not None and each.dtype in masks for each in args[1])
    return func in WAITING


def _held(value):
    return value.held if isinstance(value, Pretended) else value


def _shown(value):
    return Pretended(value) if isinstance(value, torch.Tensor) else value
