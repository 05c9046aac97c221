"""Copy a corpus and cut a part called tune from its training part.

The corpus is train.tsv and dev.tsv, with lines of `token<TAB>tag`. For entities it may instead be
train.jsonl and dev.jsonl, with texts and entities by characters.

Checkpoints, thresholds and curves are chosen on tune, so that dev is only read to report. No
sentence of tune occurs anywhere else: none of them can have been learnt by heart. A corpus that has
its own tune part is copied as it is.
"""

import argparse
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Callable

from spacy_early_exit.corpora import LISTS, CorpusError, check_label, read_records

TAGS = {
    "ner": (re.compile(r"O|[BI]-\S+"), "O, B-LABEL or I-LABEL"),
    "tagger": (re.compile(r"\S+"), "a tag"),
    "segmenter": (re.compile(r"[BMES]"), "B, M, E or S"),
}


def suffix_of(corpus: Path) -> str:
    """RETURNS (str): The file name extension of a corpus."""
    found = {
        path.suffix for path in corpus.glob("*") if path.stem in ("train", "dev") and path.is_file()
    }
    return ".jsonl" if ".jsonl" in found and ".tsv" not in found else ".tsv"


def missing_from(corpus: Path) -> list[str]:
    """RETURNS (list[str]): The files that a corpus lacks."""
    names = [f"{part}{suffix_of(corpus)}" for part in ("train", "dev")]
    return [name for name in names if not (corpus / name).is_file()]


def read_texts(path: Path, task: str = "ner") -> list[str]:
    """RETURNS (list[str]): The texts of a corpus file of either kind, as they are written there.

    path (Path): The file, .tsv or .jsonl.
    task (str): What the annotation is for.
    """
    return read_json_lines(path, task) if path.suffix == ".jsonl" else read_sentences(path, task)


def read_json_lines(path: Path, task: str) -> list[str]:
    """Read a corpus file of JSON lines.

    path (Path): Texts with entities by characters.
    task (str): The task that they are for.
    RETURNS (list[str]): The lines, except those of rejected or ignored texts.
    """
    check_task(path, task)
    try:
        records, remarks = read_records(path)
    except CorpusError as e:
        raise SystemExit(str(e)) from e
    for remark in remarks:
        print(f"{path}: {remark}")
    if not records:
        raise SystemExit(f"{path} has no texts.")
    return [record.line.strip() for record in records]


def check_task(path: Path, task: str) -> None:
    """Exit if a task can't learn from JSON lines.

    path (Path): The file.
    task (str): The task.
    """
    if task != "ner":
        what = "character" if task == "segmenter" else "word"
        raise SystemExit(
            f"{path} has entities, and a {task} learns a tag for each {what}: it needs .tsv files."
        )


