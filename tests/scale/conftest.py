"""A calibrated pipeline for jobs, and one that fails, or kills, where texts ask for it."""

import pytest
from spacy.util import Config, load_model_from_config

from spacy_early_exit.measure.calibrate import calibrate
from tests.makers.texts import examples_of, texts_of_all_lengths

CODE = """
import os, signal
from pathlib import Path
from spacy.language import Language

@Language.component("touchy")
def touchy(doc):
    if "FAIL" in doc.text:
        raise ValueError("it says FAIL")
    if "DIE" in doc.text:
        flag = Path(__file__).with_name("died")
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return doc
"""


@pytest.fixture(scope="session")
def work(tmp_path_factory, trained_bytes):
    """A folder with a pipeline, code that it needs, and texts."""
    folder = tmp_path_factory.mktemp("jobs")
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    calibrate(nlp.get_pipe("early_exit_ner"), examples_of(nlp), [1.5, 2, 3])
    nlp.to_disk(folder / "model")
    (folder / "code.py").write_text(CODE, encoding="utf8")
    exec(compile(CODE, str(folder / "code.py"), "exec"), {"__file__": str(folder / "code.py")})
    nlp.add_pipe("touchy", first=True)
    nlp.to_disk(folder / "touchy")
    texts = [text for text in texts_of_all_lengths(count=120) if text.strip()]
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf8")
    return folder


@pytest.fixture(scope="session")
def texts(work):
    """The texts, in order."""
    return (work / "texts.txt").read_text(encoding="utf8").split("\n")
