"""Jobs on this machine, and what all engines share."""

import pickle
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra [parquet]")
import pyarrow.parquet as pq  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from spacy_early_exit.cli import early_exit as commands  # noqa: E402
from spacy_early_exit.corpora import CorpusError  # noqa: E402
from spacy_early_exit.scale import job as jobs  # noqa: E402
from spacy_early_exit.scale import tagger as taggers  # noqa: E402
from spacy_early_exit.scale.job import Job, Plan, make_plan  # noqa: E402
from spacy_early_exit.scale.local import Local  # noqa: E402
from spacy_early_exit.scale.parts import Columns  # noqa: E402
from spacy_early_exit.scale.table import SCHEMA, whole_file  # noqa: E402
from spacy_early_exit.scale.tagger import Setting, Tagger, Task, tagger  # noqa: E402
from tests.makers.project import ROOT  # noqa: E402
from tests.scale import runs  # noqa: E402


def tag(*words, ok=True):
    """Run the command in this process."""
    found = CliRunner().invoke(commands, ["tag", *map(str, words)])
    if not isinstance(found.exception, (SystemExit, type(None))):
        raise found.exception
    assert (found.exit_code == 0) == ok, found.output
    return " ".join(found.output.split())


@pytest.fixture
def job(work, tmp_path):
    setting = Setting(str(work / "model"), 2.0)
    return Job(work / "texts.txt", Task(setting, Columns(), tmp_path / "out"), size=20)


def run(job, plan=Plan(1, 1)):
    """Do a job in this process."""
    shown = []
    pipeline = tagger(job.task.setting, plan.cpus)
    progress, _ = jobs.run(job, Local(), plan, pipeline, lambda p: shown.append(p.sums["texts"]))
    return progress, shown


def test_a_job_has_the_rows_that_the_pipeline_gives(work, texts, tmp_path):
    output = tmp_path / "out"
    told = tag(
        work / "texts.txt", output, "-m", work / "model", "-s", "2", "-n", 20, "--workers", 1
    )
    assert runs.rows(output) == runs.expected(work, texts, 2.0)
    assert pq.read_schema(output / "part-000000.parquet").remove_metadata() == SCHEMA
    found = runs.metrics(output)
    assert found["texts"] == len(texts) and found["errors"] == 0 and found["asked"] == 2
    assert found["saved"] == pytest.approx(found["full"] / found["spent"])
    assert 0 < found["pipeline_share"] <= 1 and found["words_per_second"] > 0
    assert f"{len(texts):,} texts, {found['words']:,} words" in told
    assert "saved less than speedup = 2" in told and "--adaptive" in told  # not on these texts
    assert sorted(path.name for path in output.iterdir() if path.suffix != ".parquet") == [
        "_job.json",
        "_metrics.json",
    ]


def test_progress_is_shown_part_by_part(job, texts):
    _, shown = run(job)
    assert shown == [0, *range(20, len(texts), 20), len(texts)]


def test_a_job_goes_on_where_its_files_are_missing(job, work, texts):
    run(job)
    output = job.task.folder
    whole = runs.rows(output)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    gone = output / "part-000002.parquet"
    gone.unlink()
    (output / "_temporary").mkdir()
    (output / "_temporary" / "x.parquet").write_bytes(b"half")
    progress, shown = run(job)
    assert runs.rows(output) == whole
    now = {path: path.stat().st_mtime_ns for path in kept}
    assert [path for path in kept if now[path] != kept[path]] == [gone]
    assert shown == [len(texts) - 20, len(texts)]
    assert progress.before["texts"] == len(texts) - 20 and progress.saved > 1
    assert not (output / "_temporary").exists()


def test_only_the_same_job_goes_on(job, work, tmp_path):
    run(job)
    output = job.task.folder
    same = [work / "texts.txt", output, "-m", work / "model", "-w", 1]
    assert "speedup 2.0, not 3.0" in tag(*same, "-s", 3, "-n", 20, ok=False)
    assert "texts per file 20, not 30" in tag(*same, "-s", 2, "-n", 30, ok=False)
    assert "adaptive False, not True" in tag(*same, "-s", 2, "-n", 20, "-a", ok=False)
    shutil.copy(work / "texts.txt", tmp_path / "more.txt")
    with (tmp_path / "more.txt").open("a") as file:
        file.write("\nOne more.")
    more = [tmp_path / "more.txt", *same[1:], "-s", 2, "-n", 20]
    assert "differ in: input." in tag(*more, ok=False)
    (output / "_job.json").unlink()
    assert "is not empty" in tag(*same, "-s", 2, "-n", 20, ok=False)


