"""Jobs on Ray, on this machine."""

import subprocess
import sys

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra [parquet]")
ray = pytest.importorskip("ray", reason="Ray is not installed: extra [ray]")
pytest.importorskip("ray.data", reason="Ray Data is not installed: extra [ray]")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from spacy_early_exit.scale.ray import pool, tag_batches  # noqa: E402
from spacy_early_exit.scale.table import SCHEMA  # noqa: E402
from tests.makers.project import ROOT  # noqa: E402
from tests.scale import runs  # noqa: E402

pytestmark = pytest.mark.slow  # to start Ray takes longer than a quick test may


@pytest.fixture(scope="module")
def cluster():
    """Ray with two processors, whatever the machine has."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def tag(*words):
    subprocess.run([sys.executable, *map(str, words), "--engine", "ray"], cwd=ROOT, check=True)


def test_a_job_on_all_processors_has_the_rows_of_the_pipeline(work, texts, tmp_path):
    tag(*runs.arguments(work, tmp_path / "out", "-s", 2, "-t", 1))
    assert runs.rows(tmp_path / "out") == runs.expected(work, texts, 2.0)
    assert runs.metrics(tmp_path / "out")["cpus"] == 1


def test_workers_share_a_budget(work, texts, tmp_path):
    tag(*runs.arguments(work, tmp_path / "out", "-s", 1.3, "-t", 1, "--adaptive", "-n", 10))
    found = runs.metrics(tmp_path / "out")
    assert found["adaptive"] and found["texts"] == len(texts)


def test_a_worker_that_is_killed_loses_nothing(work, tmp_path):
    (work / "died").unlink(missing_ok=True)
    (tmp_path / "in.txt").write_text("\n".join(["Ann Lee.", "DIE", *["Bob."] * 58]))
    words = [tmp_path / "in.txt", tmp_path / "out", "-m", work / "touchy", "-s", 1, "-n", 20]
    tag("-m", "spacy", "early-exit", "tag", *words, "--code", work / "code.py", "-t", 1)
    assert (work / "died").exists()
    found = runs.rows(tmp_path / "out")
    assert len(found) == 60 and not any(row["error"] for row in found)


def test_a_job_that_is_killed_goes_on(work, texts, tmp_path):
    output = tmp_path / "out"
    words = runs.arguments(work, output, "-s", 2, "-t", 1, "-n", 5, "--engine", "ray")
    runs.kill_midway(words, output)
    assert 1 <= len(list(output.glob("*.parquet"))) < len(texts) / 5
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    assert runs.rows(output) == runs.expected(work, texts, 2.0)


@pytest.mark.usefixtures("cluster")
def test_a_dataset_is_tagged_beside_what_reads_it(work, texts, tmp_path):
    """Two processors, of which actors alone could take both: then nothing would be read."""
    for number in range(4):
        some = texts[number::4]
        table = pa.table({"id": [f"{number}-{i}" for i in range(len(some))], "text": some})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    dataset = ray.data.read_parquet(str(tmp_path)).map_batches(
        tag_batches(str(work / "model"), 2.0), **pool()
    )
    found = {row["id"]: row for row in dataset.take_all()}
    assert pa.schema(dataset.schema().base_schema) == SCHEMA
    for number in range(4):
        for i, row in enumerate(runs.expected(work, texts[number::4], 2.0)):
            same = found[f"{number}-{i}"]
            assert (same["spent"], same["full"], same["error"]) == (row["spent"], row["full"], None)
            assert [e["text"] for e in same["entities"]] == [e["text"] for e in row["entities"]]


@pytest.mark.usefixtures("cluster")
def test_actors_without_room_for_reading_are_refused():
    assert pool()["concurrency"] == 1
    with pytest.raises(ValueError, match="no room for 2 workers of 1 CPUs"):
        pool(workers=2)
    with pytest.raises(ValueError, match="no room for 1 workers of 2 CPUs"):
        pool(cpus=2)


def test_no_pipeline_travels_with_the_tasks(work):
    assert len(ray.cloudpickle.dumps(tag_batches(str(work / "model"), 2.0))) < 5000
