"""The project's scripts and configs, and the way from text to a pipeline."""

import hashlib
import json
import sys

import pytest
import spacy
import srsly
import yaml
from spacy.tokens import DocBin
from spacy.util import load_config

from .commands import run
from .factories import ROOT, answers, write_corpus

sys.path.insert(0, str(ROOT / "scripts"))

import cut_tune
import download_wnut17


def test_tune_is_cut_from_sentences_that_occur_nowhere_else():
    train = ["a\tO", "b\tO", "b\tO", "c\tO", "d\tB-X", "e\tO", "f\tO"]
    for seed in range(20):
        rest, tune = cut_tune.cut(train, ["c\tO"], share=0.3, seed=seed)
        assert len(tune) == 2 and not {"b\tO", "c\tO"} & set(tune)
        assert sorted(rest + tune) == sorted(train)
        assert cut_tune.cut(train, ["c\tO"], share=0.3, seed=seed) == (rest, tune)


def test_a_corpus_that_cannot_be_cut_or_read_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="only 0 of the 2"):
        cut_tune.cut(["a\tO", "a\tO"], [], share=0.5, seed=0)
    (tmp_path / "train.tsv").write_text("a O\n")
    with pytest.raises(SystemExit, match="line 1"):
        cut_tune.read_sentences(tmp_path / "train.tsv")
    (tmp_path / "train.tsv").write_text("a\tO\nb\tU-PER\n")
    with pytest.raises(SystemExit, match="line 2: not O, B-LABEL or I-LABEL"):
        cut_tune.read_sentences(tmp_path / "train.tsv")
    (tmp_path / "train.tsv").write_text("\n\n")
    with pytest.raises(SystemExit, match="no sentences"):
        cut_tune.read_sentences(tmp_path / "train.tsv")
    assert "has no train.tsv" in run(
        ROOT / "scripts" / "cut_tune.py", tmp_path / "nothing", tmp_path, ok=False
    )


def test_the_published_corpus_is_checked_by_its_content(data):
    for part, (_, expected, digest) in download_wnut17.FILES.items():
        text = (data / "wnut17" / f"{part}.tsv").read_text(encoding="utf8")
        cleaned = download_wnut17.clean(text.replace("\n\n", "\n\t\n"))
        assert download_wnut17.counts(cleaned) == expected
        assert hashlib.sha256(cleaned.encode("utf8")).hexdigest() == digest


def test_the_config_is_complete(tmp_path):
    config = load_config(ROOT / "configs" / "joint.cfg", interpolate=False)
    nlp = spacy.util.load_model_from_config(config, auto_fill=True, validate=True)
    assert nlp.pipe_names == ["early_exit_ner"]
    filled = tmp_path / "filled.cfg"
    run("-m", "spacy", "init", "fill-config", ROOT / "configs" / "joint.cfg", filled)
    settings = load_config(filled, interpolate=False)["components"]["early_exit_ner"]
    ours = config["components"]["early_exit_ner"]
    assert set(settings) - set(ours) <= {"scorer"}


@pytest.mark.parametrize("stage", ["joint", "self_sampling"])
def test_a_tagger_is_chosen_by_the_accuracy_of_what_it_sets(stage, tmp_path):
    nlp = spacy.blank("en")
    DocBin(docs=[nlp("Ann lives in Oslo.")]).to_disk(tmp_path / "train.spacy")
    for attribute, other in (("tag", "pos"), ("pos", "tag")):
        run(
            "scripts/create_config.py", f"configs/{stage}.cfg", tmp_path / "train.spacy",
            tmp_path / "made.cfg", "--epochs", 1, "--task", "tagger", "--attribute", attribute,
        )  # fmt: skip
        config = load_config(tmp_path / "made.cfg", interpolate=False)
        assert config["components"]["early_exit_tagger"]["attribute"] == attribute
        made = spacy.util.load_model_from_config(config, auto_fill=True)
        for weights in (config["training"], made.config["training"]):  # spaCy adds the factory's
            expected = {f"{attribute}_acc": 1.0, f"{other}_acc": None, "exit_cost": 0.0}
            assert weights["score_weights"] == expected


