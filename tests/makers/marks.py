"""Marks of tests, by their parameters."""

import pytest


def rest_slow(rows, quick):
    """Parameters of a test: all rows, of which only some are run without --slow.

    rows (Iterable[Tuple]): All combinations.
    quick (Callable): Says whether a combination is one of the quick ones.
    """
    slow = pytest.mark.slow
    return [pytest.param(*row, marks=[] if quick(*row) else [slow]) for row in rows]
