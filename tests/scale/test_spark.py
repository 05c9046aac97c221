"""Jobs on Spark, on this machine."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra [parquet]")
pytest.importorskip("pyspark", reason="Spark is not installed: extra [spark]")
if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
    pytest.skip("no Java: apt-get install openjdk-17-jre-headless", allow_module_level=True)

import pyarrow as pa
import pyarrow.parquet as pq

from spacy_early_exit.scale.spark import tag_partitions
from spacy_early_exit.scale.table import SCHEMA, SPARK_SCHEMA
from tests.makers.project import ROOT
from tests.scale import runs

pytestmark = pytest.mark.slow  # to start Spark takes longer than a quick test may


@pytest.fixture(scope="module")
def spark():
    """Spark with two processors."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = SparkSession.builder.master("local[2]").getOrCreate()
    yield session
    session.stop()


def tag(*words):
    subprocess.run([sys.executable, *map(str, words), "--engine", "spark"], cwd=ROOT, check=True)


def test_a_job_has_the_rows_of_the_pipeline(work, texts, tmp_path):
    tag(*runs.arguments(work, tmp_path / "out", "-s", 2))
    assert runs.rows(tmp_path / "out") == runs.expected(work, texts, 2.0)
    assert runs.metrics(tmp_path / "out")["cpus"] == 1


def test_jobs_share_a_budget(work, texts, tmp_path):
    tag(*runs.arguments(work, tmp_path / "out", "-s", 1.3, "--adaptive", "-n", 10))
    found = runs.metrics(tmp_path / "out")
    assert found["adaptive"] and found["texts"] == len(texts)


def test_a_worker_that_is_killed_loses_nothing(work, tmp_path):
    (work / "died").unlink(missing_ok=True)
    (tmp_path / "in.txt").write_text("\n".join(["Ann Lee.", "DIE", *["Bob."] * 58]))
    words = [tmp_path / "in.txt", tmp_path / "out", "-m", work / "touchy", "-s", 1, "-n", 20]
    tag("-m", "spacy", "early-exit", "tag", *words, "--code", work / "code.py")
    assert (work / "died").exists()
    found = runs.rows(tmp_path / "out")
    assert len(found) == 60 and not any(row["error"] for row in found)


def test_a_job_that_is_killed_goes_on(work, texts, tmp_path):
    output = tmp_path / "out"
    words = runs.arguments(work, output, "-s", 2, "-n", 5, "--engine", "spark")
    runs.kill_midway(words, output)
    assert 1 <= len(list(output.glob("*.parquet"))) < len(texts) / 5
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    assert runs.rows(output) == runs.expected(work, texts, 2.0)


def test_a_frame_is_tagged_and_each_worker_loads_the_pipeline_once(work, texts, tmp_path, spark):
    loads = tmp_path / "loads"
    loads.mkdir()
    code = (
        f"import os, pathlib; pathlib.Path({str(loads)!r}, str(os.getpid())).open('a').write('x')"
    )
    (tmp_path / "code.py").write_text(code)
    table = pa.table({"id": [f"texts.txt:{n + 1}" for n in range(len(texts))], "text": texts})
    pq.write_table(table, tmp_path / "in.parquet")
    frame = spark.read.parquet(str(tmp_path / "in.parquet")).repartition(6)
    tag_them = tag_partitions(str(work / "model"), 2.0, code=str(tmp_path / "code.py"))
    assert len(pickle.dumps(tag_them)) < 1000
    tagged = frame.mapInArrow(tag_them, SPARK_SCHEMA)
    tagged.write.parquet(str(tmp_path / "out"))
    found = {row["id"]: row for row in runs.rows(tmp_path / "out")}
    assert [found[row["id"]] for row in runs.expected(work, texts, 2.0)] == runs.expected(
        work, texts, 2.0
    )
    assert {path.read_text() for path in loads.iterdir()} == {"x"}  # six tasks, two workers
    names = {field.name: field.dataType.simpleString() for field in tagged.schema}
    assert list(names) == SCHEMA.names