def convert(folder, text, *options, ok=True):
    """What the script makes of a file, or says of it."""
    (folder / "made.tsv").write_text(text, encoding="utf8")
    files = [folder / "made.tsv", folder / "made.spacy"]
    output = run("scripts/convert.py", *files, *options, ok=ok)
    if not ok:
        assert "Traceback" not in output
        return " ".join(output.split())
    return list(DocBin().from_disk(folder / "made.spacy").get_docs(spacy.blank("en").vocab))


def test_words_without_a_tag_do_not_change_what_the_others_have(tmp_path):
    text = "Ann\tPROPN\nran\t_\n\nOslo\tPROPN\n"
    for attribute in ("tag", "pos"):
        docs = convert(tmp_path, text, "--task", "tagger", "--attribute", attribute)
        for name in ("tag_", "pos_"):
            found = [[getattr(token, name) for token in doc] for doc in docs]
            assert found == [["PROPN", ""], ["PROPN"]]


def test_pos_takes_parts_of_speech_alone(tmp_path):
    text = "Ann\tPROPN\n\nsaw\tVERB\nhim\tPRP\n"
    (_, doc) = convert(tmp_path, text, "--task", "tagger")
    assert [token.tag_ for token in doc] == ["VERB", "PRP"] and not doc.has_annotation("POS")
    said = convert(tmp_path, text, "--task", "tagger", "--attribute", "pos", ok=False)
    assert "made.tsv, sentence 2: 'PRP', the tag of 'him', is no part of speech" in said


@pytest.mark.parametrize(
    "tags, message",
    [
        ("SE", "E of 'd' can't be behind S, in 'cd', SE"),
        ("MS", "M of 'c' can't be at the beginning, in 'cd', MS"),
        ("BB", "B of 'd' can't be behind B, in 'cd', BB"),
        ("BMS", "S of 'e' can't be behind M, in 'cde', BMS"),
        ("SB", "the last word has no E, in 'cd', SB"),
        ("BEBM", "the last word has no E, in 'cdef', BEBM"),
    ],
)
def test_words_that_do_not_begin_and_end_are_refused(tags, message, tmp_path):
    lines = [f"{character}\t{tag}" for character, tag in zip("cdef", tags)]
    text = "\n".join(["a\tB", "b\tE", "", *lines])
    said = convert(tmp_path, text, "--task", "segmenter", ok=False)
    assert f"made.tsv, sentence 2: {message}." in said


def test_words_of_characters(tmp_path):
    text = "a\tB\nb\tM\nc\tM\nd\tE\ne\tS\nf\tB\ng\tE\n"
    (doc,) = convert(tmp_path, text, "--task", "segmenter")
    assert [token.text for token in doc] == ["abcd", "e", "fg"] and doc.text == "abcdefg"


def test_the_attribute_reaches_all_that_asks_for_it():
    project = yaml.safe_load((ROOT / "project.yml").read_text())
    scripts = {command["name"]: command["script"] for command in project["commands"]}
    asked = [line for lines in scripts.values() for line in lines if "${vars.task}" in line]
    made = [line for line in asked if "cut_tune" not in line]
    assert len(made) == 5 and all("--attribute ${vars.attribute}" in line for line in made)


def test_project_commands_and_workflows_agree():
    project = yaml.safe_load((ROOT / "project.yml").read_text())
    names = [command["name"] for command in project["commands"]]
    for steps in project["workflows"].values():
        assert set(steps) <= set(names)
    assert {"encoder", "convert", "evaluate", "package", "clean"} <= set(names)


