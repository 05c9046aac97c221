"""Jobs on Ray, and a function for those who have a ``ray.data.Dataset``."""

import os
from dataclasses import asdict
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Type

import pyarrow as pa

from ..budget.controller import SharedController
from ..runtime.processors import processors
from .budget import Budget
from .job import Plan, make_plan
from .parts import Columns, Part
from .tagger import Exchange, Report, Setting, Task, tag_part, tag_table, tagger

try:
    import ray
    import ray.data
except ImportError as e:
    raise ImportError("Ray is not installed: pip install 'spacy-early-exit[ray]'.") from e


class Ray:
    """Workers of a Ray cluster. Each is an actor of Ray Data, which starts it again if it dies.

    address (Optional[str]): The cluster's address; None: that in RAY_ADDRESS, or this machine.
    """

    def __init__(self, address: Optional[str] = None):
        self._started = not ray.is_initialized()
        if self._started and address is None and "RAY_ADDRESS" not in os.environ:
            ray.init(num_cpus=processors(), include_dashboard=False, log_to_driver=False)
        elif self._started:
            ray.init(address, log_to_driver=False)

    def plan(self, workers: Optional[int], cpus: Optional[int]) -> Plan:
        """Divide the processors of the cluster: see ``job.Engine``."""
        return make_plan(nodes(), workers, cpus)

    def run(
        self, task: Task, parts: Sequence[Part], plan: Plan, budget: Optional[Budget]
    ) -> Iterator[Report]:
        """Have parts done: see ``job.Engine``. Actors may take all processors: they read parts
        themselves, so there is no other work that could wait for one.
        """
        controller = None
        if budget is not None:
            controller = ray.remote(num_cpus=0)(SharedController).remote(
                *budget, workers=plan.workers
            )
        rows = [asdict(part) for part in parts]
        reports = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            PartTagger,
            fn_constructor_args=(task, plan.cpus, controller),
            num_cpus=plan.cpus,
            concurrency=min(plan.workers, len(rows)),
        )
        for row in reports.iter_rows():
            yield Report(**row)

    def stop(self) -> None:
        """Leave the cluster, unless it was there before."""
        if self._started:
            ray.shutdown()


def nodes() -> List[int]:
    """RETURNS (List[int]): The number of processors of each machine of the cluster."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


class PartTagger:
    """An actor that tags parts.

    task (Task): What to do with each.
    cpus (int): The number of its processors.
    controller (Any): The actor that has the budget; None: there is none.
    """

    def __init__(self, task: Task, cpus: int, controller: Any):
        self.task, self.cpus = task, cpus
        self.exchange: Optional[Exchange] = None
        if controller is not None:
            self.exchange = lambda *told: ray.get(controller.exchange.remote(*told))

    def __call__(self, row: Dict[str, Any]) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): The report on a part."""
        return asdict(tag_part(self.task, Part(**row), self.cpus, self.exchange))


def tag_batches(
    model: str,
    speedup: Optional[float] = None,
    component: Optional[str] = None,
    code: Optional[str] = None,
    columns: Columns = Columns(),
) -> Type[Callable[[pa.Table], pa.Table]]:
    """Tag a dataset of texts. Give ``map_batches`` what ``pool`` returns, too::

        dataset.map_batches(tag_batches("training/final", 3.0), **pool())

    model (str): Folder or name of the pipeline, on every node.
    speedup (Optional[float]): The speedup to aim at; None: as in the pipeline's config.
    component (Optional[str]): Name of its early-exit component, if it has several.
    code (Optional[str]): A Python file that registers what the pipeline's config names.
    columns (Columns): Where texts and ids are.
    RETURNS (Type[Callable]): A class, for actors that load the pipeline once. They return tables
        with ``table.SCHEMA``.
    """
    setting = Setting(model, speedup, component, code)

    class BatchTagger:
        def __init__(self) -> None:
            cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
            self.tagger = tagger(setting, max(1, int(cpus)))

        def __call__(self, batch: pa.Table) -> pa.Table:
            return pa.Table.from_batches([tag_table(self.tagger, batch, columns)])

    return BatchTagger


def pool(workers: Optional[int] = None, cpus: int = 1) -> Dict[str, Any]:
    """Plan actors for ``map_batches``. Actors keep their processors, and what reads the dataset
    needs one as well: without it, nothing would ever move. So one is left.

    workers (Optional[int]): The number of actors; None: as many as there is room for.
    cpus (int): The number of processors of each.
    RETURNS (Dict[str, Any]): Arguments of ``map_batches``.
    RAISES (ValueError): If there is no room for them and the reading.
    """
    if not ray.is_initialized():
        ray.init()
    smallest, *others = sorted(nodes())
    plan = make_plan([smallest - 1, *others], workers, cpus)
    return {
        "concurrency": plan.workers,
        "num_cpus": plan.cpus,
        "batch_size": 1000,
        "batch_format": "pyarrow",
    }
