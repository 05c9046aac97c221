"""How long tests take: the table of it, the order of files, and a limit for quick tests.

``durations.json`` has the seconds of each file and the slowest tests. ``make durations`` writes it
anew: all quick tests, with nothing else at work on the machine. Files run in its order, the longest
first, so that no worker of pytest-xdist is left with a long one at the end. Files that it does not
know come last, when it is known how slow the machine is.

A quick test takes at most ``LIMIT`` seconds, or what it is marked with: ``takes(seconds=12)``.
Else it is named at the end of the run, and with ``SLACK`` times as long it fails: make it quicker,
mark it ``slow`` if a quick test covers the same, or, if neither will do, ``takes``. What counts is
the processor time of the process and of the commands that the test starts, since other work on the
machine changes that less. Tests that wait count by the clock, with ``PATIENCE`` times as long.
How slow the machine is just then is told by tests that the table knows: the limits are stretched by
what those took that ended last, beside the table. Beside other work, or on another machine, a test
may take four times its seconds of the processor.

What a fixture makes for several tests is in the table, as part of the first one's set-up, and has
no limit.

``--within SECONDS`` is for `make test`: of a test with many cases, it runs as many as take so many
seconds by the table, so chosen that each value of each parameter is among them while that is
possible. All cases run without it, and in `make check`.
"""

import functools
import json
import os
import statistics
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.makers import commands

TABLE = Path(__file__).with_name("durations.json")
LIMIT = 5.0  # seconds
SLACK = 1.6  # the same test takes so many times as much in another run
PATIENCE = 4
SLOWEST = 60  # tests in the table
KNOWN = 5  # tests that tell how slow the machine is
OVER = "over the limit"
BEGUN = pytest.StashKey[float]()  # processor seconds before a part of a test
WORTH = 1.0  # seconds of all cases of a test that is in the table for --within
TAKEN = pytest.StashKey[float]()  # those of its parts so far


def pytest_addoption(parser):
    parser.addoption(
        "--write-durations", action="store_true", help=f"write {TABLE.name}: see clock.py"
    )
    parser.addoption(
        "--within", type=float, metavar="SECONDS", help="some cases of each test: see clock.py"
    )


def pytest_configure(config):
    config.option.loadscopereorder = False  # of pytest-xdist: by the number of tests


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Files with what takes longest come first; within a file, the order stays."""
    kind = "slow" if config.getoption("--slow") else "quick"
    table = json.loads(TABLE.read_text(encoding="utf8")) if TABLE.is_file() else {}
    seconds = (table.get(kind) or table.get("quick") or {}).get("files", {})
    items.sort(key=lambda item: -seconds.get(file_of(item.nodeid), 0.0))
    if (within := config.getoption("--within")) and not config.getoption("--slow"):
        per_case = table.get("quick", {}).get("cases", {})
        for name, cases in cases_of(item for item in items if "slow" not in item.keywords).items():
            if name in per_case:
                leave_out(cases, max(1, int(within / per_case[name])))


def cases_of(items) -> dict[str, list[pytest.Item]]:
    """RETURNS (dict[str, list[pytest.Item]]): The cases of each test."""
    found = defaultdict(list)
    for item in items:
        found[test_of(item.nodeid)].append(item)
    return found


def test_of(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def leave_out(cases: list[pytest.Item], most: int) -> None:
    """Skip all cases of a test but some that have as many values of its parameters as possible."""
    left = sorted(cases, key=lambda case: zlib.crc32(case.nodeid.encode()))
    seen: set[str] = set()
    for _ in range(min(most, len(left))):
        best = max(left, key=lambda case: len(values_of(case) - seen))
        left.remove(best)
        seen |= values_of(best)
    for case in left:
        case.add_marker(pytest.mark.skip(reason="one of many cases: make check runs all"))


def values_of(case: pytest.Item) -> set[str]:
    """RETURNS (set[str]): The parts of a case's name."""
    return set(case.nodeid.partition("[")[2].rstrip("]").split("-"))


def file_of(nodeid: str) -> str:
    return nodeid.split("::")[0]


def processor_seconds() -> float:
    """RETURNS (float): What this process and the commands that it started have used."""
    return sum(os.times()[:4]) + commands.seconds_in_forks()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    item.stash[BEGUN] = processor_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    now = processor_seconds()
    report.processor_seconds, item.stash[BEGUN] = now - item.stash[BEGUN], now
    item.stash[TAKEN] = item.stash.get(TAKEN, 0.0) + report.processor_seconds
    if call.when == "teardown" and item.nodeid in _table():
        _slower.append(item.stash[TAKEN] / _table()[item.nodeid])
    if call.when == "call" and report.passed and has_limit(item.config):
        seconds = processor_seconds_of(report.processor_seconds, call.duration)
        if exceeds(item, seconds, call.duration):
            took = f"{seconds:.1f} s, {call.duration:.1f} by the clock"
            report.user_properties.append((OVER, took))
            if complaint := far_too_long(item, seconds, call.duration):
                report.outcome, report.longrepr = "failed", complaint
    return report


