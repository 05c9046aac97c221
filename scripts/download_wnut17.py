"""Fetch the WNUT-17 corpus (CC BY 4.0) from its public address, pinned to a commit.

The download itself is untested, since it was written without internet access: the address and the
commit are those in the corpus's documentation. Every file is checked against the published counts
of sentences, words and entities, and against the sha256 of a known copy.
"""

import argparse
import hashlib
import urllib.request
from pathlib import Path

COMMIT = "e52a2d2a71ac1a051ca2d532eef28653c5c02603"
ADDRESS = f"https://raw.githubusercontent.com/leondz/emerging_entities_17/{COMMIT}/"
# Sentences, words and entities, by Derczynski et al. (2017); the sha256 of the clean text.
FILES = {
    "train": (
        "wnut17train.conll",
        (3394, 62730, 1975),
        "1cf455647d19303423e31976257ef6a9e7f0afcec770a2060c07f8774ff2f4cf",
    ),
    "dev": (
        "emerging.dev.conll",
        (1009, 15733, 836),
        "86e01441aae63150f076c3bcb0230506e0f967072b62a337f0451d4be9c4bf92",
    ),
}


def clean(text: str) -> str:
    """Convert a file to `token<TAB>tag` lines. Some separators in it are lines with a single tab.

    text (str): The file as published.
    RETURNS (str): Its sentences, with a blank line between them.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    sentences = "\n".join(line if line.strip() else "" for line in lines).split("\n\n")
    return "\n\n".join(s.strip("\n") for s in sentences if s.strip("\n")) + "\n"


def counts(text: str) -> tuple[int, int, int]:
    """RETURNS (tuple[int, int, int]): Sentences, words and entities of a clean file."""
    tags = [line.split("\t")[1] for line in text.split("\n") if line]
    return text.count("\n\n") + 1, len(tags), sum(tag.startswith("B-") for tag in tags)


def fetch(folder: Path) -> None:
    """Download and check the corpus.

    folder (Path): The folder for train.tsv and dev.tsv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, (name, expected, digest) in FILES.items():
        try:
            with urllib.request.urlopen(ADDRESS + name, timeout=60) as response:
                text = clean(response.read().decode("utf8"))
        except OSError as e:
            raise SystemExit(
                f"Can't fetch {ADDRESS + name}: {e}. Without internet access, use a corpus of your "
                f"own: --vars.corpus FOLDER, a folder with train.tsv and dev.tsv."
            ) from e
        found = counts(text)
        if found != expected:
            raise SystemExit(f"{name} has {found} sentences, words and entities, not {expected}.")
        if hashlib.sha256(text.encode("utf8")).hexdigest() != digest:
            raise SystemExit(f"{name} is not the expected text: its sha256 differs.")
        (folder / f"{part}.tsv").write_text(text, encoding="utf8")
        print(f"{part}: {found[0]} sentences")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
