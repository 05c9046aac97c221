"""What a forked process must do differently before torch and the tokenizer run in it."""

import os

import torch

_PARALLELISM = "TOKENIZERS_PARALLELISM"

_forked = False
_decided = False


def _before_fork() -> None:
    # The tokenizers library prints a warning in every child unless this was decided before.
    global _decided
    _decided = _PARALLELISM not in os.environ
    if _decided:
        os.environ[_PARALLELISM] = "true"


def _after_fork_in_parent() -> None:
    if _decided:
        os.environ.pop(_PARALLELISM, None)


def _after_fork_in_child() -> None:
    global _forked
    _forked = True
    if _decided:
        os.environ[_PARALLELISM] = "false"  # its threads did not come along


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def ready_for_torch() -> None:
    """Limit torch to one thread in a forked process, once, before it runs there.

    A child that inherits an OpenMP pool whose threads did not come along hangs at its first
    parallel region. In spawned processes nothing is changed.
    """
    global _forked
    if _forked:
        torch.set_num_threads(1)
        _forked = False
