"""The state of torch in which a network is made, loaded, trained and run, whatever the caller's.

A process or a thread can tell torch which dtype and device new tensors have, to record no
gradients, or to compute in bfloat16. That is meant for the caller's own networks. Here weights are
fp32, and all that is set in ``usual_torch`` is set for the calling thread alone.
"""

import contextlib
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

import torch
from torch.overrides import TorchFunctionMode

from .forks import Lock

# What is made in the default dtype, and what is so if it is made of Python's floats.
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
    """Have torch as it is when nobody has set anything: new tensors are fp32 and on the CPU,
    gradients are recorded, products are computed in the dtype of their factors. For this thread.
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
    """Have fp32 as the default dtype of the whole process for a while, as transformers does itself
    when it is told a dtype. Only where other packages load weights: they round them to it.
    """
    with _LOADING:  # or two threads could each bring back what the other has set
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
