"""How many processors there are for a process, in containers too."""

import os
import subprocess
import sys
import time

import pytest

from spacy_early_exit.runtime import processors
from spacy_early_exit.runtime.processors import idle_processors, quota
from tests.makers.project import ROOT


def system(root, groups, files):
    """What a container's system tells, below a folder."""
    for name, content in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


V1 = "4:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n0::/"
SYSTEMS = {
    "version 2 in a container": ("0::/", {"cpu.max": "150000 100000"}, 1.5),
    "version 2 without a limit": ("0::/", {"cpu.max": "max 100000"}, None),
    "version 2, of the group around it": (
        "0::/a.slice/b.scope",
        {"a.slice/cpu.max": "200000 100000", "a.slice/b.scope/cpu.max": "max 100000"},
        2.0,
    ),
    "version 2, the smallest of several": (
        "0::/a/b",
        {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000", "cpu.max": "max 100000"},
        0.5,
    ),
    "version 2, a path of the host": ("0::/../../docker/ab", {"cpu.max": "300000 100000"}, 3.0),
    "version 1 in a container": (
        V1,
        {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        4.0,
    ),
    "version 1, its own group": (
        "2:cpu:/docker/ab",
        {"cpu/docker/ab/cpu.cfs_quota_us": "120000", "cpu/docker/ab/cpu.cfs_period_us": "40000"},
        3.0,
    ),
    "version 1 without a limit": (
        V1,
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        None,
    ),
    "both versions": ("2:cpu:/\n0::/", {"unified/cpu.max": "700000 100000"}, 7.0),
    "nonsense": ("0::/", {"cpu.max": "many"}, None),
    "no processor time at all": ("0::/", {"cpu.max": "100 0"}, None),
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_the_quota_of_a_container_is_found(kind, tmp_path):
    groups, files, expected = SYSTEMS[kind]
    files = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    assert quota(system(tmp_path, groups, files)) == expected


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path):
    assert quota(tmp_path) is None


@pytest.mark.parametrize(
    ("allowed", "bound", "expected"), [(None, 8, 8), (1.5, 8, 2), (0.2, 8, 1), (4.0, 2, 2)]
)
def test_the_smaller_of_quota_and_affinity_counts(allowed, bound, expected, monkeypatch):
    monkeypatch.setattr(processors, "quota", lambda root: allowed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(bound)), raising=False)
    assert processors.processors() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_that_is_bound_to_one_processor_has_one():
    program = (
        "import os; from spacy_early_exit.runtime.processors import processors\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(processors())"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout == "1\n"


@pytest.mark.skipif(idle_processors() is None, reason="the system does not tell what runs")
def test_nothing_is_idle_where_more_runs_than_there_are_processors():
    count = (os.cpu_count() or 1) + 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        seen = [idle_processors() for _ in range(50) if time.sleep(0.01) is None]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert sum(idle <= 0 for idle in seen) > 40


def test_a_system_that_does_not_tell_is_not_asked_for_more(monkeypatch, tmp_path):
    for content in (b"", b"0.1 0.2 0.3", b"0.1 0.2 0.3 x/y 7", b"0 0 0 0/0 7"):
        (tmp_path / "loadavg").write_bytes(content)
        file = os.open(tmp_path / "loadavg", os.O_RDONLY)
        monkeypatch.setattr(processors, "_load", lambda file=file: file)
        assert idle_processors() is None
        os.close(file)
    monkeypatch.setattr(processors, "_load", lambda: None)
    assert idle_processors() is None
