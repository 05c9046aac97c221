"""How many words get another tag in int8 or bf16 than in fp32, each at its own calibration."""

import argparse
from pathlib import Path

import spacy
from spacy.tokens import DocBin
from spacy.training import Example
from wasabi import table

from benchmarks.common import results

NAME = "early_exit_ner"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="annotated docs, .spacy")
    parser.add_argument("fp32", type=Path, help="calibrated")
    parser.add_argument("other", type=Path, help="in int8 or bf16, calibrated for itself")
    parser.add_argument("--speedups", default="1,2,3,4")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    pipelines = [spacy.load(path) for path in (args.fp32, args.other)]
    rows, lines = [], []
    for speedup in map(float, args.speedups.split(",")):
        (fp32, tags), (other, others) = (tagged(nlp, args.corpus, speedup) for nlp in pipelines)
        changed = sum(a != b for a, b in zip(tags, others)) / len(tags)
        rows.append({"speedup": speedup, "fp32": fp32, "other": other, "changed": changed})
        shown = f"{100 * fp32:.2f}", f"{100 * other:.2f}", f"{changed:.2%}"
        lines.append((f"{speedup:g}X", *shown))
    print(table(lines, header=("", "F, fp32", "F, other", "other tags"), aligns=["l"] + ["r"] * 3))
    results.write(args.output, rows)


def tagged(nlp: spacy.Language, corpus: Path, speedup: float) -> tuple[float, list[str]]:
    """RETURNS (tuple): F, and the tag of each word."""
    nlp.get_pipe(NAME).speedup = speedup
    gold = list(DocBin().from_disk(corpus).get_docs(nlp.vocab))
    docs = list(nlp.pipe(nlp.make_doc(doc.text) for doc in gold))
    f = nlp.get_pipe(NAME).score([Example(doc, g) for doc, g in zip(docs, gold)])["ents_f"]
    return f, [f"{token.ent_iob_}-{token.ent_type_}" for doc in docs for token in doc]


if __name__ == "__main__":
    main()
