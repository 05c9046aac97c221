"""Batches beside one another on a CPU: a thread for each, not all threads for every product.

Threads that share a product wait for each other at its end, some hundred times a batch. With two
threads, one batch each was 1.06 to 1.3 times as fast (benchmarks/NOTES.md).
"""

import os
import queue
import threading
from typing import Callable, Dict, List, Optional, Sequence, TypeVar

import torch

from .forks import Lock

Item = TypeVar("Item")
Result = TypeVar("Result")

# Helpers also need Python's lock, so more than a few would wait for it: beyond, each has several
# of torch's threads. Only 2 have been measured.
MOST = 4
_own = threading.local()
_starting = Lock()


def worker_count() -> int:
    """RETURNS (int): How many batches run at once, by the threads that torch may use here."""
    return min(torch.get_num_threads(), MOST)


def run_side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> List[Result]:
    """Call a function on every item, several at once if there are several.

    Each thread that calls this has helpers of its own, as it has OpenMP threads of its own.

    function (Callable): The function. What torch keeps for each thread, such as inference mode,
        it must set itself.
    items (Sequence): Its arguments.
    RETURNS (List): What it returned, in order.
    RAISES (Exception): What it raised, for the first item that failed.
    """
    helpers = None
    if len(items) > 1 and torch.get_num_threads() > 1:
        helpers = _helpers(torch.get_num_threads())
    if helpers is None:
        return [function(item) for item in items]
    results: Dict[int, Result] = {}
    failures: Dict[int, BaseException] = {}
    todo = iter(range(len(items)))
    taking = threading.Lock()
    finished = threading.Semaphore(0)
    given_up = threading.Event()

    def work() -> None:
        try:
            while not given_up.is_set():
                with taking:
                    number = next(todo, None)
                if number is None:
                    break
                try:
                    results[number] = function(items[number])
                except BaseException as e:
                    failures[number] = e
                    given_up.set()
        finally:
            finished.release()

    try:
        helpers.all_do(work)
        for _ in range(helpers.count):
            finished.acquire()
    except BaseException:  # such as KeyboardInterrupt: nobody begins another item
        given_up.set()
        raise
    if failures:
        raise failures[min(failures)]
    return [results[number] for number in range(len(items))]


class Helpers:
    """Threads that wait for work, and end when this is dropped.

    They are daemons: a thread that outlives the main one can still use its own, and none of
    them keeps a process from ending.

    threads (int): How many of torch's threads they share.
    """

    def __init__(self, threads: int):
        self.process, self.threads, self.count = os.getpid(), threads, 0
        self._tasks: queue.SimpleQueue[Optional[Callable[[], None]]] = queue.SimpleQueue()
        # In a thread of its own: torch keeps a number of threads for each thread, and gives new
        # ones what was set last anywhere. So what it was is set again at the end. Whatever
        # thread first meets torch in between keeps the small number: it is a matter of 1 ms, and
        # of one caller's helpers at a time.
        with _starting:
            starter = threading.Thread(target=self._start, daemon=True)
            starter.start()
            starter.join()

    def _start(self) -> None:
        default = torch.get_num_threads()
        wanted = min(self.threads, MOST)
        ready = threading.Semaphore(0)
        try:
            for i in range(wanted):
                share = self.threads // wanted + (i < self.threads % wanted)
                arguments = (self._tasks, share, ready)
                threading.Thread(target=_help, args=arguments, daemon=True).start()
                self.count += 1
        except RuntimeError:
            pass  # no more threads to be had: those that there are will do
        for _ in range(self.count):
            ready.acquire()
        torch.set_num_threads(default)

    def all_do(self, task: Callable[[], None]) -> None:
        """Have each of them do something, once."""
        for _ in range(self.count):
            self._tasks.put(task)

    def __del__(self) -> None:
        for _ in range(self.count):
            self._tasks.put(None)


def _help(
    tasks: "queue.SimpleQueue[Optional[Callable[[], None]]]",
    threads: int,
    ready: threading.Semaphore,
) -> None:
    torch.get_num_threads()  # its first call in a thread sets what new threads get
    torch.set_num_threads(threads)
    ready.release()
    while True:
        task = tasks.get()
        if task is None:
            return
        task()
        del task  # it holds what the last call was about


def _helpers(threads: int) -> Optional[Helpers]:
    """RETURNS (Optional[Helpers]): Those of this thread; None if there can be none."""
    found: Optional[Helpers] = getattr(_own, "helpers", None)
    if found is None or (found.process, found.threads) != (os.getpid(), threads):
        _own.helpers = found = None
        try:
            found = Helpers(threads)
        except RuntimeError:  # no thread can be started any more
            return None
        found = found if found.count > 1 else None
        _own.helpers = found
    return found