def test_from_text_to_a_pipeline_through_spacys_own_commands(tmp_path, encoders):
    corpus = write_corpus(tmp_path / "data")
    run(ROOT / "scripts" / "cut_tune.py", corpus, tmp_path / "corpus")
    for part in ("train", "tune", "dev"):
        source = tmp_path / "corpus" / f"{part}.tsv"
        run("-m", "spacy", "convert", source, tmp_path / "corpus", "-c", "ner", "-n", "1")
    counts = {
        part: sum(1 for _ in DocBin().from_disk(tmp_path / "corpus" / f"{part}.spacy").tokens)
        for part in ("train", "tune", "dev")
    }
    few = tmp_path / "few"
    run(ROOT / "scripts" / "cut_tune.py", corpus, few, "--most", "20")
    parts = [cut_tune.read_sentences(few / f"{part}.tsv") for part in ("train", "tune")]
    everything = cut_tune.read_sentences(tmp_path / "corpus" / "train.tsv")
    assert len(parts[0]) == 20 and set(parts[0]) <= set(everything)
    assert parts[1] == cut_tune.read_sentences(tmp_path / "corpus" / "tune.tsv")
    assert counts == {"train": 36, "tune": 4, "dev": 10}
    first = []
    for stage in ("joint", "self_sampling", "reduction"):
        config = tmp_path / f"{stage}.cfg"
        run(
            ROOT / "scripts" / "create_config.py",
            ROOT / "configs" / f"{stage}.cfg",
            tmp_path / "corpus" / "train.spacy",
            config,
            "--epochs",
            "2",
        )
        output = run(
            "-m",
            "spacy",
            "train",
            config,
            "--output",
            tmp_path / stage,
            "--paths.train",
            tmp_path / "corpus" / "train.spacy",
            "--paths.dev",
            tmp_path / "corpus" / "tune.spacy",
            "--paths.encoder",
            encoders["bert"],
            "--training.accumulate_gradient",
            "2",
            *first,
        )
        first = ["--paths.first_stage", tmp_path / "joint" / "model-best"]
    assert "EXIT_COST" in output
    final, trained = tmp_path / "final", tmp_path / "self_sampling" / "model-best"
    tune = tmp_path / "corpus" / "tune.spacy"
    run("-m", "spacy", "early-exit", "calibrate", trained, tune, "-o", final, "-s", "1.2,50")
    metrics = tmp_path / "dev.json"
    dev = tmp_path / "corpus" / "dev.spacy"
    run("-m", "spacy", "evaluate", final, dev, "--output", metrics, "--per-component")
    scores = srsly.read_json(metrics)["early_exit_ner"]
    assert 0 < scores["exit_cost"] <= 1.2 and "ents_f" in scores
    table = tmp_path / "table.json"
    run(
        ROOT / "benchmarks" / "thresholds.py",
        final,
        tmp_path / "corpus" / "dev.spacy",
        "--thresholds",
        "0,1",
        "--rounds",
        "1",
        "--output",
        table,
    )
    rows = json.loads(table.read_text())
    assert rows[0]["mac_speedup"] == 1.0 < rows[1]["mac_speedup"]


def assert_same_alone_and_in_batches(model, corpus):
    config = {"components": {"early_exit_ner": {"store_exits": True}}}
    nlp = spacy.load(model, config=config)
    texts = [cut_tune.words_of(sentence) for sentence in cut_tune.read_sentences(corpus)][:300]
    for threshold in (0, 0.1, 0.3):
        cfg = {"early_exit_ner": {"threshold": threshold}}
        alone = [answers(nlp(text, component_cfg=cfg)) for text in texts]
        backwards = [answers(doc) for doc in nlp.pipe(texts[::-1], component_cfg=cfg)]
        differences = sum(a != b for a, b in zip(alone, backwards[::-1]))
        print(f"threshold {threshold}: {differences} of {len(texts)} texts differ")
        assert differences <= 1  # for a tie: an uncertainty within 1e-5 of the threshold


@pytest.mark.slow
def test_the_whole_project_on_a_real_corpus(tmp_path, data, minilm):
    import shutil

    for name in ("project.yml", "scripts", "configs", "benchmarks"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    variables = ["--vars.corpus", data / "wnut17", "--vars.encoder", minilm]
    run("-m", "spacy", "project", "run", "train", tmp_path, *variables, cwd=tmp_path)
    run("-m", "spacy", "project", "run", "evaluate", tmp_path, *variables, cwd=tmp_path)
    full, *early = srsly.read_json(tmp_path / "metrics" / "speedups.json")["speedups"]
    assert full["ents_f"] >= 0.50 and full["mac_speedup"] == 1.0
    kept = [row["ents_f"] / full["ents_f"] for row in early if row["mac_speedup"] >= 2.2]
    assert kept and max(kept) >= 0.97
    assert srsly.read_json(tmp_path / "metrics" / "dev.json")["speed"] > 0
    assert_same_alone_and_in_batches(tmp_path / "training" / "final", data / "wnut17" / "dev.tsv")
    run("-m", "spacy", "project", "run", "package", tmp_path, *variables, cwd=tmp_path)
    assert list((tmp_path / "packages").glob("*/dist/*.whl"))
