"""What a signal handler raises is no fault of a text."""

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import product

import pytest

from spacy_early_exit.runtime.attempts import attempt, stop_asked
from tests.makers.marks import rest_slow
from tests.makers.project import ROOT

NAME = "early_exit_ner"
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


class OutOfTime(Exception):
    """As task queues raise it: an ordinary exception."""


@pytest.fixture
def limit():
    """Sets a limit in seconds, whose handler raises."""

    def raise_it(number, frame):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, raise_it)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class TestAttempt:
    def test_it_has_the_result_or_what_was_raised(self):
        assert attempt(lambda: 3).result == 3 and attempt(lambda: 3).error is None
        assert isinstance(attempt(lambda: 1 / 0).error, ZeroDivisionError)

    def test_without_handlers_and_in_other_threads_it_is_done_here(self):
        assert attempt(threading.get_ident).result == threading.get_ident()

    def test_with_a_handler_it_is_done_elsewhere_in_the_same_context(self, limit):
        VARIABLE.set(7)
        assert attempt(threading.get_ident).result != threading.get_ident()
        assert attempt(VARIABLE.get).result == 7
        assert isinstance(attempt(lambda: 1 / 0).error, ZeroDivisionError)

    def test_what_a_handler_raises_is_raised_once_the_work_has_ended(self, limit):
        ended = []

        def work():
            stopped = stop_asked()
            while not stopped():
                time.sleep(0.01)
            ended.append(True)

        limit(0.1)
        with pytest.raises(OutOfTime):
            attempt(work)
        assert ended and attempt(lambda: 3).result == 3

    def test_where_no_thread_can_be_started_it_is_done_here_and_once(self, limit, monkeypatch):
        from spacy_early_exit.runtime import attempts

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        done = []
        monkeypatch.setattr(attempts, "_thread", None)
        with monkeypatch.context() as few:
            few.setattr(threading.Thread, "start", refuse)
            attempt(lambda: done.append(threading.get_ident()))
        attempt(lambda: None)  # whatever was left to be done is done by now
        assert done == [threading.get_ident()]

    def test_it_works_in_a_fork(self, limit):
        attempt(lambda: None)
        if not (child := os.fork()):
            os._exit(attempt(lambda: 5).result)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


@needs_timers
class TestTimeLimits:
    @pytest.mark.parametrize("where", ["predicting", "writing"])
    def test_a_limit_ends_a_stream(self, where, nlp, limit, monkeypatch):
        """And reaches whoever set it: the error handler never sees it."""
        pipe, handled, done = nlp.get_pipe(NAME), [], []
        nlp.set_error_handler(lambda *about: handled.append(about))
        name = {"predicting": "_predict", "writing": "annotate"}[where]
        real = getattr(pipe, name)

        def slow(*given):
            time.sleep(0.05)
            return real(*given)

        monkeypatch.setattr(pipe, name, slow)
        limit(0.5)
        start = time.monotonic()
        with pytest.raises(OutOfTime):
            for doc in nlp.pipe(["Ann Lee lives in New York."] * 1000, batch_size=4):
                done.append(doc)
        assert time.monotonic() - start < 5 and 0 < len(done) < 100 and not handled
        assert nlp("Ann Lee lives in New York.").ents

    def test_a_text_that_fails_still_meets_the_error_handler(self, nlp, limit, monkeypatch):
        pipe, handled = nlp.get_pipe(NAME), []
        nlp.set_error_handler(lambda name, component, docs, error: handled.append(error))
        real = pipe._predict

        def fail(docs, settings):
            if any("bad" in doc.text for doc in docs):
                raise OutOfTime("of its own making")
            return real(docs, settings)

        monkeypatch.setattr(pipe, "_predict", fail)
        texts = ["Ann Lee lives in New York.", "a bad one", "ok"]
        assert [doc.text for doc in nlp.pipe(texts)] == [texts[0], texts[2]]
        assert [str(error) for error in handled] == ["of its own making"]


SCRIPT = """
import os, signal, sys, threading, time
import spacy, torch
torch.set_num_threads(int(sys.argv[2]))
nlp = spacy.load(sys.argv[1])
texts = ["Ann Lee lives in New York. " * 40] * 4000
out = open(sys.argv[3], "w")
out.write("begun")  # stays in the buffer until the file is closed
list(nlp.pipe(texts[:4]))
print("ready", flush=True)
for doc in nlp.pipe(texts, batch_size=256):
    out.write(".")
"""


@pytest.mark.takes(seconds=10)
@pytest.mark.parametrize(
    "threads, pause",
    rest_slow(product([1, 2], [0.2, 0.5]), lambda *row: row in [(1, 0.2), (2, 0.5)]),
)
def test_ctrl_c_ends_a_process_as_python_does_and_files_are_whole(threads, pause, nlp, tmp_path):
    nlp.to_disk(tmp_path / "pipeline")
    arguments = [str(tmp_path / "pipeline"), str(threads), str(tmp_path / "out")]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors and "terminate called" not in errors
    assert (tmp_path / "out").read_text().startswith("begun")
