"""Make long documents: consecutive texts of a corpus joined, until each has enough words."""

import argparse
import random
from pathlib import Path

import spacy
from spacy.tokens import Doc, DocBin


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="annotated docs, .spacy")
    parser.add_argument("output", type=Path, help=".spacy")
    parser.add_argument("--words", default="200,2000", help="each gets from the one to the other")
    args = parser.parse_args()
    low, high = (int(words) for words in args.words.split(","))
    draw = random.Random(0)
    joined, part, enough = DocBin(), [], draw.randint(low, high)
    for doc in DocBin().from_disk(args.corpus).get_docs(spacy.blank("xx").vocab):
        part.append(doc)
        if sum(map(len, part)) >= enough:
            joined.add(Doc.from_docs(part))
            part, enough = [], draw.randint(low, high)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    joined.to_disk(args.output)
    print(f"{args.output}: {len(joined)} documents")


if __name__ == "__main__":
    main()
