"""What products of bytes cost, by how numbers become bytes: simulated in fp32, at full depth.

Weights and states have a scale for everything, or for each output or row. States are quantised
between their least and largest value, weights symmetrically.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import spacy
import torch
import torch.nn.functional as F
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from torch import Tensor
from wasabi import table

from benchmarks.common import results

SCHEMES = (
    ("fp32", "fp32", 8),
    ("a scale for the batch", "one scale", 8),
    ("a scale for the batch", "a scale for each output", 8),
    ("a scale for each row", "a scale for each output", 8),
    ("a scale for each row", "a scale for each output", 7),
)


COLUMNS = {
    "pipeline": "{}",
    "states": "{}",
    "weights": "{}",
    "bits": "{}",
    "ents_f": "{:.4f}",
    "changed": "{:.2%}",
}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="annotated docs, .spacy")
    parser.add_argument("pipelines", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)  # one batch after the other: linear is replaced for all of them
    rows = []
    for pipeline in args.pipelines:
        nlp = spacy.load(pipeline)
        gold = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
        tags = nlp.get_pipe("early_exit_ner").model.shims[0].trained.network.tags
        plain: list[str] = []
        for states, weights, bits in SCHEMES:
            with products(states, weights, bits, tags):
                f, found = run(nlp, gold)
            plain = plain or found
            changed = sum(a != b for a, b in zip(plain, found)) / len(plain)
            rows.append(dict(zip(COLUMNS, (str(pipeline), states, weights, bits, f, changed))))
    shown = [[form.format(row[name]) for name, form in COLUMNS.items()] for row in rows]
    print(table(shown, header=list(COLUMNS)))
    results.write(args.output, rows)


def run(nlp: spacy.Language, gold: list[Doc]) -> tuple[float, list[str]]:
    """RETURNS (tuple): F, and the tag of each word."""
    component = nlp.get_pipe("early_exit_ner")
    docs = [Doc(nlp.vocab, [token.text for token in doc]) for doc in gold]
    found = list(component.pipe(docs, threshold=0.0, batch_size=1000))
    scores = component.score([Example(doc, right) for doc, right in zip(found, gold)])
    return scores["ents_f"], [t.ent_iob_ + t.ent_type_ for doc in found for t in doc]


@contextmanager
def products(states: str, weights: str, bits: int, tags: int) -> Iterator[None]:
    """Round what is multiplied to what bytes can hold; but in exit heads, which stay in fp32.

    states (str): The scales of states.
    weights (str): Those of weights.
    bits (int): Of weights.
    tags (int): Outputs of an exit head.
    """
    original: Callable[..., Tensor] = F.linear

    def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if len(weight) != tags and states != "fp32":
            over = None if weights == "one scale" else 1
            top = 2 ** (bits - 1) - 1
            weight = symmetric(weight, top, over)
            rows = between(rows, None if states == "a scale for the batch" else 1)
        return original(rows, weight, bias)

    F.linear = linear
    try:
        yield
    finally:
        F.linear = original


def symmetric(values: Tensor, top: int, axis: int | None) -> Tensor:
    """RETURNS (Tensor): Values rounded to multiples of the largest one / ``top``."""
    most = values.abs().amax() if axis is None else values.abs().amax(axis, keepdim=True)
    scale = most.clamp_min(1e-20) / top
    return (values / scale).round() * scale


def between(values: Tensor, axis: int | None) -> Tensor:
    """RETURNS (Tensor): Values rounded to 256 steps between the least and the largest."""
    low = values.amin() if axis is None else values.amin(axis, keepdim=True)
    high = values.amax() if axis is None else values.amax(axis, keepdim=True)
    scale = (high - low).clamp_min(1e-20) / 255
    return ((values - low) / scale).round() * scale + low


if __name__ == "__main__":
    main()
