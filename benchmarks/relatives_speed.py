"""How fast the ways to leave early are that `relatives.py` trained, beside one another.

For every method and saving: the setting that tune prefers, at the threshold whose saving on dev is
that one; for patience alone, which has no dial, every setting. F and saving are measured there
again, the clock runs in alternating rounds over all of them.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import spacy
import torch
from ablation import Rows
from relatives import METHODS, SAVINGS, folder_of, is_on_or_off, preferred
from spacy.tokens import DocBin
from spacy.util import load_config
from thresholds import at, measure, settings_of
from tqdm import tqdm
from wasabi import table


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
    results = json.loads(args.results.read_text())
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
        rows.append({**vars(point), **measure(nlp, gold, point.threshold)})
    texts = [doc.text for doc in gold]
    seconds: list[list[float]] = [[] for _ in points]
    for _ in tqdm(range(args.rounds), desc="rounds", leave=False):
        for point, times in zip(points, seconds, strict=True):
            nlp = loaded[point.method, point.setting]
            start = time.perf_counter()
            for _doc in nlp.pipe(texts, component_cfg=at(point.threshold)):
                pass
            times.append(time.perf_counter() - start)
    words = sum(map(len, gold))
    for row, times in zip(rows, seconds, strict=True):
        row["words_per_second"] = words / statistics.median(times)
        row["words_per_second_min"] = words / max(times)
        row["words_per_second_max"] = words / min(times)
    print(f"{words} words, {args.threads} threads, medians of {args.rounds} rounds")
    show(rows)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(rows, indent=1) + "\n")


def points_of(method: str, found: dict[str, dict[str, Rows]]) -> list[Point]:
    """RETURNS (list[Point]): Full depth, and where the savings are reached."""
    settings = list(found["dev"])
    points = [Point(method, settings[0], 1.0, 0.0)]
    if is_on_or_off(found):
        return points + [Point(method, setting, 0.0, 1.0) for setting in settings]
    for saving in SAVINGS:
        setting = preferred(found["tune"], saving)
        threshold = threshold_at(found["dev"][setting], saving)
        if threshold is not None:
            points.append(Point(method, setting, saving, threshold))
    return points


def threshold_at(rows: Rows, saving: float) -> float | None:
    """RETURNS (float | None): Of a saving, interpolated; None out of reach."""
    points = sorted((row["mac_speedup"], row["threshold"]) for row in rows)
    for (low, first), (high, second) in zip(points, points[1:], strict=False):
        if low <= saving <= high:
            share = (saving - low) / (high - low) if high > low else 0.0
            return first + share * (second - first)
    return None


def load(work: Path, seed: str, method: str, setting: str) -> spacy.Language:
    """RETURNS (Language): A method's pipeline with one of its settings."""
    folder = folder_of(work, method, seed)
    # Reduction is trained in two steps.
    model = max(folder.glob("[01]")) / "model-best"
    given = argparse.Namespace(
        criterion=setting.split(),
        kv=METHODS[method].kv,
        window=None,
        sentences=False,
        halt_special=False,
    )
    config = load_config(model / "config.cfg", interpolate=False)
    for name, value in settings_of(given).items():
        config["components"]["early_exit_ner"][name] = value
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
