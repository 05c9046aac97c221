"""Short descriptions of what a calibration depends on."""

import dataclasses
import functools
import hashlib
import inspect
from typing import Any


def fingerprint_of_weights(network: Any) -> str:
    """RETURNS (str): A hash of all parameters of a network; 23 million of them take 0.1 s."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(network.state_dict().items()):
        digest.update(name.encode("utf8"))
        digest.update(parameter.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def describe(block: Any) -> str:
    """RETURNS (str): A criterion, decoder or span getter with its settings, the same in every
    process.
    """
    name = getattr(block, "__qualname__", type(block).__name__)
    settings = vars(block) if hasattr(block, "__dict__") else {}
    if dataclasses.is_dataclass(block) and not isinstance(block, type):
        settings = dataclasses.asdict(block)
    elif isinstance(block, functools.partial):
        name, settings = block.func.__qualname__, dict(enumerate(block.args)) | block.keywords
    elif inspect.isfunction(block):
        settings = dict(inspect.getclosurevars(block).nonlocals)
    inside = (f"{setting}={_value(settings[setting])}" for setting in sorted(settings, key=str))
    return f"{name}({', '.join(inside)})"


def _value(value: Any) -> str:
    # The repr of a function has its memory address.
    is_function = inspect.isfunction(value) or isinstance(value, functools.partial)
    return describe(value) if is_function else repr(value)
