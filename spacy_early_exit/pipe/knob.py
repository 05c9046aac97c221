"""Threshold or speedup: one knob at a time, and the nearer one wins."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Optional

if TYPE_CHECKING:
    from ..network.criterion import Criterion

DEFAULT_THRESHOLD = 0.1


@dataclass(frozen=True)
class Knob:
    """Threshold or speedup as set at one place; both None: nothing is set there.

    threshold (Optional[float]): The criterion's threshold, in [0, 1].
    speedup (Optional[float]): Speedup asked for, full-depth cost / spent cost, at least 1.
    """

    threshold: Optional[float] = None
    speedup: Optional[float] = None

    @property
    def is_set(self) -> bool:
        """RETURNS (bool): Whether one of the two is given."""
        return self.threshold is not None or self.speedup is not None


def make_knob(threshold: Any, speedup: Any, place: str) -> Knob:
    """Check what was set at one place.

    threshold (Any): What was given as threshold; None: nothing.
    speedup (Any): What was given as speedup; None: nothing.
    place (str): The place, for error messages.
    RETURNS (Knob): The knob.
    RAISES (ValueError): If a value makes no sense, or both are given.
    """
    if threshold is not None:
        threshold = _number(threshold, "threshold", place)
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(
                f"threshold in {place} must be between 0 (never leave early) and 1, "
                f"not {threshold}."
            )
    if speedup is not None:
        speedup = _number(speedup, "speedup", place)
        if not 1.0 <= speedup < float("inf"):
            raise ValueError(
                f"speedup in {place} must be 1 (full depth) or more, such as 3.0, not {speedup}."
            )
    if threshold is not None and speedup is not None:
        raise ValueError(
            f"threshold and speedup are both set in {place}, but each would decide how early "
            f"words leave. Set one of them and make the other null. To replace one that a saved "
            f"pipeline has, give both: the new one, and null (None) for the old. (spacy "
            f"find-threshold sets a threshold: it needs a pipeline without a speedup.)"
        )
    return Knob(threshold, speedup)


def config_knob(cfg: Dict[str, Any]) -> Knob:
    """Read the knob of a component's config, whose default threshold gives way to a speedup.

    cfg (Dict[str, Any]): With ``threshold`` and ``speedup``.
    RETURNS (Knob): The knob.
    RAISES (ValueError): If a value makes no sense, or both are given.
    """
    threshold, speedup = cfg.get("threshold"), cfg.get("speedup")
    if speedup is not None and threshold == DEFAULT_THRESHOLD:
        threshold = None
    knob = make_knob(threshold, speedup, "the component's config")
    return knob if knob.is_set else Knob(threshold=DEFAULT_THRESHOLD)


def check_knob(name: str, knob: Knob, criterion: "Criterion", adaptive: bool = False) -> None:
    """A knob must be one of the criterion's, and a speedup where it is to be held.

    name (str): The component's name.
    knob (Knob): The knob.
    criterion (Criterion): Who may leave.
    adaptive (bool): Whether a speedup is to be held.
    RAISES (ValueError): If it is not.
    """
    if knob.threshold and not criterion.has_threshold:
        raise ValueError(
            f"The criterion {type(criterion).__name__} of '{name}' has no "
            f"threshold. Set threshold = 0 (full depth) or a speedup."
        )
    if adaptive and knob.speedup is None:
        raise ValueError(
            f"adaptive of '{name}' holds a speedup, and none is set. Set speedup, such as "
            f"3.0, in the same place."
        )


def nearest(*knobs: Knob) -> Knob:
    """RETURNS (Knob): The first knob that is set."""
    return next((knob for knob in knobs if knob.is_set), Knob(threshold=DEFAULT_THRESHOLD))


def _number(value: Any, name: str, place: str) -> float:
    try:
        if not isinstance(value, (bool, str)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} in {place} must be a number, not {value!r}.")