def read_sentences(path: Path, task: str = "ner") -> list[str]:
    """Read a corpus file of tagged words.

    path (Path): One line `token<TAB>tag` per word, with a blank line between sentences.
    task (str): What the tags are for: `ner`, `tagger` or `segmenter`.
    RETURNS (list[str]): The sentences, each with its lines.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        raise SystemExit(f"{path} is not UTF-8: {e}") from e
    sentences, lines = [], []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip(" \t"):
            check_line(line, task, f"{path}, line {number}")
            lines.append(line)
        elif lines:
            sentences.append("\n".join(lines))
            lines = []
    if not sentences:
        raise SystemExit(f"{path} has no sentences.")
    return sentences


def check_line(line: str, task: str, place: str) -> None:
    """Exit if a line is not what it should be.

    line (str): The line.
    task (str): What its tag is for.
    place (str): Where it is, for error messages.
    """
    if len(line.split("\t")) != 2:
        raise SystemExit(f"{place}: expected `token<TAB>tag`, found {line!r}")
    tag = line.split("\t")[1]
    pattern, what = TAGS[task]
    if not pattern.fullmatch(tag):
        raise SystemExit(f"{place}: expected {what} after the tab, found {tag!r} in {line!r}")
    label = tag.partition("-")[2] if task == "ner" and tag != "O" else tag
    try:
        check_label(label, place)
    except CorpusError as e:
        raise SystemExit(str(e)) from e


def words_of(sentence: str) -> str:
    """RETURNS (str): The sentence without its tags."""
    return " ".join(line.split("\t")[0] for line in sentence.split("\n"))


def words_in_json(line: str) -> str:
    """RETURNS (str): The text of a line of JSON, with normalised white space."""
    return " ".join(json.loads(line)["text"].split())


def labels_of(text: str, suffix: str) -> set[str]:
    """RETURNS (set[str]): The labels of the entities of a text, as it is in a corpus file.

    text (str): The lines of a sentence, or a line of JSON.
    suffix (str): The file name extension of the corpus.
    """
    if suffix == ".tsv":
        tags = [line.split("\t")[1] for line in text.split("\n")]
        return {tag[2:] for tag in tags if tag != "O"}
    about = json.loads(text)
    items = [item for name in LISTS for item in about.get(name) or []]
    return {item["label"] if isinstance(item, dict) else item[2] for item in items}


def cut(
    train: list[str],
    dev: list[str],
    share: float,
    seed: int,
    words_of: Callable[[str], str] = words_of,
) -> tuple[list[str], list[str]]:
    """Cut a part from the training sentences.

    train (list[str]): Training sentences.
    dev (list[str]): Sentences that the part must not contain.
    share (float): The share to cut.
    seed (int): Seed of the draw.
    words_of (Callable[[str], str]): Returns the text by which two sentences count as the same.
    RETURNS (tuple[list[str], list[str]]): What remains, and the part.
    """
    occurrences = Counter(map(words_of, train))
    elsewhere = set(map(words_of, dev))
    unique = [
        i
        for i, sentence in enumerate(train)
        if occurrences[words_of(sentence)] == 1 and words_of(sentence) not in elsewhere
    ]
    wanted = max(1, round(share * len(train)))
    if len(unique) < wanted:
        raise SystemExit(
            f"Can't cut {wanted} sentences for tune: only {len(unique)} of the {len(train)} "
            f"training sentences occur only once, and not in dev."
        )
    drawn = set(random.Random(seed).sample(unique, wanted))
    rest = [sentence for i, sentence in enumerate(train) if i not in drawn]
    return rest, [train[i] for i in sorted(drawn)]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with train and dev, .tsv or .jsonl")
    parser.add_argument("output", type=Path, help="folder for train, tune and dev")
    parser.add_argument("--share", type=float, default=0.1, help="how much of train to cut")
    parser.add_argument("--most", type=int, default=0, help="training sentences to keep; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", choices=TAGS, default="ner", help="what the tags are for")
    args = parser.parse_args()
    for name in missing_from(args.corpus):
        raise SystemExit(f"{args.corpus} has no {name}. Set --vars.corpus to another folder.")
    suffix = suffix_of(args.corpus)
    dev = read_texts(args.corpus / f"dev{suffix}", args.task)
    train = read_texts(args.corpus / f"train{suffix}", args.task)
    if (args.corpus / f"tune{suffix}").is_file():
        tune = read_texts(args.corpus / f"tune{suffix}", args.task)
    else:
        same = words_in_json if suffix == ".jsonl" else words_of
        train, tune = cut(train, dev, args.share, args.seed, same)
    if 0 < args.most < len(train):
        kept = sorted(random.Random(args.seed).sample(range(len(train)), args.most))
        train = [train[i] for i in kept]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "SYNTHETIC.txt").unlink(missing_ok=True)
    if (args.corpus / "SYNTHETIC.txt").exists():
        shutil.copy(args.corpus / "SYNTHETIC.txt", args.output)
    for name, texts in (("train", train), ("tune", tune), ("dev", dev)):
        write_part(args.output / f"{name}{suffix}", texts)


def write_part(path: Path, texts: list[str]) -> None:
    """Write a part of the corpus, replacing a file of the other kind if there is one.

    path (Path): The file, .tsv or .jsonl.
    texts (list[str]): Its texts.
    """
    for suffix in (".tsv", ".jsonl"):
        path.with_suffix(suffix).unlink(missing_ok=True)
    between = "\n" if path.suffix == ".jsonl" else "\n\n"
    path.write_text(between.join(texts) + "\n", encoding="utf8")
    print(f"{path.stem}: {len(texts)} {'texts' if path.suffix == '.jsonl' else 'sentences'}")


if __name__ == "__main__":
    main()
