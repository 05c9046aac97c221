"""The calibrated curve: how much each threshold saves, and what it was measured with."""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..retired import without_retired

CLOSE = 0.02  # a measured speedup this little above the one asked for is as good
DOUBT = 1.645  # standard errors: of 100 shares, 95 are at most this much above what was measured


class TaskScore(NamedTuple):
    """The score of a task that shares the pass.

    score (float): Its main score.
    error (Optional[float]): The standard error of the share that this score is of full depth's, if
        it is known.
    """

    score: float
    error: Optional[float] = None


@dataclass(frozen=True)
class Point:
    """What was measured in a real run at a threshold.

    threshold (float): The criterion's threshold.
    speedup (float): Full-depth cost / spent cost.
    score (Optional[float]): The task's main score, if the texts were annotated.
    error (Optional[float]): The standard error of the share that this score is of full depth's, if
        it is known.
    others (Mapping[str, TaskScore]): The scores of the other tasks of a shared pass, by component.
    """

    threshold: float
    speedup: float
    score: Optional[float] = None
    error: Optional[float] = None
    others: Mapping[str, TaskScore] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """Points of one curve, and a fingerprint of everything that it depends on.

    points (Tuple[Point, ...]): By threshold, ascending. Their speedups ascend, too.
    fingerprint (Mapping[str, str]): What was calibrated, by name.
    words (int): The number of words that it was measured on.
    min_kept (Optional[float]): The share of full depth's score that is to be kept, by each task;
        None: any.
    bounds (Mapping[str, float]): Other shares for some tasks of a shared pass, by component.
    """

    points: Tuple[Point, ...]
    fingerprint: Mapping[str, str]
    words: int
    min_kept: Optional[float] = None
    bounds: Mapping[str, float] = field(default_factory=dict)

    @property
    def most(self) -> float:
        """RETURNS (float): The largest speedup within reach."""
        return self.points[-1].speedup

    def kept(self, point: Point) -> Optional[float]:
        """RETURNS (Optional[float]): The share of full depth's score that a point keeps; None if
        the texts were not annotated, or full depth scores nothing.
        """
        full = self.points[0].score
        return point.score / full if full and point.score is not None else None

    def shares(self, point: Point) -> Dict[str, TaskScore]:
        """RETURNS (Dict[str, TaskScore]): The share of full depth's score that each task keeps at a
        point, by component; that of the calibrated component itself under an empty name.

        point (Point): The point.
        """
        found = {} if (kept := self.kept(point)) is None else {"": TaskScore(kept, point.error)}
        for name, (score, error) in point.others.items():
            full = self.points[0].others.get(name)
            if full is not None and full.score:
                found[name] = TaskScore(score / full.score, error)
        return found

    def losers(self, point: Point) -> Dict[str, float]:
        """RETURNS (Dict[str, float]): The tasks that keep less of full depth's score at a point
        than they are to keep, beyond doubt, and that share: the texts are a sample. On others, up
        to ``DOUBT`` standard errors more may be kept.

        point (Point): The point.
        """
        if self.min_kept is None:
            return {}
        least = self.min_kept
        return {
            name: self.bounds.get(name, least)
            for name, (kept, error) in self.shares(point).items()
            if kept + DOUBT * (error or 0.0) < self.bounds.get(name, least)
        }

    def loses(self, point: Point) -> bool:
        """RETURNS (bool): Whether a task keeps too little at a point, beyond doubt."""
        return bool(self.losers(point))

    @functools.cached_property  # every call of the pipeline asks
    def keeps_up_to(self) -> float:
        """RETURNS (float): The largest speedup that may keep ``min_kept`` of full depth's score."""
        return max(point.speedup for point in self.points if not self.loses(point))

    def check_kept(self, speedup: float, name: str) -> str:
        """Check whether a speedup loses more of the score than ``min_kept`` allows.

        speedup (float): The speedup asked for.
        name (str): The component's name.
        RETURNS (str): What it loses, and what to ask for instead; empty if it doesn't, or if that
            is not known.
        """
        if self.min_kept is None or speedup <= self.keeps_up_to * (1 + CLOSE):
            return ""
        worse = next(p for p in self.points if self.loses(p) and p.speedup * (1 + CLOSE) >= speedup)
        task, bound = next(iter(self.losers(worse).items()))
        kept, of = self.shares(worse)[task].score, f" of '{task}'" if task else ""
        return (
            f"speedup = {speedup:g} loses more than {1 - bound:.1%} of the score{of}: on the "
            f"texts that '{name}' was calibrated on, it keeps {kept:.1%} at {worse.speedup:.2f}X. "
            f"The largest speedup that may keep {bound:.1%} is {self.keeps_up_to:.2f}. Ask "
            f"for that, train on more texts, or calibrate it with a smaller --min-f-kept."
        )

    def threshold_for(self, speedup: float) -> float:
        """Find the threshold for a speedup, by linear interpolation between the measured points.

        If points have this speedup or hardly more, the one with the best score is used as it is: on
        few texts speedups rise in jumps, and a slightly smaller threshold may save less. A larger
        threshold never saves less, so the answer rises with the speedup.

        speedup (float): The speedup.
        RETURNS (float): The threshold.
        RAISES (ValueError): If it is out of reach. The message says what is within reach.
        """
        if speedup > self.most:
            raise ValueError(
                f"speedup = {speedup:g} is out of reach: this pipeline saves at most "
                f"{self.most:.2f}X on the texts it was calibrated on. Ask for less, or calibrate "
                f"it on texts like yours, where it may save more: python -m spacy early-exit "
                f"calibrate MODEL TUNE.spacy --output DIR."
            )
        if speedup <= self.points[0].speedup:
            return self.points[0].threshold
        as_good = [p for p in self.points if speedup <= p.speedup <= speedup * (1 + CLOSE)]
        if as_good:
            return max(as_good, key=lambda point: point.score or 0.0).threshold
        number = next(i for i, point in enumerate(self.points) if point.speedup > speedup)
        low, high = self.points[number - 1 : number + 1]
        share = (speedup - low.speedup) / (high.speedup - low.speedup)
        return low.threshold + share * (high.threshold - low.threshold)

    def differences(self, fingerprint: Mapping[str, str]) -> List[str]:
        """RETURNS (List[str]): The names of what has changed since the calibration."""
        names = sorted({*self.fingerprint, *fingerprint})
        return [n for n in names if self.fingerprint.get(n) != fingerprint.get(n)]

    @classmethod
    def current(
        cls, found: Optional["Calibration"], fingerprint: Mapping[str, str], name: str
    ) -> "Calibration":
        """Get a component's calibration, if it was measured with what the component has now.

        found (Optional[Calibration]): Its calibration, if it has one.
        fingerprint (Mapping[str, str]): What the component has now.
        name (str): The component's name.
        RETURNS (Calibration): The calibration.
        RAISES (ValueError): If there is none, or something it depends on has changed since. The
            message says what, and how to calibrate again.
        """
        how = (
            "Calibrate it: python -m spacy early-exit calibrate MODEL TUNE.spacy --output DIR. "
            "Or set a threshold, or speedup = 1 for full depth."
        )
        if found is None:
            raise ValueError(
                f"'{name}' is not calibrated, so a speedup can't be turned into a threshold. {how}"
            )
        changed = found.differences(fingerprint)
        if changed:
            raise ValueError(
                f"'{name}' was calibrated with different {' and '.join(changed)}, so a speedup "
                f"can't be turned into a threshold any more. {how}"
            )
        return found

    def to_dict(self) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): Plain data, for JSON."""
        return {
            "points": [
                {
                    "threshold": p.threshold,
                    "saving": p.speedup,
                    "score": p.score,
                    "error": p.error,
                    **({"others": {n: list(of) for n, of in p.others.items()}} if p.others else {}),
                }
                for p in self.points
            ],
            "fingerprint": dict(self.fingerprint),
            "words": self.words,
            "min_kept": self.min_kept,
            **({"bounds": dict(self.bounds)} if self.bounds else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Calibration":
        """Read a calibration.

        data (Mapping[str, Any]): What ``to_dict`` returned. It may be untrusted.
        RETURNS (Calibration): The calibration.
        RAISES (ValueError): If it can't be a calibration. If parts are missing, it raises TypeError
            or KeyError.
        """
        points = tuple(
            # It was called "ents_f" before there were other tasks.
            Point(
                point["threshold"],
                point["saving"],
                point.get("score", point.get("ents_f")),
                point.get("error"),
                {name: TaskScore(*of) for name, of in dict(point.get("others", {})).items()},
            )
            for point in data["points"]
        )
        _check(points)
        fingerprint, words = dict(data["fingerprint"]), data["words"]
        if not all(isinstance(part, str) for pair in fingerprint.items() for part in pair):
            raise ValueError("the fingerprint of a calibration must be strings")
        fingerprint = {name: without_retired(text) for name, text in fingerprint.items()}
        if type(words) is not int or words < 0:
            raise ValueError(f"the words of a calibration must be a whole number, not {words!r}")
        min_kept = data.get("min_kept")
        if not (min_kept is None or (type(min_kept) in (int, float) and 0 <= min_kept <= 1)):
            raise ValueError(f"the min_kept of a calibration must be from 0 to 1, not {min_kept!r}")
        bounds = dict(data.get("bounds", {}))
        if not all(type(of) in (int, float) and 0 <= of <= 1 for of in bounds.values()):
            raise ValueError(f"the bounds of a calibration must be from 0 to 1, not {bounds!r}")
        return cls(points, fingerprint, words, min_kept, bounds)


def _scores(point: Point) -> List[Optional[float]]:
    return [point.score, point.error, *(x for of in point.others.values() for x in of)]


def _check(points: Sequence[Point]) -> None:
    numbers = [
        (p.threshold, p.speedup, *(0.0 if x is None else x for x in _scores(p))) for p in points
    ]
    if not all(type(x) in (int, float) and abs(x) < math.inf for row in numbers for x in row):
        raise ValueError("thresholds, speedups and scores of a calibration must be numbers")
    if any(p.error is not None and p.error < 0 for p in points):
        raise ValueError("the errors of a calibration must be 0 or more")
    if len({p.score is None for p in points}) > 1:
        raise ValueError("either all points of a calibration must have a score, or none")
    thresholds, speedups = [p.threshold for p in points], [p.speedup for p in points]
    if not points or thresholds[0] < 0 or thresholds[-1] > 1 or speedups[0] <= 0:
        raise ValueError(
            "a calibration must have points, with thresholds from 0 to 1 and speedups above 0"
        )
    if sorted(thresholds) != thresholds or sorted(set(speedups)) != speedups:
        raise ValueError("thresholds and speedups of a calibration must ascend")


def make_curve(points: Sequence[Point]) -> Tuple[Point, ...]:
    """Sort points, and leave out those that are no faster than one with a smaller threshold.

    points (Sequence[Point]): Points in any order.
    RETURNS (Tuple[Point, ...]): By threshold, ascending; the speedups ascend, too. The curve begins
        with full depth.
    """
    curve: List[Point] = []
    for point in sorted(points, key=lambda point: (point.threshold, point.speedup)):
        if not curve or point.speedup > curve[-1].speedup:
            curve.append(point)
    return tuple(curve)
