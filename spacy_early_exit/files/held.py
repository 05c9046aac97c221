"""Files that are held open, so that they can be read again."""

import os
import weakref
from pathlib import Path
from typing import BinaryIO, Dict

from .integrity import check_size, open_regular, read_at_most

MOST = 2**30  # bytes that are read at once: macOS refuses twice as many


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

    def read(self, name: str, most: int) -> bytes:
        """Read a file.

        name (str): Its name.
        most (int): Maximum number of bytes.
        RETURNS (bytes): Its content.
        RAISES (ValueError): If it has more, or is not a regular file.
        RAISES (OSError): If it can't be read.
        """
        if not self.stay:
            return read_at_most(self._folder / name, most)
        is_first = name not in self._files
        if is_first:
            self._files[name] = open_regular(self._folder / name)
        file = self._files[name]
        size = os.fstat(file.fileno()).st_size
        check_size(size, most)
        if is_first:
            return file.read(size)
        # Forked processes share the position in the file, so it is not used.
        parts = [
            os.pread(file.fileno(), min(MOST, size - start), start)
            for start in range(0, size, MOST)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _close(files: Dict[str, BinaryIO]) -> None:
    for file in files.values():
        file.close()
