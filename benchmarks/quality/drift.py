"""What a speedup saves on texts unlike those it was calibrated on, fixed and adaptive.

The pipeline is one that was calibrated on WNUT-17. It runs on other corpora, on WNUT-17's dev part
with noise, on each of these streams in other orders, and on two corpora joined end to end. Savings
are those over all words, and over the words after the first 2,000; the worst miss is the largest of
the running saving, over all words so far, at any text after the first 2,000 words.

With --rounds, what following costs on the clock: adaptive beside a fixed threshold that saves as
much on the same texts, in alternating rounds.
"""

import argparse
import itertools
import random
import statistics
import time
from pathlib import Path

import spacy
from tqdm import tqdm
from wasabi import table

from benchmarks.common import results
from benchmarks.common.corpora import texts_of
from spacy_early_exit.pipe.records import get_records

COLUMNS = {
    "texts": "{}",
    "order": "{}",
    "words": "{}",
    "speedup": "{:g}",
    "fixed": "{:.2f}",
    "adaptive": "{:.2f}",
    "miss": "{:+.1%}",
    "adaptive_all": "{:.2f}",
    "miss_all": "{:+.1%}",
    "worst_after_2000": "{:.1%}",
    "speed_over_fixed": "{:.2f}",
}
SETTLED = 2000  # words
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CORPORA = {"WNUT-17 dev": "wnut17/dev", "SNIPS train": "snips/train"}
CORPORA["UNER EWT train"] = "uner_en_ewt/train"


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
    singles = {name: cut(nlp, texts, args.words) for name, texts in streams(args.data).items()}
    rows = []
    for speedup in map(float, args.speedups.split(",")):
        fixed = {name: run(nlp, texts, {"speedup": speedup}) for name, texts in singles.items()}
        for name, order, texts, costs in tqdm(orders(singles, fixed), leave=False):
            row = {"texts": name, "order": order, "speedup": speedup}
            row["fixed_all"], row["fixed"], _ = savings(costs, speedup)
            followed = run(nlp, texts, {"speedup": speedup, "adaptive": True})
            found = savings(followed, speedup)
            row["adaptive_all"], row["adaptive"], row["worst_after_2000"] = found
            row["words"] = sum(words for words, _, _ in followed)
            if args.rounds and order == AS_IS:
                row.update(price(nlp, texts, speedup, args.rounds))
            rows.append(row)
            results.write(args.output, rows, words=args.words)
    table_of = [{**row, **misses(row)} for row in rows]
    columns = {name: form for name, form in COLUMNS.items() if name in table_of[0]}
    shown = [[f.format(row[n]) if n in row else "" for n, f in columns.items()] for row in table_of]
    print(table(shown, header=list(columns), aligns=["l", "l"] + ["r"] * (len(columns) - 2)))


def misses(row: dict[str, float]) -> dict[str, float]:
    """RETURNS (dict[str, float]): By what share savings miss what was asked for."""
    return {
        "miss": row["adaptive"] / row["speedup"] - 1,
        "miss_all": row["adaptive_all"] / row["speedup"] - 1,
    }


def streams(data: Path) -> dict[str, list[str]]:
    """RETURNS (dict[str, list[str]]): Texts by name."""
    corpora = {name: texts_of(data / f"{path}.tsv") for name, path in CORPORA.items()}
    tweets = corpora["WNUT-17 dev"]
    rng = random.Random(0)
    return {
        **corpora,
        "a fifth of spaces deleted": [without_spaces(text, 0.2, rng) for text in tweets],
        "a tenth of characters replaced": [replaced(text, 0.1, rng) for text in tweets],
        "twenty posts to a text": [" ".join(tweets[i : i + 20]) for i in range(0, len(tweets), 20)],
    }


AS_IS = "as they come"
Cost = tuple[int, int, int]  # words, spent, full
Stream = tuple[str, str, list[str], list[Cost]]  # name, order, texts, what they cost when fixed


