"""How many processors this process may use, and whether any of them is idle."""

import functools
import math
import os
from pathlib import Path
from typing import Iterator, Optional

# Where control groups keep their limit on processor time, in version 2 and version 1.
QUOTA_V2, QUOTA_V1 = "cpu.max", ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def processors() -> int:
    """RETURNS (int): The number of processors that this process may use: those it is bound to, or,
    if that is less, the quota of its container, rounded up.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        bound = len(os.sched_getaffinity(0))
    else:
        bound = os.cpu_count() or 1
    allowed = quota(Path("/"))
    return bound if allowed is None else max(1, min(bound, math.ceil(allowed)))


@functools.lru_cache
def quota(root: Path) -> Optional[float]:
    """Read the limit on processor time that Linux's control groups set, as ``docker --cpus`` and
    Kubernetes' limits do. It is read once.

    root (Path): The folder of ``proc`` and ``sys``.
    RETURNS (Optional[float]): The smallest limit of the group and of those around it, in
        processors; None if there is none.
    """
    limits = [_limit_in(folder) for folder in _groups(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(root: Path) -> Iterator[Path]:
    """YIELDS (Path): Folders of the control groups that this process is in, from its own upwards.
    In a container, the path that it sees is often the host's: then only the last folder exists.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf8").splitlines()
    except (OSError, ValueError):
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops = [mounted, mounted / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mounted / controllers, mounted / "cpu"]
        else:
            continue
        inside = Path(path.lstrip("/"))
        for top in tops:
            yield from (top / part for part in (inside, *inside.parents))


def _limit_in(group: Path) -> Optional[float]:
    """RETURNS (Optional[float]): The limit of one group, in processors, if it has one."""
    try:
        if (group / QUOTA_V2).is_file():
            allowed, period = (group / QUOTA_V2).read_text(encoding="utf8").split()
        else:
            allowed, period = ((group / name).read_text(encoding="utf8") for name in QUOTA_V1)
        limit = int(allowed) / int(period)  # "max" or -1: none
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return limit if limit > 0 else None


def idle_processors() -> Optional[int]:
    """RETURNS (Optional[int]): The number of this machine's processors on which nothing runs at
    this moment, below 0 if more threads could run than there are processors; None if the system
    does not report it.
    """
    load = _load()
    if load is None:
        return None
    try:
        running = int(os.pread(load, 64, 0).split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return None
    return (os.cpu_count() or 1) - running if running else None


@functools.lru_cache(maxsize=1)
def _load() -> Optional[int]:
    """RETURNS (Optional[int]): An open file that says how many threads run. Opening it every time
    would take 30 times as long as reading it.
    """
    try:
        return os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, AttributeError):  # another system
        return None