def test_a_damaged_file_of_the_output_is_an_error_that_names_it(job):
    run(job)
    (job.task.folder / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"part-000001\.parquet can't be read"):
        run(job)


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.parquet"):
        raise RuntimeError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    script = (
        "import os, pathlib, sys\n"
        "from spacy_early_exit.scale.table import Tagged, to_table, whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as writer:\n"
        "    writer.write_batch(to_table(['a'], [Tagged(1, [], 1, 1)]))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "a.parquet"]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert not (tmp_path / "a.parquet").exists()


def test_a_bad_document_is_a_row_with_its_error(work):
    worker = Tagger(Setting(str(work / "touchy"), 2.0, code=str(work / "code.py")))
    worker.nlp.max_length = 100
    found = worker.tag(["Ann Lee lives in New York.", "FAIL", None, "a" * 101, "", "\ud83d"])
    good = worker.tag(["Ann Lee lives in New York."])
    assert found[0] == good[0] and found[0].error is None and found[0].entities
    assert [one.entities for one in found[1:4]] == [None] * 3 and found[4].entities == []
    says = ["it says FAIL", "there is no text", "E088", None, "UnicodeEncodeError"]
    assert all(part is None or part in one.error for part, one in zip(says, found[1:], strict=True))


def test_a_component_that_fails_for_a_batch_costs_only_the_bad_text_its_row(work, monkeypatch):
    worker = Tagger(Setting(str(work / "model"), 2.0))

    def pipe(stream, **others):
        docs = list(stream)
        if any("FAIL" in doc.text for doc in docs):
            raise ValueError("the batch fails")
        yield from docs

    monkeypatch.setattr(worker.pipe, "pipe", pipe)
    monkeypatch.setattr(worker, "_row", lambda doc: taggers.Tagged(len(doc), [], 1, 1))
    found = worker.tag(["Ann", "FAIL", "Bob"])
    assert [one.error for one in found] == [None, "ValueError: the batch fails", None]


def test_errors_are_counted_and_told(work, tmp_path):
    (tmp_path / "in.txt").write_text("Ann Lee.\nFAIL\nBob.", encoding="utf8")
    told = tag(
        *[tmp_path / "in.txt", tmp_path / "out", "-m", work / "touchy", "-s", 1],
        *["--code", work / "code.py", "-w", 1],
    )
    assert "1 texts have an error in their row" in told
    assert [row["error"] for row in runs.rows(tmp_path / "out")] == [
        None,
        "ValueError: it says FAIL",
        None,
    ]


def test_a_bad_file_is_named_and_the_others_are_done(work, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b", "c"):
        table = pa.table({"text": ["Ann Lee lives in New York."] * 200})
        pq.write_table(table, source / f"{name}.parquet")
    whole = (source / "b.parquet").read_bytes()
    (source / "b.parquet").write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])  # not its footer
    words = [source, output, "-m", work / "model", "-s", 1, "-w", 1]
    told = tag(*words, ok=False)
    assert "1 parts could not be done" in told and "b.parquet can't be read" in told
    names = sorted(path.name for path in output.glob("*.parquet"))
    assert names == ["part-000000.parquet", "part-000002.parquet"]
    assert runs.metrics(output)["texts"] == 400
    (source / "b.parquet").write_bytes(whole)  # mended
    tag(*words)
    assert len(runs.rows(output)) == 600
    (source / "a.parquet").write_bytes(whole)
    assert "a.parquet has changed since" in tag(*words, ok=False)


def test_the_pipeline_is_loaded_once_and_does_not_travel_with_tasks(job, monkeypatch):
    loads = []
    load = taggers.load_model
    monkeypatch.setattr(taggers, "load_model", lambda name: loads.append(name) or load(name))
    tagger.cache_clear()
    run(job)
    assert loads == [job.task.setting.model]
    assert len(pickle.dumps(job.task)) < 1000


