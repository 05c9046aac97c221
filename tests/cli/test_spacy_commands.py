"""spaCy's own commands know the component."""

import sys
import zipfile

import pytest
import spacy
import srsly
import torch
from spacy.tokens import DocBin
from spacy.util import load_config

import spacy_early_exit
from tests.makers.commands import run
from tests.makers.pipelines import answers, blank
from tests.makers.project import ROOT
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


def spacy_command(*arguments, **kwargs) -> str:
    return run("-m", "spacy", *arguments, **kwargs)


@pytest.fixture(scope="module")
def work(tmp_path_factory, trained_bytes):
    """A folder with a corpus and a pipeline that is trained on it."""
    folder = tmp_path_factory.mktemp("commands")
    config, data = trained_bytes
    nlp = spacy.util.load_model_from_config(load_config_string(config), auto_fill=True)
    nlp.from_bytes(data).to_disk(folder / "model")
    docs = [example.reference for example in examples_of(nlp)]
    DocBin(docs=docs, store_user_data=False).to_disk(folder / "corpus.spacy")
    return folder


def load_config_string(text):
    return spacy.util.Config().from_str(text)


@pytest.fixture(scope="module")
def paths(work, encoders):
    """What a training config is told on the command line."""
    corpus = work / "corpus.spacy"
    return ["--paths.train", corpus, "--paths.dev", corpus, "--paths.encoder", encoders["bert"]]


@pytest.fixture(scope="module")
def config(work):
    """The first stage's config, filled."""
    spacy_command("init", "fill-config", ROOT / "configs" / "joint.cfg", work / "joint.cfg")
    return work / "joint.cfg"


def test_debug_config_finds_nothing_wrong(config, paths):
    assert "valid" in spacy_command("debug", "config", config, *paths, "-F", "-V")


def test_init_labels_writes_what_training_reads(config, paths, work):
    spacy_command("init", "labels", config, work / "labels", *paths)
    labels = srsly.read_json(work / "labels" / f"{NAME}.json")
    assert labels == ["LOC", "ORG", "PER"]
    with_labels = load_config(config, interpolate=False)
    with_labels["initialize"]["components"] = {
        NAME: {"labels": {"@readers": "spacy.read_labels.v1", "path": "labels.json"}}
    }
    with_labels.to_disk(work / "labels.cfg")
    srsly.write_json(work / "labels.json", [*labels, "UNSEEN"])
    spacy_command(
        "train",
        work / "labels.cfg",
        *paths,
        "--output",
        work / "with_labels",
        "--training.max_steps",
        "1",
        "--training.eval_frequency",
        "1",
        f"--initialize.components.{NAME}.labels.path",
        work / "labels.json",
    )
    nlp = spacy.load(work / "with_labels" / "model-last")
    assert nlp.get_pipe(NAME).labels == ("LOC", "ORG", "PER", "UNSEEN")


def test_debug_model_trains_and_predicts(config, paths):
    output = spacy_command("debug", "model", config, NAME, *paths, "-P0", "-P1", "-P2", "-P3")
    assert "Succesfully ran" in output.replace("Successfully", "Succesfully") or "✔" in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_training_on_a_gpu_that_is_not_there_says_so(config, paths):
    output = spacy_command("train", config, *paths, "--gpu-id", "0", ok=False)
    assert "GPU" in output


def test_debug_data_through_the_twin_config(paths, work):
    twin = work / "debug_data.cfg"
    spacy_command("init", "fill-config", ROOT / "configs" / "debug_data.cfg", twin)
    # It is of the opinion that ten sentences are too few, and says so by its exit code.
    output = spacy_command("debug", "data", twin, *paths[:4], ok=False)
    assert "Named Entity Recognition" in output and "3 label(s)" in output


def test_evaluate_scores_the_component(work):
    metrics = work / "metrics.json"
    spacy_command("evaluate", work / "model", work / "corpus.spacy", "--output", metrics)
    assert srsly.read_json(metrics)["ents_f"] > 0.5


