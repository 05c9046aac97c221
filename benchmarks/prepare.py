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
    parser.add_argument("--task", default="ner", choices=("ner", "tagger", "segmenter"))
    parser.add_argument("--lang", default="en")
    args = parser.parse_args()
    how = ["--task", args.task]
    run("scripts/cut_tune.py", args.corpus, args.output, "--most", args.most, *how)
    for part in ("train", "tune", "dev"):
        file = args.output / f"{part}.tsv"
        run("scripts/convert.py", file, args.output / f"{part}.spacy", "--lang", args.lang, *how)


if __name__ == "__main__":
    main()
