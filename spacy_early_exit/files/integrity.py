"""Files stay whole: damage is noticed, and a failed save leaves the earlier files as they were.

A JSON file has the checksum of its own content and those of the files next to it. They are checked
by ``unseal`` (its own), in ``network.py`` (tokenizer and weights) and in ``component.py`` (whether
the component's state is of the same save).
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import AbstractSet, Any, BinaryIO, Dict, Iterable, Iterator, List, Mapping, cast

import srsly

FORMAT_VERSION = 1
MAX_NETWORK_BYTES = 2**20  # bytes of network.json
MAX_PARTS = 16
ASIDE = ".saving"


def checksum(data: bytes) -> str:
    """RETURNS (str): The SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def seal(about: Mapping[str, Any]) -> bytes:
    """RETURNS (bytes): JSON with its format version and its own checksum.

    about (Mapping[str, Any]): The content.
    """
    sealed = {"format_version": FORMAT_VERSION, **about}
    return json.dumps({**sealed, "sha256": _checksum_of(sealed)}, indent=2).encode("utf8")


def unseal(data: bytes) -> Dict[str, Any]:
    """Read what ``seal`` made. Files saved before checksums existed have none.

    data (bytes): The JSON.
    RETURNS (Dict[str, Any]): The content.
    RAISES (ValueError): If it is damaged, or has another format.
    """
    sealed = json.loads(data)
    if not isinstance(sealed, dict):
        raise ValueError("it is not a JSON object")
    version = sealed.get("format_version", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"its format version is {version!r}, but this spacy-early-exit reads {FORMAT_VERSION}: "
            f"a later release may have saved it"
        )
    expected = sealed.pop("sha256", None)
    if expected not in (None, _checksum_of(sealed)):
        raise ValueError("its content does not match its checksum, 'sha256'")
    return sealed


def unpack(data: bytes, parts: AbstractSet[str] = frozenset()) -> Dict[str, bytes]:
    """Split what spaCy's ``to_bytes`` put together. spaCy's own ``from_bytes`` would skip missing
    parts.

    data (bytes): The bytes.
    parts (AbstractSet[str]): The parts that must be there.
    RETURNS (Dict[str, bytes]): The parts by name.
    RAISES (ValueError): If they are damaged, or a part is missing. The message names it.
    """
    # There are only names and bytes, nothing that expands. srsly.msgpack_loads would leave the
    # garbage collector off if they are damaged.
    limits = {"max_map_len": MAX_PARTS, "max_array_len": 0, "max_ext_len": 0}
    try:
        found = srsly.msgpack.unpackb(data, raw=False, object_pairs_hook=dict, **limits)
        if not isinstance(found, dict) or not all(type(part) is bytes for part in found.values()):
            raise ValueError("they hold no named parts")
    except Exception as e:  # the library raises many kinds
        raise ValueError(f"The bytes can't be read: they are damaged ({e}).") from e
    missing = sorted(part for part in parts if part not in found)
    if missing:
        raise ValueError(
            f"The bytes have no {' and no '.join(missing)}. They are damaged, or to_bytes was "
            f"called with exclude: then give from_bytes the same exclude."
        )
    return cast(Dict[str, bytes], found)


def read_at_most(path: Path, size: int) -> bytes:
    """Read a file, if it is not too large.

    path (Path): The file.
    size (int): Maximum number of bytes.
    RETURNS (bytes): Its content.
    RAISES (ValueError): If it has more, or is not a regular file, such as a pipe. Nothing of it has
        been read in that case.
    """
    with open_regular(path) as file:
        found = os.fstat(file.fileno()).st_size
        check_size(found, size)
        return file.read(found)  # as many bytes as are asked for are allocated


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading.

    path (Path): The file.
    RETURNS (BinaryIO): The open file.
    RAISES (ValueError): If it is not a regular file, such as a pipe.
    """
    file = open(path, "rb", opener=_open_at_once)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is not a regular file")
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(file.fileno(), True)
    return file


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe that nothing writes to would block forever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_size(found: int, most: int) -> None:
    """RAISES (ValueError): If there are more bytes than allowed."""
    if found > most:
        raise ValueError(f"it has {found:,} bytes, and at most {most:,} are allowed")


@contextlib.contextmanager
def replacing(folder: Path, ours: Iterable[Path] = ()) -> Iterator[Path]:
    """Write files to a temporary folder first, then rename them into place quickly.

    A full disk or a folder that can't be written to shows before anything is replaced, since each
    file is first moved into its folder under another name. If the process is killed between two
    renames, checksums show that the files do not belong together. Files of an earlier save that
    this one does not have are first replaced by an empty file, and removed once everything is in
    place.

    folder (Path): The folder. It is created if needed.
    ours (Iterable[Path]): Files in it that are removed if they are not written. No others are
        removed.
    YIELDS (Path): A temporary folder inside it to write to. If an exception leaves the block, or a
        file can't be moved into its folder, ``folder`` stays as it was.
    RAISES (OSError): If it can't be written to; if it or a folder inside it is a link, which may
        lead anywhere; or if a folder is where a file should go.
    """
    aside = folder / ASIDE
    _check_no_link(folder)
    shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
    aside.mkdir(parents=True)
    moved: Dict[Path, Path] = {}
    try:
        yield aside
        stale = _stale(folder, aside, ours)
        for name in stale:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).touch()
        _move_near(folder, aside, moved)
        for near, place in moved.items():
            near.replace(place)
        for name in stale:
            (folder / name).unlink()
        for parent in {(folder / name).parent for name in stale}:
            with contextlib.suppress(OSError):  # there are other files in it
                parent.rmdir()
    finally:
        for near in moved:
            near.unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)


def _stale(folder: Path, aside: Path, ours: Iterable[Path]) -> List[Path]:
    """RETURNS (List[Path]): Files of ours that an earlier save wrote and this one does not, or that
    a killed save left behind.
    """
    places = {name: folder / name for name in ours if not (aside / name).exists()}
    return [
        name
        for name, place in places.items()
        if os.path.lexists(_near(place)) or (os.path.lexists(place) and not place.is_dir())
    ]


def _move_near(folder: Path, aside: Path, moved: Dict[Path, Path]) -> None:
    """Move files into the folders where they belong, under other names.

    folder (Path): Where they belong.
    aside (Path): Where they are.
    moved (Dict[Path, Path]): Where each is now, and where it belongs: filled in as files are moved.
    RAISES (OSError): If one can't be moved.
    """
    files = {path: path.relative_to(aside) for path in aside.rglob("*") if path.is_file()}
    for parent in {parent for name in files.values() for parent in name.parents}:
        _check_no_link(folder / parent)
    for path, name in sorted(files.items()):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            raise IsADirectoryError(f"{place} is a folder, but must be replaced by a file.")
        path.replace(_near(place))
        moved[_near(place)] = place


def _near(place: Path) -> Path:
    return place.with_name(place.name + ASIDE)


def _check_no_link(folder: Path) -> None:
    """RAISES (OSError): If a folder is a link. A link in an untrusted pipeline may lead to the
    user's own files.
    """
    if folder.is_symlink():
        raise OSError(
            f"{folder} is a link to {folder.resolve()}. Nothing is saved through links, since they "
            f"may lead anywhere. Save to another folder, or remove the link."
        )


def _checksum_of(about: Mapping[str, Any]) -> str:
    return checksum(json.dumps(about, sort_keys=True).encode("utf8"))
