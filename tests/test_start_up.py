"""The factory is imported by every spacy.blank() on the user's machine."""

import subprocess
import sys

import pytest


def run(script: str) -> str:
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_importing_the_package_imports_nothing_slow():
    script = (
        "import spacy, sys; before = set(sys.modules); import spacy_early_exit.component;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    assert run(script) in ("['numpy', 'spacy_early_exit']", "['spacy_early_exit']")


@pytest.mark.slow
def test_blank_costs_little_more():
    # Alternating, since the machine may have other work: the median of the differences.
    with_it = "import time, spacy; t = time.time(); spacy.blank('en'); print(time.time() - t)"
    without = (
        "import importlib.metadata as m, time; real = m.entry_points\n"
        "def fake(**k):\n"
        "    return m.EntryPoints(p for p in real(**k) if 'early_exit' not in p.value"
        " and 'spacy_transformers' not in p.value)\n"
        "m.entry_points = fake\n"
    )
    only_us = without.replace("'early_exit' not in p.value and ", "").replace(
        "'early_exit' not in p.value", "True"
    )
    differences = sorted(
        float(run(only_us + with_it)) - float(run(without + with_it)) for _ in range(5)
    )
    assert differences[2] < 0.3, differences
