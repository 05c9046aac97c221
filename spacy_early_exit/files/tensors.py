"""Weights in the safetensors format, read one after the other into memory of their own.

The library of that name returns tensors beside all bytes of their file, which takes twice the
memory, or maps them from the file, which others may write into. Here each tensor can be dropped as
soon as a faster copy of it predicts. The library writes them.
Source: https://github.com/huggingface/safetensors (the format).
"""

import hashlib
import json
import math
import sys
from typing import Any, BinaryIO, Dict, NamedTuple, Tuple

import torch
from torch import Tensor

from .integrity import check_size

# Names and shapes of the weights: those of 100 layers take 300,000. Empty weights take nothing
# else.
MAX_HEADER_BYTES = 2**22
LENGTH, FP32, CHUNK = 8, 4, 2**20  # bytes: of the header's length, of a number, read at once


class Stream:
    """Bytes that are read once, in order. All that is read counts in their checksum.

    file (BinaryIO): The bytes.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """RETURNS (bytes): The next ones; fewer at the end.

        size (int): How many; below 0: all that are left.
        """
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def checksum(self) -> str:
        """RETURNS (str): The SHA-256 of all bytes. Those that are left are read."""
        while self.read(CHUNK):
            pass
        return self._digest.hexdigest()


def read_tensors(stream: Stream, size: int) -> Dict[str, Tensor]:
    """Read a file, which may be untrusted.

    stream (Stream): Its content.
    size (int): Its number of bytes. Weights take no more than these, whatever it says.
    RETURNS (Dict[str, Tensor]): The weights by name, fp32, on the CPU.
    RAISES (ValueError): If it is damaged, or has weights of another type.
    """
    length = int.from_bytes(stream.read(LENGTH), "little")
    try:
        check_size(length, MAX_HEADER_BYTES)
    except ValueError as e:
        raise ValueError(f"its list of weights is too long: {e}") from e
    listed = json.loads(stream.read(length))
    if not isinstance(listed, dict):
        raise ValueError("its list of weights is not one")
    listed.pop("__metadata__", None)
    places = [_Place.of(name, about) for name, about in listed.items()]
    weights, at, end = {}, 0, size - LENGTH - length
    for place in sorted(places, key=lambda place: place.span):
        if place.span != (at, at + place.size) or place.span[1] > end:
            raise ValueError(f"'{place.name}' is not where its list of weights says")
        weights[place.name] = _next(stream, place)
        at += place.size
    if at != end:
        raise ValueError(f"{end - at:,} of its bytes belong to no weight")
    return weights


class _Place(NamedTuple):
    """Where a weight is.

    name (str): Its name.
    shape (Tuple[int, ...]): Its shape.
    span (Tuple[int, int]): Where it begins and ends, after the header.
    """

    name: str
    shape: Tuple[int, ...]
    span: Tuple[int, int]

    @classmethod
    def of(cls, name: str, about: Any) -> "_Place":
        shape, span = about["shape"], about["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, *span)):
            raise ValueError(f"shape and place of '{name}' must be whole numbers")
        if about["dtype"] != "F32":
            raise ValueError(f"'{name}' has dtype {about['dtype']} instead of F32")
        start, end = span
        return cls(name, tuple(shape), (start, end))

    @property
    def size(self) -> int:
        """RETURNS (int): Number of bytes."""
        return FP32 * math.prod(self.shape)


def _next(stream: Stream, place: _Place) -> Tensor:
    """RETURNS (Tensor): The weight that comes next."""
    weight = torch.empty(place.shape, dtype=torch.float32, device="cpu")
    numbers = weight.view(-1).numpy()
    into = numbers.data.cast("B")
    for start in range(0, place.size, CHUNK):
        data = stream.read(min(CHUNK, place.size - start))
        into[start : start + CHUNK] = data  # refuses fewer than are wanted
    if sys.byteorder == "big":
        numbers.byteswap(inplace=True)
    return weight
