"""Keep the memory of a process flat, if the C library is glibc."""

import ctypes
import functools
import mmap
import sys
import time
from typing import Any, Optional

# Trimming takes 20 ms, and memory that was handed back must be fetched again. After every training
# step, that would be 10 to 20 % of the time (benchmarks/notes/engine.md).
GROWTH = 2**30

# The share of a predicting process's time that goes into it.
SHARE = 1e-3
MIN_PAUSE = 30.0  # seconds


def release_freed_memory() -> None:
    """While training, hand freed memory back to the system when the process has grown much.

    glibc before 2.38 does not reuse aligned blocks well, and torch asks for those: a training
    process grew by 45 MB a step of 600 words, to 14 GB after 500 steps (glibc 2.36, 2026-11-22).
    """
    global _after_last
    libc = _glibc()
    if libc is None:
        return
    resident = _resident()
    _after_last = min(_after_last or resident, resident)
    if not resident or resident > _after_last + GROWTH:
        libc.malloc_trim(0)
        _after_last = _resident()


_after_last = 0  # bytes in memory after the last trim


def release_freed_memory_now_and_then() -> None:
    """While predicting, hand freed memory back to the system from time to time. This is rare, so
    that the next batch can use what a batch frees. The call that does it takes about 20 ms longer.

    Texts of all lengths leave gaps that no later text fits: after 10,000 of them a process with
    MiniLM had 852 MB, 109 of which it did not need (glibc 2.36, 2026-11-27).
    """
    global _not_before
    begun = time.monotonic()
    if begun < _not_before:
        return
    first, _not_before = not _not_before, begun + MIN_PAUSE  # in one step: other threads skip it
    libc = None if first else _glibc()
    if libc is not None:
        libc.malloc_trim(0)
        took = time.monotonic() - begun
        _not_before = begun + max(MIN_PAUSE, took / SHARE)


_not_before = 0.0  # the earliest time of the next trim


def _resident() -> int:
    """RETURNS (int): Bytes of this process in memory; 0 where /proc is hidden."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


@functools.lru_cache(maxsize=1)
def _glibc() -> Optional[Any]:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018 (only glibc has it)
        return libc if hasattr(libc, "malloc_trim") else None
    except (OSError, AttributeError):
        return None
