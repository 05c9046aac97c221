"""What a temperature for each exit head does to confidences, and to the curve of F and saving.

A corpus is a folder with tune.spacy, on which temperatures are fitted, and dev.spacy, on which
all figures are measured: the expected calibration error of entities' confidences at some
speedups, and F at equal savings, interpolated between thresholds.
"""

import argparse
import sys
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin
from spacy.training import Example
from tqdm import tqdm
from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.curves import f_at, measure
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.evaluate import evaluate
from spacy_early_exit.measure.temperature import fit_temperatures, scale_heads

THRESHOLDS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65)
SAVINGS = (1.5, 2.0, 2.5, 3.0, 4.0)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a trained pipeline")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--speedups", default="1,2,3")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    speedups = [float(speedup) for speedup in args.speedups.split(",")]
    results = {}
    for kind in ("as trained", "with temperatures"):
        nlp = spacy.load(args.model)
        ner = nlp.get_pipe("early_exit_ner")
        tune, dev = (read(nlp, args.corpus / f"{part}.spacy") for part in ("tune", "dev"))
        temperatures = [1.0] * len(ner.network.exit_layers)
        if kind == "with temperatures":
            temperatures = fit_temperatures(ner, tune)
            scale_heads(ner, temperatures)
        calibrate(ner, tune, speedups, with_score=False)
        rows = evaluate(nlp, ner, dev, speedups, rounds=0)
        gold = [eg.reference for eg in dev]
        curve = measure(nlp, gold, THRESHOLDS, lambda t: tqdm(t, leave=False, file=sys.stderr))
        results[kind] = {
            "temperatures": temperatures,
            "confidence_error": {f"{row['speedup']:g}X": row["confidence_error"] for row in rows},
            "ents_f": {f"{saving:g}X": f_at(curve, saving) for saving in SAVINGS},
        }
    header = ["", *(f"error {s:g}X" for s in speedups), *(f"F {s:g}X" for s in SAVINGS)]
    shown = [
        [
            kind,
            *(f"{error:.3f}" for error in found["confidence_error"].values()),
            *(f"{100 * f:.2f}" for f in found["ents_f"].values()),
        ]
        for kind, found in results.items()
    ]
    print(", ".join(f"{t:.2f}" for t in results["with temperatures"]["temperatures"]))
    print(table(shown, header=header))
    kept.write(args.output, results)


def read(nlp: spacy.Language, path: Path) -> list[Example]:
    """RETURNS (list[Example]): The texts of a file, with their annotation."""
    gold = DocBin().from_disk(path).get_docs(nlp.vocab)
    return [Example(nlp.make_doc(doc.text), doc) for doc in gold]


if __name__ == "__main__":
    main()
