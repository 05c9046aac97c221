"""F and saving of a trained pipeline at several thresholds, with another criterion than its own.

With the pipeline's own criterion, and on the clock: `spacy early-exit evaluate --thresholds`.
"""

import argparse
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin
from tqdm import tqdm
from wasabi import table

from benchmarks.common import results
from benchmarks.common.curves import NAME, criterion, criterion_of, measure

COLUMNS = {"threshold": "{:g}", "ents_f": "{:.4f}", "mac_speedup": "{:.2f}"}


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
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nlp = spacy.load(args.model, config={"components": {NAME: settings_of(args)}})
    gold = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
    thresholds = [float(threshold) for threshold in args.thresholds.split(",")]
    rows = measure(nlp, gold, thresholds, lambda steps: tqdm(steps, leave=False))
    print(f"{args.corpus}: {sum(map(len, gold))} words")
    shown = [[form.format(row[name]) for name, form in COLUMNS.items()] for row in rows]
    print(table(shown, header=list(COLUMNS), aligns=["r"] * len(COLUMNS)))
    results.write(args.output, rows)


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """RETURNS (dict[str, object]): What the arguments change in the component's config."""
    settings: dict[str, object] = {}
    if args.window is not None:
        settings["criterion"] = criterion("TokenExit.v1", window=args.window)
    if args.sentences:
        settings["criterion"] = criterion("SentenceExit.v1")
    if args.criterion:
        settings["criterion"] = criterion_of(args.criterion)
    if args.kv:
        settings["kv"] = args.kv
    if args.halt_special:
        settings["halt_special"] = True
    return settings


if __name__ == "__main__":
    main()
