"""The dial of a component: threshold or speedup, of a call, the property or the config, in this
order. And the calibration that turns the one into the other.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, Optional

from ..budget.controller import Controller, in_spacy_worker
from ..budget.curve import Calibration
from ..budget.fingerprint import describe
from ..settings import RunSettings, Settings
from .knob import Knob, check_knob, config_knob, make_knob, nearest

if TYPE_CHECKING:
    from ..decoders import Decoder
    from ..network.criterion import Criterion


class Dial:
    """A component's threshold or speedup, and what it needs to run at one."""

    name: str
    criterion: "Criterion"
    decoder: "Decoder"
    settings: Settings
    cfg: Dict[str, Any]  # what the config has: threshold and speedup
    calibration: Optional[Calibration] = None
    _property = Knob()
    _kept_controller: Optional[Controller] = None
    _shim: Any

    @property
    def threshold(self) -> Optional[float]:
        """The threshold in force, None if a speedup is. Settable, for this process only."""
        return self._knob().threshold

    @threshold.setter
    def threshold(self, value: Optional[float]) -> None:
        self._set_property(make_knob(value, None, f"the property threshold of '{self.name}'"))

    @property
    def speedup(self) -> Optional[float]:
        """The speedup in force, None if a threshold is. Settable, for this process only."""
        return self._knob().speedup

    @speedup.setter
    def speedup(self, value: Optional[float]) -> None:
        self._set_property(make_knob(None, value, f"the property speedup of '{self.name}'"))

    def _set_property(self, knob: Knob) -> None:
        self._run_settings(knob if knob.is_set else config_knob(self.cfg))  # refuses bad ones
        self._property = knob

    def _knob(self, call: Knob = Knob()) -> Knob:
        return nearest(call, self._property, config_knob(self.cfg))

    def configure(
        self, *, threshold: Optional[float] = None, speedup: Optional[float] = None
    ) -> None:
        """Set what ``cfg`` holds, and drop the properties. See ``spacy_early_exit.configure``.

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
        """Get the calibration, if it is one of what is here now.

        RETURNS (Calibration): The calibration.
        RAISES (ValueError): If there is none, or something it depends on has changed since. The
            message says what, and how to calibrate again.
        """
        return Calibration.current(self.calibration, self.fingerprint(), self.name)

    def fingerprint(self) -> Dict[str, str]:
        """RETURNS (Dict[str, str]): What a calibration depends on, by name."""
        shared = self._shim.shared_wordpieces
        return {
            # Calibrations from before there was this setting do not tell of it.
            **({} if shared == "keep" else {"shared wordpieces": shared}),
            "weights": self._shim.fingerprint(),
            **self.settings.fingerprint(),
            "criterion": describe(self.criterion),
            "decoder": describe(self.decoder),
        }

    def _run_settings(self, knob: Knob) -> RunSettings:
        """RETURNS (RunSettings): How to run the model at a knob."""
        check_knob(self.name, knob, self.criterion)
        threshold = knob.threshold or 0.0
        if knob.speedup is not None and knob.speedup > 1:
            threshold = self.calibrated().threshold_for(knob.speedup)
        criterion = self.criterion if threshold else None
        return self.settings.to_run(criterion, threshold, self._shim.shared_wordpieces)

    def _follows(self, knob: Knob, adaptive: Optional[bool]) -> bool:
        """RETURNS (bool): Whether there is a speedup in force that is to be held."""
        speedup = self._knob(knob).speedup
        if adaptive and speedup is None:
            raise ValueError(
                f"adaptive in this call holds a speedup, but a threshold is in force in "
                f"'{self.name}'. Give a speedup, too."
            )
        wanted = self.settings.adaptive if adaptive is None else adaptive
        return bool(wanted) and speedup is not None and speedup > 1

    def _controller(self, knob: Knob) -> Controller:
        speedup = self._knob(knob).speedup or 1.0
        if not in_spacy_worker():
            return Controller(self.calibrated(), speedup)
        # spaCy's workers call pipe anew for every batch of theirs, and end with the stream.
        if self._kept_controller is None:
            self._kept_controller = Controller(self.calibrated(), speedup)
        return self._kept_controller