def test_find_threshold_tries_thresholds(work):
    trials = ["--n_trials", "3"]
    where = [work / "model", work / "corpus.spacy", NAME, "threshold", "exit_cost"]
    output = spacy_command("find-threshold", *where, *trials)
    rows = [line.split() for line in output.splitlines() if line[:3] in ("0.0", "0.5", "1.0")]
    assert [row[0] for row in rows] == ["0.0", "0.5", "1.0"]
    assert 1.0 == float(rows[0][1]) > float(rows[2][1])  # full depth costs most


def test_find_threshold_is_refused_where_a_speedup_decides(work):
    nlp = spacy.load(work / "model")
    spacy_early_exit.configure(nlp, speedup=1.0)
    nlp.to_disk(work / "fast")
    where = [work / "fast", work / "corpus.spacy", NAME, "threshold", "ents_f"]
    output = spacy_command("find-threshold", *where, ok=False)
    assert "threshold and speedup are both set" in output and "find-threshold" in output


@pytest.mark.slow
def test_benchmark_speed_measures_it(work):
    corpus = work / "corpus.spacy"
    output = spacy_command("benchmark", "speed", work / "model", corpus, "--batches", "30")
    assert "words/s" in output


def test_apply_annotates_raw_texts(work):
    srsly.write_jsonl(work / "texts.jsonl", [{"text": text} for text in TEXTS])
    spacy_command("apply", work / "model", work / "texts.jsonl", work / "applied.spacy")
    nlp = spacy.load(work / "model")
    found = list(DocBin().from_disk(work / "applied.spacy").get_docs(nlp.vocab))
    expected = list(nlp.pipe(TEXTS))
    assert [doc.text for doc in found] == TEXTS
    assert [[str(e) for e in d.ents] for d in found] == [[str(e) for e in d.ents] for d in expected]
    assert any(doc.ents for doc in found)


def test_assemble_puts_a_trained_component_into_another_pipeline(work):
    other = spacy.blank("en")
    other.add_pipe("sentencizer")
    config = other.config
    config["nlp"]["pipeline"].append(NAME)
    config["components"][NAME] = {"source": str(work / "model")}
    config.to_disk(work / "assemble.cfg")
    spacy_command("assemble", work / "assemble.cfg", work / "assembled")
    nlp, source = spacy.load(work / "assembled"), spacy.load(work / "model")
    assert nlp.pipe_names == ["sentencizer", NAME]
    assert [answers(d) for d in nlp.pipe(TEXTS)] == [answers(d) for d in source.pipe(TEXTS)]


def test_the_project_documents_itself(tmp_path):
    spacy_command("project", "document", ROOT, "--output", tmp_path / "project.md")
    text = (tmp_path / "project.md").read_text()
    assert "train-joint" in text and "`demo`" in text


def test_a_bare_component_fetches_nothing_until_initialize(encoders):
    nlp = blank(encoders["bert"])
    assert nlp.get_pipe(NAME).labels == ()
    with pytest.raises(ValueError, match=r"nlp\.initialize"):
        nlp("Ann")


def make_package(work) -> list:
    spacy_command("package", work / "model", work, "--name", "small", "--build", "wheel", "--force")
    return list(work.glob("en_small-*/dist/*.whl"))


def test_package_makes_a_wheel_that_holds_all_it_needs(work):
    (wheel,) = make_package(work)
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("network.json", "tokenizer.json", "weights.safetensors"):
        assert any(path.endswith(f"/{NAME}/model/{name}") for path in names)
    ours = [path for path in names if f"/{NAME}/" in path]
    assert not any(path.endswith((".pkl", ".bin", ".pt")) for path in ours)
    metadata = next(path for path in names if path.endswith("METADATA"))
    assert "Requires-Dist: spacy-early-exit" in zipfile.ZipFile(wheel).read(metadata).decode()


@pytest.mark.slow
def test_the_package_loads_in_an_environment_of_its_own(work, tmp_path):
    (wheel,) = make_package(work)
    run("-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    constraints = ["-c", ROOT / "constraints.txt"]
    run("-m", "pip", "install", "-q", *constraints, "torch", python=python)
    run("-m", "pip", "install", "-q", *constraints, ROOT, wheel, python=python)
    script = "import spacy; print(spacy.load('en_small')('Ann Lee lives in New York.').ents)"
    output = run("-c", script, python=python, cwd=tmp_path)
    assert "Ann Lee" in output
    assert sys.executable != str(python)
