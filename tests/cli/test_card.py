"""Model cards, and what becomes of them on the way to a hub."""

import re
from dataclasses import replace

import pytest
import spacy
import srsly
from spacy.tokens import DocBin
from spacy.util import Config, load_model_from_config

from spacy_early_exit.measure.calibrate import calibrate
from tests.makers.commands import run
from tests.makers.texts import examples_of

NAME = "early_exit_ner"
DATA = "Our own sentences | made up"


def card(*arguments, **kwargs):
    return run("-m", "spacy", "early-exit", "card", *arguments, **kwargs)


@pytest.fixture(scope="module")
def work(trained_bytes, tmp_path_factory):
    """A folder with a calibrated pipeline, a corpus, and the pipeline's card."""
    folder = tmp_path_factory.mktemp("card")
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    calibrate(nlp.get_pipe(NAME), examples_of(nlp), [1.2, 1.6], min_kept=0.985)
    nlp.meta.update(license="MIT", author="We", name="tiny")
    nlp.to_disk(folder / "model")
    DocBin(docs=[eg.reference for eg in examples_of(nlp)]).to_disk(folder / "dev.spacy")
    given = ["--training-data", "Ten sentences of *our own*.", "--data-name", DATA]
    given += ["--limit", "English only.", "-s", "1.6", "-r", "1"]
    card("model", "dev.spacy", *given, cwd=folder)
    return folder


def test_hubs_can_read_its_metadata(work):
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard.load(work / "model" / "README.md").data
    assert (found.license, found.language, found.library_name) == ("mit", ["en"], "spacy")
    assert found.pipeline_tag == "token-classification" and "early-exit" in found.tags
    metrics = {(one.metric_name, one.metric_type): one.metric_value for one in found.eval_results}
    assert {kind for _, kind in metrics} == {"precision", "recall", "f1"}
    assert metrics["ents_f, speedup = 1", "f1"] == 1.0
    assert 0 <= metrics["ents_f, speedup = 1.6", "f1"] <= 1.0
    assert {one.dataset_name for one in found.eval_results} == {DATA}


def test_it_says_what_was_measured_where_and_by_which_command(work):
    text = (work / "model" / "README.md").read_text(encoding="utf8")
    rows = [line.split(" | ") for line in re.findall(r"^\| ([\d.]+ \| .*) \|$", text, re.MULTILINE)]
    assert [row[0] for row in rows] == ["1", "1.6"]
    saved = [float(row[4].rstrip("X")) for row in rows]
    assert saved[0] <= 1.0 < 1.4 < saved[1] and int(rows[0][5].replace(",", "")) > 0
    for part in (
        "| labels of `early_exit_ner` | LOC, ORG, PER |",
        "| licence | mit |",
        "## Training data\n\nTen sentences of *our own*.\n",
        "## Limits\n\n- English only.\n",
        "| PER | 100.00 |",
    ):
        assert part in text, part
    (command,) = re.findall(r"^python -m spacy early-exit evaluate .*$", text, re.MULTILINE)
    printed = run(*command.split()[1:], cwd=work)
    assert "ents_f" in printed and rows[1][4].rstrip("X") in printed


def test_its_command_names_the_component_and_the_code(work, tmp_path):
    (tmp_path / "code.py").write_text("", encoding="utf8")
    given = ["-t", "x", "-s", "1.6", "-r", 0, "-o", tmp_path / "c.md", "-c", NAME]
    card("model", "dev.spacy", *given, "--code", tmp_path / "code.py", cwd=work)
    text = (tmp_path / "c.md").read_text(encoding="utf8")
    assert f"-s 1,1.6 -c {NAME} --code {tmp_path / 'code.py'}\n" in text


@pytest.mark.parametrize("score, shown", [(1.0, "1.6"), (0.0, "1")])
def test_its_example_asks_for_a_speedup_that_keeps_the_score(score, shown, work, tmp_path):
    nlp = spacy.load(work / "model")
    ner = nlp.get_pipe(NAME)
    full, *others = ner.calibration.points
    points = (replace(full, score=1.0), *(replace(p, score=score, error=0.0) for p in others))
    ner.calibration = replace(ner.calibration, points=points)
    nlp.to_disk(tmp_path / "model")
    card("model", work / "dev.spacy", "-t", "x", "-s", "1.6", "-r", 0, cwd=tmp_path)
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf8")
    assert f'"speedup": {shown}}}' in text


def test_it_is_the_readme_of_the_package(work, tmp_path):
    run("-m", "spacy", "package", work / "model", tmp_path, "--build", "none", "--version", "1.0.0")
    packaged = tmp_path / "en_tiny-1.0.0" / "README.md"
    assert packaged.read_bytes() == (work / "model" / "README.md").read_bytes()
    assert spacy.load(work / "model").get_pipe(NAME).labels


def test_what_is_pushed_to_a_hub_has_the_card(work, tmp_path, monkeypatch):
    """Up to the network: what spacy-huggingface-hub would upload."""
    push = pytest.importorskip("spacy_huggingface_hub.push")
    run("-m", "spacy", "package", work / "model", tmp_path, "--build", "wheel")
    (wheel,) = tmp_path.glob("*/dist/*.whl")
    uploaded = {}

    def upload(repo_id, folder_path, **_):
        texts = ("README.md", "meta.json", "config.cfg")
        uploaded[repo_id] = {name: (folder_path / name).read_text("utf8") for name in texts}
        return f"https://hub/{repo_id}/tree/main"

    monkeypatch.setattr(push, "whoami", lambda: {"name": "me"})
    monkeypatch.setattr(push.HfApi, "create_repo", lambda self, **_: None)
    monkeypatch.setattr(push, "upload_folder", upload)
    push.push(wheel, silent=True)
    (files,) = uploaded.values()
    # It puts a block of its own before the card's. So the docs say to upload the card again.
    assert files["README.md"].endswith((work / "model" / "README.md").read_text(encoding="utf8"))
    assert srsly.json_loads(files["meta.json"])["license"] == "MIT"
    assert [*uploaded] == ["me/en_tiny"] and NAME in files["config.cfg"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["model", "dev.spacy", "-t", "x"], "README.md already exists."),
        (["en_none", "dev.spacy", "-t", "x"], "'en_none' is no folder"),
        (["model", "dev.spacy", "-t", "x", "-o", "c.md", "-s", "99"], "out of reach"),
        (["unlicensed", "dev.spacy", "-t", "x"], "The pipeline has no licence."),
        (["model", "dev.spacy"], "--training-data"),
    ],
)
def test_what_can_not_be_written_is_refused(arguments, message, work):
    if arguments[0] == "unlicensed":
        nlp = spacy.load(work / "model")
        nlp.meta["license"] = ""
        nlp.to_disk(work / "unlicensed")
    assert message in " ".join(card(*arguments, cwd=work, ok=False).split())
    assert not (work / "c.md").exists()
