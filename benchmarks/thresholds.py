"""Measure a trained pipeline at several thresholds: F-score, cost, and wall-clock speed.

Speeds are measured in alternating rounds, so that what else the machine does hits all alike.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import spacy
import torch
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from thinc.api import Config
from tqdm import tqdm
from wasabi import table

COLUMNS = {
    "threshold": "{:g}",
    "ents_f": "{:.4f}",
    "ents_f_kept": "{:.3f}",
    "exit_cost": "{:.3f}",
    "mac_speedup": "{:.2f}",
    "words_per_second": "{:.0f}",
    "wall_speedup": "{:.2f}",
}
LEGEND = (
    "kept: share of the first row's F; cost: share of full depth's operations that is spent; "
    "mac_speedup = 1 / cost; wall_speedup: words per second beside the first row's."
)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the trained pipeline")
    parser.add_argument("corpus", type=Path, help="annotated docs, .spacy")
    parser.add_argument("--thresholds", default="0,0.02,0.05,0.1,0.15,0.2,0.3,0.4")
    parser.add_argument("--window", type=int, help="neighbours to each side")
    parser.add_argument("--sentences", action="store_true", help="texts leave as a whole")
    parser.add_argument("--kv", choices=["copy", "drop"], help="whether what left is attended to")
    parser.add_argument(
        "--halt-special", action="store_true", help="special tokens leave with the first word"
    )
    parser.add_argument(
        "--criterion",
        nargs="+",
        metavar=("NAME", "SETTING=VALUE"),
        help="another one, such as PatienceExit.v1 patience=2",
    )
    parser.add_argument("--rounds", type=int, default=0, help="rounds of the clock; 0: none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.corpus.is_file():
        raise SystemExit(f"There is no file {args.corpus}.")
    settings = {"components": {"early_exit_ner": settings_of(args)}}
    nlp = spacy.load(args.model, config=settings)
    gold = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
    thresholds = [float(threshold) for threshold in args.thresholds.split(",")]
    bar = tqdm(thresholds, desc="scores", leave=False)
    rows = [measure(nlp, gold, threshold) for threshold in bar]
    clock(nlp, gold, rows, args.rounds)
    full = rows[0]["ents_f"]
    for row in rows:
        row["ents_f_kept"] = row["ents_f"] / full if full else 0.0
    print(f"{args.corpus}: {sum(map(len, gold))} words, {args.threads} threads")
    note = args.corpus.parent / "SYNTHETIC.txt"
    if note.exists():
        print("The corpus is synthetic: these numbers say nothing about real text.")
    columns = [name for name in COLUMNS if name in rows[0]]
    shown = [[COLUMNS[name].format(row[name]) for name in columns] for row in rows]
    print(table(shown, header=columns, aligns=["r"] * len(columns)))
    print(LEGEND)
    spread = max(row.get("unsteady", 1.0) for row in rows)
    if spread > 1.5:
        print(
            f"The clock was unsteady: rounds differ by a factor of {spread:.1f}. Try more rounds."
        )
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rows, indent=2))


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """RETURNS (dict[str, object]): What the arguments change in the component's config."""
    criterion: dict[str, object] = {}
    if args.window is not None:
        criterion = {
            "@misc": "spacy-early-exit.TokenExit.v1",
            "window": args.window,
        }
    if args.sentences:
        criterion = {"@misc": "spacy-early-exit.SentenceExit.v1"}
    if args.criterion:
        name, *given = args.criterion
        pairs = Config().from_str("[criterion]\n" + "\n".join(given))["criterion"]
        criterion = {"@misc": f"spacy-early-exit.{name}", **pairs}
    settings: dict[str, object] = {"criterion": criterion} if criterion else {}
    if args.kv:
        settings["kv"] = args.kv
    if args.halt_special:
        settings["halt_special"] = True
    return settings


def measure(nlp: spacy.Language, gold: list[Doc], threshold: float) -> dict[str, float]:
    """RETURNS (dict[str, float]): Scores and cost at a threshold."""
    ner = nlp.get_pipe("early_exit_ner")
    ner.threshold = threshold
    docs = fresh(nlp, gold)
    predictions = ner.predict(docs)
    ner.set_annotations(docs, predictions)
    exits = [prediction.exits for prediction in predictions]
    scores = ner.score([Example(doc, reference) for doc, reference in zip(docs, gold)])
    layers = [layer for doc_exits in exits for layer in doc_exits.exit_layer.tolist()]
    return {
        "threshold": threshold,
        "ents_p": scores["ents_p"],
        "ents_r": scores["ents_r"],
        "ents_f": scores["ents_f"],
        "exit_cost": scores["exit_cost"],
        "mac_speedup": 1 / scores["exit_cost"],
        "mean_exit_layer": sum(layers) / len(layers),
        "padding_share": sum(e.waste for e in exits) / sum(e.spent for e in exits),
    }


def clock(nlp: spacy.Language, gold: list[Doc], rows: list[dict[str, float]], rounds: int) -> None:
    """Add words per second to the rows: the median of alternating rounds, and its spread."""
    texts = [doc.text for doc in gold]
    words = sum(len(doc) for doc in nlp.pipe(texts))
    seconds: list[list[float]] = [[] for _ in rows]
    for _ in tqdm(range(rounds), desc="rounds", leave=False, disable=not rounds):
        for row, times in zip(rows, seconds):
            start = time.perf_counter()
            for _doc in nlp.pipe(texts, component_cfg=at(row["threshold"])):
                pass
            times.append(time.perf_counter() - start)
    if rounds:
        for row, times in zip(rows, seconds):
            ratios = [first / mine for first, mine in zip(seconds[0], times)]
            row["words_per_second"] = words / statistics.median(times)
            row["wall_speedup"] = statistics.median(ratios)
            row["unsteady"] = max(times) / min(times)
            row["wall_speedup_min"], row["wall_speedup_max"] = min(ratios), max(ratios)


def fresh(nlp: spacy.Language, gold: list[Doc]) -> list[Doc]:
    """RETURNS (list[Doc]): The same words, not annotated."""
    return [
        Doc(nlp.vocab, words=[t.text for t in doc], spaces=[bool(t.whitespace_) for t in doc])
        for doc in gold
    ]


def at(threshold: float) -> dict[str, dict[str, float]]:
    """RETURNS (dict): The component_cfg of a threshold."""
    return {"early_exit_ner": {"threshold": threshold}}


if __name__ == "__main__":
    main()
