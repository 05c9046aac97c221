"""Jobs as tests run them, and what is right."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import spacy

from tests.makers.project import ROOT

NAME = "early_exit_ner"


def arguments(work, output, *more, model="model"):
    """The words of ``spacy early-exit tag`` for the texts of the tests, in parts of 20."""
    given = [work / "texts.txt", output, "--model", work / model, "-n", 20, *more]
    return [str(word) for word in ("-m", "spacy", "early-exit", "tag", *given)]


def rows(output):
    """All rows of an output, in order, without confidences, whose last bits may differ."""
    found = []
    for path in sorted(output.glob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    for row in found:
        for entity in row["entities"] or ():
            assert 0 <= entity.pop("confidence") <= 1
    return found


def expected(work, texts, speedup=None, first="texts.txt:"):
    """The rows that ``nlp.pipe`` itself would make."""
    nlp = spacy.load(work / "model")
    call = {NAME: {"speedup": speedup}}
    made = []
    for number, doc in enumerate(nlp.pipe(texts, component_cfg=call), 1):
        record = doc._.early_exit[NAME]
        entities = [
            {"start": ent.start_char, "end": ent.end_char, "label": ent.label_, "text": ent.text}
            for ent in doc.ents
        ]
        row = {"id": f"{first}{number}", "entities": entities}
        made.append({**row, "spent": record.spent, "full": record.full, "error": None})
    return made


def metrics(output):
    return json.loads((output / "_metrics.json").read_text())


def start(command, **environment):
    """A command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_midway(command, output, files=1, seconds=120):
    """Start a job and kill it, alone, when some of its files are there."""
    job = start(command)
    for _ in range(seconds * 50):
        if len(list(output.glob("*.parquet"))) >= files:
            break
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    job.stdout.close()
