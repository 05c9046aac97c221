"""How fast decoders are, by the length of texts: on what a trained pipeline says of a corpus.

The words of the corpus are cut anew, into texts of each length; batches have the same number of
texts, whatever their length, or all texts. What the decoders would learn is drawn at random. That
has no say in how long a CRF or an AIN takes, but AIN's answers are made valid by BIO Viterbi, which
searches where they are not: its time without that is there as well. The clock runs in alternating
rounds.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch
from spacy.tokens import DocBin
from wasabi import table

from benchmarks.common import results
from benchmarks.common.clock import speeds_of
from spacy_early_exit.decoders import BIOViterbi, Decoder, Learned, make_crf_decoder
from spacy_early_exit.relatives.mean_field import (
    AINDecoder,
    Links,
    make_ain_decoder,
    mean_field,
)

LENGTHS = (10, 40, 160, 640)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("corpus", type=Path, help="docs, .spacy")
    parser.add_argument("--texts", default="24,0", help="to a batch; 0: all")
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
    print(f"{len(logits)} words, {logits.shape[1]} tags")
    rows = []
    for size in map(int, args.texts.split(",")):
        found = [row for length in LENGTHS for row in measure(logits, length, size, args.rounds)]
        rows += found
        names = list(dict.fromkeys(row["decoder"] for row in found))
        shown = [
            [name, *(f"{row['words_per_second']:,.0f}" for row in found if row["decoder"] == name)]
            for name in names
        ]
        header = ["words/s", *(f"{length} words" for length in LENGTHS)]
        print(f"{size or 'All'} texts to a batch")
        print(table(shown, header=header, aligns=["l"] + ["r"] * len(LENGTHS)))
    results.write(args.output, rows, threads=args.threads)


def measure(logits: Any, length: int, size: int, rounds: int) -> list[dict[str, Any]]:
    """RETURNS (list): A row for every decoder, on texts of a length in batches of a size."""
    texts = np.split(logits, range(length, len(logits), length))
    size = size or len(texts)
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    seconds: dict[str, list[float]] = {name: [] for name in decoders(logits.shape[1])}
    for _ in range(rounds + 1):  # the first is to warm up
        for name, decode in decoders(logits.shape[1]).items():
            start = time.perf_counter()
            for batch in batches:
                decode(batch)
            seconds[name].append(time.perf_counter() - start)
    return [
        {
            "decoder": name,
            "length": length,
            "texts": size,
            "tags": logits.shape[1],
            **speeds_of(times[1:], len(logits)),
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
        "AIN, order 1, argmax": best_beliefs(make_ain_decoder(3, 1), tags),
        "AIN, order 1": batched(make_ain_decoder(3, 1), tags),
        "AIN, order 2": batched(make_ain_decoder(3, 2), tags),
    }


def batched(decoder: Decoder, tags: int) -> Callable[[Any], Any]:
    """RETURNS (Callable): Decodes texts all together."""
    return functools.partial(decoder, learned=drawn(decoder, tags))


def best_beliefs(decoder: Decoder, tags: int) -> Callable[[Any], Any]:
    """RETURNS (Callable): Gives each word the best tag by itself, as the paper does."""
    assert isinstance(decoder, AINDecoder)
    learned = drawn(decoder, tags)

    def decode(texts: Any) -> Any:
        lengths = [len(text) for text in texts]
        number = torch.from_numpy(np.repeat(np.arange(len(texts)), lengths))
        links = Links.of(number, learned, decoder.order)
        own = torch.from_numpy(np.concatenate(texts))
        return mean_field(own, links, decoder.iterations).argmax(1).split(lengths)

    return decode


def drawn(decoder: Decoder, tags: int) -> Learned:
    """RETURNS (Learned): What a decoder would learn."""
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(parameter.shape, generator=draw)
        for name, parameter in decoder.parameters(tags).items()
    }


if __name__ == "__main__":
    main()
