"""Batches in parallel on a CPU: one thread for each batch, not all threads for every product.

Threads that share a product wait for each other at its end, a few hundred times in every batch.
With two threads, one batch each was 1.06 to 1.3 times as fast (benchmarks/notes/engine.md). If
other processes compete for the processors, each wait lasts until they release one, and sharing
takes many times as long as one thread alone. So products are only shared on an idle machine.
"""

import contextlib
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Callable, Dict, Generic, Iterator, List, Optional, Sequence, Set, Tuple, TypeVar

import torch

from .attempts import Stopped, stop_asked
from .processors import idle_processors, processors
from .torch_threads import at_most, begin_with

Item = TypeVar("Item")
Result = TypeVar("Result")

# Helpers also need Python's lock, and more than a few would wait for it. Beyond this number, each
# helper has several of torch's threads. Only 2 have been measured.
MAX_THREADS = 4
# Multiply-accumulates of a layer that are worth another thread. If it is not known whether a
# processor is idle, only work that certainly takes long is shared.
MIN_MACS, MIN_MACS_UNSEEN = 4_000_000, 500_000_000
# Seconds for which OpenMP's threads keep looking for work after a product: they keep their
# processors busy, but they are ours. Those of libgomp do so for 7 ms.
SPINNING = 0.005
_own = threading.local()


def thread_count(asked: Optional[int]) -> int:
    """RETURNS (int): The number of threads to compute with.

    asked (Optional[int]): The number asked for; None: as many as torch may use here, but no more
        than the processors available to this process.
    """
    return asked or min(torch.get_num_threads(), processors())


def batches_at_once(threads: int) -> int:
    """RETURNS (int): How many batches run in parallel.

    threads (int): Number of threads.
    """
    return min(threads, MAX_THREADS)


def run_side_by_side(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
    macs: Callable[[Item], int],
) -> List[Result]:
    """Call a function on every item, on several at once if there are several threads.

    Each thread that calls this has its own helpers, as it has its own OpenMP threads. If it is
    interrupted while it waits for them, for example by Ctrl-C, each helper finishes the item that
    it has begun, and then the interruption is raised.

    function (Callable): The function. It must itself set what torch keeps for each thread, such as
        inference mode.
    items (Sequence): Its arguments.
    threads (int): How many threads may work.
    macs (Callable): Returns how many multiply-accumulates one layer needs for an item.
    RETURNS (List): What the function returned, in order.
    RAISES (Exception): What the function raised for the first item that failed.
    """
    shares = _shares(items, threads, macs)
    job = Job(function, items)
    if len(shares) == 1 and shares[0] <= torch.get_num_threads():
        with at_most(shares[0]):
            job.work()
        if shares[0] > 1:
            _own.shared = time.monotonic(), shares[0]
    else:
        _have_done(job, shares)
    return job.outcome()


class Job(Generic[Item, Result]):
    """Items that threads take one by one.

    function (Callable): What to call on each.
    items (Sequence): The items.
    """

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]):
        self.function, self.items = function, items
        self.todo = iter(range(len(items)))
        self.at_work: Set[int] = set()
        self.results: Dict[int, Result] = {}
        self.failures: Dict[int, BaseException] = {}
        self.taking = threading.Condition()
        self.given_up = threading.Event()
        self.stopped = stop_asked()

    def work(self) -> None:
        """Take items and do them until there are none left, one has failed, or nothing waits for
        them.
        """
        while (number := self._take()) is not None:
            try:
                self.results[number] = self.function(self.items[number])
            except BaseException as e:
                self.failures[number] = e
                self.given_up.set()
            with self.taking:
                self.at_work.remove(number)
                self.taking.notify_all()

    def _take(self) -> Optional[int]:
        with self.taking:
            if self.given_up.is_set() or self.stopped():
                return None
            number = next(self.todo, None)
            if number is not None:
                self.at_work.add(number)
            return number

    def give_up(self) -> None:
        """Stop threads from beginning another item, and wait for the items in progress."""
        self.given_up.set()
        with self.taking:
            self.taking.wait_for(lambda: not self.at_work)

    def outcome(self) -> List[Result]:
        """RETURNS (List): The results of the items, in order.

        RAISES (BaseException): What the first item that failed raised.
        """
        if self.failures:
            raise self.failures[min(self.failures)]
        if self.stopped():
            raise Stopped
        return [self.results[number] for number in range(len(self.items))]


def _shares(items: Sequence[Item], threads: int, macs: Callable[[Item], int]) -> List[int]:
    """RETURNS (List[int]): How many of torch's threads each helper gets."""
    helpers = batches_at_once(threads) if len(items) > 1 else 1
    total = helpers
    if threads > helpers and items:
        idle = idle_processors()
        least = MIN_MACS_UNSEEN if idle is None else MIN_MACS
        total = _rounded(helpers * min(map(macs, items)) // least, helpers, threads)
        if idle is not None and idle + _spinning() < total - 1:  # one of them is ours
            total = helpers
    return [total // helpers + (i < total % helpers) for i in range(helpers)]


def _spinning() -> int:
    """RETURNS (int): How many threads of the last product may still be spinning."""
    ended, threads = getattr(_own, "shared", (0.0, 1))
    return threads - 1 if time.monotonic() < ended + SPINNING else 0


def _rounded(worth: int, least: int, most: int) -> int:
    """RETURNS (int): Either all threads or a power of 2, so that there are few sets of helpers."""
    return most if worth >= most else max(least, 1 << worth.bit_length() >> 1)


def _have_done(job: Job[Item, Result], shares: List[int]) -> None:
    """Have helpers do a job, and wait for all of them.

    job (Job): The job. This thread does what they leave undone.
    shares (List[int]): How many of torch's threads each has.
    """
    futures: List[Future[None]] = []
    try:
        # RuntimeError: no more threads can be started, or the interpreter is shutting down.
        with contextlib.suppress(RuntimeError):
            pool = _helpers(tuple(shares))
            for _ in shares:
                futures.append(pool.submit(job.work))
        wait(futures)
        job.work()
    except BaseException:  # for example KeyboardInterrupt, even before a helper is known here
        job.give_up()
        raise


def _helpers(shares: Tuple[int, ...]) -> ThreadPoolExecutor:
    """RETURNS (ThreadPoolExecutor): The helpers of this thread. They end when it ends, or before
    the interpreter does.
    """
    if getattr(_own, "process", None) != os.getpid():  # a fork does not inherit threads
        _own.process, _own.pools = os.getpid(), {}
    pools: Dict[Tuple[int, ...], ThreadPoolExecutor] = _own.pools
    if shares not in pools:
        pools[shares] = ThreadPoolExecutor(len(shares), "early-exit", _limit, (iter(shares),))
    return pools[shares]


def _limit(shares: Iterator[int]) -> None:
    """Give a helper its share of torch's threads."""
    begin_with(next(shares))
