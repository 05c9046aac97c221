"""Pipelines beside one another on the same texts: F, saving and words per second.

Each is given as NAME=FOLDER or NAME=FOLDER@THRESHOLD. The clock runs in alternating rounds, so
that what else the machine does hits all alike.
"""

import argparse
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin
from tqdm import tqdm
from wasabi import table

from benchmarks.common import results
from benchmarks.common.clock import timed
from benchmarks.common.curves import at, measure

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
        rows.append({"name": name, **measure(nlp, gold, [threshold])[0]})
    texts = [doc.text for doc in gold]
    words = sum(map(len, gold))
    ways = [(nlp, at(threshold)) for _, nlp, threshold in contenders]
    for row, speeds in zip(rows, timed(ways, texts, words, args.rounds), strict=True):
        row.update(speeds)
    shown = [[form.format(row[name]) for name, form in COLUMNS.items()] for row in rows]
    print(table(shown, header=list(COLUMNS), aligns=["l"] + ["r"] * (len(COLUMNS) - 1)))
    results.write(args.output, rows, threads=args.threads, rounds=args.rounds)


if __name__ == "__main__":
    main()
