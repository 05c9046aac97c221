"""The commands ``spacy early-exit``."""

import shutil

import pytest
import spacy
import srsly
from spacy.lang.en import English
from spacy.tokens import DocBin
from spacy.util import Config, load_model_from_config
from typer.testing import CliRunner

from spacy_early_exit.cli import early_exit as commands
from spacy_early_exit.cli.benchmark import named
from spacy_early_exit.measure import evaluate as clock
from tests.makers.commands import run
from tests.makers.pipelines import blank
from tests.makers.texts import SENTENCES, TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"


def ner_doc(ner, text):
    return English(ner.vocab).make_doc(text)


def early_exit(*arguments, ok=True):
    """Run a command in this process: to start one takes longer than most commands."""
    found = CliRunner().invoke(commands, [*map(str, arguments)])
    if not isinstance(found.exception, (SystemExit, type(None))):
        raise found.exception
    assert (found.exit_code == 0) == ok, found.output
    return found.output


@pytest.fixture(scope="module")
def work(tmp_path_factory, trained_bytes):
    folder = tmp_path_factory.mktemp("cli")
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    nlp.to_disk(folder / "model")
    docs = [example.reference for example in examples_of(nlp)]
    DocBin(docs=docs).to_disk(folder / "tune.spacy")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n\n", encoding="utf8")
    return folder


@pytest.fixture(scope="module")
def calibrated(work):
    arguments = ["--output", work / "calibrated", "--speedups", "1.5,2,40"]
    command = ["-m", "spacy", "early-exit", "calibrate"]  # as users start it
    output = run(*command, work / "model", work / "tune.spacy", *arguments)
    assert "ENTS_F" in output and "out of reach" in output
    return work / "calibrated"


def test_calibrate_saves_a_pipeline_with_its_curve(calibrated):
    ner = spacy.load(calibrated).get_pipe(NAME)
    assert ner.calibration.points[0].speedup == 1.0
    ner.speedup = 1.5
    assert ner.calibration.most >= 2


@pytest.mark.slow
def test_calibrate_says_what_speedups_lose(work):
    arguments = [work / "model", work / "tune.spacy", "-o", work / "kept", "-s", "1.5,2"]
    output = early_exit("calibrate", *arguments, "--min-f-kept", "1")
    assert "KEPT" in output.upper() and "100.0%" in output
    found = spacy.load(work / "kept").get_pipe(NAME).calibration
    assert found.min_kept == 1.0 and any(point.error is not None for point in found.points)
    early_exit("calibrate", *arguments, "--min-f-kept", "0")
    assert spacy.load(work / "kept").get_pipe(NAME).calibration.min_kept is None
    early_exit("calibrate", *arguments)
    assert spacy.load(work / "kept").get_pipe(NAME).calibration.min_kept == 0.985
    output = early_exit("calibrate", *arguments, "--min-f-kept", "98.5", ok=False)
    assert "from 0 to 1, not 98.5" in output


def test_calibrate_measures_speedups_on_more_texts(work):
    arguments = [work / "model", work / "tune.spacy", "-o", work / "more", "-s", "1.5"]
    early_exit("calibrate", *arguments)
    alone = spacy.load(work / "more").get_pipe(NAME).calibration
    early_exit("calibrate", *arguments, "--texts", work / "texts.txt")
    both = spacy.load(work / "more").get_pipe(NAME).calibration
    assert both.words == 2 * alone.words and both.points[0].score == alone.points[0].score


def test_calibrate_takes_plain_texts(work):
    output = work / "plain"
    early_exit(
        "calibrate", work / "model", work / "texts.txt", "-o", output, "-s", "1.5", "--unlabelled"
    )
    points = spacy.load(output).get_pipe(NAME).calibration.points
    assert len(points) >= 2 and all(point.score is None for point in points)


def test_calibrate_reads_the_texts_of_json_lines(work):
    srsly.write_jsonl(work / "texts.jsonl", [{"text": text, "meta": 1} for text in TEXTS])
    found = []
    for file in ("texts.txt", "texts.jsonl"):
        output = ["-o", work / "plain", "-s", "1.5", "-u"]
        early_exit("calibrate", work / "model", work / file, *output)
        found.append(spacy.load(work / "plain").get_pipe(NAME).calibration)
    assert found[0] == found[1] and found[0].words > 50


