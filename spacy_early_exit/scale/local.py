"""Jobs on this machine: in this process, or in several."""

import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.managers import BaseManager
from typing import Any, Iterator, Optional, Sequence

from ..budget.controller import SharedController
from ..runtime.processors import processors
from .budget import Budget
from .job import Plan, make_plan
from .parts import Part
from .tagger import Exchange, Report, Task, tag_part

ATTEMPTS = 4  # at the same parts

_exchange: Optional[Exchange] = None  # of this worker


class Local:
    """Workers on this machine. One alone is this process."""

    def plan(self, workers: Optional[int], cpus: Optional[int]) -> Plan:
        """Divide the processors of this machine: see ``job.Engine``."""
        return make_plan([processors()], workers, cpus)

    def run(
        self, task: Task, parts: Sequence[Part], plan: Plan, budget: Optional[Budget]
    ) -> Iterator[Report]:
        """Have parts done: see ``job.Engine``."""
        if plan.workers == 1:
            exchange = None if budget is None else SharedController(*budget).exchange
            for part in parts:
                yield tag_part(task, part, plan.cpus, exchange)
            return
        with shared(budget, plan) as controller:
            todo = {part.number: part for part in parts}
            left, deaths = len(todo), 0
            while todo:
                try:
                    for report in in_processes(task, [*todo.values()], plan, controller):
                        del todo[report.number]
                        yield report
                except BrokenProcessPool as e:
                    deaths = deaths + 1 if len(todo) == left else 1
                    left = len(todo)
                    if deaths == ATTEMPTS:
                        raise OSError(
                            f"Workers were killed {deaths} times, and finished nothing in between. "
                            f"Is there too little memory? Try fewer --workers."
                        ) from e

    def stop(self) -> None:
        """There is nothing to release."""


def in_processes(
    task: Task, parts: Sequence[Part], plan: Plan, controller: Any
) -> Iterator[Report]:
    """Have parts done by processes.

    task (Task): What to do with each.
    parts (Sequence[Part]): The parts.
    plan (Plan): How many processes, and how many threads each has.
    controller (Any): The shared controller; None: there is none.
    YIELDS (Report): What became of each.
    RAISES (BrokenProcessPool): If one of them was killed. The others end, too.
    """
    pool = ProcessPoolExecutor(plan.workers, get_context("spawn"), _begin, (controller,))
    try:
        tasks = [pool.submit(_tag, task, part, plan.cpus) for part in parts]
        for future in as_completed(tasks):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def shared(budget: Optional[Budget], plan: Plan) -> Iterator[Any]:
    """YIELDS (Any): A controller that all processes may ask, itself in one of its own; None: there
    is no budget.
    """
    if budget is None:
        yield None
        return
    with _Manager(ctx=get_context("spawn")) as manager:
        yield manager.controller(*budget, workers=plan.workers)  # type: ignore[attr-defined]


class _Manager(BaseManager):
    """Has the shared controller."""


_Manager.register("controller", SharedController, exposed=["exchange"])


def _begin(controller: Any) -> None:
    """Begin a worker. It ends with the process that started it, however that ends."""
    global _exchange
    _exchange = None if controller is None else controller.exchange
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _tag(task: Task, part: Part, threads: int) -> Report:
    return tag_part(task, part, threads, _exchange)
