"""Keeping the memory of a process flat, where the C library is glibc."""

import ctypes
import functools
import mmap
import sys
import time
from typing import Any, Optional

# Trimming takes 20 ms, and what was handed back must be fetched again: 10 to 20 % of a training
# step if done after each (benchmarks/notes/engine.md).
GROWTH = 2**30

# Of the time of a process that predicts, so little goes into it.
SHARE = 1e-3
MIN_PAUSE = 30.0  # seconds


def release_freed_memory() -> None:
    """While training, hand freed memory back to the system when it has grown much.

    glibc before 2.38 does not reuse aligned blocks well, which are what torch asks for: a
    training process grew by 45 MB a step of 600 words, to 14 GB after 500 steps (glibc 2.36,
    2026-11-22).
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


_after_last = 0  # bytes in memory after the last trimming


def release_freed_memory_now_and_then() -> None:
    """While predicting, hand freed memory back to the system from time to time: seldom, so that
    what a batch frees is there for the next. Who asks then waits some 20 ms more.

    Texts of all lengths leave gaps that no later text fits: after 10,000 of them a process with
    MiniLM had 852 MB, 109 of which it did not need (glibc 2.36, 2026-11-27).
    """
    global _not_before
    begun = time.monotonic()
    if begun < _not_before:
        return
    first, _not_before = not _not_before, begun + MIN_PAUSE  # at once: other threads pass by
    libc = None if first else _glibc()
    if libc is not None:
        libc.malloc_trim(0)
        took = time.monotonic() - begun
        _not_before = begun + max(MIN_PAUSE, took / SHARE)


_not_before = 0.0  # when it may be next


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
