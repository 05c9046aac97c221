"""How many of torch's threads one thread uses for a product.

torch keeps a number for each thread. ``torch.set_num_threads`` sets that of the calling thread, as
well as the number for threads that first use torch later. Here it is set for one thread alone.
"""

import contextlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Callable, Iterator, List, Optional, Tuple, TypeVar

import torch

from .forks import Lock

Result = TypeVar("Result")
_setting = Lock()


def begin_with(threads: int) -> None:
    """Set how many threads a new thread uses, before it first uses torch.

    threads (int): Number of threads.
    """
    with _setting:  # the next thread must see the earlier number
        _until_restored()
        usual = torch.get_num_threads()  # in a thread's first call it is the number of new threads
        _set_and_wait(threads, usual)


def as_many_as_here(work: Callable[[], Result]) -> Callable[[], Result]:
    """RETURNS (Callable): The work, to be done in another thread with as many threads as this one
    uses now. That thread keeps the number. Nothing changes for all others and for new ones.

    work (Callable): The work.
    """
    threads = torch.get_num_threads()

    def elsewhere() -> Result:
        if torch.get_num_threads() != threads:
            with _setting:
                _until_restored()
                _set_and_wait(threads, _of_new_threads())
        return work()

    return elsewhere


@contextlib.contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Let this thread use fewer threads for a while.

    threads (int): Number of threads.
    """
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    process = os.getpid()
    with _setting:  # who reads the number of new threads must not see this one
        again = _set_own(threads, before)
    try:
        yield
    finally:
        # Else it could undo what the caller sets next. A fork has no thread that would do it.
        if again is not None and os.getpid() == process:
            wait([again])
        torch.set_num_threads(before)


def _of_new_threads() -> int:
    """RETURNS (int): How many threads a thread gets that first uses torch now."""
    found: List[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    try:
        thread.start()
        thread.join()
    except RuntimeError:  # no more threads can be started, or the interpreter is shutting down
        found.append(torch.get_num_threads())
    return found[0]


def _until_restored() -> None:
    """Wait until the number for new threads is the one that others set."""
    if _keeper is not None and _keeper[0] == os.getpid():
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            _keeper[1].submit(int).result()


def _set_and_wait(threads: int, others: int) -> None:
    again = _set_own(threads, others)
    if again is not None:
        wait([again])


def _set_own(threads: int, others: int) -> Optional["Future[None]"]:
    """Set how many threads this thread uses, and at once restore the number for others, in a thread
    that is used for nothing else. A thread that first uses torch in between keeps this thread's
    number.

    RETURNS (Optional[Future]): The task that restores it; None if no thread can be started for it.
    """
    global _keeper
    torch.set_num_threads(threads)
    if _keeper is None or _keeper[0] != os.getpid():  # it does not come along into a fork
        _keeper = os.getpid(), ThreadPoolExecutor(1, "early-exit-keeper")
    try:
        return _keeper[1].submit(torch.set_num_threads, others)
    except RuntimeError:
        return None


_keeper: Optional[Tuple[int, ThreadPoolExecutor]] = None
