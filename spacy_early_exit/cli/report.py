"""``spacy early-exit report``: an HTML report."""

from pathlib import Path
from typing import Optional

import typer
from wasabi import msg

from .app import (
    ANNOTATED,
    CODE,
    asked_or_reachable,
    check_output,
    early_exit,
    load,
    progress,
    read_corpus,
)
from .refusals import refusing, writing


@early_exit.command("report")
def report_cli(
    model: str = typer.Argument(..., help="Calibrated pipeline: folder or package name"),
    data: Path = typer.Argument(..., help=ANNOTATED),
    output: Path = typer.Option(..., "--output", "-o", help="HTML file of the report"),
    speedups: Optional[str] = typer.Option(
        None,
        "--speedups",
        "-s",
        help="Speedups to compare. By default the usual ones, as far as calibrated",
    ),
    rounds: int = typer.Option(3, "--rounds", "-r", min=0, help="Timed rounds; 0: no timing"),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
    code: Optional[Path] = CODE,
) -> None:
    """Write a report on what speedups save and cost, and at which layer words exit.

    It is a single file without scripts that opens offline. Needs matplotlib: pip install matplotlib
    """
    from ..measure.docs import set_sentences
    from ..measure.report import collect, to_html

    check_output(output, folder=False)
    nlp, ner = load(model, component, code)
    asked = asked_or_reachable(ner, speedups)
    examples = read_corpus(nlp, ner, data)
    with refusing(ValueError, ImportError):
        set_sentences(nlp, ner, examples)
        page = to_html(collect(nlp, ner, examples, asked, rounds=rounds, progress=progress))
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf8")
    msg.good(f"Saved the report to {output}")