def has_limit(config) -> bool:
    """Whether only quick tests are run, and nothing watches every line of them."""
    return not config.getoption("--slow") and "COVERAGE_RUN" not in os.environ


def processor_seconds_of(seconds: float, elapsed: float) -> float:
    """RETURNS (float): Those of the test itself. A command's count when it ends, which may be in
    the next test."""
    return min(seconds, elapsed * (os.cpu_count() or 1))


def limit_of(item) -> float:
    """RETURNS (float): Processor seconds."""
    mark = item.get_closest_marker("takes")
    return mark.kwargs["seconds"] if mark else LIMIT


def exceeds(item, seconds: float, elapsed: float, slower: float = 1) -> bool:
    """Whether a test took longer than its limits times this."""
    limit = limit_of(item) * slower
    return seconds > limit or elapsed > PATIENCE * limit


def far_too_long(item, seconds: float, elapsed: float) -> str:
    """RETURNS (str): What is wrong with how long a test took; empty if it can be let pass."""
    slower = max(1.0, statistics.median(_slower[-KNOWN:] or [1.0]))
    if not exceeds(item, seconds, elapsed, SLACK * slower):
        return ""
    limit = limit_of(item)
    return (
        f"This test took {seconds:.1f} seconds of the processor and {elapsed:.1f} by the clock, on "
        f"a machine {slower:.1f} times as slow as that of the table. It has {limit:g} and "
        f"{PATIENCE * limit:g}, and fails at {SLACK:g} times these: see tests/clock.py."
    )


def pytest_terminal_summary(terminalreporter):
    """Name the tests over their limits that passed."""
    over = [
        (value, report.nodeid)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == OVER
    ]
    if over:
        terminalreporter.section("quick tests over their limits (tests/clock.py)")
        for value, nodeid in sorted(over, key=lambda pair: pair[1]):
            terminalreporter.write_line(f"{value}: {nodeid}")


def pytest_runtest_logreport(report):
    _reports.append((report.nodeid, getattr(report, "processor_seconds", 0.0)))
    if report.when == "call":
        _run.add(report.nodeid)


_reports: list[tuple[str, float]] = []
_run: set[str] = set()  # tests that were not skipped
_slower: list[float] = []  # what tests of the table took beside it, in this process


@functools.cache
def _table() -> dict[str, float]:
    """RETURNS (dict[str, float]): Processor seconds of the slowest quick tests, by name."""
    table = json.loads(TABLE.read_text(encoding="utf8")) if TABLE.is_file() else {}
    seconds: dict[str, float] = table.get("quick", {}).get("slowest", {})
    return seconds


def pytest_sessionfinish(session):
    config = session.config
    if not config.getoption("--write-durations") or hasattr(config, "workerinput"):
        return
    kind = "slow" if config.getoption("--slow") else "quick"
    table = json.loads(TABLE.read_text(encoding="utf8")) if TABLE.is_file() else {}
    files, tests = Counter(), Counter()
    cases: dict[str, Counter] = defaultdict(Counter)
    for nodeid, seconds in _reports:
        files[file_of(nodeid)] += seconds
        tests[nodeid] += seconds
        cases[test_of(nodeid)][nodeid] += seconds
    usual = {
        name: statistics.median(of[nodeid] for nodeid in of if nodeid in _run)
        for name, of in cases.items()
        if len(of) > 1 and _run & set(of)
    }
    usual = {name: one for name, one in usual.items() if one * len(cases[name]) > WORTH}
    run = set(files)  # what was not is as before, if it is there
    for part, found in (("files", files), ("slowest", tests), ("cases", usual)):
        for name, seconds in table.get(kind, {}).get(part, {}).items():
            if file_of(name) not in run and (config.rootpath / file_of(name)).is_file():
                found[name] = seconds
    table[kind] = {
        "processor seconds": round(sum(files.values())),
        "files": {name: round(seconds, 1) for name, seconds in files.most_common()},
        "slowest": {name: round(seconds, 1) for name, seconds in tests.most_common(SLOWEST)},
        "cases": {name: round(seconds, 2) for name, seconds in sorted(usual.items())},
    }
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