def orders(texts: dict[str, list[str]], fixed: dict[str, list[Cost]]) -> list[Stream]:
    """RETURNS (list[Stream]): Every stream in every order, and the corpora joined in pairs."""
    found = [(name, AS_IS, texts[name], fixed[name]) for name in texts]
    for one, other in itertools.permutations(CORPORA, 2):
        joined = texts[one] + texts[other], fixed[one] + fixed[other]
        found.append((f"{one}, then {other}", AS_IS, *joined))
    for name, costs in fixed.items():
        numbers = list(range(len(costs)))
        lengths = [words for words, _, _ in costs]
        shares = [spent / full if full else 0.0 for _, spent, full in costs]
        for order, by in {
            "shuffled": random.Random(0).sample(numbers, len(numbers)),
            "shortest first": sorted(numbers, key=lambda i: lengths[i]),
            "longest first": sorted(numbers, key=lambda i: -lengths[i]),
            "cheapest first": sorted(numbers, key=lambda i: shares[i]),
            "dearest first": sorted(numbers, key=lambda i: -shares[i]),
        }.items():
            found.append((name, order, [texts[name][i] for i in by], [costs[i] for i in by]))
    return found


def without_spaces(text: str, share: float, rng: random.Random) -> str:
    """RETURNS (str): The text without some of its spaces."""
    return "".join(c for c in text if c != " " or rng.random() >= share)


def replaced(text: str, share: float, rng: random.Random) -> str:
    """RETURNS (str): The text with other letters for some characters that are not spaces."""
    return "".join(rng.choice(LETTERS) if c != " " and rng.random() < share else c for c in text)


def cut(nlp: spacy.Language, texts: list[str], most: int) -> list[str]:
    """RETURNS (list[str]): The first texts, until they have so many words."""
    words = list(itertools.accumulate(len(nlp.make_doc(text)) for text in texts))
    return texts[: sum(before < most for before in [0, *words[:-1]])]


def run(nlp: spacy.Language, texts: list[str], cfg: dict[str, float]) -> list[Cost]:
    """RETURNS (list[Cost]): What every text has cost."""
    costs = []
    for doc in nlp.pipe(texts, component_cfg={"early_exit_ner": cfg}):
        record = get_records(doc)["early_exit_ner"]
        costs.append((len(doc), record.spent, record.full))
    return costs


def savings(costs: list[Cost], speedup: float) -> tuple[float, float, float]:
    """RETURNS (tuple): The saving over all words, over those after the first 2,000, and the worst
    miss of the running saving from there on.
    """
    sums = list(zip(*map(itertools.accumulate, zip(*costs))))
    start = next(i for i, (words, _, _) in enumerate(sums) if words >= SETTLED)
    _, spent, full = (after - before for after, before in zip(sums[-1], sums[start]))
    worst = max(abs(f / s / speedup - 1) for _, s, f in sums[start:])
    return saving(costs), full / spent, worst


def saving(costs: list[Cost]) -> float:
    """RETURNS (float): The saving over all words."""
    return sum(full for _, _, full in costs) / sum(spent for _, spent, _ in costs)


def price(nlp: spacy.Language, texts: list[str], speedup: float, rounds: int) -> dict[str, float]:
    """RETURNS (dict[str, float]): Words per second of adaptive over those of a fixed threshold
    that saves as much, and the spread.
    """
    adaptive = {"speedup": speedup, "adaptive": True}
    wanted = saving(run(nlp, texts, adaptive))
    low, high = 0.0, 1.0
    for _ in range(8):
        threshold = (low + high) / 2
        found = saving(run(nlp, texts, {"threshold": threshold}))
        low, high = (threshold, high) if found < wanted else (low, threshold)
    ratios = []
    for _ in range(rounds):
        seconds = []
        for cfg in (adaptive, {"threshold": low}):
            start = time.perf_counter()
            run(nlp, texts, cfg)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    return {
        "speed_over_fixed": statistics.median(ratios),
        "speed_over_fixed_min": min(ratios),
        "speed_over_fixed_max": max(ratios),
    }


if __name__ == "__main__":
    main()
