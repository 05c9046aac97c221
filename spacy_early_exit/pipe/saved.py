"""A component's files: labels, calibration and network. Settings are in config.cfg."""

from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ClassVar,
    Iterable,
    List,
    Optional,
    Sequence,
    TypeVar,
    Union,
)

from spacy import util
from spacy.vocab import Vocab
from thinc.api import Model

from ..budget.curve import Calibration
from ..files.component import State, network_in, read_folder, read_parts
from ..files.integrity import checksum, replacing
from ..settings import Settings
from ..tags import tag_count

if TYPE_CHECKING:
    from ..files.network import Trained

Itself = TypeVar("Itself", bound="Saved")


class Saved:
    """What a component saves and loads. Loaded files may be untrusted: they are checked before
    anything in the component changes.
    """

    name: str
    scheme: ClassVar[str]
    vocab: Vocab
    model: Model
    settings: Settings
    calibration: Optional[Calibration]
    _labels: List[str]
    _shim: Any
    warn_after_loading: Callable[[], None]
    lender_name: Optional[str]  # see lending.py

    def check_labels(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If no saved component of this task can have these labels."""

    def to_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = ()) -> None:
        """Save the trained state. Settings are not part of it: they are saved in config.cfg.

        path (Union[str, Path]): The folder. If it can't be written to, or the disk is full, its
            content stays as it is. Files of a network saved there earlier are removed if this
            component does not have them.
        exclude (Iterable[str]): ``cfg``, ``vocab`` or ``model``.
        RAISES (OSError): If the folder or one inside it can't be written to or is a link, or if the
            disk is full.
        """
        from ..files.network import FILES

        exclude = [*exclude]
        ours = [] if "model" in exclude else [Path("model", name) for name in FILES]
        serialize = {
            "model": lambda p: self._shim.to_disk(p) if self._shim.is_trained else None,
            "vocab": lambda p: self.vocab.to_disk(p, exclude=exclude),
            "cfg": lambda p: p.write_bytes(self._state(network=network_in(p.parent)).to_bytes()),
        }
        with replacing(Path(path), ours) as folder:
            util.to_disk(folder, serialize, exclude)

    def from_disk(self: Itself, path: Union[str, Path], *, exclude: Iterable[str] = ()) -> Itself:
        """Load what ``to_disk`` saved. It needs no internet connection and runs no code from the
        folder. Do not call it while other threads predict with this component: load another
        pipeline instead.

        path (Union[str, Path]): The folder.
        exclude (Iterable[str]): ``cfg``, ``vocab`` or ``model``.
        RETURNS (Saved): Itself.
        RAISES (ValueError): If a file is missing or damaged. The message names it, and the
            component stays as it was.
        """
        from ..model.shim import trained_on_disk

        exclude, present = [*exclude], self._shim.trained_or_none
        found = read_folder(Path(path), exclude, self.check_labels, trained_on_disk, present)
        self._check_that_they_fit(*found)
        vocab = {"vocab": lambda p: self.vocab.from_disk(p, exclude=exclude)}
        util.from_disk(Path(path), vocab, exclude)
        self._take(*found)
        self.warn_after_loading()
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """RETURNS (bytes): What ``to_disk`` saves, as bytes."""
        model = b"" if "model" in exclude else self._shim.to_bytes()
        state = self._state(model=checksum(model) if model else None)
        serialize = {
            "cfg": state.to_bytes,
            "vocab": lambda: self.vocab.to_bytes(exclude=exclude),
            "model": lambda: model,
        }
        data: bytes = util.to_bytes(serialize, exclude)
        return data

    def from_bytes(self: Itself, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> Itself:
        """Load what ``to_bytes`` returned. See ``from_disk``."""
        from ..model.shim import trained_in_bytes

        exclude, present = [*exclude], self._shim.trained_or_none
        parts, state, trained = read_parts(
            bytes_data, exclude, self.check_labels, trained_in_bytes, present
        )
        self._check_that_they_fit(state, trained)
        vocab = {"vocab": lambda b: self.vocab.from_bytes(b, exclude=exclude)}
        util.from_dict(parts, vocab, exclude)
        self._take(state, trained)
        return self

    def _state(self, **checksums: Optional[str]) -> State:
        return State(tuple(self._labels), self._shim.is_trained, self.calibration, **checksums)

    def _check_that_they_fit(self, state: Optional[State], trained: Optional["Trained"]) -> None:
        """RAISES (ValueError): If this state, or the present one if there is none, does not belong
        to this network.
        """
        if trained is None:
            return
        known = None if state is None else state.labels
        labels = len(self._labels if known is None else known)
        if trained.network.tags != tag_count(self.scheme, labels):
            raise ValueError(
                f"'{self.name}' was saved with {labels} labels in its cfg file, but its weights "
                f"have {trained.network.tags} tags: the files do not belong to the same pipeline."
            )
        if (trained.borrowed is None) != (self.lender_name is None):
            has, needs = ("no", "an") if trained.borrowed is not None else ("an", "no")
            raise ValueError(
                f"'{self.name}' was saved with {has} encoder of its own, but "
                f"[components.{self.name}.model.encoder] asks for {needs} encoder of its own."
            )
        trained.check_heads(self.name, self._shim.head_window, self._shim.exit_layers)
        # The config's knob is not checked: an outdated calibration must not keep it from loading.
        trained.check_window_length(self.settings.window_length)

    def _take(self, state: Optional[State], trained: Optional["Trained"]) -> None:
        """Take over what was read. It has been checked: nothing fails from here on."""
        if state is not None:
            self._labels = self._labels if state.labels is None else [*state.labels]
            self.calibration = state.calibration
        for label in self._labels:  # they may have come without the vocabulary
            self.vocab.strings.add(label)
        if trained is None:
            self._shim.drop()
        elif trained is not self._shim.trained_or_none:
            self._shim.set(trained)
            self.model.set_dim("nO", trained.network.tags, force=True)
