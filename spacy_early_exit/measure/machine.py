"""A description of the machine, for reports of what was measured on it."""

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Dict


def machine() -> Dict[str, str]:
    """RETURNS (Dict[str, str]): What results depend on, apart from pipelines and texts."""
    names = ("spacy", "spacy-early-exit", "torch", "transformers")
    return {
        "machine": _processor(),
        "date": str(date.today()),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def _processor() -> str:
    """RETURNS (str): The processor's name, as far as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