def write_fresh(path, count, words=None):
    texts = {" ".join(text.split()[:words]) for text in texts_of_all_lengths(count=count)}
    path.write_text("\n".join(sorted(texts - {""})), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def fresh(work):
    return write_fresh(work / "fresh.txt", 300)


@pytest.fixture(scope="module", params=[(60, 8), pytest.param((300, None), marks=pytest.mark.slow)])
def some_fresh(work, request):
    return write_fresh(work / "some.txt", *request.param)


def guarantee(work, *arguments, ok=True, model="model"):
    tune = ["calibrate", work / model, work / "tune.spacy", "-o", work / "safe", "-s", "1.5,2"]
    return early_exit(*tune, *arguments, ok=ok)


@pytest.mark.slow
def test_calibrate_scales_heads_first_if_asked_to(work):
    nlp = spacy.load(work / "model")
    # Every text a second time without its entities: no head can be sure of it.
    doubtful = [*examples_of(nlp), *examples_of(nlp, [(text, []) for text in TEXTS])]
    DocBin(docs=[eg.reference for eg in doubtful]).to_disk(work / "half.spacy")
    arguments = [work / "model", work / "half.spacy", "-o", work / "scaled", "-s", "1.5"]
    output = early_exit("calibrate", *arguments, "--temperature")
    assert "Temperatures, by layer" in output and "as before" in output
    before, after = (spacy.load(work / m).get_pipe(NAME) for m in ("model", "scaled"))
    assert before.fingerprint()["weights"] != after.fingerprint()["weights"]
    kept = after.threshold
    assert before.threshold != kept > 0
    savings = []
    for ner in (before, after):
        docs = list(ner.pipe([ner_doc(ner, text) for text in TEXTS]))
        records = [doc._.early_exit[NAME] for doc in docs]
        savings.append(sum(r.full for r in records) / sum(r.spent for r in records))
    assert savings[1] == pytest.approx(savings[0], rel=0.15), "the threshold went along"
    after.speedup = 1.5  # the calibration is of the scaled heads
    arguments[1] = work / "texts.txt"
    output = early_exit("calibrate", *arguments, "--temperature", "--unlabelled", ok=False)
    assert "needs annotated texts" in output


def test_calibrate_with_a_guarantee_sets_the_threshold(work, some_fresh):
    output = guarantee(
        work, "--max-disagreement", "0.1", "--held-out", some_fresh, "--confidence", "0.9"
    )
    words = " ".join(output.split())
    assert "passed" in words and "with confidence 0.9" in words
    loaded = spacy.load(work / "safe").get_pipe(NAME)
    assert loaded.threshold > 0 and f"At threshold {loaded.threshold:.4f}" in words
    assert loaded.calibration is not None


def test_texts_that_are_held_out_are_not_calibrated_on(work, some_fresh):
    apart = [" ".join(text.split()) for text in TEXTS[:3]]  # other white space, and no more
    mixed = work / "mixed.txt"
    mixed.write_text("\n".join([*apart, some_fresh.read_text(encoding="utf8")]), encoding="utf8")
    output = guarantee(
        work, "--max-disagreement", "0.3", "--held-out", mixed, "--confidence", "0.9"
    )
    words = " ".join(output.split())
    assert "3 texts are also in --held-out" in words and "passed" in words


def test_where_nothing_can_be_guaranteed_full_depth_remains(work, fresh):
    nlp = spacy.load(work / "model")
    first = nlp.get_pipe(NAME).model.shims[0].trained.network.head(1)
    for parameter in first.parameters():  # says the opposite, and is sure of it
        parameter.data = -30 * parameter.data
    nlp.get_pipe(NAME).model.shims[0].weights_changed()
    nlp.to_disk(work / "wrong")
    bound = ["--max-disagreement", "0.003", "--held-out", fresh, "--confidence", "0.5"]
    output = guarantee(work, *bound, model="wrong")
    assert "failed" in output and "at any setting below full depth" in " ".join(output.split())
    assert spacy.load(work / "safe").get_pipe(NAME).threshold == 0


@pytest.mark.parametrize(
    "held_out, bound, message",
    [
        ("few.txt", "0.02", "takes 149"),
        (None, "0.1", "go together"),
        ("few.txt", "2", "between 0 and 1"),
    ],
)
def test_a_guarantee_that_cannot_be_is_refused_before_anything_runs(work, held_out, bound, message):
    (work / "few.txt").write_text("One two.\nThree four.\n", encoding="utf8")
    held_out = [] if held_out is None else ["--held-out", work / held_out]
    output = guarantee(work, "--max-disagreement", bound, *held_out, ok=False)
    assert message in " ".join(output.split()) and "Traceback" not in output


def test_evaluate_measures_speedups(calibrated, work):
    metrics = work / "metrics.json"
    output = early_exit(
        "evaluate",
        calibrated,
        work / "tune.spacy",
        "--speedups",
        "1,1.5,2",
        "--output",
        metrics,
        "--rounds",
        "2",
    )
    assert "agreement" in output
    rows = srsly.read_json(metrics)["speedups"]
    assert [row["speedup"] for row in rows] == [1, 1.5, 2]
    full, *early = rows
    assert full["mac_speedup"] == 1.0 == full["agreement"] and full["mean_exit_layer"] == 4.0
    for row in early:
        # Ten sentences leave in jumps.
        assert 0.85 < row["mac_speedup"] / row["speedup"] < 1.35
        assert row["mean_exit_layer"] < 4 and row["agreement"] <= 1.0
        assert row["words_per_second_min"] <= row["words_per_second"] <= row["words_per_second_max"]
    assert {"ents_p", "ents_r", "ents_f"} <= set(full)


def test_the_clock_runs_in_turns_and_the_median_counts(calibrated, work, monkeypatch):
    nlp = spacy.load(calibrated)
    now, turns = [0.0], []
    seconds = iter([10, 20, 1, 2, 30, 60])  # a slow start, a fast round, and a slow one

    def pipe(texts, component_cfg):
        turns.append(component_cfg[NAME]["speedup"])
        now[0] += next(seconds)
        return iter(())

    monkeypatch.setattr(nlp, "pipe", pipe)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    ner = nlp.get_pipe(NAME)
    rows = clock.evaluate(nlp, ner, examples_of(nlp), [1.0, 1.5], rounds=3)
    assert turns == [1.0, 1.5] * 3
    words = sum(len(nlp.make_doc(text)) for text in TEXTS)
    speeds = [[row[f"words_per_second{part}"] for part in ("", "_min", "_max")] for row in rows]
    assert speeds[0] == pytest.approx([words / 10, words / 30, words / 1])
    assert speeds[1] == pytest.approx([words / 20, words / 60, words / 2])


def test_evaluate_measures_thresholds_of_what_is_not_calibrated(work):
    metrics = work / "thresholds.json"
    arguments = ["--thresholds", "0.3,0,1", "--output", metrics, "--rounds", "1"]
    output = early_exit("evaluate", work / "model", work / "tune.spacy", *arguments)
    assert "threshold" in output and "wall_speedup" in output
    full, *early = srsly.read_json(metrics)["thresholds"]
    assert [row["threshold"] for row in early] == pytest.approx([0.3, 1.0])
    assert full["threshold"] == 0.0
    assert full["mac_speedup"] == full["wall_speedup"] == full["agreement"] == 1.0
    assert 1.0 < early[0]["mac_speedup"] <= early[1]["mac_speedup"]
    assert early[1]["mean_exit_layer"] == 1.0 and early[1]["wall_speedup"] > 0


def test_speedups_on_the_clock_are_beside_full_depth_even_where_nobody_asked_for_it(
    calibrated, monkeypatch
):
    nlp = spacy.load(calibrated)
    now, turns = [0.0], []
    seconds = iter([10, 5, 20, 12, 8, 16])

    def pipe(texts, component_cfg):
        turns.append(component_cfg[NAME]["threshold"])
        now[0] += next(seconds)
        return iter(())

    monkeypatch.setattr(nlp, "pipe", pipe)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    ner = nlp.get_pipe(NAME)
    rows = clock.evaluate(nlp, ner, examples_of(nlp), [0.1, 0.2], by="threshold", rounds=2)
    assert turns == [0.1, 0.2, 0.0] * 2 and len(rows) == 2
    assert [row["wall_speedup"] for row in rows] == pytest.approx([(2 + 16 / 12) / 2, (4 + 2) / 2])


@pytest.fixture(scope="module")
def exported(work):
    """The texts of tune.spacy as an annotation tool exports them, and some that are no use."""
    lines = [
        {"text": text, "spans": [{"start": a, "end": b, "label": name} for a, b, name in spans]}
        for text, spans in SENTENCES
    ]
    lines.append({"text": "Ann Lee lives in Oslo.", "spans": [], "answer": "reject"})
    srsly.write_jsonl(work / "tune.jsonl", lines)
    return work / "tune.jsonl"


def test_annotated_json_lines_measure_the_same(calibrated, work, exported):
    found = []
    for file in ("tune.spacy", exported.name):
        arguments = ["-s", "1,1.5", "-r", "0", "-o", work / "found.json"]
        output = early_exit("evaluate", calibrated, work / file, *arguments)
        found.append(srsly.read_json(work / "found.json"))
    assert found[0] == found[1] and found[0]["speedups"][0]["ents_f"] > 0.5
    said = " ".join(output.split())
    assert "tune.jsonl: 1 of 11 texts has the answer" in said and "in line 11." in said


def test_annotated_json_lines_calibrate_the_same(work, exported):
    found = []
    for file in ("tune.spacy", exported.name):
        early_exit("calibrate", work / "model", work / file, "-o", work / "again", "-s", "1.5")
        found.append(spacy.load(work / "again").get_pipe(NAME).calibration)
    assert found[0] == found[1] and found[0].points[0].score > 0.5


def test_annotated_json_lines_are_reported_on(calibrated, work, exported):
    output = early_exit("report", calibrated, exported, "-o", work / "r.html", "-r", "0", "-s", "1")
    assert "is left out" in " ".join(output.split())
    assert "Ann" in (work / "r.html").read_text(encoding="utf8")


@pytest.mark.slow
def test_a_benchmark_leaves_out_words_without_annotation(quick_starts, calibrated, work, tmp_path):
    # The pipeline finds Ann Lee, of whom the annotation has but a part.
    spans = [[0, 6, "PER"], [17, 25, "LOC"]]
    srsly.write_jsonl(work / "odd.jsonl", [{"text": SENTENCES[0][0], "label": spans}])
    arguments = ["-s", "1", "-r", "1", "-t", "1", "-o", tmp_path / "bench.json"]
    output = early_exit("benchmark", calibrated, work / "odd.jsonl", *arguments)
    assert "1 of 2 entities does not align" in " ".join(output.split())
    (found,) = srsly.read_json(tmp_path / "bench.json")["contenders"].values()
    assert found["ents_f"] == 1.0


@pytest.mark.parametrize(
    "given, expected",
    [
        ("other=training/final", ("other", "training/final")),
        ("other=runs/lr=5e-3/best", ("other", "runs/lr=5e-3/best")),
        ("my model=x", ("my model", "x")),
        ("runs/lr=5e-3/best", (None, "runs/lr=5e-3/best")),
        ("./lr=5e-3", (None, "./lr=5e-3")),
        ("C:\\runs\\lr=5e-3", (None, "C:\\runs\\lr=5e-3")),
        ("=x", (None, "=x")),
        ("training/final", (None, "training/final")),
    ],
)
def test_a_name_ends_at_the_first_sign_and_is_no_path(given, expected):
    assert named(given) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "model", "tune.spacy"], "not calibrated"),
        (["evaluate", "model", "nowhere.spacy"], "no file"),
        (["evaluate", "model", "tune.spacy", "-s", "0.5,2"], "at least 1"),
        (["evaluate", "model", "tune.spacy", "-s", "fast"], "at least 1"),
        (["evaluate", "model", "model/meta.json"], "meta.json is no list of tasks"),
        (["evaluate", "model", "tune.spacy", "-c", "ner"], "It has: early_exit_ner"),
        (["evaluate", "model", "tune.spacy", "-s", ""], "at least 1"),
        (["evaluate", "nowhere", "tune.spacy"], "Can't load the pipeline"),
        (["evaluate", "model", "tune.spacy", "-t", "0,1.1"], "from 0 to 1"),
        (["evaluate", "model", "tune.spacy", "-t", "nan"], "from 0 to 1"),
        (["evaluate", "model", "tune.spacy", "-t", "0,,1"], "from 0 to 1"),
        (["evaluate", "calibrated", "tune.spacy", "-t", "0", "-s", "2"], "not both"),
        (
            ["evaluate", "calibrated", "tune.spacy", "-s", "1,1.2,90"],
            "speedup = 90 is out of reach",
        ),
        (["evaluate", "calibrated", "spaces.spacy"], "the texts have no words"),
        (["evaluate", "calibrated", "tune.spacy", "-o", "model"], "must be a file"),
        (["report", "calibrated", "tune.spacy", "-o", "model"], "must be a file"),
        (["calibrate", "model", "nowhere.txt", "-u", "-o", "x"], "no file"),
        (["calibrate", "model", "spaces.spacy", "-o", "x"], "the texts have no words"),
        (["calibrate", "model", "tune.spacy", "-o", "texts.txt"], "must be a folder"),
        (["calibrate", "model", "tune.spacy", "-o", "texts.txt/x"], "texts.txt is a file"),
        (["calibrate", "model", "broken.jsonl", "-u", "-o", "x"], "line 3: expected {"),
    ],
)
def test_what_is_wrong_is_said(work, calibrated, arguments, message):
    nlp = spacy.blank("en")
    DocBin(docs=[nlp.make_doc(" "), nlp.make_doc("")]).to_disk(work / "spaces.spacy")
    (work / "broken.jsonl").write_text('{"text": "Ann"}\n\n{"txt": "Bob"}\n', encoding="utf8")
    files = {"model", "calibrated", "nowhere", "tune.spacy", "nowhere.spacy", "nowhere.txt", "x"}
    files |= {"model/meta.json", "spaces.spacy", "texts.txt", "texts.txt/x", "broken.jsonl"}
    arguments = [work / argument if argument in files else argument for argument in arguments]
    output = early_exit(*arguments, ok=False)
    assert message in " ".join(output.split()) and "Traceback" not in output


