"""Do neighbours that matter less in late layers, or thresholds that differ by layer, keep more?

The criterion of a trained pipeline is replaced. ``radii 2,1,0`` asks for two sure neighbours on
each side after the first layer, for one after the second and for none after all others. ``scale
0.7`` multiplies the threshold of each layer by 0.7 once more. ``radii 1`` is the workflow's own.

F is measured at the thresholds that reach each saving on the same texts, and interpolated between
the two nearest.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.tokens import DocBin
from spacy.training import Example
from wasabi import table

from benchmarks.common import results as kept
from spacy_early_exit.budget.search import search_threshold
from spacy_early_exit.criteria.base import CriterionBase
from spacy_early_exit.criteria.neighbours import Neighbourhoods
from spacy_early_exit.measure.calibrate import run
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.criterion import Step
from spacy_early_exit.network.exit_network import uncertainty

SAVINGS = (2.0, 3.0, 4.0)
STEPS = 9  # of a search, each of them a run


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a trained pipeline")
    parser.add_argument("corpus", type=Path, help="annotated texts, .spacy")
    parser.add_argument(
        "--radii", default="1;0;2;1,1,0;1,0;2,1,0;2,2,1,0", help="semicolons between"
    )
    parser.add_argument("--scales", default="0.5,0.7,1.4,2", help="with a radius of 1 everywhere")
    parser.add_argument("--most", type=int, default=16_000, help="words, spread over the texts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nlp = spacy.load(args.model)
    ner = nlp.get_pipe("early_exit_ner")
    gold = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
    gold = gold[:: max(1, sum(map(len, gold)) // args.most)]
    examples = [Example(doc.copy(), doc) for doc in gold]
    criteria = {f"radii {radii}": ByLayer(numbers(radii)) for radii in args.radii.split(";")}
    criteria |= {f"scale {s}": ByLayer((1,), float(s)) for s in args.scales.split(",") if s}
    results: dict[str, dict[str, float]] = {}
    for name, criterion in criteria.items():
        ner.criterion = criterion
        results[name] = scores(ner, examples)
        found = ", ".join(f"{saving} {f:.4f}" for saving, f in results[name].items())
        print(f"{name}: {found}", flush=True)
    full = run(ner, examples, 0.0, True).score
    rows = [
        [name, *(f"{100 * found[s] / full:.1f}" if s in found else "-" for s in map(form, SAVINGS))]
        for name, found in results.items()
    ]
    print(f"F at full depth: {full:.4f}. Of that are kept, in percent:")
    print(table(rows, header=["criterion", *map(form, SAVINGS)], aligns=["l", "r", "r", "r"]))
    if args.output:
        kept.write(args.output, {"1X": full, **results})


@dataclass(frozen=True)
class ByLayer(CriterionBase):
    """TokenExit with a radius for each layer, and thresholds that rise or fall with the layers.

    radii (tuple[int, ...]): Neighbours on each side after each layer; the last is for all others.
    scale (float): The factor from one layer's threshold to the next one's.
    """

    radii: tuple[int, ...]
    scale: float = 1.0

    def start(self, batch: Batch) -> dict[int, Neighbourhoods]:
        """RETURNS (dict[int, Neighbourhoods]): The words' neighbours, by radius."""
        return {radius: Neighbourhoods.of(batch, radius) for radius in set(self.radii)}

    def leave(self, step: Step, state: dict[int, Neighbourhoods]) -> torch.Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""
        radius = self.radii[min(step.layer, len(self.radii)) - 1]
        worst = state[radius].largest(step.words, uncertainty(step.logits))
        return worst < step.threshold * self.scale ** (step.layer - 1)


def numbers(given: str) -> tuple[int, ...]:
    """RETURNS (tuple[int, ...]): Numbers with commas between."""
    return tuple(int(number) for number in given.split(","))


def scores(ner: Any, examples: list[Example]) -> dict[str, float]:
    """RETURNS (dict[str, float]): F at each saving that can be reached."""
    points = [run(ner, examples, threshold, True) for threshold in (0.0, 1.0)]

    def saved(threshold: float) -> float:
        points.append(run(ner, examples, threshold, True))
        return points[-1].speedup

    for saving in SAVINGS:
        search_threshold(saving, saved, steps=STEPS)
    points.sort(key=lambda point: point.speedup)
    found = {}
    for saving in SAVINGS:
        for low, high in zip(points, points[1:]):
            if low.speedup <= saving <= high.speedup:
                share = (saving - low.speedup) / max(high.speedup - low.speedup, 1e-9)
                found[form(saving)] = low.score + share * (high.score - low.score)
    return found


def form(saving: float) -> str:
    """RETURNS (str): Such as ``3X``."""
    return f"{saving:g}X"


if __name__ == "__main__":
    main()
