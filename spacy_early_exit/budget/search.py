"""Find the threshold that saves as much as was asked for."""

import math
from typing import Callable, Iterable

MIN_THRESHOLD = 1e-6  # the smallest threshold that is tried


def speedup_of(records: Iterable["tuple[int, int]"]) -> float:
    """Full-depth cost / spent cost, over all texts together.

    records (Iterable[Tuple[int, int]]): Spent and full cost of each text, in MACs.
    RETURNS (float): The speedup; 1 if there was nothing to compute.
    """
    spent = full = 0
    for one_spent, one_full in records:
        spent, full = spent + one_spent, full + one_full
    return full / spent if spent else 1.0


def search_threshold(
    speedup: float, speedup_at: Callable[[float], float], steps: int = 10
) -> float:
    """Find the smallest threshold that saves enough, by bisection on its logarithm: very confident
    heads need thresholds of a thousandth.

    speedup (float): The speedup to reach.
    speedup_at (Callable[[float], float]): Returns the speedup at a threshold. It rises with the
        threshold.
    steps (int): Number of bisection steps. With 10, the answer is at most 1.4 % too large.
    RETURNS (float): The threshold, ``MIN_THRESHOLD`` or more; 1.0 if none saves enough.
    """
    low, high = MIN_THRESHOLD, 1.0
    for _ in range(steps):
        middle = math.sqrt(low * high)
        if speedup_at(middle) >= speedup:
            high = middle
        else:
            low = middle
    return high
