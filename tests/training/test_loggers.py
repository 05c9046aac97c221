"""What is saved, the threshold and the score at it arrive where training is logged."""

import pytest
import spacy
import srsly
from spacy.tokens import DocBin
from spacy.util import load_config

from tests.makers.commands import run
from tests.makers.project import ROOT
from tests.makers.texts import examples_of

NAME = "early_exit_ner"
METRICS = ("mac_speedup", "threshold", "ents_f", "exit_cost")


@pytest.fixture
def train(tmp_path, trained_bytes):
    """Trains the second stage for some steps, with a logger. Returns what it prints."""
    config, data = trained_bytes
    nlp = spacy.util.load_model_from_config(spacy.util.Config().from_str(config), auto_fill=True)
    nlp.from_bytes(data).to_disk(tmp_path / "first")
    docs = [eg.reference for eg in examples_of(nlp)]
    DocBin(docs=docs).to_disk(tmp_path / "corpus.spacy")
    encoder = nlp.config["components"][NAME]["model"]["encoder"]["name"]

    def train(**logger):
        run(
            "-m",
            "spacy",
            "init",
            "fill-config",
            ROOT / "configs/self_sampling.cfg",
            "a.cfg",
            cwd=tmp_path,
        )
        made = load_config(tmp_path / "a.cfg", interpolate=False)
        made["training"]["logger"] = logger
        made["training"]["before_update"]["speedup"] = 1.2
        made["components"][NAME]["halt_special"] = False
        made.to_disk(tmp_path / "a.cfg")
        paths = {"train": "corpus.spacy", "dev": "corpus.spacy", "encoder": encoder}
        paths["first_stage"] = "first"
        given = [part for name, path in paths.items() for part in (f"--paths.{name}", path)]
        given += ["--training.max_steps", "4", "--training.eval_frequency", "2"]
        return run("-m", "spacy", "train", "a.cfg", *given, cwd=tmp_path)

    return train


def check(of_steps):
    """Check what was logged: at first, in the middle and at the end."""
    assert len(of_steps["threshold"]) == 3
    assert all(0 < threshold <= 1 for threshold in of_steps["threshold"])
    for speedup, cost in zip(of_steps["mac_speedup"], of_steps["exit_cost"], strict=True):
        assert speedup == pytest.approx(1 / cost) and speedup > 1.15
    assert of_steps["ents_f"][0] == 0.0 < max(of_steps["ents_f"])  # the first is not scored


@pytest.mark.takes(seconds=20)
def test_spacys_own_logger_shows_cost_and_threshold(train, tmp_path):
    printed = train(**{"@loggers": "spacy.ConsoleLogger.v3", "output_file": "log.jsonl"})
    assert "THRESHOLD" in printed and "EXIT_COST" in printed
    lines = [*srsly.read_jsonl(tmp_path / "log.jsonl")]
    scores = [{k: v / 100 for k, v in line["scores"].items()} for line in lines]
    check({n: [s.get(n, 1 / s["exit_cost"]) for s in scores] for n in METRICS})


@pytest.mark.takes(seconds=20)
def test_mlflow_gets_them(train, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(**{"@loggers": "spacy.MLflowLogger.v2"})
    (run_id,) = {path.parent.parent.name for path in (tmp_path / "runs").glob("*/*/metrics/ents_f")}
    (folder,) = (tmp_path / "runs").glob(f"*/{run_id}/metrics")
    values = {
        name: [float(line.split()[1]) for line in (folder / name).read_text().splitlines()]
        for name in METRICS
    }
    check(values)
