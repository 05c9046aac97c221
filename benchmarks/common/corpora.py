"""Make what the other benchmarks run on.

prepare: train.spacy, tune.spacy and dev.spacy, of a folder with train.tsv and dev.tsv.
join: long documents, of consecutive texts, until each has enough words.
"""

import argparse
import random
from pathlib import Path

import spacy
from spacy.tokens import Doc, DocBin

from .train import run


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare")
    one.add_argument("corpus", type=Path, help="folder with train.tsv and dev.tsv")
    one.add_argument("output", type=Path, help="folder")
    one.add_argument("--most", type=int, default=0, help="training sentences, drawn; 0: all")
    one.add_argument("--task", default="ner", choices=("ner", "tagger", "segmenter"))
    one.add_argument("--lang", default="en")
    other = commands.add_parser("join")
    other.add_argument("corpus", type=Path, help="annotated docs, .spacy")
    other.add_argument("output", type=Path, help=".spacy")
    other.add_argument("--words", default="200,2000", help="each gets from the one to the other")
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.corpus, args.output, args.most, args.task, args.lang)
    else:
        low, high = (int(words) for words in args.words.split(","))
        join(args.corpus, args.output, low, high)


def prepare(
    corpus: Path, output: Path, most: int, task: str, lang: str, attribute: str = "tag"
) -> None:
    """Cut tune from a corpus, and convert all parts to spaCy's format."""
    how = ["--task", task]
    run("scripts/cut_tune.py", corpus, output, "--most", most, *how)
    for part in ("train", "tune", "dev"):
        file = output / f"{part}.tsv"
        to_spacy = ["scripts/convert.py", file, output / f"{part}.spacy", "--lang", lang]
        run(*to_spacy, *how, "--attribute", attribute)


def join(corpus: Path, output: Path, low: int, high: int) -> None:
    """Join consecutive texts, until each has a number of words drawn from low to high."""
    draw = random.Random(0)
    joined, part, enough = DocBin(), [], draw.randint(low, high)
    for doc in DocBin().from_disk(corpus).get_docs(spacy.blank("xx").vocab):
        part.append(doc)
        if sum(map(len, part)) >= enough:
            joined.add(Doc.from_docs(part))
            part, enough = [], draw.randint(low, high)
    output.parent.mkdir(parents=True, exist_ok=True)
    joined.to_disk(output)
    print(f"{output}: {len(joined)} documents")


def sentences_of(path: Path) -> list[str]:
    """RETURNS (list[str]): The sentences of a corpus of ``token<TAB>tag``, each with its lines."""
    blocks = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n\n")
    return [block.strip("\n") for block in blocks if block.strip()]


def texts_of(path: Path) -> list[str]:
    """RETURNS (list[str]): The same as texts, without tags."""
    lines = (sentence.split("\n") for sentence in sentences_of(path))
    return [" ".join(line.split("\t")[0] for line in some) for some in lines]


if __name__ == "__main__":
    main()
