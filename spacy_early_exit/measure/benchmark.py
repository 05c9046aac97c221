"""Compare contenders on the same texts and threads, each in a process of its own.

Rounds alternate, so that other load on the machine affects all contenders alike. Results are saved
after every round, so that an interrupted run can continue.
"""

import contextlib
import copy
import gc
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Protocol,
    Sequence,
    Tuple,
)

Span = Tuple[int, int, str]
Part = Tuple[int, int]  # part of a text: its first character, and the one after its last
Result = Dict[str, Any]
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
WARM_UP = 64  # texts


class Runner(Protocol):
    """A callable that tags texts."""

    def __call__(self, texts: Sequence[str]) -> Any:
        """RETURNS (Any): What it found. The time of this call is measured."""

    def spans(self, found: Any) -> List[List[Span]]:
        """RETURNS (List[List[Span]]): The entities of each text: first character, the one after the
        last, and label.
        """


@dataclass(frozen=True)
class Contender:
    """A way to tag texts.

    name (str): Its unique name in tables.
    make (Callable[..., Runner]): Makes the runner: a function that another process can import.
    arguments (Dict[str, Any]): The function's arguments.
    version (str): What else its results depend on. If it changes, they are measured again.
    """

    name: str
    make: Callable[..., Runner]
    arguments: Dict[str, Any] = field(default_factory=dict)
    version: str = ""


