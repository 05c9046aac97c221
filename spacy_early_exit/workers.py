"""Batches beside one another on a CPU: a thread for each, not all threads for every product.

Threads that share a product wait for each other at its end, some hundred times a batch. Two that
had a batch each were 1.3 times as fast at full depth and 1.2 times at 3X (benchmarks/NOTES.md).
"""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, List, Sequence, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# More would wait for Python's lock: a batch holds it for a tenth of its time. With more threads
# than this, each worker has several.
MOST = 4
_STARTING = threading.Lock()


def worker_count() -> int:
    """RETURNS (int): How many batches run at once, by the threads that torch may use."""
    return min(torch.get_num_threads(), MOST)


def run_side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> List[Result]:
    """Call a function on every item, several at once if there are several.

    function (Callable): The function. What torch keeps for each thread, such as inference mode,
        it must set itself.
    items (Sequence): Its arguments.
    RETURNS (List): What it returned, in order.
    RAISES (Exception): What it raised, for the first such item.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        return [function(item) for item in items]
    with _STARTING:
        pool = _pool(os.getpid(), threads)
    return list(pool.map(function, items))


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """RETURNS (ThreadPoolExecutor): Workers that share torch's threads. A forked process needs
    others than the one it came from.
    """
    workers = worker_count()
    all_there = threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # at its first call in a thread torch sets what new threads get
        torch.set_num_threads(threads // workers)
        all_there.wait()

    pool = ThreadPoolExecutor(workers, "early-exit")
    for _ in range(workers):
        pool.submit(start)
    all_there.wait()
    # Every thread has a number of its own, but what was set last is what new threads start with.
    torch.set_num_threads(threads)
    return pool
