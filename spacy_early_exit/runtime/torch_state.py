"""The state of torch in which a network is made, loaded, trained and run, whatever the caller has
set.

A process or a thread can tell torch which dtype and device new tensors have, to record no
gradients, or to compute in bfloat16. Such settings are meant for the caller's own networks. Here,
weights are fp32, and everything that ``usual_torch`` sets applies to the calling thread alone.
"""

import contextlib
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

import torch
from torch.overrides import TorchFunctionMode

from .forks import Lock

# Functions that make tensors in the default dtype, and those that do if called with Python's
# floats.
FLOATS = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.linspace})
MAYBE_FLOATS = frozenset({torch.tensor, torch.full, torch.arange})
_LOADING = Lock()


class _InFp32(TorchFunctionMode):
    """New tensors are fp32 where they would have the default dtype."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Dict[str, Any]] = None,
    ) -> Any:
        given = kwargs or {}
        is_open = given.get("dtype") is None
        in_fp32 = {**given, "dtype": torch.float32}
        if is_open and func in FLOATS:
            return func(*args, **in_fp32)
        made = func(*args, **given)
        if is_open and func in MAYBE_FLOATS and made.dtype == torch.get_default_dtype():
            return func(*args, **in_fp32)
        return made


@contextlib.contextmanager
def usual_torch() -> Iterator[None]:
    """Give this thread torch's own defaults: new tensors are fp32 and on the CPU, gradients are
    recorded, and products are computed in the dtype of their factors.
    """
    cuda: Any = torch.cuda  # it has no types
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda") if cuda.is_initialized() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        sample = torch.empty(0)
        if sample.device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if sample.dtype != torch.float32:
            stack.enter_context(_InFp32())
        yield


@contextlib.contextmanager
def usual_dtype() -> Iterator[None]:
    """Make fp32 the default dtype of the whole process for a while, as transformers does itself
    when given a dtype. It is only used while other packages load weights, since they round weights
    to the default dtype.
    """
    with _LOADING:  # otherwise two threads could each restore what the other has set
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
