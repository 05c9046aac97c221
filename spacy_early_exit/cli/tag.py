"""``spacy early-exit tag``: many files, tagged by many workers."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

import typer
from wasabi import msg

from .app import CODE, early_exit
from .refusals import Refused, refusing

if TYPE_CHECKING:
    from ..scale.job import Engine, Progress

ENGINES = ("local", "ray", "spark")


@early_exit.command("tag")
def tag_cli(
    source: Path = typer.Argument(
        ...,
        metavar="INPUT",
        help="Texts: a .parquet or .jsonl file, a file with one text per line, or a folder of "
        ".parquet, .jsonl and .txt files",
    ),
    output: Path = typer.Argument(..., help="Folder for Parquet files, new or of the same job"),
    model: str = typer.Option(..., "--model", "-m", help="Pipeline: folder or package name"),
    speedup: Optional[float] = typer.Option(
        None, "--speedup", "-s", help="Speedup to aim at. By default as in the pipeline's config"
    ),
    adaptive: bool = typer.Option(
        False, "--adaptive", "-a", help="Hold the speedup over the whole job, on whatever texts"
    ),
    engine: str = typer.Option("local", "--engine", "-e", help="local, ray or spark"),
    address: Optional[str] = typer.Option(
        None,
        "--address",
        help="Ray cluster or Spark master. By default that of the engine's own configuration, or "
        "this machine",
    ),
    workers: Optional[int] = typer.Option(
        None, "--workers", "-w", min=1, help="Workers. By default as many as there is room for"
    ),
    cpus: Optional[int] = typer.Option(
        None,
        "--cpus",
        "-t",
        min=1,
        help="Processors, and threads, of each worker. By default up to 4, with Spark "
        "spark.task.cpus",
    ),
    size: int = typer.Option(
        10_000, "--texts-per-file", "-n", min=1, help="Texts of each file of the output"
    ),
    text: str = typer.Option("text", "--text", help="Column or key that has the text"),
    id: str = typer.Option(
        "id", "--id", help="Column or key that has the id. Without it, ids are FILE:NUMBER"
    ),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
    code: Optional[Path] = CODE,
) -> None:
    """Find the entities of any number of texts, on this machine, on Ray or on Spark.

    The output has a row per text: id, entities, what it cost, or its error. Each file is there as a
    whole or not at all. The same command again continues a job that was interrupted.

    On a cluster, INPUT, OUTPUT and the pipeline must be at the same place on every node.
    """
    if engine not in ENGINES:
        raise Refused(f"--engine must be local, ray or spark, not {engine!r}.")
    if code is not None and not code.is_file():
        raise Refused(f"There is no file {code}.")
    with refusing(ImportError):
        from ..scale import job as jobs
        from ..scale.parts import Columns
        from ..scale.tagger import Setting, Task, tagger

        makers: Dict[str, Any] = vars(importlib.import_module(f"..scale.{engine}", __package__))
    setting = Setting(place(model), speedup, component, None if code is None else place(str(code)))
    job = jobs.Job(
        source.absolute(), Task(setting, Columns(text, id), output.absolute()), adaptive, size
    )
    runner: Engine = makers[engine.capitalize()](*([] if engine == "local" else [address]))
    try:
        with refusing(ValueError):
            plan = runner.plan(workers, cpus)
        with refusing(OSError, ValueError, ImportError, title=f"Can't run {model!r}."):
            pipeline = tagger(setting, plan.cpus)
        if adaptive and (pipeline.pipe.speedup or 1) <= 1:
            raise Refused("--adaptive needs a speedup above 1 to hold: add --speedup 3.")
        with refusing(OSError, ValueError), Bar() as bar:
            progress, metrics = jobs.run(job, runner, plan, pipeline, bar.show)
    finally:
        runner.stop()
    tell(progress, metrics, output)


def place(name: str) -> str:
    """RETURNS (str): The absolute path of a file or folder, since workers may run elsewhere; or the
    name of a package.
    """
    return str(Path(name).absolute()) if Path(name).exists() else name


class Bar:
    """A progress bar: texts, words per second, and what has been saved so far."""

    def __enter__(self) -> "Bar":
        self._bar: Any = None
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, progress: "Progress") -> None:
        """Show the progress."""
        from tqdm import tqdm

        done = round(progress.sums["texts"])
        if self._bar is None:
            self._bar = tqdm(total=progress.total, initial=done, unit=" texts", leave=False)
        self._bar.set_postfix_str(
            f"{progress.words_per_second:,.0f} words/s, {progress.saved:.2f}X saved", refresh=False
        )
        self._bar.update(done - self._bar.n)


def tell(progress: "Progress", metrics: Dict[str, Any], output: Path) -> None:
    """Print the summary of a job.

    progress (Progress): Its numbers.
    metrics (Dict[str, Any]): Those of the metrics file.
    output (Path): Its folder.
    RAISES (Refused): If files could not be read.
    """
    earlier = metrics["texts_of_earlier_runs"]
    msg.info(
        f"{metrics['texts']:,} texts, {metrics['words']:,} words"
        f"{f' ({earlier:,} texts by earlier runs)' if earlier else ''}: "
        f"{metrics['words_per_second']:,.0f} words/s by {metrics['workers']} x {metrics['cpus']} "
        f"CPUs, {metrics['saved']:.2f} times fewer operations than full depth."
    )
    if metrics["errors"]:
        msg.warn(f"{metrics['errors']:,} texts have an error in their row.")
    if progress.falls_short(metrics["asked"]):
        how = "" if metrics["adaptive"] else " --adaptive holds it, as far as it is within reach."
        msg.warn(
            f"It saved less than speedup = {metrics['asked']:g}: these texts are unlike those that "
            f"the pipeline was calibrated on.{how}"
        )
    if progress.failed:
        raise Refused(
            f"{len(progress.failed)} parts could not be done. The same command tries them again.",
            progress.failed[0],
        )
    msg.good(f"Saved them to {output}")
