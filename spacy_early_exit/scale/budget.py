"""The budget of a job: the speedup that all its workers hold together."""

from itertools import islice
from typing import NamedTuple, Sequence, Tuple

from ..budget.curve import Calibration
from .parts import Part, read
from .tagger import BATCH, Task, tagger

SAMPLED = 8  # parts that the first threshold is found on
ROUNDS = 3  # of looking for it


class Budget(NamedTuple):
    """What a ``SharedController`` is made of: the speedup that the whole job is to hold.

    calibration (Calibration): The curve.
    speedup (float): The speedup.
    so_far (Tuple[int, int, int]): Words, cost and full cost of what earlier runs have done.
    """

    calibration: Calibration
    speedup: float
    so_far: Tuple[int, int, int] = (0, 0, 0)


def sample(task: Task, parts: Sequence[Part], threads: int, budget: Budget) -> float:
    """Find where to begin on the curve, from a sample that the driver tags.

    task (Task): What is done.
    parts (Sequence[Part]): The parts, in random order.
    threads (int): How many threads the driver may use.
    budget (Budget): The speedup to hold.
    RETURNS (float): The position, a speedup on the curve, at which the sample saves as much as is
        to be held.
    """
    each = BATCH // SAMPLED
    texts = [one.text for part in parts[:SAMPLED] for one in islice(read(part, task.columns), each)]
    worker, most = tagger(task.setting, threads), budget.calibration.most
    position = min(budget.speedup, most)
    for _ in range(ROUNDS):
        tagged = worker.tag(texts, budget.calibration.threshold_for(position))
        spent, full = (sum(cost or 0 for cost in costs) for costs in zip(*(t[2:4] for t in tagged)))
        if full:
            position = min(most, max(1.0, position * budget.speedup * spent / full))
    return position
