"""Files that are held open, so that they can be read again."""

import io
import os
import weakref
from pathlib import Path
from typing import Any, BinaryIO, Dict, Tuple, cast

from .integrity import check_size, open_regular


class HeldFiles:
    """The files of a folder. What has been read of them once can be read again, even if another
    file has taken the place of one, or it has been deleted: the one that is open remains. Only
    writing into it, rather than replacing it, would change it.

    folder (Path): The folder.
    """

    # On Windows none is held: an open file could neither be replaced nor deleted.
    stay = hasattr(os, "pread")

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: Dict[str, BinaryIO] = {}
        weakref.finalize(self, _close, self._files)

    def open(self, name: str, most: int) -> Tuple[BinaryIO, int]:
        """Open a file, or begin to read it again.

        name (str): Its name.
        most (int): Maximum number of bytes.
        RETURNS (Tuple[BinaryIO, int]): The file, to be read from its beginning and closed after
            that, and its number of bytes.
        RAISES (ValueError): If it has more, or is not a regular file.
        RAISES (OSError): If it can't be opened.
        """
        file = self._files.get(name) or open_regular(self._folder / name)
        if self.stay:
            self._files[name] = file
        size = os.fstat(file.fileno()).st_size
        check_size(size, most)
        return (cast(BinaryIO, io.BufferedReader(_FromStart(file))) if self.stay else file), size


class _FromStart(io.RawIOBase):
    """A file, read from its beginning. It does not use the position in the file, which forked
    processes share.

    file (BinaryIO): The file. It stays open.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        data = os.pread(self._file.fileno(), len(into), self._at)
        into[: len(data)] = data
        self._at += len(data)
        return len(data)


def _close(files: Dict[str, BinaryIO]) -> None:
    for file in files.values():
        file.close()
