"""How fast the ways to leave early are that `relatives.py` trained, beside one another.

For every method and saving: the setting that tune prefers, at the threshold whose saving on dev is
that one; for patience alone, which has no dial, every setting. F and saving are measured there
again, the clock runs in alternating rounds over all of them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin
from spacy.util import load_config
from tqdm import tqdm
from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.clock import timed
from benchmarks.common.curves import Rows, at, criterion_of, measure, value_at
from benchmarks.common.relatives import METHODS, SAVINGS, folder_of, is_on_or_off, preferred


@dataclass(frozen=True)
class Point:
    """Where a method is measured.

    method (str): Its name.
    setting (str): Of its criterion.
    saving (float): What is aimed at; 0: whatever it is.
    threshold (float): The threshold.
    """

    method: str
    setting: str
    saving: float
    threshold: float


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="the folder with dev.spacy")
    parser.add_argument("work", type=Path, help="folder with the pipelines")
    parser.add_argument("results", type=Path, help="what relatives.py wrote")
    parser.add_argument("output", type=Path, help="the table as JSON")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = kept.read(args.results)
    points = [
        point
        for method in METHODS
        if f"{method}, seed {args.seed}" in results
        for point in points_of(method, results[f"{method}, seed {args.seed}"])
    ]
    loaded = {
        key: load(args.work, args.seed, *key)
        for key in dict.fromkeys((point.method, point.setting) for point in points)
    }
    rows = []
    for point in tqdm(points, desc="scores", leave=False):
        nlp = loaded[point.method, point.setting]
        gold = list(DocBin().from_disk(args.corpus / "dev.spacy").get_docs(nlp.vocab))
        rows.append({**vars(point), **measure(nlp, gold, [point.threshold])[0]})
    texts = [doc.text for doc in gold]
    words = sum(map(len, gold))
    ways = [(loaded[point.method, point.setting], at(point.threshold)) for point in points]
    for row, speeds in zip(rows, timed(ways, texts, words, args.rounds), strict=True):
        row.update(speeds)
    print(f"{words} words, {args.threads} threads, medians of {args.rounds} rounds")
    show(rows)
    kept.write(args.output, rows, threads=args.threads, rounds=args.rounds)


def points_of(method: str, found: dict[str, dict[str, Rows]]) -> list[Point]:
    """RETURNS (list[Point]): Full depth, and where the savings are reached."""
    settings = list(found["dev"])
    points = [Point(method, settings[0], 1.0, 0.0)]
    if is_on_or_off(found):
        return points + [Point(method, setting, 0.0, 1.0) for setting in settings]
    for saving in SAVINGS:
        setting = preferred(found["tune"], saving)
        threshold = value_at(found["dev"][setting], saving, "threshold")
        if threshold is not None:
            points.append(Point(method, setting, saving, threshold))
    return points


def load(work: Path, seed: str, method: str, setting: str) -> spacy.Language:
    """RETURNS (Language): A method's pipeline with one of its settings."""
    folder = folder_of(work, method, seed)
    # Reduction is trained in two steps.
    model = max(folder.glob("[01]")) / "model-best"
    config = load_config(model / "config.cfg", interpolate=False)
    component = config["components"]["early_exit_ner"]
    component.update(criterion=criterion_of(setting.split()), kv=METHODS[method].kv)
    return spacy.load(model, config={"components": config["components"]})


def show(rows: list[dict[str, float | str]]) -> None:
    """Print the table."""
    columns = {
        "method": "{}",
        "setting": "{}",
        "threshold": "{:.3g}",
        "ents_f": "{:.4f}",
        "mac_speedup": "{:.2f}",
        "words_per_second": "{:,.0f}",
        "words_per_second_min": "{:,.0f}",
        "words_per_second_max": "{:,.0f}",
    }
    lines = [[form.format(row[name]) for name, form in columns.items()] for row in rows]
    print(table(lines, header=list(columns), aligns=["l", "l"] + ["r"] * (len(columns) - 2)))


if __name__ == "__main__":
    main()
