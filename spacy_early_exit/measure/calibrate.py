"""Measure the curve from thresholds to speedups on texts."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Mapping, Optional, Sequence

from spacy.tokens import Doc
from spacy.training import Example

from ..budget.curve import Calibration, Point, TaskScore, make_curve
from ..budget.search import search_threshold, speedup_of
from ..pipe.component import EarlyExitPipe
from ..pipe.dial import Knob
from ..pipe.records import get_records
from ..pipe.stream import groups
from ..settings import RunSettings
from .docs import annotated, count_words, fresh, tasks_of

if TYPE_CHECKING:
    from ..network.shared import Reader

GROUP = 1000  # texts whose windows are in memory at once; fewer if they are long
ROUNDS = 4  # maximum number of real runs for each speedup
CLOSE = 0.01  # a speedup this little above the one asked for is close enough
PARTS = (
    20  # of the texts: each is left out once, which tells how much the score depends on the draw
)
GAP = 1.12  # largest ratio of adjacent points' speedups, about: between points the curve is a guess


def calibrate(
    ner: EarlyExitPipe,
    examples: Sequence[Example],
    speedups: Iterable[float],
    *,
    texts: Sequence[Doc] = (),
    with_score: bool = True,
    min_kept: Optional[float] = None,
    bounds: Optional[Mapping[str, float]] = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Calibration:
    """Measure the thresholds at which a component reaches the speedups that are asked for.

    One pass at full depth estimates where to look. Every point is then a real run. The curve always
    extends to the largest threshold, and has points in between.

    ner (EarlyExitPipe): The component. Its calibration is replaced.
    examples (Sequence[Example]): Texts that were not trained on.
    speedups (Iterable[float]): Speedups to measure exactly. Those out of reach are left out.
    texts (Sequence[Doc]): More texts to measure speedups on, regardless of annotation.
    with_score (bool): Whether the examples are annotated, so that they can be scored.
    min_kept (Optional[float]): The share of full depth's score that is to be kept. Speedups that
        lose more are warned of. In a shared pass, every task is to keep it.
    bounds (Optional[Mapping[str, float]]): Other shares for some of these tasks, by component.
    progress (Callable): Wraps the speedups while they are measured, such as a progress bar.
    RETURNS (Calibration): The calibration.
    RAISES (ValueError): If there are no words, or the criterion has no threshold, or a task that
        has a share of its own scores nothing.
    """
    docs = [*(eg.reference for eg in examples), *texts]
    words = count_words(docs)
    for task in tasks_of(ner):
        if not task.criterion.has_threshold:
            raise ValueError(
                f"The criterion {type(task.criterion).__name__} of '{task.name}' has no threshold "
                f"that could be calibrated."
            )
    simulated = simulate(ner, (fresh(ner, doc) for doc in docs))
    parts = PARTS if with_score else 0
    measured = partial(run_in_parts, ner, examples, parts=parts, texts=texts)
    full = measured(0.0)
    for name in (bounds or {}) if with_score else ():
        if not full.point.others[name].score:
            raise ValueError(
                f"'{name}' is to keep a share of its score, but at full depth it scores nothing on "
                f"these texts: they lack its annotation."
            )
    end = measured(1.0)
    runs = [full, end]
    asked = sorted({float(s) for s in speedups if s > 1})
    between = gaps([1.0, *(s for s in asked if s < end.point.speedup), end.point.speedup])
    for speedup in progress([*asked, *between]):
        rounds = ROUNDS if speedup in asked else 1
        runs.extend(_approach(measured, speedup, simulated, rounds))
    points = [Point(0.0, 1.0, full.point.score, others=full.point.others)]
    points += [found.compared_with(full) for found in runs[1:]]
    calibration = Calibration(make_curve(points), ner.fingerprint(), words, min_kept, bounds or {})
    ner.calibration = calibration
    return calibration


def simulate(ner: EarlyExitPipe, docs: Iterable[Doc]) -> Callable[[float], float]:
    """Run Docs once at full depth, and estimate what thresholds would save.

    ner (EarlyExitPipe): The component.
    docs (Iterable[Doc]): The Docs.
    RETURNS (Callable[[float], float]): The speedup at a threshold. Exact if texts exit as a whole,
        otherwise approximate.
    """
    from ..model import predict, predict_shared

    run = ner.ready_to_predict(Knob(speedup=1.0))
    trained = ner.model.shims[0].prepare_for(run.predicts_in, run.device)
    if run.readers:
        at = partial(_readers_at, ner, run)
        return predict_shared.simulate_together(trained, groups(docs, GROUP), run, at)
    return predict.simulate(trained, groups(docs, GROUP), run, ner.criterion)


def _readers_at(ner: EarlyExitPipe, run: RunSettings, threshold: float) -> "Sequence[Reader]":
    """RETURNS (Sequence[Reader]): The tasks of a shared pass at a threshold."""
    return ner.at_threshold(run, threshold).readers


def gaps(speedups: Sequence[float]) -> List[float]:
    """RETURNS (List[float]): Speedups that divide the gaps between others in equal ratios.

    speedups (Sequence[float]): The other speedups, ascending.
    """
    found = []
    for low, high in zip(speedups, speedups[1:]):
        parts = math.ceil(math.log(high / low) / math.log(GAP))
        found += [low * (high / low) ** (part / parts) for part in range(1, parts)]
    return found


def _approach(
    measured: Callable[[float], "Run"],
    speedup: float,
    simulated: Callable[[float], float],
    rounds: int,
) -> List["Run"]:
    """RETURNS (List[Run]): Real runs that approach a speedup. The last one is closest."""
    runs: List[Run] = []
    aim = speedup
    for _ in range(rounds):
        threshold = search_threshold(aim, simulated, steps=14)
        runs.append(measured(threshold))
        found = runs[-1].point.speedup
        if speedup <= found <= speedup * (1 + CLOSE) or (threshold >= 1.0 and found < speedup):
            break
        aim *= speedup * (1 + CLOSE / 2) / found
    return runs


@dataclass(frozen=True)
class Run:
    """A run at a threshold.

    point (Point): The speedup, and the score.
    without (Mapping[str, Sequence[float]]): For each task, the scores without one part of the texts
        each. Empty if the texts were not scored, or are too few.
    """

    point: Point
    without: Mapping[str, Sequence[float]]

    def error(self, full: "Run", task: str) -> Optional[float]:
        """Estimate how much the share of full depth's score would differ on other texts.

        Source: the delete-a-group jackknife.

        full (Run): The run at full depth.
        task (str): Name of the component.
        RETURNS (Optional[float]): The standard error; None if it can't be known.
        """
        without, of_full = self.without.get(task, ()), full.without.get(task, ())
        if not without or not all(of_full):
            return None
        shares = [score / of for score, of in zip(without, of_full)]
        mean, count = sum(shares) / len(shares), len(shares)
        return math.sqrt((count - 1) / count * sum((share - mean) ** 2 for share in shares))

    def compared_with(self, full: "Run") -> Point:
        """RETURNS (Point): The point, with the standard errors.

        full (Run): The run at full depth.
        """
        first, *others = self.without or [""]
        scores = self.point.others
        known = {name: TaskScore(scores[name].score, self.error(full, name)) for name in others}
        return replace(self.point, error=self.error(full, first), others={**scores, **known})


def run_in_parts(
    ner: EarlyExitPipe,
    examples: Sequence[Example],
    threshold: float,
    parts: int,
    texts: Sequence[Doc] = (),
) -> Run:
    """Run a component at a threshold.

    ner (EarlyExitPipe): The component.
    examples (Sequence[Example]): The texts.
    threshold (float): The threshold.
    parts (int): In how many parts to divide the texts, to leave each out once. 0: don't score.
    texts (Sequence[Doc]): More texts, which are not scored.
    RETURNS (Run): The run.
    """
    references = [*(eg.reference for eg in examples), *texts]
    docs = annotated(ner, references, threshold=threshold)
    records = [get_records(doc)[ner.name] for doc in docs]
    speedup = speedup_of((r.spent, r.full) for r in records)
    if not parts:
        return Run(Point(threshold, speedup), {})
    scored = [Example(doc, eg.reference) for doc, eg in zip(docs, examples)]
    parts = min(parts, len(scored))
    tasks = tasks_of(ner)
    without = {
        task.name: [
            main_score(task, [eg for i, eg in enumerate(scored) if i % parts != part]) or 0.0
            for part in range(parts if parts > 1 else 0)
        ]
        for task in tasks
    }
    others = {task.name: TaskScore(main_score(task, scored) or 0.0) for task in tasks[1:]}
    return Run(Point(threshold, speedup, main_score(ner, scored), others=others), without)


def saved_now(ner: EarlyExitPipe, examples: Sequence[Example]) -> float:
    """RETURNS (float): What a component saves at the settings in force, in a shared pass those of
    all tasks.

    ner (EarlyExitPipe): The component.
    examples (Sequence[Example]): The texts.
    """
    docs = annotated(ner, [eg.reference for eg in examples])
    records = [get_records(doc)[ner.name] for doc in docs]
    return speedup_of((r.spent, r.full) for r in records)


def main_score(task: EarlyExitPipe, examples: Sequence[Example]) -> Optional[float]:
    """RETURNS (Optional[float]): A component's main score on annotated examples.

    task (EarlyExitPipe): The component.
    examples (Sequence[Example]): The examples.
    """
    score: Optional[float] = task.score(examples)[task.main_score]
    return score


def run(
    ner: EarlyExitPipe, examples: Sequence[Example], threshold: float, with_score: bool
) -> Point:
    """Run a component at a threshold.

    ner (EarlyExitPipe): The component.
    examples (Sequence[Example]): The texts.
    threshold (float): The threshold.
    with_score (bool): Whether the texts are annotated.
    RETURNS (Point): The speedup, and the score.
    """
    return run_in_parts(ner, examples, threshold, int(with_score)).point
