"""Words per second of training: both stages, in fp32 and in mixed precision, spacy-transformers,
and a padded Hugging Face loop.

All take steps on the same batches of texts, drawn in spaCy's way, in turns, with Adam and gradients
clipped. Needs spacy-transformers.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.cli.init_config import init_config
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.training.batchers import minibatch_by_words
from spacy.util import load_config
from spacy.vocab import Vocab
from tqdm import tqdm
from wasabi import table

from benchmarks.common import results

STAGES = ("joint", "self_sampling")
Batch = list[int]  # which texts


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="training texts, .spacy")
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("first_stage", type=Path, help="a trained pipeline, for the second stage")
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    docs = texts_of(args.corpus, spacy.blank("en").vocab)
    by_words = minibatch_by_words(range(len(docs)), size=600, get_length=lambda i: len(docs[i]))
    batches: list[Batch] = list(islice(by_words, args.steps))
    words = sum(len(docs[i]) for batch in batches for i in batch)
    contenders: dict[str, Callable[[Batch], None]] = {
        "first stage": stage("joint", args),
        "second stage": stage("self_sampling", args),
        "first stage, mixed precision": stage("joint", args, mixed_precision=True),
        "second stage, mixed precision": stage("self_sampling", args, mixed_precision=True),
        "spacy-transformers": transformer(args),
        "Hugging Face, padded": padded(args, docs),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in tqdm(range(args.rounds + 1), leave=False):
        for name, step in contenders.items():
            start = time.perf_counter()
            for batch in batches:
                step(batch)
            if number:  # the first is to warm up
                speeds[name].append(words / (time.perf_counter() - start))
    rows = [(n, statistics.median(s), min(s), max(s)) for n, s in speeds.items()]
    shown = [(name, *(f"{value:.0f}" for value in values)) for name, *values in rows]
    print(table(shown, header=("", "words/s", "least", "most"), aligns=["l", "r", "r", "r"]))
    results.write(args.output, speeds, words_of_a_round=words, threads=args.threads)


def texts_of(corpus: Path, vocab: Vocab) -> list[Doc]:
    """RETURNS (list[Doc]): As many texts as are needed, and some more to find labels in."""
    return list(islice(DocBin().from_disk(corpus).get_docs(vocab), 1000))


def updates(config: Any, corpus: Path) -> Callable[[Batch], None]:
    """RETURNS (Callable): What takes a step with a pipeline, as ``spacy train`` does."""
    nlp = spacy.util.load_model_from_config(config, auto_fill=True)
    docs = texts_of(corpus, nlp.vocab)

    def examples(numbers: Iterable[int]) -> list[Example]:
        return [Example(nlp.make_doc(docs[i].text), docs[i]) for i in numbers]

    optimizer = nlp.initialize(lambda: examples(range(len(docs))))

    def step(batch: Batch) -> None:
        nlp.update(examples(batch), sgd=optimizer, drop=0.1)

    return step


def stage(
    name: str, args: argparse.Namespace, mixed_precision: bool = False
) -> Callable[[Batch], None]:
    """RETURNS (Callable): What takes a step of a stage of training."""
    config = load_config(Path(f"configs/{name}.cfg"), interpolate=False)
    config["components"]["early_exit_ner"]["model"]["mixed_precision"] = mixed_precision
    config["paths"]["encoder"] = str(args.encoder)
    if "first_stage" in config["paths"]:
        config["paths"]["first_stage"] = str(args.first_stage)
    return updates(config.interpolate(), args.corpus)


def transformer(args: argparse.Namespace) -> Callable[[Batch], None]:
    """RETURNS (Callable): What takes a step with spacy-transformers."""
    config = init_config(lang="en", pipeline=["ner"], optimize="efficiency", gpu=True)
    config["components"]["transformer"]["model"]["name"] = str(args.encoder.resolve())
    return updates(config, args.corpus)


def padded(args: argparse.Namespace, docs: list[Doc]) -> Callable[[Batch], None]:
    """RETURNS (Callable): What takes a step of a plain loop over Hugging Face's model, which pads
    the texts of a batch to the longest.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    labels = sorted({ent.label_ for doc in docs for ent in doc.ents})
    tags = ["O"] + [f"{kind}-{label}" for label in labels for kind in "BI"]
    tokenizer = AutoTokenizer.from_pretrained(args.encoder)
    model = AutoModelForTokenClassification.from_pretrained(args.encoder, num_labels=len(tags))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(batch: Batch) -> None:
        texts = [[token.text for token in docs[i]] for i in batch]
        encoded = tokenizer(
            texts, is_split_into_words=True, truncation=True, padding=True, return_tensors="pt"
        )
        gold = torch.full(encoded["input_ids"].shape, -100)
        for row, i in enumerate(batch):
            seen = set()
            for column, word in enumerate(encoded.word_ids(row)):
                if word is not None and word not in seen:
                    seen.add(word)
                    token = docs[i][word]
                    name = f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O"
                    gold[row, column] = tags.index(name)
        model(**encoded, labels=gold).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
