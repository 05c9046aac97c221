"""Fixtures. Small encoders and tokenizers are made here; the real encoder is in assets/.

Tests are where what they test is in the package, and beside one another what is of several rooms.
What they are made of is in makers/. A quick test should take at most five seconds: see clock.py.
"""

import multiprocessing
import os
from pathlib import Path

import pytest
import spacy
import torch
from hypothesis import settings

from tests.makers import encoders as small
from tests.makers.pipelines import trained_pipeline
from tests.makers.project import ROOT

# Small tensors gain nothing from threads, and lose much where the machine has other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start
torch.set_num_threads(1)

pytest_plugins = ["tests.clock"]

MINILM = Path(os.environ.get("SPACY_EARLY_EXIT_ENCODER", ROOT / "assets" / "all-MiniLM-L6-v2"))
DATA = Path(os.environ.get("SPACY_EARLY_EXIT_DATA", ROOT.parent / "shared" / "data"))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")


def pytest_configure(config):
    # For tests that take their number of examples from `makers.marks.examples`.
    settings.register_profile("quick", max_examples=15, derandomize=True)
    settings.register_profile("full", max_examples=1_000)
    settings.load_profile("full" if config.getoption("--slow") else "quick")


def pytest_runtest_setup(item):
    if "slow" in item.keywords and not item.config.getoption("--slow"):
        pytest.skip("slow: run with --slow (make check)")


def pytest_terminal_summary(terminalreporter):
    """Whether the oracle ran on the real encoder: .ci/run looks for this line."""
    passed = [
        report
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call" and "test_oracle.py" in report.nodeid
        if "on_the_real_encoder" in report.nodeid
    ]
    terminalreporter.write_line(f"ORACLE: {len(passed)} tests on the real encoder passed")


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of the real pre-trained encoder."""
    return real(MINILM)


@pytest.fixture(scope="session")
def mpnet() -> str:
    """The folder of a real one of base size: 12 layers of 768."""
    return real(MINILM.with_name("all-mpnet-base-v2"))


def real(folder: Path) -> str:
    """RETURNS (str): The folder of a real encoder. Without it, the test is skipped."""
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no pre-trained encoder there: run scripts/fetch_encoder.py {folder}")
    return str(folder)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the real corpora."""
    if not DATA.is_dir():
        pytest.skip(f"no corpora in {DATA}: set SPACY_EARLY_EXIT_DATA to a folder that has them")
    return DATA


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Folders of small encoders with random weights, by family. Made when first asked for."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which all workers have
    (folder / "small-encoders").mkdir(exist_ok=True)
    return small.Encoders(folder / "small-encoders")


@pytest.fixture(scope="session")
def trained_bytes(encoders):
    """A trained pipeline over a small encoder, as bytes, with its config."""
    nlp = trained_pipeline(encoders["bert"])
    return nlp.config.to_str(), nlp.to_bytes()


@pytest.fixture
def nlp(encoders):
    """A trained pipeline over a small encoder, fresh for each test."""
    return trained_pipeline(encoders["bert"])


@pytest.fixture
def quick_starts(monkeypatch):
    """Contenders of a benchmark are forks of a process that has imported what they need. Each is
    still a process of its own, as far as pipes, ends and answers go; its start takes next to
    nothing.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return
    forks = multiprocessing.get_context("forkserver")
    known = ["spacy_early_exit.measure.contenders", "spacy_early_exit.model.model"]
    forks.set_forkserver_preload([*known, "tests.makers.contenders"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forks)


@pytest.fixture(scope="session")
def en():
    """A blank English pipeline, for its tokenizer."""
    return spacy.blank("en")