def benchmark(
    contenders: Sequence[Contender],
    texts: Sequence[str],
    gold: Sequence[Sequence[Span]],
    words: int,
    *,
    threads: int,
    unknown: Optional[Sequence[Sequence[Part]]] = None,
    rounds: int = 5,
    patience: float = 3600.0,
    known: Optional[Dict[str, Result]] = None,
    save: Callable[[Dict[str, Result]], None] = lambda results: None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Dict[str, Result]:
    """Measure contenders.

    contenders (Sequence[Contender]): The contenders.
    texts (Sequence[str]): The texts.
    gold (Sequence[Sequence[Span]]): The entities of each text.
    words (int): Words in all texts.
    threads (int): Threads of each contender.
    unknown (Optional[Sequence[Sequence[Part]]]): The parts of each text that are not annotated: an
        entity found there is neither right nor wrong. None: everything is annotated.
    rounds (int): How often each runs on all texts.
    patience (float): Seconds to wait for a contender's answer before it counts as failed.
    known (Optional[Dict[str, Result]]): The results of an earlier run on the same texts, which is
        continued. Rounds that some contender did not take part in are not counted, and failed
        contenders are tried again.
    save (Callable[[Dict[str, Result]], None]): Receives the results after every round.
    progress (Callable): Wraps what is done step by step, such as a progress bar.
    RETURNS (Dict[str, Result]): By contender: ``seconds`` of each round, ``startup`` (seconds until
        it had tagged its first texts), ``peak_mb`` (largest memory of its process), ``ents_f``,
        ``words_per_second`` (median), ``words_per_second_min``, ``words_per_second_max``; or
        ``error``, if it failed. A failure does not stop the others.
    RAISES (ValueError): If two contenders have the same name.
    """
    unknown = [()] * len(gold) if unknown is None else unknown
    names = [contender.name for contender in contenders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two contenders are called '{twice[0]}': give each a name of its own.")
    results = {c.name: _so_far(c, known or {}) for c in contenders}
    done = min((len(result["seconds"]) for result in results.values()), default=0)
    if done >= rounds:
        return results
    for result in results.values():
        del result["seconds"][done:]
    workers = [_Worker(contender, texts, threads, patience) for contender in contenders]
    try:
        for worker in progress(workers):
            worker.guard(results[worker.name], lambda w, r: r.update(w.prepare(gold, unknown)))
        for _ in progress(range(done, rounds)):
            for worker in workers:
                result = results[worker.name]
                worker.guard(result, lambda w, r: r.update(w.round(r["seconds"])))
                summarise(result, words)
            save(results)
    finally:
        for worker in workers:
            worker.end()
    return results


def _so_far(contender: Contender, known: Dict[str, Result]) -> Result:
    """RETURNS (Result): The known results of a contender in its present version."""
    found = copy.deepcopy(known.get(contender.name, {}))
    if found.get("version") != contender.version or "error" in found:
        return {"version": contender.version, "seconds": []}
    return found


def summarise(result: Result, words: int) -> None:
    """Add words per second to a result.

    result (Result): A result with the ``seconds`` of its rounds.
    words (int): Words in all texts.
    """
    seconds = result["seconds"]
    if seconds:
        result["words_per_second"] = words / statistics.median(seconds)
        result["words_per_second_min"] = words / max(seconds)
        result["words_per_second_max"] = words / min(seconds)


def ratio(result: Result, other: Result) -> Optional[Tuple[float, float, float]]:
    """Compare two contenders, round by round.

    result (Result): The first contender's.
    other (Result): The second contender's.
    RETURNS (Optional[Tuple[float, float, float]]): How many times faster the first is: the median,
        the smallest and the largest ratio over the rounds that both have; None if there are none.
    """
    ratios = [b / a for a, b in zip(result["seconds"], other["seconds"])]
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def f_score(found: Sequence[Sequence[Span]], gold: Sequence[Sequence[Span]]) -> float:
    """RETURNS (float): F-score of entities by boundaries and label. Spans may also be lists."""
    pairs = [(set(map(tuple, f)), set(map(tuple, g))) for f, g in zip(found, gold)]
    right = sum(len(f & g) for f, g in pairs)
    total = sum(len(f) + len(g) for f, g in pairs)
    return 2 * right / total if total else 0.0


def leave_out(found: Sequence[Sequence[Span]], parts: Sequence[Sequence[Part]]) -> List[List[Span]]:
    """RETURNS (List[List[Span]]): The entities of each text that touch none of its given parts."""
    return [
        [span for span in spans if all(span[1] <= a or b <= span[0] for a, b in excluded)]
        for spans, excluded in zip(found, parts)
    ]


class _Worker:
    """A contender's process."""

    def __init__(self, contender: Contender, texts: Sequence[str], threads: int, patience: float):
        self.name = contender.name
        spawn = multiprocessing.get_context("spawn")
        self._connection, self._theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_work, args=(self._theirs, contender, list(texts)), daemon=True
        )
        self._threads = threads
        self._patience = patience

    def guard(self, result: Result, step: Callable[["_Worker", Result], None]) -> None:
        """Take a step, unless an earlier one failed. If this one fails, record the error."""
        if "error" in result:
            return
        try:
            step(self, result)
        except EOFError:
            self._process.join(timeout=10)
            result["error"] = f"its process ended with code {self._process.exitcode}"
        except Exception as e:  # whatever happens, the others go on
            result["error"] = str(e) or type(e).__name__

    def prepare(self, gold: Sequence[Sequence[Span]], unknown: Sequence[Sequence[Part]]) -> Result:
        # One after the other, so that they do not slow down each other's start.
        start = time.perf_counter()
        with _environment(dict.fromkeys(THREAD_SETTINGS, str(self._threads))):
            self._process.start()
        self._theirs.close()
        self._ask("prepare")
        startup = time.perf_counter() - start
        found = leave_out(self._ask("spans")["spans"], unknown)
        return {"startup": startup, "ents_f": f_score(found, gold)}

    def round(self, seconds: List[float]) -> Result:
        answer = self._ask("round")
        return {"seconds": [*seconds, answer["seconds"]], "peak_mb": answer["peak_mb"]}

    def _ask(self, what: str) -> Dict[str, Any]:
        self._connection.send(what)
        if not self._connection.poll(self._patience):
            self._process.terminate()
            raise TimeoutError(f"it gave no answer for {self._patience:g} seconds")
        answer: Dict[str, Any] = self._connection.recv()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def end(self) -> None:
        self._connection.close()
        if self._process.pid is not None:  # only if it was started
            self._process.join(timeout=10)
            self._process.terminate()


@contextlib.contextmanager
def _environment(settings: Dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started within the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(connection: Connection, contender: Contender, texts: List[str]) -> None:
    """Run in a contender's process: answer until the connection is closed."""
    runner: Optional[Runner] = None
    while True:
        try:
            what = connection.recv()
        except EOFError:
            return
        try:
            if what == "prepare":
                runner = contender.make(**contender.arguments)
                runner(texts[:WARM_UP])
                answer: Dict[str, Any] = {}
            elif runner is None:
                answer = {"error": "it is not ready"}
            elif what == "spans":
                answer = {"spans": runner.spans(runner(texts))}
            else:
                gc.collect()  # what the rounds before have left is not this one's work
                start = time.perf_counter()
                runner(texts)
                answer = {"seconds": time.perf_counter() - start, "peak_mb": _peak_mb()}
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        connection.send(answer)


def _peak_mb() -> Optional[float]:
    """RETURNS (Optional[float]): Largest memory of this process so far; None if the system does not
    report it.
    """
    try:
        # Linux also has another figure, but a new process inherits that one from its parent.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
