"""End the demo: write its report, and show on one screen what early exits save and cost."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from spacy.language import Language
from wasabi.tables import table

from spacy_early_exit.budget.curve import Calibration
from spacy_early_exit.cli.app import asked_or_reachable, load, progress, read_corpus
from spacy_early_exit.measure.report import Report, collect, to_html
from spacy_early_exit.pipe.records import get_records

SENTENCES = (
    "The invoice is attached, thanks again for your patience.",
    "Please ask Teresa Okafor at Brightwater Logistics to call me before 14 May 2024.",
    "will may be in paris in may, or is paris in paris?",
)
SPEEDUP = 2.0  # of the sentences, if it is within reach


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the calibrated pipeline")
    parser.add_argument("data", type=Path, help="annotated texts, .spacy")
    parser.add_argument("report", type=Path, help="where to write the report, .html")
    args = parser.parse_args()
    nlp, ner = load(args.model, None)
    speedups = asked_or_reachable(ner, None)
    report = collect(nlp, ner, read_corpus(nlp, ner, args.data), speedups, progress=progress)
    args.report.write_text(to_html(report), encoding="utf8")
    ner.store_exits = True
    synthetic = (args.data.parent / "SYNTHETIC.txt").exists()
    for line in (
        *scores(report, ner.calibrated(), synthetic),
        *sentences(nlp, report, max(speedup for speedup in speedups if speedup <= SPEEDUP)),
        *next_steps(args.model, args.report),
    ):
        print(line)


def scores(report: Report, calibration: Calibration, synthetic: bool) -> Iterator[str]:
    """YIELDS (str): The lines that compare speedups.

    report (Report): The content of the report.
    calibration (Calibration): The pipeline's.
    synthetic (bool): Whether the texts are synthetic.
    """
    yield from ("", " Scores and speed ".center(80, "="), "")
    yield f"On {len(report.docs):,} texts that were not trained on:"
    rows = [
        (
            "1 (full depth)" if row["speedup"] == 1 else f"{row['speedup']:g}",
            f"{100 * row['ents_f']:.1f}",
            f"{row['ents_f'] / report.rows[0]['ents_f']:.1%}",
            f"{row['mac_speedup']:.1f}X",
            f"{row['words_per_second']:,.0f}",
            f"{row['wall_speedup']:.1f}X",
        )
        for row in report.rows
    ]
    header = ("speedup asked for", "F-score", "kept", "fewer operations", "words/s", "faster")
    yield table(rows, header=header, aligns=("l", "r", "r", "r", "r", "r"))
    if calibration.keeps_up_to < calibration.most:
        most = f"{calibration.keeps_up_to:.1f}"
        yield f"Above speedup = {most}, too much of the F-score is lost: the pipeline warns."
    yield "Operations are counted; words/s and faster are measured on this machine."
    if synthetic:
        yield "The texts are synthetic: these scores say nothing about real text."


def sentences(nlp: Language, report: Report, speedup: float) -> Iterator[str]:
    """YIELDS (str): Sentences, with the exit layer below each word.

    nlp (Language): The pipeline.
    report (Report): The content of the report.
    speedup (float): The speedup to run at.
    """
    yield from ("", " Exit layers ".center(80, "="), "")
    yield f"At speedup = {speedup:g}. Below each word is its exit layer, out of {report.layers}:"
    for doc in nlp.pipe(SENTENCES, component_cfg={report.component: {"speedup": speedup}}):
        layers = get_records(doc)[report.component].layers or ()
        widths = [max(len(token), len(str(layer))) for token, layer in zip(doc, layers)]
        yield from ("", "  " + " ".join(f"{t.text:<{width}}" for t, width in zip(doc, widths)))
        yield "  " + " ".join(f"{layer:<{width}}" for layer, width in zip(layers, widths))
        yield "  " + (", ".join(f"{e.text} = {e.label_}" for e in doc.ents) or "No entities.")


def next_steps(model: str, report: Path) -> Iterator[str]:
    """YIELDS (str): What to do next.

    model (str): The folder of the pipeline.
    report (Path): The report.
    """
    python = os.path.relpath(sys.executable)
    yield from ("", " What next ".center(80, "="), "")
    yield f"Open the report:        {report}"
    yield f'Use the pipeline:       spacy.load("{model}"), see docs/tutorial.md'
    yield f"Train on your own text: {python} -m spacy project run train . --vars.corpus FOLDER"
    yield "                        FOLDER has train.tsv and dev.tsv: a line token<TAB>tag per word"


if __name__ == "__main__":
    main()
