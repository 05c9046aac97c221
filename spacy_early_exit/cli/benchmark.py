"""``spacy early-exit benchmark``: the speed of pipelines, compared."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import srsly
import typer
from wasabi.tables import table

from .app import (
    ANNOTATED,
    CODE,
    DEFAULT,
    check_output,
    early_exit,
    load_pipeline,
    progress,
    read_annotated,
    read_speedups,
)
from .refusals import Refused, refusing, writing

if TYPE_CHECKING:
    from ..measure.benchmark import Contender


@early_exit.command("benchmark")
def benchmark_cli(
    model: str = typer.Argument(..., help="Calibrated NER pipeline: folder or package name"),
    data: Path = typer.Argument(..., help=ANNOTATED),
    speedups: str = typer.Option(
        DEFAULT, "--speedups", "-s", help="Speedups to run at, as far as calibrated"
    ),
    beside: Optional[List[str]] = typer.Option(
        None,
        "--beside",
        "-b",
        help="Another pipeline, FOLDER or NAME=FOLDER; may be repeated. The name ends at the first "
        "= and has no slash: write ./lr=0.1 for a folder lr=0.1",
    ),
    batch_sizes: str = typer.Option(
        "32,128,1000",
        "--batch-sizes",
        help="Batch sizes of pipelines without early exits, one row each",
    ),
    rounds: int = typer.Option(5, "--rounds", "-r", min=1, help="Timed rounds"),
    threads: Optional[int] = typer.Option(
        None,
        "--threads",
        "-t",
        min=1,
        help="Threads of each pipeline. By default as many as torch uses",
    ),
    output: Optional[Path] = typer.Option(
        None,
        "--output",
        "-o",
        help="JSON file of results; those already in it are not measured again",
    ),
    code: Optional[Path] = CODE,
) -> None:
    """Measure words per second, memory, start-up and scores, in interleaved rounds.

    Every pipeline runs in a process of its own, on the same texts and with the same number of
    threads. Ratios are relative to the first row.
    """
    import torch

    from ..measure.benchmark import benchmark
    from ..measure.contenders import spans_of, unannotated_parts
    from ..measure.docs import count_words
    from ..measure.machine import machine

    if output is not None:
        check_output(output, folder=False)
    pipelines = [(None, model), *map(named, beside or ())]
    asked, sizes = read_speedups(speedups), read_sizes(batch_sizes)
    nlp = load_pipeline(model, code)
    contenders = find_contenders(pipelines, asked, sizes, code)
    docs = read_annotated(nlp, data)
    text = "\n".join(doc.text for doc in docs)
    with refusing(ValueError):
        words = count_words(docs)
    about: Dict[str, Any] = {
        "data": data.name,
        "sha256": hashlib.sha256(text.encode("utf8", "surrogatepass")).hexdigest(),
        "words": words,
        "threads": threads or torch.get_num_threads(),
        **machine(),
    }
    known = _known(output, about)
    with refusing(ValueError):
        results = benchmark(
            contenders,
            [doc.text for doc in docs],
            [spans_of(doc) for doc in docs],
            words,
            unknown=[unannotated_parts(doc) for doc in docs],
            threads=about["threads"],
            rounds=rounds,
            known=known,
            save=lambda results: _save(output, about, results),
            progress=progress,
        )
    show(results)


def find_contenders(
    pipelines: Sequence[Tuple[Optional[str], str]],
    speedups: List[float],
    sizes: List[int],
    code: Optional[Path] = None,
) -> List["Contender"]:
    """RETURNS (List[Contender]): The contenders of some pipelines.

    pipelines (Sequence[Tuple[Optional[str], str]]): Name in tables, or None, and folder of each.
    speedups (List[float]): The speedups at which early-exit components run.
    sizes (List[int]): Batch sizes of the other pipelines.
    code (Optional[Path]): A Python file to import first.
    RAISES (Refused): If one can't be measured.
    """
    from ..measure.contenders import contenders_of

    found = []
    for name, folder in pipelines:
        title = f"{folder} can't be measured."
        with refusing(OSError, ValueError, ImportError, title=title, others_errors=True):
            found += contenders_of(folder, speedups, sizes, name, code)
    return found


def show(results: Dict[str, Dict[str, Any]]) -> None:
    """Print a table, with ratios to the first line.

    results (Dict[str, Dict[str, Any]]): What ``benchmark`` found, by contender.
    """
    from ..measure.benchmark import ratio

    first = next(iter(results.values()))
    rows = []
    for name, result in results.items():
        if "error" in result:
            rows.append([name, result["error"], *[""] * 5])
            continue
        found = ratio(result, first)
        rows.append(
            [
                name,
                f"{result['words_per_second']:.0f}",
                f"{result['words_per_second_min']:.0f}-{result['words_per_second_max']:.0f}",
                "" if found is None else "{:.2f} ({:.2f}-{:.2f})".format(*found),
                f"{result['ents_f']:.4f}",
                "" if result["peak_mb"] is None else f"{result['peak_mb']:.0f}",
                f"{result['startup']:.1f}",
            ]
        )
    header = ["", "words/s", "least-most", "ratio", "ents_f", "peak MB", "start s"]
    print(table(rows, header=header, aligns=["l", "r", "r", "r", "r", "r", "r"]))


def read_sizes(batch_sizes: str) -> List[int]:
    """RETURNS (List[int]): The numbers of a comma-separated list."""
    try:
        sizes = [int(size) for size in batch_sizes.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise Refused(f"--batch-sizes must be whole numbers, such as 32,128, not {batch_sizes!r}.")
    return sizes


def named(given: str) -> Tuple[Optional[str], str]:
    """Split an argument of --beside.

    given (str): NAME=FOLDER, or FOLDER. Folders may contain =. Names may not, and may not be paths.
    RETURNS (Tuple[Optional[str], str]): The name, if there is one, and the folder.
    """
    name, equals, folder = given.partition("=")
    if equals and name and not set(name) & {"/", "\\"}:
        return name, folder
    return None, given


def _save(
    output: Optional[Path], about: Dict[str, Any], results: Dict[str, Dict[str, Any]]
) -> None:
    """Write the results so far, if asked for. The file stays whole even if that is interrupted."""
    if output is None:
        return
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        beside_it = output.with_name(output.name + ".new")
        srsly.write_json(beside_it, {"about": about, "contenders": results})
        beside_it.replace(output)


def _known(output: Optional[Path], about: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """RETURNS (Dict): The results of an earlier run, if it had the same arguments."""
    if output is None or not output.is_file():
        return {}
    try:
        found = srsly.read_json(output)
        before, results = found["about"], found["contenders"]
        lists = [result["seconds"] for result in results.values()]
        other = [name for name in about if name != "date" and before.get(name) != about[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        lists = [None]
    how = "Choose another --output, or remove the file."
    if not all(isinstance(seconds, list) for seconds in lists):
        raise Refused(f"{output} exists, but does not hold results of this command.", how)
    if other:
        raise Refused(f"{output} is of another run: {' and '.join(other)} changed.", how)
    known: Dict[str, Dict[str, Any]] = results
    return known
