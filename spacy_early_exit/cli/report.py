"""``spacy early-exit report``: a page to look at."""

from pathlib import Path
from typing import Optional

import typer
from wasabi import msg

from .app import (
    ANNOTATED,
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
    output: Path = typer.Option(..., "--output", "-o", help="The page, an HTML file"),
    speedups: Optional[str] = typer.Option(
        None, "--speedups", "-s", help="The speedups to compare. Without: as far as calibrated"
    ),
    rounds: int = typer.Option(3, "--rounds", "-r", min=0, help="Rounds of the clock; 0: none"),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
) -> None:
    """Write a page with what speedups save and cost, and which words leave where.

    It is one file without scripts that opens offline. Needs matplotlib: pip install matplotlib
    """
    from ..measure.docs import set_sentences
    from ..measure.report import collect, to_html

    check_output(output, folder=False)
    nlp, ner = load(model, component)
    asked = asked_or_reachable(ner, speedups)
    examples = read_corpus(nlp, ner, data)
    with refusing(ValueError, ImportError):
        set_sentences(nlp, ner, examples)
        page = to_html(collect(nlp, ner, examples, asked, rounds=rounds, progress=progress))
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf8")
    msg.good(f"Saved the report to {output}")
