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
import torch

from spacy_early_exit.pipe import stream
from spacy_early_exit.runtime import attempts
from spacy_early_exit.runtime.attempts import Stopped, attempt, stop_asked
from tests.makers.marks import rest_slow
from tests.makers.project import ROOT

NAME = "early_exit_ner"
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


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

    def test_elsewhere_torch_has_as_many_threads_as_here(self, limit):
        before = torch.get_num_threads()
        try:
            for number in (2, 1, 3):
                torch.set_num_threads(number)
                assert attempt(torch.get_num_threads).result == number
                assert in_a_thread(torch.get_num_threads) == number, "new threads as well"
            in_a_thread(lambda: torch.set_num_threads(5))  # what new ones get
            assert attempt(torch.get_num_threads).result == 3
            torch.set_num_threads(2)
            in_a_thread(lambda: torch.set_num_threads(5))
            assert attempt(torch.get_num_threads).result == 2
            assert in_a_thread(torch.get_num_threads) == 5
        finally:
            torch.set_num_threads(before)

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

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_so_is_what_it_raises_while_the_work_is_handed_over(self, when, limit, monkeypatch):
        attempt(lambda: None)
        kept = attempts._thread[1]
        submit, begun, ended = kept.submit, [], []

        def interrupted(*work):
            if when == "after":
                submit(*work)
                while not begun:
                    time.sleep(0.01)
            signal.raise_signal(signal.SIGALRM)

        def work():
            stopped = stop_asked()
            begun.append(True)
            for _ in range(200):
                if stopped():
                    ended.append(True)
                    return
                time.sleep(0.01)

        with monkeypatch.context() as patch:
            patch.setattr(kept, "submit", interrupted)
            with pytest.raises(OutOfTime):
                attempt(work)
        assert begun == ended == [True] * (when == "after")
        assert attempt(lambda: 3).result == 3

    def test_work_that_has_not_begun_then_never_does(self, limit, monkeypatch):
        attempt(lambda: None)
        kept, done, go_on = attempts._thread[1], [], threading.Event()
        submit = kept.submit
        submit(go_on.wait)

        def interrupted(*work):
            submit(*work)
            signal.raise_signal(signal.SIGALRM)

        with monkeypatch.context() as patch:
            patch.setattr(kept, "submit", interrupted)
            with pytest.raises(OutOfTime):
                attempt(lambda: done.append(True))
        go_on.set()
        assert attempt(lambda: 3).result == 3 and not done

    def test_where_no_thread_can_be_started_it_is_done_here_and_once(self, limit, monkeypatch):
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


class TestHandlers:
    @pytest.mark.parametrize("number", sorted(signal.valid_signals()))
    def test_one_of_any_signal_is_seen(self, number):
        if number in (getattr(signal, "SIGKILL", 9), getattr(signal, "SIGSTOP", 19)):
            pytest.skip("it can have none")
        before = signal.signal(number, lambda *about: None)
        try:
            assert attempts._handlers_may_raise()
        finally:
            signal.signal(number, before)
        assert not attempts._handlers_may_raise()

    def test_to_look_for_them_takes_next_to_nothing(self, limit):
        attempts._handlers_may_raise()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # so that all of them are asked
        start = time.thread_time()
        for _ in range(1000):
            attempts._handlers_may_raise()
        assert time.thread_time() - start < 0.05  # 0.05 ms each

    def test_a_group_of_texts_is_predicted_and_written_in_two_attempts(self, nlp, monkeypatch):
        tried = []

        def counting(work):
            tried.append(work)
            return attempt(work)

        monkeypatch.setattr(stream, "attempt", counting)
        assert len(list(nlp.pipe(["Ann Lee lives in New York."] * 20))) == 20
        assert len(tried) == 2


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

    @pytest.mark.parametrize("kind", [Exception, BaseException])
    @pytest.mark.parametrize("how", ["nlp", "nlp.pipe"])
    def test_what_error_handlers_see_is_as_the_docs_say(self, kind, how, nlp, limit, monkeypatch):
        """spaCy catches any Exception that comes out of a component in nlp(text)."""
        pipe, handled = nlp.get_pipe(NAME), []
        nlp.set_error_handler(lambda name, component, docs, error: handled.append(error))
        out_of_time = type("TooLate", (kind,), {})

        def raise_it(number, frame):
            raise out_of_time

        def slow(docs, run):
            stopped = stop_asked()
            while not stopped():
                time.sleep(0.01)
            raise Stopped

        signal.signal(signal.SIGALRM, raise_it)
        monkeypatch.setattr(pipe, "_predict", slow)
        limit(0.2)
        if kind is Exception and how == "nlp":
            assert not nlp("Ann Lee lives in New York.").ents
            assert [type(error) for error in handled] == [out_of_time]
        else:
            with pytest.raises(out_of_time):
                (list(nlp.pipe(["Ann Lee."])) if how == "nlp.pipe" else nlp("Ann Lee."))
            assert not handled

    def test_only_texts_that_cannot_be_written_meet_the_error_handler(
        self, nlp, limit, monkeypatch
    ):
        pipe, handled = nlp.get_pipe(NAME), []
        nlp.set_error_handler(lambda name, component, docs, error: handled.append(docs[0].text))
        real = pipe.annotate

        def fail(doc, prediction):
            if "bad" in doc.text:
                raise OutOfTime("of its own making")
            real(doc, prediction)

        monkeypatch.setattr(pipe, "annotate", fail)
        texts = ["a bad one", "Ann Lee lives in New York.", "bad", "ok"]
        assert [doc.text for doc in nlp.pipe(texts)] == [texts[1], texts[3]]
        assert handled == [texts[0], texts[2]]

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
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
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


@pytest.mark.takes(seconds=15)
@pytest.mark.parametrize(
    "threads, pause",
    rest_slow(product([1, 2], [0.2, 0.5]), lambda *row: row == (2, 0.5)),
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
