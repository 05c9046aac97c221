"""Fill in a training config for a corpus: its number of steps, and what follows from it."""

import argparse
import math
from pathlib import Path

import spacy
from spacy.cli.init_config import fill_config
from spacy.tokens import DocBin
from spacy.util import load_config


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("template", type=Path, help="the config to fill in")
    parser.add_argument("train", type=Path, help="the training corpus, .spacy")
    parser.add_argument("output", type=Path, help="where to write the config")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--evaluate-every", type=float, default=0.5, help="in epochs")
    parser.add_argument("--lang", default="en")
    args = parser.parse_args()
    config = load_config(args.template, interpolate=False)
    docs = DocBin().from_disk(args.train).get_docs(spacy.blank(args.lang).vocab)
    words = sum(len(doc) for doc in docs)
    steps_an_epoch = math.ceil(words / config["training"]["batcher"]["size"])
    steps = args.epochs * steps_an_epoch
    config["nlp"]["lang"] = args.lang
    config["training"]["max_steps"] = steps
    config["training"]["eval_frequency"] = max(1, int(args.evaluate_every * steps_an_epoch))
    schedule = config["training"]["optimizer"]["learn_rate"]
    schedule["warmup_steps"] = max(1, steps // 10)
    schedule["total_steps"] = steps
    args.output.parent.mkdir(parents=True, exist_ok=True)
    config.to_disk(args.output)
    fill_config(args.output, args.output, silent=True)
    print(f"{words} words, {args.epochs} epochs of {steps_an_epoch} steps -> {args.output}")


if __name__ == "__main__":
    main()
