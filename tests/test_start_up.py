"""The factory is imported by every spacy.blank() on the user's machine."""

import subprocess
import sys

import pytest

from .factories import OTHERS, hiding


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


@pytest.mark.parametrize("hidden", ["", hiding("spacy_early_exit")])
def test_what_is_registered_is_not_imported(hidden):
    script = (
        "import spacy, sys, spacy_early_exit;"
        "print(*(name for name in sys.modules if name.startswith('spacy_early_exit.')))"
    )
    loaded = {name.split(".")[1] for name in run(hidden + script).split()}
    slow = {
        "callbacks",
        "criteria",
        "decoders",
        "encoders",
        "model",
        "pipeline_encoder",
        "training",
    }
    assert "component" in loaded and not loaded & slow


@pytest.mark.slow
def test_blank_costs_little_more():
    # Alternating, since the machine may have other work: the median of the differences.
    script = "import time, spacy; t = time.time(); spacy.blank('en'); print(time.time() - t)"
    without = hiding(*OTHERS, "spacy_early_exit") + script
    with_it = hiding(*OTHERS) + script
    differences = sorted(float(run(with_it)) - float(run(without)) for _ in range(5))
    print(differences)
    assert differences[2] < 0.3
