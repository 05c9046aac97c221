"""What the package imports is asked for in setup.cfg."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions

from tests.makers.project import ROOT

# The extras that are not for tests and development.
OF_USERS = ("trf", "report", "parquet", "ray", "spark")


def declared() -> dict:
    """RETURNS (dict): What is asked for, by extra; "" for what is always needed."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: {normal(re.split("[^A-Za-z0-9._-]", line)[0]) for line in lines.split()}
        for extra, lines in asked.items()
    }


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def imported(node: ast.AST, lazily: bool = False):
    """YIELDS (tuple[str, bool]): Each package that is imported, and whether in a function alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.split(".")[0], lazily) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield child.module.split(".")[0], lazily
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from imported(child, lazily or inside)


# The room scale/ is imported only by its command, and by those who have its extras.
def test_every_import_is_of_something_that_is_asked_for():
    asked, places = declared(), packages_distributions()
    always, extra = asked[""], set().union(*(asked[name] for name in OF_USERS))
    seen = set()
    for path in sorted((ROOT / "spacy_early_exit").rglob("*.py")):
        for package, lazily in imported(ast.parse(path.read_text(encoding="utf8"))):
            if package in sys.stdlib_module_names or package == "spacy_early_exit":
                continue
            known = package in places or normal(package) in extra  # not all extras are installed
            assert known, f"{path}: {package} is of no installed distribution"
            names = {normal(name) for name in places.get(package, [package])}
            allowed = always | extra if lazily or "scale" in path.parts else always
            assert names & allowed, f"{path} imports {package}, which setup.cfg does not ask for"
            seen |= names
    assert {"torch", "spacy", "jinja2", "markupsafe", "matplotlib"} <= seen


def test_nothing_is_asked_for_without_need():
    text = "".join(path.read_text() for path in (ROOT / "spacy_early_exit").rglob("*.py"))
    for name in declared()[""]:
        assert re.search(rf"^\s*(import|from) {name}\b", text, re.MULTILINE), name


def test_versions_of_what_is_asked_for_are_pinned_for_the_tests():
    pinned = {
        normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    assert declared()[""] <= pinned
