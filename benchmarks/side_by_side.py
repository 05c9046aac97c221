"""Pipelines beside one another on the same texts: F, saving and words per second.

Each is given as NAME=FOLDER or NAME=FOLDER@THRESHOLD. The clock runs in alternating rounds, so
that what else the machine does hits all alike.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin
from thresholds import at, measure
from tqdm import tqdm
from wasabi import table

COLUMNS = {
    "name": "{}",
    "threshold": "{:g}",
    "ents_f": "{:.4f}",
    "mac_speedup": "{:.2f}",
    "words_per_second": "{:.0f}",
    "words_per_second_min": "{:.0f}",
    "words_per_second_max": "{:.0f}",
}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="annotated docs, .spacy")
    parser.add_argument("pipelines", nargs="+", help="NAME=FOLDER[@THRESHOLD]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded: dict[str, spacy.Language] = {}
    contenders = []
    for given in args.pipelines:
        name, _, place = given.partition("=")
        folder, _, threshold = place.partition("@")
        nlp = loaded.setdefault(folder, spacy.load(folder))
        contenders.append((name, nlp, float(threshold or 0.0)))
    rows = []
    for name, nlp, threshold in tqdm(contenders, desc="scores", leave=False):
        gold = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
        found = measure(nlp, gold, threshold)
        rows.append({"name": name, **found})
    texts = [doc.text for doc in gold]
    words = sum(map(len, gold))
    seconds: list[list[float]] = [[] for _ in rows]
    for _ in tqdm(range(args.rounds), desc="rounds", leave=False):
        for (_, nlp, threshold), times in zip(contenders, seconds):
            start = time.perf_counter()
            for _doc in nlp.pipe(texts, component_cfg=at(threshold)):
                pass
            times.append(time.perf_counter() - start)
    for row, times in zip(rows, seconds):
        row["words_per_second"] = words / statistics.median(times)
        row["words_per_second_min"] = words / max(times)
        row["words_per_second_max"] = words / min(times)
    shown = [[form.format(row[name]) for name, form in COLUMNS.items()] for row in rows]
    print(table(shown, header=list(COLUMNS), aligns=["l"] + ["r"] * (len(COLUMNS) - 1)))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
