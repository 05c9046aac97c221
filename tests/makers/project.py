"""The checkout, what is installed beside it, and the process."""

import os
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# spaCy before 3.8.13 has a confection that merges what is given to spacy.load into a block that is
# there, and takes "0.2" for a number.
OLD_CONFECTION = metadata.version("confection").startswith("0.")
# What imports transformers wherever it is installed.
OTHERS = ("spacy_transformers", "spacy_curated_transformers")


def hiding(*packages: str) -> str:
    """Lines of Python that make spaCy see no entry points of some packages."""
    return (
        "import catalogue\n"
        "from importlib.metadata import EntryPoints, entry_points\n"
        "class Hidden:\n"
        "    def select(self, group):\n"
        "        return EntryPoints(p for p in entry_points(group=group)\n"
        f"            if not p.value.startswith({packages!r}))\n"
        "catalogue.AVAILABLE_ENTRY_POINTS = Hidden()\n"
    )


def resident() -> int:
    """Bytes of memory that this process has, where that is told."""
    if not sys.platform.startswith("linux"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
