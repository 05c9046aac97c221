"""Work that may fail, told apart from what interrupts it.

Signal handlers run in the main thread, between any two of its steps, and may raise: task queues
end a task that takes too long that way. Such an exception must end the work, and not be taken for
a fault of the text at hand. So where there are handlers that may raise, the work is done in another
thread, and what is raised in the main one comes from elsewhere.
"""

import _signal  # type: ignore[import-not-found]  # signal.getsignal without enums
import contextvars
import functools
import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Callable, Generic, Optional, Tuple, TypeVar

Result = TypeVar("Result")
# All that have handlers here. They are asked for every text: with enums that takes 0.1 ms.
SIGNALS = tuple(map(int, signal.valid_signals()))
_own = threading.local()


class Stopped(BaseException):
    """Raised in work that nobody waits for any more."""


class Attempt(Generic[Result]):
    """What came of some work: a result, or what it raised.

    work (Callable): The work.
    """

    error: Optional[Exception] = None
    result: Result

    def __init__(self, work: Callable[[], Result]):
        try:
            self.result = work()
        except Exception as e:
            self.error = e


def attempt(work: Callable[[], Result]) -> Attempt[Result]:
    """Do some work.

    work (Callable): The work. It should ask ``stop_asked`` from time to time.
    RETURNS (Attempt): What came of it.
    RAISES (BaseException): What interrupts it, such as KeyboardInterrupt or whatever a signal
        handler raises, as soon as the work has ended.
    """
    if threading.current_thread() is not threading.main_thread() or not _handlers_may_raise():
        return Attempt(work)
    from .torch_threads import as_many_as_here  # torch: not where this is imported

    stop = threading.Event()
    # The other thread begins the work, or this one cancels it: whoever is first. So it is always
    # known whether there is an end to wait for.
    outcome: Future[Attempt[Result]] = Future()
    try:
        handed_over = _submit(functools.partial(_apart, as_many_as_here(work), stop, outcome))
        if not handed_over and outcome.cancel():
            return Attempt(work)
        wait([outcome])
    except BaseException:
        stop.set()
        if not outcome.cancel():
            wait([outcome])
        raise
    return outcome.result()


def stop_asked() -> Callable[[], bool]:
    """RETURNS (Callable[[], bool]): Says whether what this thread does shall end early. Any thread
    may ask it.
    """
    stop: Optional[threading.Event] = getattr(_own, "stop", None)
    return _never if stop is None else stop.is_set


def _never() -> bool:
    return False


def _apart(
    work: Callable[[], Result], stop: threading.Event, outcome: "Future[Attempt[Result]]"
) -> None:
    """Do work that somebody waits for, unless it is cancelled by now."""
    if not outcome.set_running_or_notify_cancel():
        return
    _own.stop = stop
    try:
        outcome.set_result(Attempt(work))
    except BaseException as e:
        outcome.set_exception(e)
    finally:
        _own.stop = None


def _handlers_may_raise() -> bool:
    """RETURNS (bool): Whether a signal has a handler in Python. The usual one of Ctrl-C does not
    count: it raises no ``Exception``, so that it passes through whatever meets it.
    """
    handlers = map(_signal.getsignal, SIGNALS)
    return any(callable(h) and h is not signal.default_int_handler for h in handlers)


def _submit(work: Callable[[], None]) -> bool:
    """Have the thread that is kept for it do some work, with this one's context variables.

    RETURNS (bool): Whether it will: not if no thread can be started.
    """
    global _thread
    if _thread is None or _thread[0] != os.getpid():  # it does not come along into a fork
        _thread = os.getpid(), ThreadPoolExecutor(1, "early-exit-apart")
    try:
        _thread[1].submit(contextvars.copy_context().run, work)
    except RuntimeError:
        return False
    return True


_thread: Optional[Tuple[int, ThreadPoolExecutor]] = None
