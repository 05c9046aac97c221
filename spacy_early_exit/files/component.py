"""What a component saves in addition to its network, in the file ``cfg``.

Settings are not in it: they are saved in config.cfg.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Container, Dict, Optional, Sequence, Tuple

from ..budget.curve import Calibration
from .integrity import MAX_NETWORK_BYTES, check_size, checksum, read_at_most, seal, unpack, unseal

if TYPE_CHECKING:
    from .network import Trained

MAX_CFG_BYTES = 2**22  # bytes of labels and calibration; once read, they may take 40 times that
MAX_LABELS = 2**16
NETWORK = Path("model", "network.json")

# Raises ValueError if they can't be a component's labels.
CheckLabels = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class State:
    """What the file contains.

    labels (Optional[Tuple[str, ...]]): The labels; None if they are not recorded.
    has_weights (bool): Whether there is a network as well.
    calibration (Optional[Calibration]): The calibration, if there is one.
    network (Optional[str]): On disk: the checksum of the network's file, if there is one.
    model (Optional[str]): In bytes: the checksum of the network, if there is one.
    """

    labels: Optional[Tuple[str, ...]] = None
    has_weights: bool = True
    calibration: Optional[Calibration] = None
    network: Optional[str] = None
    model: Optional[str] = None

    def to_bytes(self) -> bytes:
        """RETURNS (bytes): The content of the file.

        RAISES (ValueError): If it would be too large to be read again.
        """
        about: Dict[str, Any] = {
            "labels": self.labels,
            "has_weights": self.has_weights,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
        }
        checksums = {"network": self.network, "model": self.model}
        data = seal({**about, **{name: found for name, found in checksums.items() if found}})
        try:
            _check_count(self.labels or ())
            check_size(len(data), MAX_CFG_BYTES)
        except ValueError as e:
            raise ValueError(f"The labels and the calibration can't be saved: {e}.") from e
        return data


def read_folder(
    folder: Path,
    exclude: Container[str],
    check_labels: CheckLabels,
    read_network: Callable[[Path], "Trained"],
    present: Optional["Trained"],
) -> Tuple[Optional[State], Optional["Trained"]]:
    """Read a component's folder, which may be untrusted.

    folder (Path): The folder.
    exclude (Container[str]): What not to read: ``cfg`` or ``model``.
    check_labels (CheckLabels): Checks its labels.
    read_network (Callable): Reads the network in a folder.
    present (Optional[Trained]): The component's present network, used if none is to be read.
    RETURNS (Tuple[Optional[State], Optional[Trained]]): The state and the network, if present.
    RAISES (ValueError): If a file is missing or damaged, or the files belong to different
        pipelines. The message names it.
    """
    state = None if "cfg" in exclude else read_state(folder / "cfg", check_labels)
    if "model" in exclude:
        return state, present
    kept = state or State()
    trained = read_network(folder / "model") if kept.has_weights else None
    if kept.network not in (None, network_in(folder)):
        raise ValueError(
            f"The files cfg and {NETWORK} in {folder} do not belong to the same pipeline. The "
            f"process may have been killed while it saved the pipeline. Load another checkpoint."
        )
    return state, trained


def read_parts(
    data: bytes,
    exclude: Container[str],
    check_labels: CheckLabels,
    read_network: Callable[[bytes], Optional["Trained"]],
    present: Optional["Trained"],
) -> Tuple[Dict[str, Any], Optional[State], Optional["Trained"]]:
    """Read a component's bytes, which may be untrusted. See ``read_folder``.

    data (bytes): The bytes.
    exclude (Container[str]): What not to read: ``cfg`` or ``model``.
    check_labels (CheckLabels): Checks its labels.
    read_network (Callable): Reads the network in the bytes of a model.
    present (Optional[Trained]): The component's present network, used if none is to be read.
    RETURNS (Tuple[Dict[str, Any], Optional[State], Optional[Trained]]): The parts by name, the
        state and the network.
    RAISES (ValueError): If a part is missing or damaged. The message names it.
    """
    parts = unpack(data, {name for name in ("cfg", "model") if name not in exclude})
    state = None
    if "cfg" not in exclude:
        state = parse_state(parts["cfg"], "cfg in the bytes", check_labels)
    if "model" in exclude:
        return parts, state, present
    kept = state or State()
    if kept.model not in (None, checksum(parts["model"])):
        raise ValueError("model in the bytes is damaged: it does not match its checksum in cfg.")
    return parts, state, read_network(parts["model"]) if kept.has_weights else None


def read_state(path: Path, check_labels: CheckLabels) -> State:
    """Read a file, which may be untrusted.

    path (Path): The file.
    check_labels (CheckLabels): Checks its labels.
    RETURNS (State): Its content.
    RAISES (ValueError): If it is missing, damaged, or has invalid content. The message names it.
    """
    try:
        data = read_at_most(path, MAX_CFG_BYTES)
    except (OSError, ValueError) as e:
        raise _unreadable(f"file {path}", e) from e
    return parse_state(data, f"file {path}", check_labels)


def parse_state(data: bytes, what: str, check_labels: CheckLabels) -> State:
    """Read what ``State.to_bytes`` returned. It may be untrusted.

    data (bytes): The content.
    what (str): What the content belongs to, for error messages.
    check_labels (CheckLabels): Checks its labels.
    RETURNS (State): Its content.
    RAISES (ValueError): If it is damaged, or has invalid content.
    """
    try:
        check_size(len(data), MAX_CFG_BYTES)
        return _checked(unseal(data), check_labels)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as e:
        raise _unreadable(what, e) from e


def _checked(about: Dict[str, Any], check_labels: CheckLabels) -> State:
    labels, calibration = None, about.get("calibration")
    if "labels" in about:
        if not isinstance(about["labels"], list):
            raise ValueError("labels must be a list")
        _check_count(about["labels"])
        check_labels(about["labels"])
        labels = tuple(about["labels"])
    has_weights = about.get("has_weights", True)
    if type(has_weights) is not bool:
        raise ValueError("has_weights must be true or false")
    if calibration is not None:
        calibration = Calibration.from_dict(calibration)
    return State(labels, has_weights, calibration, about.get("network"), about.get("model"))


def _check_count(labels: Sequence[str]) -> None:
    if len(labels) > MAX_LABELS:
        raise ValueError(
            f"there are {len(labels):,} labels, and at most {MAX_LABELS:,} are allowed"
        )


def _unreadable(what: str, error: Exception) -> ValueError:
    return ValueError(
        f"The {what} can't be read: it is missing or damaged ({type(error).__name__}: {error})."
    )


def network_in(folder: Path) -> Optional[str]:
    """Identify the network in a component's folder. Its file has the checksums of the files next to
    it.

    folder (Path): The folder.
    RETURNS (Optional[str]): The checksum of that file, if there is one.
    RAISES (ValueError): If it can't be read. The message names it.
    """
    path = folder / NETWORK
    try:
        return checksum(read_at_most(path, MAX_NETWORK_BYTES)) if path.is_file() else None
    except ValueError as e:
        raise ValueError(f"The file {path} can't be read: {e}.") from e
