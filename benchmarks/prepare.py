"""Make what the other benchmarks run on: train.spacy, tune.spacy and dev.spacy of a corpus."""

import argparse
from pathlib import Path

from ablation import run


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("output", type=Path)
    parser.add_argument("--most", type=int, default=0, help="training sentences, drawn; 0: all")
    args = parser.parse_args()
    run("scripts/cut_tune.py", args.corpus, args.output, "--most", args.most)
    for part in ("train", "tune", "dev"):
        file = args.output / f"{part}.tsv"
        run("-m", "spacy", "convert", file, args.output, "-c", "ner", "-n", 1, "-l", "en")


if __name__ == "__main__":
    main()
