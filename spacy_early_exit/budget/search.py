"""Find the threshold that saves as much as was asked for."""

from typing import Callable, Iterable


def saving(records: Iterable["tuple[int, int]"]) -> float:
    """Full-depth cost / spent cost, over all texts together.

    records (Iterable[Tuple[int, int]]): Spent and full cost of each text, in MACs.
    RETURNS (float): The saving; 1 where nothing was to be done.
    """
    spent = full = 0
    for one_spent, one_full in records:
        spent, full = spent + one_spent, full + one_full
    return full / spent if spent else 1.0


def threshold_for(speedup: float, saving_at: Callable[[float], float], steps: int = 8) -> float:
    """Find the smallest threshold that saves enough, by halving the interval.

    speedup (float): The saving to reach.
    saving_at (Callable[[float], float]): The saving at a threshold, which rises with it.
    steps (int): How often to halve: the answer is at most ``2 ** -steps`` too large.
    RETURNS (float): The threshold; 1.0 if none saves enough.
    """
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        if saving_at(middle) >= speedup:
            high = middle
        else:
            low = middle
    return high
