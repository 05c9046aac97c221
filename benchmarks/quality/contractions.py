"""Words that share a wordpiece, in English: parts of speech of text as it is written.

``raw`` takes a folder that `benchmarks.common.corpora` made with ``--task tagger`` and writes a
second one, whose texts have white space where English has some: n't, 's or gonna are one with the
word before. Where that is a guess, as for quotation marks and hyphens, it is the same for every
pipeline.

``score`` tells how much a trained tagger has right: of all words, and of both halves of words that
share a wordpiece where the encoder's tokenizer cuts the text as a whole.
"""

import argparse
from pathlib import Path

import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus, Example
from wasabi import table

from spacy_early_exit.pipe.records import get_records
from spacy_early_exit.text.tokenizer import WordpieceTokenizer
from spacy_early_exit.text.windows import windows_of

NAME = "early_exit_tagger"
ENDINGS = ("n't", "'s", "'ll", "'re", "'ve", "'m", "'d")
# Pairs that are written as one word.
PAIRS = {("can", "not"), ("gon", "na"), ("wan", "na"), ("got", "ta")}
AFTER = {".", ",", ";", ":", "!", "?", ")", "]", "%", "..."}
BEFORE = {"(", "[", "$", "#"}
NEGATED = {"do", "does", "did", "is", "are", "was", "were", "wo", "ca", "could", "should", "would"}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    raw = commands.add_parser("raw")
    raw.add_argument(
        "corpus", type=Path, help="what benchmarks.common.corpora made of a tagger's corpus"
    )
    raw.add_argument("output", type=Path)
    score = commands.add_parser("score")
    score.add_argument("pipeline", type=Path)
    score.add_argument("data", type=Path, help=".spacy")
    score.add_argument("--thresholds", default="0,0.05,0.1,0.2")
    args = parser.parse_args()
    if args.command == "raw":
        args.output.mkdir(parents=True, exist_ok=True)
        for part in ("train", "tune", "dev"):
            write_raw(args.corpus / f"{part}.spacy", args.output / f"{part}.spacy")
    else:
        show(args.pipeline, args.data, [float(t) for t in args.thresholds.split(",")])


def write_raw(source: Path, output: Path) -> None:
    """Write texts as they would be written."""
    vocab = spacy.blank("en").vocab
    docs = []
    for doc in DocBin().from_disk(source).get_docs(vocab):
        words, tags = [token.text for token in doc], [token.tag_ for token in doc]
        pos = [token.pos_ for token in doc]
        docs.append(Doc(vocab, words, spaces=spaces(words), tags=tags, pos=pos))
    DocBin(docs=docs).to_disk(output)


def spaces(words: list[str]) -> list[bool]:
    """RETURNS (list[bool]): Whether there is a space behind each word."""
    found = []
    for word, after in zip(words, [*words[1:], ""]):
        left, right = word.lower(), after.lower().replace("’", "'")
        joined = right in ENDINGS or (left, right) in PAIRS or (right == "nt" and left in NEGATED)
        found.append(not (joined or right in AFTER or left in BEFORE))
    return found


def show(pipeline: Path, data: Path, thresholds: list[float]) -> None:
    """Print what is right at some thresholds, and what it costs."""
    nlp = spacy.load(pipeline)
    tokenizer = nlp.get_pipe(NAME).model.shims[0].trained.tokenizer
    examples = list(Corpus(data)(nlp))
    halves = [sharing(eg.predicted, tokenizer) for eg in examples]
    rows = []
    for threshold in thresholds:
        docs = [eg.predicted.copy() for eg in examples]
        docs = list(nlp.pipe(docs, component_cfg={NAME: {"threshold": threshold}}))
        right = [correct(eg, doc) for eg, doc in zip(examples, docs)]
        every = [ok for of in right for ok in of.values()]
        records = [get_records(doc)[NAME] for doc in docs]
        saving = sum(r.full for r in records) / sum(r.spent for r in records)
        row = [threshold, f"{saving:.2f}", f"{100 * sum(every) / len(every):.2f}"]
        for half in (0, 1):
            asked = [(of, pair[half]) for of, pairs in zip(right, halves) for pair in pairs]
            some = [of[word] for of, word in asked if word in of]
            row.append(f"{sum(some)} of {len(some)}")
        rows.append(row)
    print(table(rows, header=("threshold", "saving", "accuracy", "first halves", "second halves")))


def sharing(doc: Doc, tokenizer: WordpieceTokenizer) -> list[tuple[int, int]]:
    """RETURNS (list[tuple[int, int]]): Neighbours that share a wordpiece of the whole text."""
    (window, *_) = windows_of([doc], tokenizer, 100_000, 0, shared="keep")
    units = dict(zip(window.words.tolist(), window.unit_of_word.tolist()))
    pairs = [(left, left + 1) for left in range(len(doc) - 1)]
    return [(i, j) for i, j in pairs if i in units and units[i] == units.get(j)]


def correct(example: Example, doc: Doc) -> dict[int, bool]:
    """RETURNS (dict[int, bool]): Whether each word that has a gold tag has the right one."""
    gold = example.get_aligned("POS", as_string=True)
    return {i: doc[i].pos_ == label for i, label in enumerate(gold) if label}


if __name__ == "__main__":
    main()