def test_a_worker_has_as_many_threads_as_processors(work):
    try:
        worker = Tagger(Setting(str(work / "model")), threads=3)
        assert worker.pipe.settings.threads == 3 and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "nodes, workers, cpus, plan",
    [
        ([2], None, None, Plan(1, 2)),
        ([2], 2, None, Plan(2, 1)),
        ([16], None, None, Plan(4, 4)),
        ([16, 3], None, None, Plan(4, 4)),
        ([16], 5, None, Plan(5, 3)),
        ([3, 3], None, 2, Plan(2, 2)),
        ([1], None, None, Plan(1, 1)),
    ],
)
def test_processors_are_divided_among_workers(nodes, workers, cpus, plan):
    assert make_plan(nodes, workers, cpus) == plan


@pytest.mark.parametrize("nodes, workers, cpus", [([2], 3, None), ([2, 2], 1, 3), ([], None, None)])
def test_a_plan_without_room_is_refused(nodes, workers, cpus):
    with pytest.raises(ValueError, match="no room for"):
        make_plan(nodes, workers, cpus)


def test_faulty_arguments_are_refused_before_anything_is_written(work, tmp_path):
    words = [work / "texts.txt", tmp_path / "out", "-m", work / "model"]
    assert "local, ray or spark" in tag(*words, "-e", "dask", ok=False)
    assert "out of reach" in tag(*words, "-s", 90, "-w", 1, ok=False)
    assert "--adaptive needs a speedup" in tag(*words, "-a", "-w", 1, ok=False)
    assert "no room for" in tag(*words, "-w", 1000, ok=False)
    assert "no file" in tag(*words, "--code", tmp_path / "no.py", ok=False)
    assert "Can't run" in tag(*words[:3], tmp_path / "no", "-w", 1, ok=False)
    assert "Name one of them" in tag(*words, "-c", "ner", "-w", 1, ok=False)
    assert "no file or folder" in tag(tmp_path / "no.txt", *words[1:], "-w", 1, ok=False)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_without_pyarrow_the_error_names_the_extra():
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "try:\n    import spacy_early_exit.scale.tagger\n"
        "except ImportError as e:\n    print(e)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert "spacy-early-exit[parquet]" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--adaptive"]])
def test_processes_give_the_same_rows_as_one(more, work, texts, tmp_path):
    words = runs.arguments(work, tmp_path / "out", "-s", 2, "-w", 2, "-t", 1, *more)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    found = runs.rows(tmp_path / "out")
    if more:
        assert [row["id"] for row in found] == [f"texts.txt:{n + 1}" for n in range(len(texts))]
    else:
        assert found == runs.expected(work, texts, 2.0)


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(work, tmp_path):
    (work / "died").unlink(missing_ok=True)
    (tmp_path / "in.txt").write_text("\n".join(["Ann Lee.", "DIE", *["Bob."] * 58]))
    words = [tmp_path / "in.txt", tmp_path / "out", "-m", work / "touchy", "-s", 1, "-n", 20]
    words += ["--code", work / "code.py", "-w", 2, "-t", 1]
    subprocess.run(
        [sys.executable, "-m", "spacy", "early-exit", "tag", *map(str, words)], cwd=ROOT, check=True
    )
    assert (work / "died").exists()
    found = runs.rows(tmp_path / "out")
    assert len(found) == 60 and not any(row["error"] for row in found)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_is_killed_goes_on(workers, work, texts, tmp_path):
    output = tmp_path / "out"
    words = runs.arguments(work, output, "-s", 2, "-w", workers, "-t", 1, "-n", 5)
    runs.kill_midway(words, output)
    left = len(list(output.glob("*.parquet")))
    assert 1 <= left < len(texts) / 5
    time.sleep(3)  # its workers, if any, end by themselves
    assert str(output) not in subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    assert runs.rows(output) == runs.expected(work, texts, 2.0)
    assert runs.metrics(output)["texts_of_earlier_runs"] >= left * 5
