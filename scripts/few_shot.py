"""Draw a few sentences for each label from a corpus, as if no more were annotated.

The corpus is a folder with train.tsv and dev.tsv, or .jsonl: see cut_tune.py. The output has the
sentences that were drawn as its train, the corpus's own dev, and all other sentences of train as
unlabelled.jsonl, without annotation.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

from cut_tune import labels_of, missing_from, read_texts, suffix_of, words_of, write_part


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with train and dev, .tsv or .jsonl")
    parser.add_argument("output", type=Path, help="folder for train, dev and unlabelled.jsonl")
    parser.add_argument("--per-label", type=int, default=10, help="sentences to draw for each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in missing_from(args.corpus):
        raise SystemExit(f"{args.corpus} has no {name}.")
    suffix = suffix_of(args.corpus)
    train, dev = (read_texts(args.corpus / f"{part}{suffix}") for part in ("train", "dev"))
    few, rest, missed = draw(train, suffix, args.per_label, args.seed)
    for label, count in missed.items():
        print(f"{label}: only {count} sentences have one that no other label took.")
    args.output.mkdir(parents=True, exist_ok=True)
    for name, texts in (("train", few), ("dev", dev)):
        write_part(args.output / f"{name}{suffix}", texts)
    lines = [json.dumps({"text": text_of(one, suffix)}, ensure_ascii=False) for one in rest]
    (args.output / "unlabelled.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    print(f"unlabelled: {len(rest)} texts")


def draw(
    texts: list[str], suffix: str, per_label: int, seed: int
) -> tuple[list[str], list[str], dict[str, int]]:
    """Draw sentences for each label. Rare labels come first; no sentence is drawn twice.

    texts (list[str]): The sentences.
    suffix (str): The file name extension of their corpus.
    per_label (int): How many to draw for each label.
    seed (int): Seed of the draw.
    RETURNS (tuple[list[str], list[str], dict[str, int]]): The sentences that were drawn, the
        others, both in their order, and the labels that have fewer than asked for.
    """
    labels = [labels_of(text, suffix) for text in texts]
    counts = Counter(label for some in labels for label in sorted(some))
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    drawn: set[int] = set()
    missed = {}
    for label in sorted(counts, key=lambda label: (counts[label], label)):
        mine = [i for i in order if label in labels[i] and i not in drawn][:per_label]
        drawn.update(mine)
        if len(mine) < per_label:
            missed[label] = len(mine)
    few = [text for i, text in enumerate(texts) if i in drawn]
    return few, [text for i, text in enumerate(texts) if i not in drawn], missed


def text_of(text: str, suffix: str) -> str:
    """RETURNS (str): A sentence of a corpus file as plain text."""
    plain: str = words_of(text) if suffix == ".tsv" else json.loads(text)["text"]
    return plain


if __name__ == "__main__":
    main()
