"""What a speedup saves on texts unlike those it was calibrated on, fixed and adaptive.

The pipeline is one that was calibrated on WNUT-17. It runs on other corpora, and on WNUT-17's
dev part with noise. Savings are those over the words behind the first 2,000; the worst miss is
the largest of the running saving, over all words so far, at any later text.

With --rounds, what following costs on the clock: adaptive beside a fixed threshold that saves as
much on the same texts, in alternating rounds.
"""

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path

import spacy
from tqdm import tqdm
from wasabi import table

from spacy_early_exit.records import get_records

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import cut_tune

COLUMNS = {
    "texts": "{}",
    "words": "{}",
    "speedup": "{:g}",
    "fixed": "{:.2f}",
    "fixed_miss": "{:+.1%}",
    "adaptive": "{:.2f}",
    "adaptive_miss": "{:+.1%}",
    "worst_after_2000": "{:.1%}",
    "speed_over_fixed": "{:.2f}",
}
SETTLED = 2000  # words
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="calibrated on WNUT-17")
    parser.add_argument("data", type=Path, help="folder with wnut17, snips and uner_en_ewt")
    parser.add_argument("--speedups", default="2,3")
    parser.add_argument("--words", type=int, default=15_000, help="of each stream, at most")
    parser.add_argument("--rounds", type=int, default=0, help="of the clock; 0: none")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    args = parser.parse_args()
    if args.words <= SETTLED:
        parser.error(f"--words must be more than {SETTLED}")
    nlp = spacy.load(args.model)
    rows = []
    for name, texts in tqdm(streams(args.data).items(), leave=False):
        for speedup in map(float, args.speedups.split(",")):
            row = {"texts": name, "speedup": speedup}
            for kind in ("fixed", "adaptive"):
                cfg = {"speedup": speedup, "adaptive": kind == "adaptive"}
                so_far = run(nlp, texts, args.words, cfg)
                row["words"] = so_far[-1][0]
                before = next(sums for sums in so_far if sums[0] >= SETTLED)
                spent, full = (so_far[-1][i] - before[i] for i in (1, 2))
                row[kind] = full / spent
                row[f"{kind}_miss"] = row[kind] / speedup - 1
                misses = [abs(f / s / speedup - 1) for words, s, f in so_far if words >= SETTLED]
                row["worst_after_2000"] = max(misses)  # what stays is that of adaptive
            if args.rounds:
                row.update(price(nlp, texts, speedup, args.rounds))
            rows.append(row)
    columns = {name: form for name, form in COLUMNS.items() if name in rows[0]}
    shown = [[form.format(row[name]) for name, form in columns.items()] for row in rows]
    print(table(shown, header=list(columns), aligns=["l"] + ["r"] * (len(columns) - 1)))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


def streams(data: Path) -> dict[str, list[str]]:
    """RETURNS (dict[str, list[str]]): Texts by name."""
    tweets = texts_of(data / "wnut17" / "dev.tsv")
    rng = random.Random(0)
    return {
        "WNUT-17 dev": tweets,
        "SNIPS train": texts_of(data / "snips" / "train.tsv"),
        "UNER EWT train": texts_of(data / "uner_en_ewt" / "train.tsv"),
        "a fifth of spaces deleted": [without_spaces(text, 0.2, rng) for text in tweets],
        "a tenth of characters replaced": [replaced(text, 0.1, rng) for text in tweets],
        "twenty posts to a text": [" ".join(tweets[i : i + 20]) for i in range(0, len(tweets), 20)],
    }


def texts_of(path: Path) -> list[str]:
    """RETURNS (list[str]): The sentences of a corpus, as they come."""
    return [cut_tune.words_of(sentence) for sentence in cut_tune.read_sentences(path)]


def without_spaces(text: str, share: float, rng: random.Random) -> str:
    """RETURNS (str): The text without some of its spaces."""
    return "".join(c for c in text if c != " " or rng.random() >= share)


def replaced(text: str, share: float, rng: random.Random) -> str:
    """RETURNS (str): The text with other letters for some characters that are not spaces."""
    return "".join(rng.choice(LETTERS) if c != " " and rng.random() < share else c for c in text)


Sums = tuple[int, int, int]


def run(nlp: spacy.Language, texts: list[str], most: float, cfg: dict[str, float]) -> list[Sums]:
    """RETURNS (list[Sums]): Words, spent and full so far, after each text."""
    words = spent = full = 0
    so_far = []
    for doc in nlp.pipe(texts, component_cfg={"early_exit_ner": cfg}):
        record = get_records(doc)["early_exit_ner"]
        words, spent, full = words + len(doc), spent + record.spent, full + record.full
        so_far.append((words, spent, full))
        if words >= most:
            break
    return so_far


def price(nlp: spacy.Language, texts: list[str], speedup: float, rounds: int) -> dict[str, float]:
    """RETURNS (dict[str, float]): Words per second of adaptive over those of a fixed threshold
    that saves as much, and the spread.
    """
    adaptive = {"speedup": speedup, "adaptive": True}
    _, spent, full = run(nlp, texts, float("inf"), adaptive)[-1]
    low, high = 0.0, 1.0
    for _ in range(8):
        threshold = (low + high) / 2
        _, s, f = run(nlp, texts, float("inf"), {"threshold": threshold})[-1]
        low, high = (threshold, high) if f / s < full / spent else (low, threshold)
    ratios = []
    for _ in range(rounds):
        seconds = []
        for cfg in (adaptive, {"threshold": low}):
            start = time.perf_counter()
            run(nlp, texts, float("inf"), cfg)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    return {
        "speed_over_fixed": statistics.median(ratios),
        "speed_over_fixed_min": min(ratios),
        "speed_over_fixed_max": max(ratios),
    }


if __name__ == "__main__":
    main()
