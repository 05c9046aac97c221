"""Work that may fail, kept apart from what interrupts it.

Signal handlers run in the main thread, between any two of its steps, and may raise: task queues end
a task that takes too long in this way. Such an exception must end the work, and must not be
mistaken for a fault of the current text. So if there are handlers that may raise, the work is done
in another thread, and whatever is raised in the main one comes from elsewhere.
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
# All signals that can have handlers. They are checked for every text: with enums that takes 0.1 ms.
SIGNALS = tuple(map(int, signal.valid_signals()))
_own = threading.local()


class Stopped(BaseException):
    """Raised in work that is no longer waited for."""


class Attempt(Generic[Result]):
    """The outcome of some work: its result, or what it raised.

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
    RETURNS (Attempt): The outcome.
    RAISES (BaseException): What interrupts it, such as KeyboardInterrupt or whatever a signal
        handler raises, as soon as the work has ended.
    """
    if threading.current_thread() is not threading.main_thread() or not _handlers_may_raise():
        return Attempt(work)
    from .torch_threads import as_many_as_here  # torch, so not imported at the top

    stop = threading.Event()
    # Either the other thread begins the work or this one cancels it, whichever comes first. So it
    # is always known whether there is an end to wait for.
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
    """RETURNS (Callable[[], bool]): Tells whether the work of this thread should end early. Any
    thread may call it.
    """
    stop: Optional[threading.Event] = getattr(_own, "stop", None)
    return _never if stop is None else stop.is_set


def _never() -> bool:
    return False


def _apart(
    work: Callable[[], Result], stop: threading.Event, outcome: "Future[Attempt[Result]]"
) -> None:
    """Do work that is waited for, unless it has been cancelled."""
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
    count: it raises no ``Exception``, so that no error handler catches it.
    """
    handlers = map(_signal.getsignal, SIGNALS)
    return any(callable(h) and h is not signal.default_int_handler for h in handlers)


def _submit(work: Callable[[], None]) -> bool:
    """Have the thread kept for this purpose do some work, with this thread's context variables.

    RETURNS (bool): Whether it will; false if no thread can be started.
    """
    global _thread
    if _thread is None or _thread[0] != os.getpid():  # a fork does not inherit it
        _thread = os.getpid(), ThreadPoolExecutor(1, "early-exit-apart")
    try:
        _thread[1].submit(contextvars.copy_context().run, work)
    except RuntimeError:
        return False
    return True


_thread: Optional[Tuple[int, ThreadPoolExecutor]] = None
