"""Results in JSON, made to be read and compared: tables with a row a line, and five digits.

A file has ``about``, which says where the results come from (``commit``, ``date``, ``machine`` and
``command``; null where that is not known), and ``results``. There, a list of dicts is kept as
``columns`` and ``rows``. What follows from other columns is left out.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spacy_early_exit.measure.machine import machine

DIGITS = 5


def write(path: Path | None, results: Any, **about: object) -> None:
    """Write results, and where they come from. If that is cut off, an earlier file stays whole.

    path (Path | None): The file, whose folder is made; None: nowhere.
    results (Any): Dicts, lists, strings, numbers.
    about (object): What else they depend on, such as threads.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside_it = path.with_name(path.name + ".new")
    beside_it.write_text(to_json({**origin(), **about}, results), encoding="utf8")
    beside_it.replace(path)


def read(path: Path, default: Any = None) -> Any:
    """RETURNS (Any): The results in a file, as they were given to `write`, without what is null.

    path (Path): The file.
    default (Any): What there is without a file, if not None.
    """
    if default is not None and not path.exists():
        return default
    return unpacked(json.loads(path.read_text(encoding="utf8"))["results"])


def read_about(path: Path) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): What is said about the results in a file."""
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))["about"]
    return about


def origin() -> dict[str, str | None]:
    """RETURNS (dict[str, str | None]): Commit, command, machine, date and versions."""
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent)
        commit = found.stdout.strip() or None
    except OSError:
        commit = None
    return {"commit": commit, "command": " ".join(["python", *sys.orig_argv[1:]]), **machine()}


def to_json(about: dict[str, Any], results: Any) -> str:
    """RETURNS (str): A file of results."""
    return _text({"about": about, "results": packed(results)}, "") + "\n"


def packed(value: Any) -> Any:
    """RETURNS (Any): The same with fewer digits, and lists of dicts as tables."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {str(name): packed(inner) for name, inner in value.items()}
    if not isinstance(value, list | tuple):
        return value
    if not value or not all(isinstance(row, dict) for row in value):
        return [packed(inner) for inner in value]
    columns = list(dict.fromkeys(name for row in value for name in row))
    rows = [[packed(row.get(name)) for name in columns] for row in value]
    return {"columns": columns, "rows": rows}


def unpacked(value: Any) -> Any:
    """RETURNS (Any): The same with tables as lists of dicts, in which nothing is null."""
    if isinstance(value, list):
        return [unpacked(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"columns", "rows"}:
        return {name: unpacked(inner) for name, inner in value.items()}
    return [
        {name: unpacked(cell) for name, cell in zip(value["columns"], row) if cell is not None}
        for row in value["rows"]
    ]


def _text(value: Any, indent: str) -> str:
    """RETURNS (str): JSON, with a line for each row, and for each list or dict of such things."""
    inside = indent + " "
    if isinstance(value, dict) and not _is_line(value):
        parts = [
            f"{json.dumps(k, ensure_ascii=False)}: {_text(v, inside)}" for k, v in value.items()
        ]
        return _lines("{}", parts, indent)
    if isinstance(value, list) and not all(map(_is_plain, value)):
        # A row of a table may have lists for cells.
        return _lines(
            "[]", [_text(v, inside) if isinstance(v, dict) else _line(v) for v in value], indent
        )
    return _line(value)


def _lines(brackets: str, parts: Iterable[str], indent: str) -> str:
    body = ",".join(f"\n{indent} {part}" for part in parts)
    return f"{brackets[0]}{body}\n{indent}{brackets[1]}"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _is_line(value: dict[str, Any]) -> bool:
    """RETURNS (bool): Whether a dict has nothing but plain values and lists of these."""
    return all(
        _is_plain(inner) or (isinstance(inner, list) and all(map(_is_plain, inner)))
        for inner in value.values()
    )
