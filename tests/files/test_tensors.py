"""Weights are read one by one, and a damaged file is refused before it takes memory."""

import io
import json
import tracemalloc

import pytest
import torch
from safetensors.torch import save

from spacy_early_exit.files.integrity import checksum
from spacy_early_exit.files.tensors import CHUNK, Stream, read_tensors

WEIGHTS = {
    "b": torch.randn(3, 5),
    "a": torch.randn(2, 1, 4),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 7),
    "more than a chunk": torch.randn(CHUNK // 4 + 3),
}


def read(data):
    return read_tensors(Stream(io.BytesIO(data)), len(data))


def file_of(listed, numbers=b""):
    header = json.dumps(listed).encode()
    return len(header).to_bytes(8, "little") + header + numbers


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("about", [None, {"made by": "somebody"}])
def test_they_are_those_that_the_library_wrote(about):
    found = read(save(WEIGHTS, about))
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
    assert all(weight.dtype == torch.float32 for weight in found.values())


def test_each_has_memory_of_its_own():
    found = read(save(WEIGHTS))
    storages = {weight.untyped_storage().data_ptr() for name, weight in found.items()}
    assert len(storages) == len(WEIGHTS)
    assert all(weight.untyped_storage().nbytes() == 4 * weight.numel() for weight in found.values())


def test_little_else_is_in_memory_meanwhile(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(save({str(number): torch.zeros(CHUNK) for number in range(8)}))
    tracemalloc.start()  # it sees bytes, but no tensors
    try:
        with path.open("rb") as file:
            read_tensors(Stream(file), path.stat().st_size)
        assert tracemalloc.get_traced_memory()[1] < 4 * CHUNK
    finally:
        tracemalloc.stop()


def test_the_checksum_is_that_of_the_whole_file():
    data = save(WEIGHTS)
    stream = Stream(io.BytesIO(data))
    stream.read(100)
    assert stream.checksum() == checksum(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        file_of([]),
        file_of({"a": entry([1], 0, 4)}),  # ends too early
        file_of({"a": entry([1], 0, 4)}, b"\0" * 3),
        file_of({"a": entry([1], 0, 4)}, b"\0" * 8),  # more than its weights
        file_of({"a": entry([1], 4, 8)}, b"\0" * 8),  # a gap
        file_of({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"\0" * 4),  # the same place
        file_of({"a": entry([2], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([-1, -1], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([True], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([1.0], 0, 4)}, b"\0" * 4),
        file_of({"a": entry([2**62, 4], 0, 2**66)}, b"\0" * 4),
        file_of({"a": entry([1], 0, 2, "F16")}, b"\0" * 2),
        file_of({"a": 5}),
        file_of({"a": entry([1], 0, 4)}, b"\0" * 4)[:-9] + b"}}}}}}}}}",
    ],
)
def test_what_is_damaged_is_refused(data):
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        read(data)
