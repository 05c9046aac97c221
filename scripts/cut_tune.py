"""Copy a corpus of `token<TAB>tag` lines, cutting a part called tune from its training part.

Checkpoints, thresholds and curves are chosen on tune, so that dev is only read to report. No
sentence of tune occurs anywhere else, so that what is chosen on it was not learnt by heart. A
corpus that has a tune.tsv of its own is taken as it is.
"""

import argparse
import random
import re
import shutil
from collections import Counter
from pathlib import Path

TAGS = {
    "ner": (re.compile(r"O|[BI]-\S+"), "O, B-LABEL or I-LABEL"),
    "tagger": (re.compile(r"\S+"), "a tag"),
    "segmenter": (re.compile(r"[BMES]"), "B, M, E or S"),
}


def read_sentences(path: Path, task: str = "ner") -> list[str]:
    """Read a corpus file.

    path (Path): A line `token<TAB>tag` a word, a blank line between sentences.
    task (str): What the tags are for: `ner`, `tagger` or `segmenter`.
    RETURNS (list[str]): The sentences, each with its lines.
    """
    text = path.read_text(encoding="utf8").replace("\r\n", "\n")
    sentences, lines = [], []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip(" \t"):
            if len(line.split("\t")) != 2:
                raise SystemExit(f"{path}, line {number}: not `token<TAB>tag`, but {line!r}")
            pattern, what = TAGS[task]
            if not pattern.fullmatch(line.split("\t")[1].strip()):
                raise SystemExit(f"{path}, line {number}: not {what} in {line!r}")
            lines.append(line)
        elif lines:
            sentences.append("\n".join(lines))
            lines = []
    if not sentences:
        raise SystemExit(f"{path} has no sentences.")
    return sentences


def words_of(sentence: str) -> str:
    """RETURNS (str): The sentence without its tags."""
    return " ".join(line.split("\t")[0] for line in sentence.split("\n"))


def cut(train: list[str], dev: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Cut a part from the training sentences.

    train (list[str]): Training sentences.
    dev (list[str]): Sentences that the part must not have.
    share (float): How much to cut.
    seed (int): Seed of the draw.
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
            f"training sentences occur once."
        )
    drawn = set(random.Random(seed).sample(unique, wanted))
    rest = [sentence for i, sentence in enumerate(train) if i not in drawn]
    return rest, [train[i] for i in sorted(drawn)]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with train.tsv, dev.tsv")
    parser.add_argument("output", type=Path, help="folder for train.tsv, tune.tsv and dev.tsv")
    parser.add_argument("--share", type=float, default=0.1, help="how much of train to cut")
    parser.add_argument("--most", type=int, default=0, help="training sentences to keep; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", choices=TAGS, default="ner", help="what the tags are for")
    args = parser.parse_args()
    for name in ("train.tsv", "dev.tsv"):
        if not (args.corpus / name).is_file():
            raise SystemExit(f"{args.corpus} has no {name}. Set --vars.corpus.")
    dev = read_sentences(args.corpus / "dev.tsv", args.task)
    train = read_sentences(args.corpus / "train.tsv", args.task)
    if (args.corpus / "tune.tsv").is_file():
        tune = read_sentences(args.corpus / "tune.tsv", args.task)
    else:
        train, tune = cut(train, dev, args.share, args.seed)
    if 0 < args.most < len(train):
        kept = sorted(random.Random(args.seed).sample(range(len(train)), args.most))
        train = [train[i] for i in kept]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "SYNTHETIC.txt").unlink(missing_ok=True)
    if (args.corpus / "SYNTHETIC.txt").exists():
        shutil.copy(args.corpus / "SYNTHETIC.txt", args.output)
    for name, sentences in (("train", train), ("tune", tune), ("dev", dev)):
        text = "\n\n".join(sentences) + "\n"
        (args.output / f"{name}.tsv").write_text(text, encoding="utf8")
        print(f"{name}: {len(sentences)} sentences")


if __name__ == "__main__":
    main()
