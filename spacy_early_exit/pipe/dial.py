"""The dial of a component: its threshold or speedup, taken from the call, the property or the
config, in this order. The calibration turns a speedup into a threshold.
"""

import multiprocessing
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, List, Optional

from ..budget.controller import Controller
from ..budget.curve import Calibration
from ..budget.fingerprint import describe
from ..settings import RunSettings, Settings

if TYPE_CHECKING:
    from ..decoders import Decoder
    from ..network.criterion import Criterion


DEFAULT_THRESHOLD = 0.1
TASK = "task "  # what is known of another task of a shared pass, by its name


@dataclass(frozen=True)
class Knob:
    """Threshold or speedup, as set in one place; both None: nothing is set there.

    threshold (Optional[float]): The criterion's threshold, in [0, 1].
    speedup (Optional[float]): The speedup asked for, full-depth cost / spent cost, at least 1.
    """

    threshold: Optional[float] = None
    speedup: Optional[float] = None

    @property
    def is_set(self) -> bool:
        """RETURNS (bool): Whether one of the two is given."""
        return self.threshold is not None or self.speedup is not None


def make_knob(threshold: Any, speedup: Any, place: str) -> Knob:
    """Check what was set in one place.

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
                f"threshold in {place} must be between 0 (full depth) and 1, not {threshold}."
            )
    if speedup is not None:
        speedup = _number(speedup, "speedup", place)
        if not 1.0 <= speedup < float("inf"):
            raise ValueError(
                f"speedup in {place} must be 1 (full depth) or more, such as 3.0, not {speedup}."
            )
    if threshold is not None and speedup is not None:
        raise ValueError(
            f"threshold and speedup are both set in {place}, but only one can decide how early "
            f"words exit. Set one of them and make the other null. To replace the one that a saved "
            f"pipeline has, give both: the new one, and null (None) for the old one. (spacy "
            f"find-threshold sets a threshold: it needs a pipeline without a speedup.)"
        )
    return Knob(threshold, speedup)


def config_knob(cfg: Dict[str, Any]) -> Knob:
    """Read the knob of a component's config, where a speedup takes precedence over the default
    threshold.

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
    """Check that a knob suits the criterion, and that it is a speedup if one is to be held.

    name (str): The component's name.
    knob (Knob): The knob.
    criterion (Criterion): Decides which words exit.
    adaptive (bool): Whether a speedup is to be held.
    RAISES (ValueError): If it does not suit, or is no speedup.
    """
    if knob.threshold and not criterion.has_threshold:
        raise ValueError(
            f"The criterion {type(criterion).__name__} of '{name}' has no "
            f"threshold. Set threshold = 0 (full depth) or a speedup."
        )
    if adaptive and knob.speedup is None:
        raise ValueError(
            f"adaptive of '{name}' needs a speedup to hold, but none is set. Set speedup, such as "
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


class Dial:
    """A component's threshold or speedup, and what it needs to run at one."""

    name: str
    criterion: "Criterion"
    decoder: "Decoder"
    settings: Settings
    cfg: Dict[str, Any]  # the config's threshold and speedup
    calibration: Optional[Calibration] = None
    _property = Knob()
    _warned_of: FrozenSet[str] = frozenset()  # what speedups lose
    _kept_controller: Optional[Controller] = None
    _shim: Any
    lender_name: Optional[str]  # see lending.py
    borrowers: Callable[..., List[Any]]
    link: Callable[[], Optional[Any]]

    @property
    def threshold(self) -> Optional[float]:
        """The threshold in force; None if a speedup is. It can be set, for this process only."""
        return self._knob().threshold

    @threshold.setter
    def threshold(self, value: Optional[float]) -> None:
        self._set_property(make_knob(value, None, f"the property threshold of '{self.name}'"))

    @property
    def speedup(self) -> Optional[float]:
        """The speedup in force; None if a threshold is. It can be set, for this process only."""
        return self._knob().speedup

    @speedup.setter
    def speedup(self, value: Optional[float]) -> None:
        self._set_property(make_knob(None, value, f"the property speedup of '{self.name}'"))

    @property
    def threshold_in_force(self) -> Optional[float]:
        """RETURNS (Optional[float]): The threshold, also if a speedup is in force; None if it is
        not calibrated.
        """
        knob = self._knob()
        if knob.speedup is None or knob.speedup == 1:
            return knob.threshold or 0.0
        found = self.calibration
        if found is None or found.differences(self._known_as(found)) or knob.speedup > found.most:
            return None
        return found.threshold_for(knob.speedup)

    def position(self) -> Dict[str, float]:
        """RETURNS (Dict[str, float]): The threshold in force, whatever a call may have asked for,
        by the names that it has among scores. A speedup of a shared pass is for all its tasks.
        """
        owner = self.link()
        at = self.threshold_in_force if owner is None else owner.threshold_in_force
        if owner is not None and owner.speedup is None:
            at = self.threshold_in_force
        names = ["threshold"] if owner is None else []
        return {} if at is None else dict.fromkeys([*names, f"threshold_{self.name}"], at)

    def _set_property(self, knob: Knob) -> None:
        self._run_settings(knob if knob.is_set else config_knob(self.cfg))  # refuses invalid ones
        self._property = knob

    def _knob(self, call: Knob = Knob()) -> Knob:
        return nearest(call, self._property, config_knob(self.cfg))

    def configure(
        self, *, threshold: Optional[float] = None, speedup: Optional[float] = None
    ) -> None:
        """Set the values in ``cfg``, and drop those of the properties. See
        ``spacy_early_exit.configure``.

        threshold (Optional[float]): The criterion's threshold.
        speedup (Optional[float]): Speedup to aim at.
        RAISES (ValueError): If not exactly one of the two is given, or it makes no sense.
        """
        knob = make_knob(threshold, speedup, "configure")
        if not knob.is_set:
            raise ValueError("configure needs a threshold or a speedup.")
        self._run_settings(knob)
        self.cfg.update(threshold=knob.threshold, speedup=knob.speedup)
        adaptive = self.settings.adaptive and knob.speedup is not None
        self.settings = replace(self.settings, adaptive=adaptive)
        self._property = Knob()

    def calibrated(self) -> Calibration:
        """Get the calibration, if it was measured with what the component has now.

        RETURNS (Calibration): The calibration.
        RAISES (ValueError): If there is none, or something it depends on has changed since. The
            message says what, and how to calibrate again.
        """
        found = self.calibration
        fingerprint = self.fingerprint() if found is None else self._known_as(found)
        return Calibration.current(found, fingerprint, self.name)

    def _known_as(self, found: Calibration) -> Dict[str, str]:
        """RETURNS (Dict[str, str]): What the component has now, by the names that a calibration
        has for it.

        found (Calibration): The calibration.
        """
        # Without some of the tasks, a pass saves what was measured with them, or more.
        known = {n: of for n, of in found.fingerprint.items() if n.startswith(TASK)}
        # One that was renamed is known by its heads.
        names = {of: name for name, of in known.items()}
        now = self.fingerprint().items()
        return {**known, **{names.get(of, n) if n.startswith(TASK) else n: of for n, of in now}}

    def fingerprint(self) -> Dict[str, str]:
        """RETURNS (Dict[str, str]): What a calibration depends on, by name."""
        shared = self._shim.shared_wordpieces
        return {
            # Calibrations made before this setting existed do not record it.
            **({} if shared == "keep" else {"shared wordpieces": shared}),
            "weights": self._shim.fingerprint(),
            **self.settings.fingerprint(),
            "criterion": describe(self.criterion),
            "decoder": describe(self.decoder),
            **{f"{TASK}{pipe.name}": pipe.fingerprint_in_pass() for pipe in self.borrowers()},
        }

    def fingerprint_in_pass(self) -> str:
        """RETURNS (str): What the calibration of a shared pass depends on, of one that borrows the
        encoder.
        """
        weights = self._shim.fingerprint() if self._shim.is_trained else "none"
        return f"{weights}, {describe(self.criterion)}, {describe(self.decoder)}"

    def _run_settings(self, knob: Knob) -> RunSettings:
        """RETURNS (RunSettings): How to run the model at a knob."""
        if self.lender_name is not None and knob.speedup is not None:
            raise ValueError(
                f"'{self.name}' runs in the pass of '{self.lender_name}': a speedup is that of the "
                f"whole pass. Set it for '{self.lender_name}'."
            )
        check_knob(self.name, knob, self.criterion)
        threshold = knob.threshold or 0.0
        if knob.speedup is not None and knob.speedup > 1:
            calibration = self.calibrated()
            threshold = calibration.threshold_for(knob.speedup)
            self._heed(calibration.check_kept(knob.speedup, self.name))
        criterion = self.criterion if threshold else None
        return self.settings.to_run(criterion, threshold, self._shim.shared_wordpieces)

    def warn_of_config(self) -> None:
        """Warn if the config asks for a speedup that can't be had. This is no error, since the
        pipeline may be about to be calibrated.
        """
        if self.cfg.get("speedup") is None or not self._shim.is_trained:
            return
        if not all(pipe._shim.is_trained for pipe in self.borrowers()):
            return
        try:
            self._run_settings(config_knob(self.cfg))
        except ValueError as e:
            warnings.warn(f"{e} Until then, every text is refused.", stacklevel=2)

    def _heed(self, loss: str) -> None:
        """Warn, once, of what a speedup loses, or refuse it.

        loss (str): What it loses; empty if that is nothing to speak of.
        RAISES (ValueError): If it loses too much and ``strict`` is set.
        """
        if loss and self.settings.strict:
            raise ValueError(f"{loss} With strict = false, this is only a warning.")
        if loss and loss not in self._warned_of:
            self._warned_of |= {loss}
            warnings.warn(loss, stacklevel=2)

    def _follows(self, knob: Knob, adaptive: Optional[bool]) -> bool:
        """RETURNS (bool): Whether a speedup is in force and is to be held."""
        speedup = self._knob(knob).speedup
        if adaptive and speedup is None:
            raise ValueError(
                f"adaptive in this call needs a speedup to hold, but '{self.name}' is at a "
                f"threshold. Give a speedup, too."
            )
        wanted = self.settings.adaptive if adaptive is None else adaptive
        return bool(wanted) and speedup is not None and speedup > 1

    def _controller(self, knob: Knob) -> Controller:
        speedup = self._knob(knob).speedup or 1.0
        if not in_spacy_worker():
            return Controller(self.calibrated(), speedup)
        # spaCy's workers call pipe again for each of their batches, and end with the stream.
        if self._kept_controller is None:
            self._kept_controller = Controller(self.calibrated(), speedup)
        return self._kept_controller


def in_spacy_worker() -> bool:
    """RETURNS (bool): Whether this process is a worker of ``nlp.pipe(n_process=...)``."""
    target = getattr(multiprocessing.current_process(), "_target", None)
    return getattr(target, "__module__", None) == "spacy.language"
