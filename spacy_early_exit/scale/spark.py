"""Jobs on Spark, and a function for those who have a DataFrame."""

import functools
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Sequence, Tuple

import pyarrow as pa

from ..budget.controller import SharedController
from ..runtime.processors import processors
from .budget import Budget, sample
from .job import Plan, make_plan
from .parts import Columns, Part
from .tagger import Report, Setting, Task, tag_part, tag_table, tagger

try:
    from pyspark import AccumulatorParam, SparkConf, SparkContext, TaskContext
    from pyspark.sql import SparkSession
except ImportError as e:
    raise ImportError("Spark is not installed: pip install 'spacy-early-exit[spark]'.") from e

ATTEMPTS = 4  # at a task, on this machine
WAVES = 10  # jobs of Spark, each with a threshold of its own
LOOK = 0.2  # seconds between two looks at what is done
At = Optional[Tuple[float, float]]  # position and threshold


class Spark:
    """Tasks of Spark, a part each.

    address (Optional[str]): The master; None: that of Spark's own configuration, or this machine.
    """

    def __init__(self, address: Optional[str] = None):
        self._address = address
        self._started = SparkSession.getActiveSession() is None
        self._session: Any = None

    def plan(self, workers: Optional[int], cpus: Optional[int]) -> Plan:
        """Start Spark, and divide its processors: see ``job.Engine``."""
        SparkContext._ensure_initialized()  # so that it has read its configuration
        conf = SparkConf().setAppName("spacy-early-exit")
        if self._address:
            conf.setMaster(self._address)
        each = cpus or int(conf.get("spark.task.cpus", "1") or 1)
        conf.set("spark.task.cpus", str(each)).set("spark.ui.showConsoleProgress", "false")
        if conf.get("spark.master", "local[*]") == "local[*]":
            here = make_plan([processors()], workers, each)
            conf.setMaster(f"local[{here.workers * each},{ATTEMPTS}]")
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        self._session = SparkSession.builder.config(conf=conf).getOrCreate()
        return make_plan([self._session.sparkContext.defaultParallelism], workers, each)

    def run(
        self, task: Task, parts: Sequence[Part], plan: Plan, budget: Optional[Budget]
    ) -> Iterator[Report]:
        """Have parts done: see ``job.Engine``. Tasks can't talk to one another: so the threshold
        is found on a sample, and moved between jobs.
        """
        if budget is None:
            yield from self._run(task, parts, plan, None)
            return
        found = sample(task, parts, plan.cpus, budget)
        controller = SharedController(*budget, position=found)
        size = max(plan.workers, math.ceil(len(parts) / WAVES))
        for start in range(0, len(parts), size):
            at, done = controller.exchange(), []
            for report in self._run(task, parts[start : start + size], plan, at):
                done.append((report.words, report.spent, report.full))
                yield report
            controller.exchange(at[0], *map(sum, zip(*done)))

    def _run(self, task: Task, parts: Sequence[Part], plan: Plan, at: At) -> Iterator[Report]:
        """YIELDS (Report): What became of each part, all at the same position and threshold."""
        context = self._session.sparkContext
        reports = context.accumulator({}, Reports())
        tag = functools.partial(_tag, task, plan.cpus, at, reports)
        pool = ThreadPoolExecutor(1)
        job = pool.submit(context.parallelize(parts, len(parts)).foreach, tag)
        told: Dict[int, Report] = {}
        try:
            ended = False
            while not ended:
                time.sleep(LOOK)
                ended = job.done()
                new = {n: one for n, one in dict(reports.value).items() if n not in told}
                told.update(new)
                yield from new.values()
            job.result()  # raises what Spark raised
        finally:
            if not job.done():
                context.cancelAllJobs()
            pool.shutdown()

    def stop(self) -> None:
        """Leave the cluster, unless it was there before."""
        if self._started and self._session is not None:
            self._session.stop()


class Reports(AccumulatorParam):  # type: ignore[misc]
    """Reports by the number of their part, as they come in."""

    def zero(self, value: Dict[int, Report]) -> Dict[int, Report]:
        """RETURNS (Dict[int, Report]): None."""
        return {}

    def addInPlace(self, value1: Dict[int, Report], value2: Dict[int, Report]) -> Dict[int, Report]:
        """RETURNS (Dict[int, Report]): All of them."""
        value1.update(value2)
        return value1


def _tag(task: Task, cpus: int, at: At, reports: Any, part: Part) -> None:
    exchange = None if at is None else lambda *told: at
    reports.add({part.number: tag_part(task, part, cpus, exchange)})


def tag_partitions(
    model: str,
    speedup: Optional[float] = None,
    component: Optional[str] = None,
    code: Optional[str] = None,
    columns: Columns = Columns(),
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Tag a DataFrame of texts::

        frame.select("id", "text").mapInArrow(tag_partitions("training/final", 3.0), SPARK_SCHEMA)

    model (str): Folder or name of the pipeline, on every node.
    speedup (Optional[float]): The speedup to aim at; None: as in the pipeline's config.
    component (Optional[str]): Name of its early-exit component, if it has several.
    code (Optional[str]): A Python file that registers what the pipeline's config names.
    columns (Columns): Where texts and ids are.
    RETURNS (Callable): What ``mapInArrow`` calls. Workers keep the pipeline for their next tasks.
    """
    return functools.partial(_tag_batches, Setting(model, speedup, component, code), columns)


def _tag_batches(
    setting: Setting, columns: Columns, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    worker = tagger(setting, 1 if context is None else context.cpus())
    for batch in batches:
        yield tag_table(worker, batch, columns)
