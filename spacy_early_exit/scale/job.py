"""A job: its parts, what earlier runs have done, who does the rest, and what it all cost."""

import json
import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
)

from ..budget.controller import TOLERANCE
from ..files.integrity import checksum
from ..measure.machine import machine
from .budget import Budget
from .parts import Part, cut
from .table import ASIDE, read_about
from .tagger import Report, Tagger, Task, totals_of

ABOUT, METRICS = "_job.json", "_metrics.json"
COUNTS = ("texts", "words", "errors", "spent", "full")
MAX_CPUS = 4  # of a worker, by default: more gain little, and fewer workers need less memory


@dataclass(frozen=True)
class Plan:
    """Who does the work.

    workers (int): The number of workers. Each loads the pipeline.
    cpus (int): The number of processors of each, and of its threads.
    """

    workers: int
    cpus: int


class Engine(Protocol):
    """Has parts done by workers."""

    def plan(self, workers: Optional[int], cpus: Optional[int]) -> Plan:
        """Divide processors among workers.

        workers (Optional[int]): The number of workers; None: as many as there is room for.
        cpus (Optional[int]): The number of processors of each; None: as suits the engine.
        RETURNS (Plan): The plan.
        RAISES (ValueError): If there is no room for it.
        """

    def run(
        self, task: Task, parts: Sequence[Part], plan: Plan, budget: Optional[Budget]
    ) -> Iterator[Report]:
        """Have parts done. If a worker dies, its part is done again.

        task (Task): What to do with each.
        parts (Sequence[Part]): The parts.
        plan (Plan): Who does it.
        budget (Optional[Budget]): The speedup to hold over all of them; None: each text is tagged
            at the setting's.
        YIELDS (Report): What became of each, as soon as it is known.
        """

    def stop(self) -> None:
        """Release what the engine holds."""


@dataclass(frozen=True)
class Job:
    """What is asked for.

    source (Path): A file or folder of texts.
    task (Task): What to do with each part.
    adaptive (bool): Whether to hold the speedup over the whole job.
    size (int): The number of texts of a part.
    """

    source: Path
    task: Task
    adaptive: bool = False
    size: int = 10_000


