"""What cutting long texts costs: labels of windows beside those of the whole, at full depth.

Consecutive texts of a corpus are joined as long as they fit the encoder: the whole context is then
one window, and what shorter ones say can be compared with it, near their borders and elsewhere.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from numpy.typing import NDArray
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from wasabi import table

from benchmarks.common import results
from spacy_early_exit.measure.docs import annotated
from spacy_early_exit.pipe.component import EarlyExitPipe
from spacy_early_exit.pipe.records import get_records
from spacy_early_exit.text.spans import sent_spans
from spacy_early_exit.text.windows import windows_of

NEAR = 8  # words to either side of a border
CUTS = ((128, 0), (128, 16), (128, 32), (128, 64), (256, 64))  # length, overlap


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", help="trained")
    parser.add_argument("corpus", type=Path, help="annotated texts in order, .spacy")
    parser.add_argument("--documents", type=int, help="use the first so many; without: all")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    nlp = spacy.load(args.pipeline)
    ner = nlp.get_pipe("early_exit_ner")
    most = ner.model.shims[0].trained.network.spec.max_wordpieces
    texts = list(DocBin().from_disk(args.corpus).get_docs(nlp.vocab))
    docs = list(joined(ner, texts, most))[: args.documents]
    whole, score, cost = run(ner, docs)
    rows = [{"cut": f"whole, up to {most}", "f": score, "cost": 1.0}]
    for ner.window_length, ner.window_overlap in CUTS:
        name = f"windows of {ner.window_length}, overlap {ner.window_overlap}"
        rows.append({"cut": name, **compare(ner, docs, whole, cost)})
    ner.window_length, ner.get_spans = None, sent_spans
    rows.append({"cut": "texts of the corpus", **compare(ner, docs, whole, cost)})
    columns = ["cut", "f", "cost", "other", "near", "elsewhere", "share_near"]
    shown = [[row[c] if c == "cut" else f"{row.get(c, 0):.4f}" for c in columns] for row in rows]
    words = sum(map(len, docs))
    print(f"{len(docs)} documents, {words} words.")
    print(f"other: share of words whose tag is not that of the whole; near: within {NEAR} words")
    print(table(shown, header=columns, aligns=["l"] + ["r"] * 6))
    results.write(args.output, rows, documents=len(docs), words=words, near_words=NEAR)


def joined(ner: EarlyExitPipe, texts: Sequence[Doc], most: int) -> Iterator[Doc]:
    """YIELDS (Doc): As many consecutive texts as fit a window, each a sentence, with entities."""
    trained = ner.model.shims[0].trained
    specials = len(trained.tokenizer.prefix) + len(trained.tokenizer.suffix)
    lengths = [len(ids) for ids, _ in trained.tokenizer([f"{text.text} " for text in texts])]
    part: list[Doc] = []
    so_far = specials
    for text, length in zip(texts, lengths):
        if part and so_far + length > most:
            yield of(part)
            part, so_far = [], specials
        part.append(text)
        so_far += length
    if part:
        yield of(part)


def of(part: Sequence[Doc]) -> Doc:
    """RETURNS (Doc): Texts as one, with a sentence each."""
    doc = Doc.from_docs(list(part))
    starts = {0, *itertools.accumulate(map(len, part))}
    for token in doc:
        token.is_sent_start = token.i in starts
    return doc


def run(ner: EarlyExitPipe, docs: Sequence[Doc]) -> tuple[list[list[Any]], float, int]:
    """RETURNS (tuple): The tag of each word, F, and the cost in MACs."""
    done = annotated(ner, docs, threshold=0.0)
    scores = ner.score([Example(doc, gold) for doc, gold in zip(done, docs)])
    cost = sum(get_records(doc)[ner.name].full for doc in done)
    return [ner.answers(doc) for doc in done], scores["ents_f"], cost


def compare(
    ner: EarlyExitPipe, docs: Sequence[Doc], whole: list[list[Any]], cost: int
) -> dict[str, float]:
    """RETURNS (dict): What a way to cut gives, beside the whole."""
    found, score, spent = run(ner, docs)
    other = np.array([a != b for x, y in zip(found, whole) for a, b in zip(x, y)])
    near = np.concatenate([near_border(ner, doc) for doc in docs])
    return {
        "f": score,
        "cost": spent / cost,
        "other": float(other.mean()),
        "near": float(other[near].mean()) if near.any() else 0.0,
        "elsewhere": float(other[~near].mean()),
        "share_near": float(near.mean()),
    }


def near_border(ner: EarlyExitPipe, doc: Doc) -> NDArray[np.bool_]:
    """RETURNS (NDArray): Whether a word is next to one that is tagged from another window."""
    trained = ner.model.shims[0].trained
    length = ner.window_length or trained.network.spec.max_wordpieces
    windows = windows_of(
        [doc], trained.tokenizer, length, ner.window_overlap, get_spans=ner.get_spans
    )
    near = np.zeros(len(doc), dtype=bool)
    starts = sorted(int(window.words[window.owned][0]) for window in windows if window.owned.any())
    for start in starts[1:]:
        near[max(0, start - NEAR) : start + NEAR] = True
    return near


if __name__ == "__main__":
    main()
