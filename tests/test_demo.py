"""The demo ends with one screen, which the tutorial shows."""

import os
import re
import sys

import pytest
from spacy.tokens import DocBin
from spacy.util import Config, load_model_from_config

from spacy_early_exit.measure.calibrate import calibrate
from tests.makers.project import ROOT
from tests.makers.texts import examples_of

sys.path.insert(0, str(ROOT / "scripts"))

import show_demo

ARGUMENTS = ["training/demo/calibrated", "corpus/demo/dev.spacy", "training/demo/report.html"]


@pytest.fixture(scope="module")
def demo(trained_bytes, tmp_path_factory):
    """A folder as the demo's earlier steps leave it."""
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    calibrate(nlp.get_pipe("early_exit_ner"), examples_of(nlp), [1.5])
    folder = tmp_path_factory.mktemp("demo")
    for made in (folder / "training" / "demo", folder / "corpus" / "demo"):
        made.mkdir(parents=True)
    nlp.to_disk(folder / ARGUMENTS[0])
    docs = [eg.reference for eg in examples_of(nlp)]
    DocBin(docs=docs, store_user_data=True).to_disk(folder / ARGUMENTS[1])
    return folder


@pytest.fixture
def shown(demo, monkeypatch, capsys):
    """Returns the lines that the last step prints, as by the Python that the demo installs."""

    def show():
        monkeypatch.chdir(demo)
        monkeypatch.setattr(sys, "argv", ["show_demo.py", *ARGUMENTS])
        show_demo.main()
        python = os.path.relpath(sys.executable, demo)
        return capsys.readouterr().out.replace(python, ".venv/bin/python").splitlines()

    return show


def test_it_fits_a_screen_and_agrees_with_the_report(demo, shown):
    lines = shown()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    rows = [
        re.split("  +", line.strip()) for line in lines if re.search(r"%.*\dX +\S+ +\S+X", line)
    ]
    assert rows[0][0] == "1 (full depth)" and len(rows) >= 2
    page = (demo / ARGUMENTS[2]).read_text(encoding="utf8")
    scores = {f"{float(number):.1f}" for number in re.findall(r"<td>([\d.]+)</td>", page)}
    for _, score, _, _, words_per_second, _ in rows:
        assert score in scores and f"<td>{words_per_second}</td>" in page


def test_each_word_has_its_layer_below_it(shown):
    lines = shown()
    places = {line.replace(" ", ""): place for place, line in enumerate(lines)}
    for sentence in show_demo.SENTENCES:
        place = places[sentence.replace(" ", "")]
        words, layers = (
            [found.start() for found in re.finditer(r"\S+", line)]
            for line in lines[place : place + 2]
        )
        assert words == layers


def test_it_calls_only_a_synthetic_corpus_synthetic(demo, shown):
    sign = demo / "corpus" / "demo" / "SYNTHETIC.txt"
    for synthetic in (True, False):
        sign.touch() if synthetic else sign.unlink()
        assert any("synthetic" in line for line in shown()) == synthetic


def test_the_tutorial_shows_what_it_prints(demo, shown):
    (demo / "corpus" / "demo" / "SYNTHETIC.txt").touch()
    tutorial = with_numbers_alike((ROOT / "docs" / "tutorial.md").read_text(encoding="utf8"))
    # Scores, layers and entities are those of another pipeline.
    fixed = [
        line
        for line in with_numbers_alike("\n".join(shown()))
        if not re.match(r" *[#-]|  .* = |  No entities", line)
    ]
    assert len(fixed) > 12
    assert not [line for line in fixed if line not in tutorial]


def with_numbers_alike(text: str) -> list[str]:
    """RETURNS (list[str]): The lines of a text, with a sign in place of each number."""
    return re.sub(r"\d[\d,.]*", "#", text).splitlines()
