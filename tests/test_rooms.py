"""Who imports whom: the order of the package's rooms, and what a room does without."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spacy_early_exit

PACKAGE = Path(spacy_early_exit.__file__).parent
# Each imports what is below it, or beside it in a room of its own; never what is above.
ORDER = [
    {"__init__"},
    {"cli"},
    {"adopt", "scale"},
    {"measure"},
    {"recipe"},
    {"tasks", "configure", "separate"},
    {"pipe"},
    {"model"},
    {"settings"},
    {"relatives"},  # what others published: criteria, decoders and training of their own
    {"training"},
    {"criteria", "decoders", "files"},
    {"encoders"},
    {"text", "corpora"},
    {"tags"},
    {"network"},
    {"budget", "runtime", "registering"},
    {"retired"},
]
# Arrows that run up all the same, each to be mended.
UP = {
    # For its version, which pipelines name.
    ("measure.report", "__init__"),
}


def modules() -> dict[str, ast.Module]:
    """RETURNS (dict[str, ast.Module]): The package's modules, by their names within it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts)] = ast.parse(path.read_text(encoding="utf8"))
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """What a module imports, at its top, in functions and for its types: ours without the name of
    the package, such as ``network.loop``, those of others with a colon before, such as ``:torch``.
    """
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (place(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (place(f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = name.split(".")[: -node.level]
            base = [*here, *([node.module] if node.module else [])]
            yield from (place(".".join(["spacy_early_exit", *base, a.name])) for a in node.names)


def place(imported: str) -> str:
    package, _, rest = imported.partition(".")
    if package != PACKAGE.name:
        return ":" + package
    while rest and rest not in MODULES:
        if f"{rest}.__init__" in MODULES:
            return f"{rest}.__init__"
        rest = rest.rpartition(".")[0]  # a name in a module
    return rest or "__init__"


def height(module: str) -> int:
    room = module.split(".")[0]
    found = [number for number, rooms in enumerate(reversed(ORDER)) if room in rooms]
    assert found, f"{room} has no place in the order of rooms: {Path(__file__).name} has it"
    return found[0]


def arrows() -> list[tuple[str, str]]:
    """RETURNS (list[tuple[str, str]]): Imports between rooms: who, and what."""
    return [
        (name, imported)
        for name in MODULES
        for imported in imports(name)
        if not imported.startswith(":") and imported.split(".")[0] != name.split(".")[0]
    ]


def test_no_room_imports_what_is_above_or_beside_it():
    up = {(who, what) for who, what in arrows() if height(who) <= height(what)}
    assert up - UP == set()
    assert UP - up == set(), "no arrow any more: strike it out"


def test_the_order_names_rooms_that_are_there():
    rooms = {name.split(".")[0] for name in MODULES}
    assert {room for level in ORDER for room in level} <= rooms


def reached(room: str) -> set[str]:
    """RETURNS (set[str]): A room's modules, and what they import, and so on."""
    found: set[str] = set()
    waiting = [name for name in MODULES if name.split(".")[0] == room]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [i for i in imports(name) if not i.startswith(":")]
    return found


@pytest.mark.parametrize(
    "room, banned",
    [
        ("network", {":spacy", ":thinc"}),
        ("criteria", {"training"}),
        ("decoders", {"training"}),
        ("budget", {":torch", ":spacy", ":thinc"}),
        ("registering", {":torch"}),
    ],
)
def test_what_a_room_does_without(room, banned):
    found = {
        f"{name} imports {imported}"
        for name in reached(room)
        for imported in imports(name)
        if imported.split(".")[0] in banned
    }
    assert not found


# What is imported where a pipeline is made, and spaCy imports it into each of its own.
SPACYS_SIDE = ("pipe", "tasks", "budget", "text.spans", "configure", "settings", "registering")


def test_spacys_side_imports_no_torch_when_it_is_imported():
    """thinc imports torch where it is there: so it is taken away again, and must not be missed."""
    names = [
        f"spacy_early_exit.{name.removesuffix('.__init__')}"
        for name in MODULES
        if f"{name}.".startswith(tuple(f"{side}." for side in SPACYS_SIDE))
    ]
    script = (
        "import importlib, sys, spacy, thinc.api\n"
        "for name in [name for name in sys.modules if name.split('.')[0] == 'torch']:\n"
        "    sys.modules[name] = None\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "print(len([name for name in sys.modules if name in " + repr(names) + "]))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) == len(names) > 10
