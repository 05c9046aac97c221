"""Prepare a few labelled sentences and many texts without annotation for self-training.

The labelled ones are train.tsv or train.jsonl in a folder: see cut_tune.py. It may have a dev part
for reports, and a tune part of its own. Otherwise tune is cut from train, which keeps a sentence of
every label. The texts are a file, or a folder with files: plain, a text a line; JSON lines with a
"text" each; or .spacy.

Empty texts and repetitions are left out, and so are texts that are also labelled. A part of the
texts, called texts.spacy, is not trained on: how much exits save is measured there.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import spacy
from convert import by_characters, by_words
from cut_tune import labels_of, read_texts, suffix_of, words_in_json, words_of, write_part
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from spacy_early_exit import corpora
from spacy_early_exit.pipe.docs import is_space, same_words

LEAST_TUNE = 2  # sentences, unless a label would lose its only one
HELD_OUT, MOST_HELD_OUT = 0.1, 500  # of the texts: what is not trained on
SUFFIXES = (".txt", ".jsonl", ".spacy")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with train, .tsv or .jsonl")
    parser.add_argument("unlabelled", type=Path, help="texts: a file, or a folder with files")
    parser.add_argument("output", type=Path, help="folder for the parts, .spacy")
    parser.add_argument("--share", type=float, default=0.2, help="how much of train is tune")
    parser.add_argument("--most", type=int, default=50_000, help="texts to use, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lang", default="en")
    args = parser.parse_args()
    suffix = suffix_of(args.corpus)
    if not (args.corpus / f"train{suffix}").is_file():
        raise SystemExit(f"{args.corpus} has no train.tsv and no train.jsonl.")
    files = {part: args.corpus / f"{part}{suffix}" for part in ("train", "tune", "dev")}
    parts = {part: read_texts(file) for part, file in files.items() if file.is_file()}
    if "tune" not in parts:
        known = parts.get("dev", [])
        parts["train"], parts["tune"] = cut(parts["train"], suffix, args.share, args.seed, known)
    nlp = spacy.blank(args.lang)
    args.output.mkdir(parents=True, exist_ok=True)
    for part in files:
        (args.output / f"{part}.spacy").unlink(missing_ok=True)
        if part in parts:
            write_part(args.output / f"{part}{suffix}", parts[part])
            source = args.output / f"{part}{suffix}"
            if suffix == ".tsv":
                docs = by_words(source, nlp.vocab, "ner", "tag")
            else:
                docs = by_characters(source, args.lang)
            DocBin(docs=docs).to_disk(args.output / f"{part}.spacy")
    texts = unannotated(args.unlabelled, nlp)
    same = words_of if suffix == ".tsv" else words_in_json
    labelled = {part: {key_of(same(text)) for text in some} for part, some in parts.items()}
    kept = select(texts, labelled, args.most, args.seed)
    count = min(max(1, round(HELD_OUT * len(kept))), MOST_HELD_OUT)
    for part, docs in (("texts", kept[:count]), ("unlabelled", kept[count:] or kept)):
        DocBin(docs=docs).to_disk(args.output / f"{part}.spacy")
        print(f"{part}: {len(docs)}")


def cut(
    train: list[str], suffix: str, share: float, seed: int, dev: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Cut tune from a few sentences. Those that are the only one of a label stay in train, and so
    do those that occur twice or are also in dev. If it can, tune gets a sentence that has labels:
    without any, it can't tell good from bad.

    train (list[str]): The sentences.
    suffix (str): The file name extension of their corpus.
    share (float): The share to cut.
    seed (int): Seed of the draw.
    dev (Sequence[str]): The sentences of dev.
    RETURNS (tuple[list[str], list[str]]): What remains, and tune. If nothing can be spared, both
        are the whole of it.
    """
    labels = [labels_of(text, suffix) for text in train]
    words = words_of if suffix == ".tsv" else words_in_json
    same = [key_of(words(text)) for text in train]
    left = Counter(label for some in labels for label in some)
    elsewhere = {text for text, count in Counter(same).items() if count > 1}
    elsewhere |= {key_of(words(text)) for text in dev}
    drawn: set[int] = set()
    wanted = min(max(LEAST_TUNE, round(share * len(train))), len(train) - 1)

    def can_be_spared(i: int) -> bool:
        return same[i] not in elsewhere and all(left[label] > 1 for label in labels[i])

    order = random.Random(seed).sample(range(len(train)), len(train))
    telling = next((i for i in order if labels[i] and can_be_spared(i)), None)
    order.sort(key=lambda i: i != telling)  # that one first
    for i in order:
        if len(drawn) < wanted and can_be_spared(i):
            drawn.add(i)
            left.subtract(labels[i])
    if not drawn:
        print(
            "No sentence can be spared for tune: each is the only one of a label, occurs twice or "
            "is also in dev. So pipelines are compared on the sentences that are learnt, which "
            "tells next to nothing. Annotate more."
        )
        return train, train
    tune = [text for i, text in enumerate(train) if i in drawn]
    if telling is None:
        print(
            "No sentence with a label can be spared for tune, so all pipelines score 0 there. "
            "Annotate more."
        )
    print(
        f"Pipelines are compared on {len(tune)} of the {len(train)} labelled sentences. Each "
        f"choice says how sure it is."
    )
    return [text for i, text in enumerate(train) if i not in drawn], tune


def unannotated(path: Path, nlp: Language) -> list[Doc]:
    """RETURNS (list[Doc]): The texts of a file, or of all files in a folder, without annotation.

    path (Path): The file or folder.
    nlp (Language): For its tokenizer.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    try:
        docs = [doc for file in files for doc in corpora.read_texts(file, nlp)]
    except corpora.CorpusError as e:
        raise SystemExit(str(e)) from e
    return [same_words(doc) for doc in docs]


def select(texts: Sequence[Doc], labelled: dict[str, set[str]], most: int, seed: int) -> list[Doc]:
    """Select the texts to use, and say what is left out.

    texts (Sequence[Doc]): The texts.
    labelled (dict[str, set[str]]): The keys of the labelled sentences, by part.
    most (int): How many to use at most.
    seed (int): Seed of their order.
    RETURNS (list[Doc]): The texts, shuffled.
    """
    found = {key_of(doc.text): doc for doc in texts if not all(map(is_space, doc))}
    empty = sum(all(map(is_space, doc)) for doc in texts)
    told = [(empty, "empty"), (len(texts) - empty - len(found), "repeated")]
    for part, keys in labelled.items():
        also = keys & found.keys()
        found = {key: doc for key, doc in found.items() if key not in also}
        told.append((len(also), f"also in {part}"))
        if part == "dev" and also:
            print(
                f"Warning: unlabelled texts that are also in dev: {len(also)}. They are left out, "
                f"since scores on dev would be too good."
            )
    if not found:
        raise SystemExit("There are no texts without annotation that are not labelled ones.")
    left_out = ", ".join(f"{count} {why}" for count, why in told if count)
    print(f"{len(texts)} texts without annotation{', left out: ' * bool(left_out)}{left_out}")
    return random.Random(seed).sample([*found.values()], len(found))[:most]


def key_of(text: str) -> str:
    """RETURNS (str): What two texts have in common that count as the same."""
    return "".join(text.split())


if __name__ == "__main__":
    main()
