"""What of a test is quick: some of its parameters, and some of Hypothesis's examples."""

import pytest
from hypothesis import settings


def rest_slow(rows, quick, named=None):
    """Parameters of a test: all rows, of which only some are run without --slow.

    rows (Iterable[Tuple]): All combinations.
    quick (Callable): Says whether a combination is one of the quick ones.
    named (Optional[Callable]): Returns the name of a combination; None: pytest names it.
    """
    slow = pytest.mark.slow
    return [
        pytest.param(*row, marks=[] if quick(*row) else [slow], id=named and named(*row))
        for row in rows
    ]


def examples(full: int, **options):
    """Settings for tests whose examples run a network: so many with --slow, 15 without, the same
    ones each time.
    """
    few = min(full, settings().max_examples)
    return settings(max_examples=few, deadline=None, **options)
