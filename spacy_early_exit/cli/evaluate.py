"""``spacy early-exit evaluate``: what speedups really save and cost."""

from pathlib import Path
from typing import Optional

import srsly
import typer
from wasabi import msg
from wasabi.tables import table

from .app import (
    ANNOTATED,
    DEFAULT,
    asked_or_reachable,
    check_output,
    early_exit,
    load,
    progress,
    read_corpus,
)
from .refusals import refusing, writing

COLUMNS = {
    "mac_speedup": "{:.2f}",
    "words_per_second": "{:.0f}",
    "words_per_second_min": "{:.0f}",
    "words_per_second_max": "{:.0f}",
    "mean_exit_layer": "{:.2f}",
    "agreement": "{:.4f}",
    "confidence_error": "{:.3f}",
}


@early_exit.command("evaluate")
def evaluate_cli(
    model: str = typer.Argument(..., help="Calibrated pipeline: folder or package name"),
    data: Path = typer.Argument(..., help=ANNOTATED),
    speedups: Optional[str] = typer.Option(
        None, "--speedups", "-s", help=f"The speedups. Without: {DEFAULT}, as far as calibrated"
    ),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="JSON file for the results"),
    rounds: int = typer.Option(3, "--rounds", "-r", min=0, help="Rounds of the clock; 0: none"),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
) -> None:
    """Measure scores, real savings and words per second at several speedups."""
    from ..measure.docs import set_sentences
    from ..measure.evaluate import evaluate

    if output is not None:
        check_output(output, folder=False)
    nlp, ner = load(model, component)
    asked = asked_or_reachable(ner, speedups)
    examples = read_corpus(nlp, ner, data)
    with refusing(ValueError):
        set_sentences(nlp, ner, examples)
        rows = evaluate(nlp, ner, examples, asked, rounds=rounds, progress=progress)
    forms = {"speedup": "{:g}", **dict.fromkeys(ner.scores, "{:.4f}"), **COLUMNS}
    columns = [name for name in forms if name in rows[0]]
    shown = [[forms[name].format(row[name]) for name in columns] for row in rows]
    header = [name.replace("words_per_second_", "") for name in columns]
    print(table(shown, header=header, aligns=["r"] * len(columns)))
    if output is not None:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            srsly.write_json(output, {"speedups": rows})
        msg.good(f"Saved the results to {output}")
