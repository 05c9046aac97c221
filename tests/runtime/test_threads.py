"""Batches beside one another, whatever the number of threads."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from spacy_early_exit.model.predict import MIN_WORDPIECES
from spacy_early_exit.runtime import threads as workers
from spacy_early_exit.runtime import torch_threads
from spacy_early_exit.runtime.forks import Lock
from spacy_early_exit.runtime.threads import batches_at_once, run_side_by_side, thread_count
from tests.makers.project import ROOT
from tests.makers.texts import texts_of_all_lengths

NAME = "early_exit_ner"
LITTLE, MUCH = 1, 10**12  # multiply-accumulates


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """Sets how many processors are idle."""

    def set_idle(idle):
        monkeypatch.setattr(workers._own, "shared", (0.0, 1), raising=False)
        monkeypatch.setattr(workers, "idle_processors", lambda: idle)

    return set_idle


def side_by_side(function, items, threads=None, macs=MUCH):
    return run_side_by_side(function, items, threads or torch.get_num_threads(), lambda item: macs)


def own_threads(_):
    return torch.get_num_threads()


def slow_abs(item):
    """Helpers take longer: who does not wait for them has no results."""
    time.sleep(0.1 if threading.current_thread() is threading.main_thread() else 0.4)
    return abs(item)


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def helpers_there_are():
    gc.collect()
    for _ in range(100):  # they need a moment to end
        time.sleep(0.01)
    return sum(thread.name.startswith("early-exit_") for thread in threading.enumerate())


class TestResults:
    def test_they_come_in_order_from_threads_with_one_of_torchs_each(self, threads):
        seen = side_by_side(lambda i: (i, torch.get_num_threads()), list(range(20)))
        assert [i for i, _ in seen] == list(range(20))
        assert {own for _, own in seen} == {1}

    def test_several_run_at_once(self, threads):
        meeting = threading.Barrier(batches_at_once(threads), timeout=60)
        side_by_side(lambda i: meeting.wait(), list(range(2 * threads)))

    def test_what_one_raises_is_raised_and_the_next_call_works(self, threads):
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda i: 1 / (i - 3), list(range(9)))
        assert side_by_side(abs, [-1, -2]) == [1, 2]

    def test_nothing_more_is_begun_after_a_failure(self, two_threads):
        begun = []

        def fail(i):
            begun.append(i)
            time.sleep(0.01)
            raise ValueError(i)

        with pytest.raises(ValueError, match="0"):
            side_by_side(fail, list(range(50)))
        assert len(begun) <= 2


class TestHowManyThreadsShareAProduct:
    def test_all_of_them_if_a_lot_is_to_be_done_alone_on_an_idle_machine(self, threads, machine):
        machine(threads - 1)
        assert side_by_side(own_threads, [0]) == [threads]

    def test_one_if_little_is_to_be_done(self, threads, machine):
        machine(99)
        assert side_by_side(own_threads, [0], macs=LITTLE) == [1]

    @pytest.mark.parametrize("macs", [LITTLE, MUCH])
    def test_one_if_the_processors_are_wanted_elsewhere(self, macs, threads, machine):
        machine(threads - 2)
        assert side_by_side(own_threads, [0], macs=macs) == [1]

    def test_it_grows_with_the_work(self, machine):
        machine(99)
        each = workers.MIN_MACS
        seen = [side_by_side(own_threads, [0], 9, n * each)[0] for n in (0, 1, 2, 3, 4, 8, 9, 50)]
        assert seen == [1, 1, 2, 2, 4, 8, 9, 9]

    def test_threads_that_still_spin_for_the_last_product_are_ours(self, two_threads, machine):
        machine(1)
        assert side_by_side(own_threads, [0]) == [2]
        workers.idle_processors = lambda: 0  # the other one spins
        assert side_by_side(own_threads, [0]) == [2]
        time.sleep(2 * workers.SPINNING)
        assert side_by_side(own_threads, [0]) == [1]
        assert side_by_side(own_threads, [0]) == [1]

    def test_where_it_is_not_known_what_is_idle_only_very_much_is_shared(self, machine):
        machine(None)
        assert side_by_side(own_threads, [0], 2, workers.MIN_MACS_UNSEEN) == [1]
        assert side_by_side(own_threads, [0], 2, 2 * workers.MIN_MACS_UNSEEN) == [2]

    @pytest.mark.parametrize("number", [5, 6, 7, 9])
    def test_many_threads_are_shared_out_without_a_rest(self, number, machine):
        machine(number)
        meeting = threading.Barrier(workers.MAX_THREADS, timeout=60)

        def note(_):
            meeting.wait()
            return torch.get_num_threads()

        assert sum(side_by_side(note, list(range(workers.MAX_THREADS)), number)) == number

    def test_many_threads_have_one_each_where_the_processors_are_wanted_elsewhere(self, machine):
        machine(3)
        assert set(side_by_side(own_threads, list(range(9)), 9)) == {1}

    def test_as_many_as_asked_for_whatever_torch_may_use(self, threads):
        meeting = threading.Barrier(2, timeout=60)
        side_by_side(lambda i: meeting.wait(), [0, 1], 2)
        assert set(side_by_side(own_threads, [0, 1], 2)) == {1}
        assert side_by_side(own_threads, [0, 1], 1) == [1, 1]

    def test_by_default_no_more_than_there_are_processors(self, monkeypatch, two_threads):
        for there_are, expected in ((1, 1), (2, 2), (64, 2)):
            monkeypatch.setattr(workers, "processors", lambda there_are=there_are: there_are)
            assert thread_count(None) == expected and thread_count(5) == 5


class TestTorchsThreads:
    def test_the_caller_and_new_threads_have_as_many_as_before(self, threads):
        default = in_a_thread(torch.get_num_threads)
        side_by_side(abs, [1, 2, 3])
        side_by_side(abs, [1], macs=LITTLE)
        assert torch.get_num_threads() == threads
        assert in_a_thread(torch.get_num_threads) == default

    def test_what_is_set_right_after_a_call_stays(self):
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        side_by_side(abs, [1], macs=LITTLE)
        _, keeper = torch_threads._keeper
        keeper.submit(time.sleep, 0.3)  # it is late
        side_by_side(abs, [1], macs=LITTLE)
        torch.set_num_threads(before)
        keeper.submit(int).result()
        assert in_a_thread(torch.get_num_threads) == before

    def test_each_thread_has_helpers_of_its_own(self, two_threads):
        # All four can only meet if none waits for helpers that another one has.
        meeting = threading.Barrier(4, timeout=60)

        def call():
            torch.set_num_threads(2)
            side_by_side(lambda i: meeting.wait(), [0, 1])

        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert not meeting.broken and meeting.n_waiting == 0

    def test_helpers_end_with_the_thread_that_they_help(self, two_threads):
        before = helpers_there_are()

        def call():
            meeting = threading.Barrier(2, timeout=60)
            side_by_side(lambda i: meeting.wait(), [1, 2], 2)
            return sum(t.name.startswith("early-exit_") for t in threading.enumerate())

        assert in_a_thread(call) == before + 2
        assert helpers_there_are() == before

    def test_new_threads_have_as_many_while_one_is_limited(self, two_threads, machine):
        machine(0)

        def others(_):
            for _ in range(500):  # it is set again by another thread
                time.sleep(0.01)
                if in_a_thread(torch.get_num_threads) == 2:
                    break
            return torch.get_num_threads(), in_a_thread(torch.get_num_threads)

        assert side_by_side(others, [0]) == [(1, 2)]
        assert torch.get_num_threads() == in_a_thread(torch.get_num_threads) == 2

    def test_what_several_callers_limit_at_once_is_set_again(self, two_threads):
        def call():
            for _ in range(20):
                side_by_side(abs, [1, 2], 2)
                side_by_side(abs, [1], 2, LITTLE)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        time.sleep(0.1)
        assert torch.get_num_threads() == in_a_thread(torch.get_num_threads) == 2

    def test_what_one_limits_for_a_while_is_nobody_elses(self, two_threads):
        with torch_threads.at_most(1):
            pass  # now there is a keeper
        _, keeper = torch_threads._keeper
        keeper.submit(time.sleep, 0.3)  # it is late
        with torch_threads.at_most(1):
            in_a_thread(lambda: torch_threads.begin_with(1))
            assert in_a_thread(torch.get_num_threads) == 2

    def test_where_no_thread_can_be_started_it_goes_on_without(self, two_threads, monkeypatch):
        def refuse(thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(workers._own, "process", None, raising=False)
        monkeypatch.setattr(torch_threads, "_keeper", None)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert side_by_side(abs, [-1, -2, -3]) == [1, 2, 3]

    @pytest.mark.parametrize("more", [1, 2, 3])
    def test_where_few_more_can_be_started_it_goes_on_with_them(
        self, more, two_threads, monkeypatch
    ):
        start, started = threading.Thread.start, []

        def some(thread):
            if len(started) == more:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        monkeypatch.setattr(workers._own, "process", None, raising=False)
        monkeypatch.setattr(torch_threads, "_keeper", None)
        monkeypatch.setattr(threading.Thread, "start", some)
        assert side_by_side(slow_abs, [-1, -2, -3]) == [1, 2, 3]
        assert side_by_side(slow_abs, [-4, -5]) == [4, 5]


class TestInterruptions:
    def test_what_is_raised_while_waiting_ends_it_once_nobody_is_at_work(self, two_threads):
        working, begun = [], []

        def work(i):
            begun.append(i)
            working.append(i)
            time.sleep(0.3)
            working.remove(i)

        def interrupt(number, frame):
            raise TimeoutError("too long")

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TimeoutError, match="too long"):
                side_by_side(work, list(range(50)))
        finally:
            signal.signal(signal.SIGALRM, before)
        assert not working and len(begun) <= 2
        assert side_by_side(abs, [-1, -2]) == [1, 2]

    def test_so_does_what_is_raised_while_helpers_are_called(self, two_threads, monkeypatch):
        side_by_side(abs, [1, 2])  # helpers are there
        working, begun = [], []
        submit = ThreadPoolExecutor.submit

        def work(i):
            begun.append(i)
            working.append(i)
            time.sleep(0.3)
            working.remove(i)

        def interrupted(pool, *given):
            submit(pool, *given)
            while not begun:
                time.sleep(0.01)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(ThreadPoolExecutor, "submit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                side_by_side(work, list(range(50)))
        assert begun == [0] and not working
        time.sleep(0.5)
        assert begun == [0]
        assert side_by_side(abs, [-1, -2]) == [1, 2]


def answers(docs):
    docs = list(docs)
    records = [doc._.early_exit[NAME] for doc in docs]
    return [
        ([(ent.text, ent.label_) for ent in doc.ents], record.layers, record.spent)
        for doc, record in zip(docs, records)
    ]


@pytest.fixture
def tagger(nlp):
    nlp.get_pipe(NAME).store_exits = True
    return nlp


@pytest.fixture(scope="module")
def texts():
    texts = texts_of_all_lengths(count=150)
    assert sum(map(len, texts)) > 12 * MIN_WORDPIECES
    return texts


def assert_in_a_fork(function):
    child = os.fork()
    if child == 0:
        true = False
        try:
            true = function()
        finally:
            os._exit(0 if true else 1)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_lock_that_somebody_holds_is_free_in_a_fork():
    lock, held, done = Lock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()

    def child():
        with lock:
            return True

    assert_in_a_fork(child)
    done.set()


class TestPipelines:
    @pytest.mark.parametrize("setting", [None, 1, 3])
    def test_the_same_entities_with_any_number_of_threads(self, setting, tagger, texts, threads):
        tagger.get_pipe(NAME).threads = setting
        several = answers(tagger.pipe(texts, batch_size=1000))
        tagger.get_pipe(NAME).threads = None
        torch.set_num_threads(1)
        assert several == answers(tagger.pipe(texts, batch_size=1000))

    def test_processes_that_fork_afterwards_give_the_same(self, tagger, texts, two_threads):
        expected = answers(tagger.pipe(texts, batch_size=1000))
        assert workers._own.pools
        assert answers(tagger.pipe(texts, batch_size=50, n_process=2)) == expected

    def test_a_process_that_forks_itself_afterwards_does_not_hang(self, tagger, texts, two_threads):
        expected = answers(tagger.pipe(texts, batch_size=1000))

        def child():
            same = answers(tagger.pipe(texts, batch_size=1000)) == expected
            torch.set_num_threads(2)  # as a user might
            return same and side_by_side(abs, [-1, -2]) == [1, 2]

        assert_in_a_fork(child)

    @pytest.mark.parametrize("who", ["the same thread", "another thread first"])
    def test_nor_where_only_others_used_torch_before(self, who, tagger, texts, two_threads):
        """Looking through the weights, the first thing a process does with them, is parallel."""
        expected = answers(tagger.pipe(texts, batch_size=1000))
        pipe = tagger.get_pipe(NAME)
        encoder = pipe.model.shims[0].trained.network.encoder
        many = torch.zeros(2_000_000)
        encoder.register_parameter("of_a_larger_one", torch.nn.Parameter(many))
        pipe.model.shims[0].weights_changed()  # as after a step of training
        many.sum()

        def child():
            if who == "another thread first":
                in_a_thread(lambda: answers(tagger.pipe(texts[:3])))
                pipe.model.shims[0].weights_changed()
            return answers(tagger.pipe(texts, batch_size=1000)) == expected

        assert_in_a_fork(child)

    def test_threads_that_share_a_pipeline_give_the_same(self, tagger, texts, two_threads):
        expected = answers(tagger.pipe(texts, batch_size=1000))
        found = []

        def call():
            torch.set_num_threads(2)
            found.append(answers(tagger.pipe(texts, batch_size=1000)))

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert found == [expected] * 3


AFTERWARDS = """
import sys, threading, time, atexit
import torch
from spacy_early_exit.runtime.threads import run_side_by_side
def run(function, items):
    return run_side_by_side(function, items, 2, lambda item: 1)
torch.set_num_threads(2)
def late():
    threading.main_thread().join()
    torch.set_num_threads(2)
    print("thread", run(abs, [-1, -2, -3]), flush=True)
atexit.register(lambda: print("atexit", run(abs, [-4, -5]), flush=True))
threading.Thread(target=late).start()
run(abs, [1, 2])
threading.Thread(
    target=lambda: run(lambda i: time.sleep(0.5), list(range(40))), daemon=True
).start()
"""


@pytest.mark.slow
def test_it_works_and_holds_nothing_up_while_a_process_ends():
    start = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == "thread [1, 2, 3]\natexit [4, 5]\n" and not found.stderr
    assert time.monotonic() - start < 60
