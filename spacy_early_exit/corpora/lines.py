"""Files as they are: ``.spacy``, and the lines of text files. And errors that say where."""

import os
from pathlib import Path
from typing import List, Tuple

from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

MAX_SHOWN = 80  # maximum number of characters shown of faulty text


class CorpusError(ValueError):
    """A file can't be read as what it should be. The message says which file, where and why."""


def read_docs(path: Path, vocab: Vocab) -> List[Doc]:
    """Read a ``.spacy`` file.

    path (Path): The file.
    vocab (Vocab): The vocabulary.
    RETURNS (List[Doc]): The texts.
    RAISES (CorpusError): If they can't be read.
    """
    check_is_file(path)
    try:
        return list(DocBin().from_disk(path).get_docs(vocab))
    except Exception as e:  # this is all spaCy's and srsly's code, which raises many kinds
        raise CorpusError(
            f"{path} can't be read as a .spacy file: {type(e).__name__}: {shown(str(e))}"
        ) from e


def read_lines(path: Path) -> List[Tuple[int, str]]:
    """Read the lines of a text file.

    path (Path): The file, in UTF-8.
    RETURNS (List[Tuple[int, str]]): The number, from 1, and the content of each line that is not
        blank.
    RAISES (CorpusError): If it can't be read.
    """
    lines = enumerate(read_file(path).split("\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]


def read_file(path: Path) -> str:
    """Read a text file.

    path (Path): The file, in UTF-8.
    RETURNS (str): Its content, with line ends of one kind.
    RAISES (CorpusError): If it can't be read.
    """
    check_is_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except OSError as e:
        raise CorpusError(f"{path} can't be read: {e.strerror or e}.") from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise CorpusError(
            f"{path} is not UTF-8: the byte {e.object[e.start]:#04x} in line {line}."
        ) from e


def check_is_file(path: Path) -> None:
    """RAISES (CorpusError): If a path is not that of a file."""
    # Not path.is_dir(), which fails if names are too long.
    if os.path.isdir(path):
        raise CorpusError(f"{path} is a folder, not a file.")
    if not os.path.isfile(path):
        raise CorpusError(f"There is no file {path}.")


def check_characters(text: str, what: str, place: str) -> None:
    """RAISES (CorpusError): If there is half of a character, which JSON can express and UTF-8
    can't.

    text (str): The text.
    what (str): What it is, for the message.
    place (str): Where it is, for the message.
    """
    try:
        text.encode("utf8")
    except UnicodeEncodeError as e:
        raise CorpusError(
            f"{place}: character {e.start} of the {what} is a lone surrogate, "
            f"{text[e.start]!r}, half of a character."
        ) from e


def make_doc(nlp: Language, text: str, place: str) -> Doc:
    """RETURNS (Doc): A text, tokenized.

    nlp (Language): The pipeline, for its tokenizer.
    text (str): The text.
    place (str): Where it is, for the message.
    RAISES (CorpusError): If it is too long for spaCy.
    """
    try:
        doc: Doc = nlp.make_doc(text)
    except ValueError as e:
        raise CorpusError(f"{place}: {e}") from e
    return doc


def in_line(path: Path, number: int) -> str:
    """RETURNS (str): A place, for messages."""
    return f"{path}, line {number}"


def shown(text: str) -> str:
    """RETURNS (str): A text, or the beginning of a long one."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
