"""What a forked process must do differently before torch and the tokenizer run in it."""

import os
import threading
from typing import Any, Optional

import torch

_PARALLELISM = "TOKENIZERS_PARALLELISM"

_forked = False
_survivor: Optional[int] = None  # id of the thread that the fork inherited
_decided = False


def _before_fork() -> None:
    # The tokenizers library prints a warning in every child unless this has been set before.
    global _decided
    _decided = _PARALLELISM not in os.environ
    if _decided:
        os.environ[_PARALLELISM] = "true"


def _after_fork_in_parent() -> None:
    if _decided:
        os.environ.pop(_PARALLELISM, None)


def _after_fork_in_child() -> None:
    global _forked, _survivor
    _forked, _survivor = True, threading.get_ident()
    if _decided:
        os.environ[_PARALLELISM] = "false"  # the fork did not inherit its threads


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def ready_for_torch() -> None:
    """Limit torch to one thread in a forked process, once, before it runs there.

    A child that inherits an OpenMP pool without its threads hangs at its first parallel region. The
    pool belongs to the thread that forked, so that thread must be limited, even if another one
    calls this first. Nothing changes in spawned processes.
    """
    global _forked, _survivor
    is_survivor = _survivor == threading.get_ident()
    if _forked or is_survivor:
        torch.set_num_threads(1)
        _forked = False
        _survivor = None if is_survivor else _survivor


class Lock:
    """A lock that is free in a forked process, which does not inherit the thread that held it. It
    is reentrant. A lock must be kept for as long as the process lasts.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()