def make_plan(nodes: Sequence[int], workers: Optional[int], cpus: Optional[int]) -> Plan:
    """Divide processors among workers.

    nodes (Sequence[int]): The number of processors of each machine.
    workers (Optional[int]): The number of workers; None: as many as there is room for.
    cpus (Optional[int]): The number of processors of each worker; None: up to four.
    RETURNS (Plan): The plan.
    RAISES (ValueError): If there is no room for it. Engines would wait for ever.
    """
    each = cpus or min(MAX_CPUS, max(nodes, default=1))
    if workers and not cpus:
        while each > 1 and sum(node // each for node in nodes) < workers:
            each -= 1
    room = sum(node // each for node in nodes)
    if not room or (workers or 1) > room:
        raise ValueError(
            f"There is no room for {workers or 1} workers of {each} CPUs. The machines have "
            f"{', '.join(map(str, nodes)) or 'none'}: that is room for {room}."
        )
    return Plan(workers or room, each)


def begin(job: Job, tagger: Tagger) -> Tuple[List[Part], Dict[str, float]]:
    """Find out what there is to do. The output remembers what it is of, so that only the same job
    can go on with it.

    job (Job): The job.
    tagger (Tagger): What it runs.
    RETURNS (Tuple[List[Part], Dict[str, float]]): All parts, and the numbers of those that an
        earlier run has done.
    RAISES (CorpusError): If the input can't be read, or the output is damaged.
    RAISES (ValueError): If the output is that of another job.
    """
    folder = job.task.folder
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(cut(job.source, job.task.columns, job.size))
    about = describe(job, tagger, parts)
    place = folder / ABOUT
    if place.is_file():
        check_same(json.loads(place.read_text(encoding="utf8")), about, folder)
    elif any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and no job began in it. Write to another folder.")
    write_json(place, about)
    shutil.rmtree(folder / ASIDE, ignore_errors=True)  # of workers that were killed
    done = dict.fromkeys(totals_of(Report(0)), 0.0)
    for part in parts:
        if is_done(job, part):
            check_unchanged(Path(part.path), folder / part.output)
            for name, value in read_about(folder / part.output).items():
                done[name] = done.get(name, 0) + value
    return parts, done


def is_done(job: Job, part: Part) -> bool:
    """RETURNS (bool): Whether the file of a part is there. Then it is whole."""
    return (job.task.folder / part.output).is_file()


def check_unchanged(path: Path, made: Path) -> None:
    """RAISES (ValueError): If a file of the input is newer than what was made of it."""
    if path.stat().st_mtime_ns > made.stat().st_mtime_ns:
        raise ValueError(
            f"{path} has changed since {made} was made of it. Write to another folder."
        )


def describe(job: Job, tagger: Tagger, parts: Sequence[Part]) -> Dict[str, Any]:
    """RETURNS (Dict[str, Any]): What the output of a job depends on, by name."""
    cuts = [(part.name, part.start, part.stop, part.texts) for part in parts]
    pipe, columns = tagger.pipe, job.task.columns
    pipeline = json.dumps([pipe.fingerprint(), tagger.nlp.config.to_str(), pipe.labels])
    return {
        "speedup": pipe.speedup,
        "threshold": pipe.threshold,
        "adaptive": job.adaptive,
        "component": tagger.name,
        "pipeline": checksum(pipeline.encode("utf8")),
        "text": columns.text,
        "id": columns.id,
        "texts per file": job.size,
        "input": checksum(json.dumps(cuts).encode("utf8")),
    }


def check_same(found: Dict[str, Any], about: Dict[str, Any], folder: Path) -> None:
    """RAISES (ValueError): If a job is not the one that has begun in a folder. It says why."""
    names = [name for name in about if found.get(name) != about[name]]
    if names:
        shown = ", ".join(
            name if len(str(about[name])) > 20 else f"{name} {found.get(name)}, not {about[name]}"
            for name in names
        )
        raise ValueError(
            f"{folder} has files of another job. They differ in: {shown}. Write to another folder."
        )


class Progress:
    """The numbers of a job while it runs.

    parts (Sequence[Part]): All parts.
    done (Dict[str, float]): The numbers of what earlier runs have done.
    """

    def __init__(self, parts: Sequence[Part], done: Dict[str, float]):
        self.total = sum(part.texts for part in parts)
        self.before, self.sums = done, dict(done)
        self.begun = time.perf_counter()
        self.failed: List[str] = []
        self.loading: List[float] = []

    def add(self, report: Report) -> None:
        """Add a report."""
        if report.loading:
            self.loading.append(report.loading)
        if report.failed:
            self.failed.append(report.failed)
            return
        for name, value in totals_of(report).items():
            self.sums[name] += value

    @property
    def seconds(self) -> float:
        """RETURNS (float): Those of this run."""
        return time.perf_counter() - self.begun

    @property
    def saved(self) -> float:
        """RETURNS (float): The speedup so far, in MACs."""
        return self.sums["full"] / self.sums["spent"] if self.sums["spent"] else 1.0

    @property
    def words_per_second(self) -> float:
        """RETURNS (float): Of this run."""
        return (self.sums["words"] - self.before["words"]) / self.seconds

    def metrics(self, job: Job, plan: Plan, speedup: Optional[float]) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): The numbers of the job, for the metrics file.

        job (Job): The job.
        plan (Plan): Who did it.
        speedup (Optional[float]): The speedup that was asked for.
        """
        sums = self.sums
        return {
            **{name: round(sums[name]) for name in COUNTS},
            "asked": speedup,
            "saved": self.saved,
            "adaptive": job.adaptive,
            "texts_of_earlier_runs": round(self.before["texts"]),
            "failed_parts": self.failed,
            "words_per_second": self.words_per_second,
            "wall_seconds": self.seconds,
            "worker_seconds": sums["seconds"],
            "pipeline_share": sums["tagging"] / sums["seconds"] if sums["seconds"] else None,
            "start_up_seconds": max(self.loading, default=None),
            **asdict(plan),
            "about": machine(),
        }

    def falls_short(self, speedup: Optional[float]) -> bool:
        """RETURNS (bool): Whether less was saved than asked for, by more than a twentieth."""
        return speedup is not None and self.saved < speedup * (1 - TOLERANCE)


def run(
    job: Job, engine: Engine, plan: Plan, tagger: Tagger, show: Callable[[Progress], None]
) -> Tuple[Progress, Dict[str, Any]]:
    """Do a job, or what is left of it.

    job (Job): The job.
    engine (Engine): Has its parts done.
    plan (Plan): By whom.
    tagger (Tagger): What it runs, of this process.
    show (Callable): Called with the progress at the start and after every part.
    RETURNS (Tuple[Progress, Dict[str, Any]]): Its numbers, and those of the metrics file.
    RAISES (CorpusError): If the input can't be read, or the output is damaged.
    RAISES (ValueError): If the output is that of another job.
    """
    parts, done = begin(job, tagger)
    todo = [part for part in parts if not is_done(job, part)]
    speedup, budget = tagger.pipe.speedup, None
    if job.adaptive and speedup is not None:
        so_far = (round(done["words"]), round(done["spent"]), round(done["full"]))
        budget = Budget(tagger.pipe.calibrated(), speedup, so_far)
        random.Random(0).shuffle(todo)  # so that every stretch of the job is like the whole
    progress = Progress(parts, done)
    show(progress)
    for report in engine.run(job.task, todo, plan, budget) if todo else ():
        progress.add(report)
        show(progress)
    metrics = progress.metrics(job, plan, speedup)
    write_json(job.task.folder / METRICS, metrics)
    shutil.rmtree(job.task.folder / ASIDE, ignore_errors=True)
    return progress, metrics


def write_json(path: Path, about: Mapping[str, Any]) -> None:
    """Write a JSON file that is there as a whole or not at all."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf8")
    aside.replace(path)
