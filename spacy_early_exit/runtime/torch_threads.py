"""How many of torch's threads a thread uses for a product.

torch keeps a number for each thread. ``torch.set_num_threads`` sets that of the calling thread, and
what threads get that meet torch later. Here it is set for one thread alone.
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
    """Set how many a new thread uses, which has not met torch before.

    threads (int): How many.
    """
    with _setting:  # the next one must see what was there before
        usual = torch.get_num_threads()  # the first call in a thread sets what new threads get
        _set_and_wait(threads, usual)


def as_many_as_here(work: Callable[[], Result]) -> Callable[[], Result]:
    """RETURNS (Callable): The work, to be done in another thread with as many as this one uses now.
    That thread keeps the number; all others, and new ones, have what they had.

    work (Callable): The work.
    """
    threads = torch.get_num_threads()

    def elsewhere() -> Result:
        if torch.get_num_threads() != threads:
            with _setting:
                _set_and_wait(threads, _of_new_threads())
        return work()

    return elsewhere


@contextlib.contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Let this thread use fewer for a while.

    threads (int): How many.
    """
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    _set_own(threads, before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _of_new_threads() -> int:
    """RETURNS (int): How many a thread gets that meets torch now."""
    found: List[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    try:
        thread.start()
        thread.join()
    except RuntimeError:  # no more threads can be started, or the interpreter ends
        found.append(torch.get_num_threads())
    return found[0]


def _set_and_wait(threads: int, others: int) -> None:
    again = _set_own(threads, others)
    if again is not None:
        wait([again])


def _set_own(threads: int, others: int) -> Optional["Future[None]"]:
    """Set how many this thread uses, and at once, by a thread that is used for nothing else, what
    others get. Whatever thread first meets torch in between keeps the number of this one.

    RETURNS (Optional[Future]): That which sets it again; None if no thread can be started for it.
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
