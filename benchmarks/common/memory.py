"""How much memory this process has, as Linux tells it."""

from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident() -> float:
    """RETURNS (float): Memory of this process, in MB; 0 where the system does not tell."""
    return _status("VmRSS")


def peak() -> float:
    """RETURNS (float): The most that it has been, in MB; 0 where the system does not tell."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)
