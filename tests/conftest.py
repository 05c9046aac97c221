"""Fixtures. Small encoders and tokenizers are made here; the real encoder is in assets/."""

import os
from pathlib import Path

import pytest
import spacy
import torch

from tests.makers import encoders as small
from tests.makers.pipelines import train_small
from tests.makers.project import ROOT

# Small tensors gain nothing from threads, and lose much where the machine has other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start
torch.set_num_threads(1)

MINILM = Path(
    os.environ.get("SPACY_EARLY_EXIT_ENCODER", ROOT / "assets" / "all-MiniLM-L6-v2")
)
DATA = Path(os.environ.get("SPACY_EARLY_EXIT_DATA", ROOT.parent / "shared" / "data"))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")


def pytest_runtest_setup(item):
    if "slow" in item.keywords and not item.config.getoption("--slow"):
        pytest.skip("slow: run with --slow (make check)")


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of the real pre-trained encoder."""
    if not (MINILM / "model.safetensors").is_file():
        pytest.skip(f"ORACLE: no pre-trained encoder in {MINILM}: run scripts/fetch_encoder.py")
    return str(MINILM)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the real corpora."""
    if not DATA.is_dir():
        pytest.skip(f"no corpora in {DATA}: set SPACY_EARLY_EXIT_DATA to a folder that has them")
    return DATA


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Folders of small encoders with random weights, by family. Made when first asked for."""
    return small.Encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def trained_bytes(encoders):
    """A trained pipeline over a small encoder, as bytes, with its config."""
    nlp = train_small(encoders["bert"])
    return nlp.config.to_str(), nlp.to_bytes()


@pytest.fixture
def nlp(trained_bytes):
    """A trained pipeline over a small encoder, fresh for each test."""
    config, data = trained_bytes
    config = spacy.util.Config().from_str(config)
    return spacy.util.load_model_from_config(config, auto_fill=True).from_bytes(data)


@pytest.fixture(scope="session")
def en():
    """A blank English pipeline, for its tokenizer."""
    return spacy.blank("en")
