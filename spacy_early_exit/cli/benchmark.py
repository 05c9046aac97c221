"""``spacy early-exit benchmark``: pipelines beside one another on the clock."""

import hashlib
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Dict, List, Optional

import srsly
import typer
from wasabi import msg
from wasabi.tables import table

from .app import DEFAULT, early_exit, progress, read_speedups


@early_exit.command("benchmark")
def benchmark_cli(
    model: str = typer.Argument(..., help="Calibrated pipeline of entities: folder or package"),
    data: Path = typer.Argument(..., help="Annotated texts, .spacy"),
    speedups: str = typer.Option(DEFAULT, "--speedups", "-s", help="As far as calibrated"),
    beside: Optional[List[str]] = typer.Option(
        None, "--beside", "-b", help="Another pipeline, NAME=FOLDER; may be given again"
    ),
    batch_sizes: str = typer.Option(
        "32,128,1000", "--batch-sizes", help="Of pipelines without early exits: each is a line"
    ),
    rounds: int = typer.Option(5, "--rounds", "-r", min=1, help="Rounds of the clock"),
    threads: Optional[int] = typer.Option(
        None, "--threads", "-t", min=1, help="Of each pipeline. Without: what torch would take"
    ),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="JSON file; what is in it already is not measured again"
    ),
) -> None:
    """Measure words per second, memory, start-up and scores, in alternating rounds.

    Every pipeline runs in a process of its own, on the same texts with as many threads. The
    ratio is to the first line.
    """
    import torch

    from ..measure.benchmark import benchmark
    from ..measure.contenders import contenders_of, spans_of

    try:
        sizes = [int(size) for size in batch_sizes.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        msg.fail(f"--batch-sizes must be numbers, such as 32,128, not {batch_sizes!r}.", exits=1)
    asked = read_speedups(speedups)
    contenders = []
    for given in (model, *(beside or ())):
        name, _, folder = given.rpartition("=")
        try:
            contenders += contenders_of(folder, asked, sizes, name or None)
        except (OSError, ValueError) as e:
            msg.fail(f"{folder}: {e}", exits=1)
    docs = _read(data)
    text = "\n".join(doc.text for doc in docs)
    about: Dict[str, Any] = {
        "data": data.name,
        "sha256": hashlib.sha256(text.encode("utf8", "surrogatepass")).hexdigest(),
        "words": sum(map(len, docs)),
        "threads": threads or torch.get_num_threads(),
        **machine(),
    }
    known = _known(output, about)

    def save(results: Dict[str, Dict[str, Any]]) -> None:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            beside_it = output.with_name(output.name + ".new")
            srsly.write_json(beside_it, {"about": about, "contenders": results})
            beside_it.replace(output)  # whenever it is cut off, the file is whole

    try:
        results = benchmark(
            contenders,
            [doc.text for doc in docs],
            [spans_of(doc) for doc in docs],
            about["words"],
            threads=about["threads"],
            rounds=rounds,
            known=known,
            save=save,
            progress=progress,
        )
    except ValueError as e:
        msg.fail(str(e), "Name pipelines as NAME=FOLDER.", exits=1)
        return
    show(results)


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


def _read(data: Path) -> List[Any]:
    import spacy

    from .app import read_corpus

    return [eg.reference for eg in read_corpus(spacy.blank("xx"), data)]


def machine() -> Dict[str, str]:
    """RETURNS (Dict[str, str]): What results depend on beside pipelines and texts."""
    names = ("spacy", "spacy-early-exit", "torch", "transformers")
    return {
        "machine": _processor(),
        "date": str(date.today()),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def _processor() -> str:
    """RETURNS (str): Its name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _known(output: Optional[Path], about: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """RETURNS (Dict): What an earlier run left off with, if it was one like this."""
    if output is None or not output.is_file():
        return {}
    try:
        found: Dict[str, Any] = srsly.read_json(output)
        before, results = found["about"], found["contenders"]
    except (ValueError, KeyError, TypeError):
        before, results = {}, {}
    other = [name for name in about if name != "date" and before.get(name) != about[name]]
    if other:
        msg.fail(
            f"{output} holds something else: it is of another {' and '.join(other)}.",
            "Give another --output, or remove it.",
            exits=1,
        )
        raise SystemExit(1)
    found_before: Dict[str, Dict[str, Any]] = results
    return found_before
