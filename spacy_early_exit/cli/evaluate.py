"""``spacy early-exit evaluate``: what speedups or thresholds really save and cost."""

from pathlib import Path
from typing import List, Optional

import srsly
import typer
from wasabi import msg
from wasabi.tables import table

from .app import (
    ANNOTATED,
    CODE,
    DEFAULT,
    asked_or_reachable,
    check_output,
    early_exit,
    load,
    progress,
    read_corpus,
)
from .refusals import Refused, refusing, writing

COLUMNS = {
    "mac_speedup": "{:.2f}",
    "unslimmed_mac_speedup": "{:.2f}",
    "words_per_second": "{:.0f}",
    "words_per_second_min": "{:.0f}",
    "words_per_second_max": "{:.0f}",
    "wall_speedup": "{:.2f}",
    "mean_exit_layer": "{:.2f}",
    "agreement": "{:.4f}",
    "confidence_error": "{:.3f}",
}


@early_exit.command("evaluate")
def evaluate_cli(
    model: str = typer.Argument(..., help="Pipeline: folder or package name"),
    data: Path = typer.Argument(..., help=ANNOTATED),
    speedups: Optional[str] = typer.Option(
        None,
        "--speedups",
        "-s",
        help=f"Speedups of a calibrated pipeline. By default {DEFAULT}, as far as calibrated",
    ),
    thresholds: Optional[str] = typer.Option(
        None, "--thresholds", "-t", help="Thresholds instead of speedups, such as 0,0.05,0.1"
    ),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="JSON file of results"),
    rounds: int = typer.Option(3, "--rounds", "-r", min=0, help="Timed rounds; 0: no timing"),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
    code: Optional[Path] = CODE,
) -> None:
    """Measure scores, real speedups and words per second at several speedups or thresholds.

    Speedups, in operations (MACs) and in time, are relative to full depth. If the encoder is slim,
    unslimmed_mac_speedup is relative to full depth of the encoder that it was cut from.
    """
    from ..measure.docs import set_sentences
    from ..measure.evaluate import evaluate

    if speedups is not None and thresholds is not None:
        raise Refused("Give --speedups or --thresholds, not both.")
    if output is not None:
        check_output(output, folder=False)
    by = "speedup" if thresholds is None else "threshold"
    values = [] if thresholds is None else read_thresholds(thresholds)
    nlp, ner = load(model, component, code)
    values = values or asked_or_reachable(ner, speedups)
    examples = read_corpus(nlp, ner, data)
    with refusing(ValueError):
        set_sentences(nlp, ner, examples)
        rows = evaluate(nlp, ner, examples, values, by=by, rounds=rounds, progress=progress)
    forms = {by: "{:g}", **dict.fromkeys(ner.scores, "{:.4f}"), **COLUMNS}
    # What the other tasks of a shared pass score, and theirs of the rest.
    forms.update({name: _form(name) for name in rows[0] if name not in forms})
    columns = [name for name in forms if name in rows[0]]
    shown = [[forms[name].format(row[name]) for name in columns] for row in rows]
    header = [name.replace("words_per_second_", "") for name in columns]
    print(table(shown, header=header, aligns=["r"] * len(columns)))
    if output is not None:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            srsly.write_json(output, {f"{by}s": rows})
        msg.good(f"Saved the results to {output}")


def _form(name: str) -> str:
    known = (form for column, form in COLUMNS.items() if name.startswith(f"{column}_"))
    return next(known, "{:.4f}")


def read_thresholds(thresholds: str) -> List[float]:
    """RETURNS (List[float]): The thresholds of a comma-separated list, ascending."""
    try:
        found = sorted({float(threshold) for threshold in thresholds.split(",")})
    except ValueError:
        found = []
    if not found or not all(0.0 <= threshold <= 1.0 for threshold in found):
        raise Refused(
            f"--thresholds must be numbers from 0 to 1, such as 0,0.05,0.1, not {thresholds!r}."
        )
    return found