def test_untrained_pipelines_are_refused(work, encoders):
    blank(encoders["bert"]).to_disk(work / "untrained")
    output = early_exit("evaluate", work / "untrained", work / "tune.spacy", ok=False)
    assert "no weights yet" in output


def test_benchmark(quick_starts, calibrated, work, tmp_path):
    (tmp_path / "size=0").mkdir()
    spacy.blank("en").to_disk(tmp_path / "size=0" / "blank")
    output = tmp_path / "results" / "bench.json"
    model = shutil.copytree(calibrated, tmp_path / "lr=5e-3" / "calibrated")
    arguments = ["benchmark", model, work / "tune.spacy", "--speedups", "1"]
    arguments += ["--beside", f"nothing={tmp_path / 'size=0' / 'blank'}", "--batch-sizes", "16"]
    arguments += ["--threads", "1", "--output", output]
    printed = early_exit(*arguments, "--rounds", "1")
    found = srsly.read_json(output)
    names = ["calibrated, 1X", "nothing, batches of 16"]
    assert list(found["contenders"]) == names and all(name in printed for name in names)
    assert found["contenders"]["calibrated, 1X"]["ents_f"] > 0.9
    assert found["contenders"]["nothing, batches of 16"]["ents_f"] == 0.0
    assert found["about"]["threads"] == 1 and found["about"]["words"] > 50
    early_exit(*arguments, "--rounds", "2")
    again = srsly.read_json(output)["contenders"]
    for name in names:
        assert len(again[name]["seconds"]) == 2
        assert again[name]["seconds"][0] == found["contenders"][name]["seconds"][0]
    arguments[arguments.index("--threads") + 1] = "2"
    assert "threads changed" in " ".join(early_exit(*arguments, ok=False).split())
    arguments[arguments.index("--beside") + 1] = f"nothing={tmp_path / 'missing'}"
    assert "missing" in early_exit(*arguments, ok=False)
