"""How fast decoders are, by the length of texts: on what a trained pipeline says of a corpus.

The words of the corpus are cut anew, into texts of each length. What the decoders would learn is
drawn at random: it has no say in how long they take. The clock runs in alternating rounds.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch
from spacy.tokens import DocBin
from wasabi import table

from spacy_early_exit.decoders import (
    BIOViterbi,
    Decoder,
    Learned,
    make_ain_decoder,
    make_crf_decoder,
)

LENGTHS = (10, 40, 160, 640)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("corpus", type=Path, help="docs, .spacy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nlp = spacy.load(args.pipeline)
    docs = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
    texts = [nlp.make_doc(doc.text) for doc in docs]
    said = nlp.get_pipe("early_exit_ner").predict(texts)
    logits = np.concatenate([prediction.exits.logits for prediction in said])
    rows = [row for length in LENGTHS for row in measure(logits, length, args.rounds)]
    names = list(dict.fromkeys(row["decoder"] for row in rows))
    shown = [
        [name, *(f"{row['words_per_second']:,.0f}" for row in rows if row["decoder"] == name)]
        for name in names
    ]
    header = ["words/s", *(f"{length} words" for length in LENGTHS)]
    print(f"{len(logits)} words, {logits.shape[1]} tags")
    print(table(shown, header=header, aligns=["l"] + ["r"] * len(LENGTHS)))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


def measure(logits: Any, length: int, rounds: int) -> list[dict[str, Any]]:
    """RETURNS (list): A row for every decoder, on texts of a length."""
    texts = np.split(logits, range(length, len(logits), length))
    seconds: dict[str, list[float]] = {name: [] for name in decoders(logits.shape[1])}
    for _ in range(rounds + 1):  # the first is to warm up
        for name, decode in decoders(logits.shape[1]).items():
            start = time.perf_counter()
            decode(texts)
            seconds[name].append(time.perf_counter() - start)
    return [
        {
            "decoder": name,
            "length": length,
            "tags": logits.shape[1],
            "words_per_second": len(logits) / statistics.median(times[1:]),
            "words_per_second_min": len(logits) / max(times[1:]),
            "words_per_second_max": len(logits) / min(times[1:]),
        }
        for name, times in seconds.items()
    ]


def decoders(tags: int) -> dict[str, Callable[[Any], Any]]:
    """RETURNS (dict): What decodes texts, by name."""
    crf = batched(make_crf_decoder(), tags)
    return {
        "argmax": lambda texts: [text.argmax(1) for text in texts],
        "BIO Viterbi": batched(BIOViterbi(), tags),
        "CRF": crf,
        "CRF, text by text": lambda texts: [crf([text]) for text in texts],
        "AIN, order 1": batched(make_ain_decoder(3, 1), tags),
        "AIN, order 2": batched(make_ain_decoder(3, 2), tags),
    }


def batched(decoder: Decoder, tags: int) -> Callable[[Any], Any]:
    """RETURNS (Callable): Decodes texts all together."""
    draw = torch.Generator().manual_seed(0)
    learned: Learned = {
        name: torch.randn(parameter.shape, generator=draw)
        for name, parameter in decoder.parameters(tags).items()
    }
    return functools.partial(decoder, learned=learned)


if __name__ == "__main__":
    main()
