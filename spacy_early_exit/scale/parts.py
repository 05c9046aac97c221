"""The input of a job, cut into parts: some thousand texts each, of one file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import pyarrow.parquet as pq

from ..corpora import CorpusError
from .table import reading

KINDS = (".parquet", ".jsonl", ".txt")
# A part ends with its number of texts, or with this many bytes: then texts are long.
MAX_BYTES = 32 * 2**20
MARK = b"\xef\xbb\xbf"  # some editors begin a file with it


class Text(NamedTuple):
    """A text to tag.

    id (str): Its id.
    text (Optional[str]): The text; None: it can't be read.
    error (Optional[str]): Why.
    """

    id: str
    text: Optional[str]
    error: Optional[str] = None


@dataclass(frozen=True)
class Columns:
    """Where texts and ids are.

    text (str): The column of a Parquet file, or the key of JSON lines, that has the text.
    id (str): The one that has the id. Without it, the id is ``FILE:NUMBER``, from 1.
    """

    text: str = "text"
    id: str = "id"


@dataclass(frozen=True)
class Part:
    """Some texts of a file, which become a file of their own.

    number (int): Its number in the job, from 0.
    path (str): The file.
    name (str): The file's name in ids.
    first (int): The number of its first line, or row, from 1.
    start (int): Where it starts in the file: a byte, or for Parquet a row.
    stop (int): Where it ends.
    texts (int): The number of its texts.
    """

    number: int
    path: str
    name: str
    first: int
    start: int
    stop: int
    texts: int

    @property
    def output(self) -> str:
        """RETURNS (str): The name of the file that it becomes."""
        return f"part-{self.number:06}.parquet"


def find_files(source: Path) -> List[Tuple[str, Path]]:
    """RETURNS (List[Tuple[str, Path]]): The files to read, and their names in ids, in order.

    source (Path): A file; or a folder: then all Parquet, JSON lines and text files inside it,
        unless their name or that of their folder begins with a dot or an underscore.
    RAISES (CorpusError): If there are none.
    """
    if source.is_file():
        return [(source.name, source)]
    if not source.is_dir():
        raise CorpusError(f"There is no file or folder {source}.")
    names = (path.relative_to(source) for path in sorted(source.rglob("*")))
    found = [
        (name.as_posix(), source / name)
        for name in names
        if name.suffix in KINDS and not any(part[0] in "._" for part in name.parts)
    ]
    if not found:
        raise CorpusError(f"{source} has no files that end with {', '.join(KINDS)}.")
    return [(name, path) for name, path in found if path.is_file()]


def cut(source: Path, columns: Columns, size: int) -> Iterator[Part]:
    """Cut all input into parts. Each file is read once, if it is not Parquet.

    source (Path): A file or folder.
    columns (Columns): Where texts are.
    size (int): The number of texts of a part.
    YIELDS (Part): The parts. They are the same each time, if the files are.
    RAISES (CorpusError): If a file can't be read. The message names it.
    """
    number = 0
    for name, path in find_files(source):
        with reading(path):
            cuts = _cut_rows(path, columns, size) if _is_parquet(path) else _cut_lines(path, size)
            for first, start, stop, texts in cuts:
                yield Part(number, str(path), name, first, start, stop, texts)
                number += 1


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def _cut_rows(path: Path, columns: Columns, size: int) -> Iterator[Tuple[int, int, int, int]]:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if columns.text not in names:
        raise CorpusError(f"{path} has no column {columns.text!r}. It has: {', '.join(names)}.")
    kind = str(file.schema_arrow.field(columns.text).type)
    if kind not in ("string", "large_string", "string_view"):
        raise CorpusError(f"The column {columns.text!r} of {path} must be text, not {kind}.")
    rows = file.metadata.num_rows
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        yield start + 1, start, stop, stop - start


def _cut_lines(path: Path, size: int) -> Iterator[Tuple[int, int, int, int]]:
    first, start, texts, at = 1, 0, 0, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            at += len(line)
            texts += not line.isspace()
            if texts == size or at - start >= MAX_BYTES:
                yield first, start, at, texts
                first, start, texts = number + 1, at, 0
    if texts:
        yield first, start, at, texts


def read(part: Part, columns: Columns) -> Iterator[Text]:
    """Read a part, one text after the other.

    part (Part): The part.
    columns (Columns): Where texts are.
    YIELDS (Text): Its texts. What is wrong with a single one is said there.
    RAISES (CorpusError): If the file can't be read. The message names it.
    """
    path = Path(part.path)
    with reading(path):
        yield from _read_rows(part, columns) if _is_parquet(path) else _read_lines(part, columns)


def _read_rows(part: Part, columns: Columns) -> Iterator[Text]:
    file = pq.ParquetFile(part.path)
    has_id = columns.id in file.schema_arrow.names
    wanted = [columns.text, columns.id] if has_id else [columns.text]
    groups: List[int] = []
    skip, row = part.start, 0
    for number in range(file.metadata.num_row_groups):
        stop = row + file.metadata.row_group(number).num_rows
        if row < part.stop and part.start < stop:
            if not groups:
                skip = part.start - row
            groups.append(number)
        row = stop
    number = part.first
    for batch in file.iter_batches(columns=wanted, row_groups=groups, batch_size=1000):
        batch, skip = batch.slice(skip), max(0, skip - len(batch))
        batch = batch.slice(0, part.first + part.texts - number)
        ids = batch[columns.id].to_pylist() if has_id else [None] * len(batch)
        for text, id in zip(batch[columns.text].to_pylist(), ids):
            missing = None if text is not None else f"The column {columns.text!r} is null here."
            yield Text(_id(part, number, id), text, missing)
            number += 1


def _read_lines(part: Part, columns: Columns) -> Iterator[Text]:
    is_json = part.path.endswith(".jsonl")
    with open(part.path, "rb") as file:
        file.seek(part.start)
        number = part.first
        while file.tell() < part.stop:
            line = file.readline()
            if not line:
                raise CorpusError(f"{part.path} has become shorter since the job began.")
            if not part.start and number == 1:
                line = line.removeprefix(MARK)
            if not line.isspace():
                yield _text_in(line.rstrip(b"\r\n"), part, number, columns if is_json else None)
            number += 1


def _text_in(line: bytes, part: Part, number: int, columns: Optional[Columns]) -> Text:
    """RETURNS (Text): The text of a line; columns: if it is JSON."""
    id = _id(part, number, None)
    try:
        text = line.decode("utf8")
        if columns is None:
            return Text(id, text)
        about = json.loads(text)
        if not isinstance(about, dict) or not isinstance(about.get(columns.text), str):
            return Text(id, None, f'The line is not {{"{columns.text}": "..."}}.')
        id = _id(part, number, about.get(columns.id))
        about[columns.text].encode("utf8")
    except UnicodeDecodeError as e:
        return Text(id, None, f"The line is not UTF-8: byte {e.start} is {line[e.start]:#04x}.")
    except UnicodeEncodeError as e:
        return Text(id, None, f"Character {e.start} is a lone surrogate, half of a character.")
    except (ValueError, RecursionError) as e:
        return Text(id, None, f"The line is not valid JSON: {e}")
    return Text(id, about[columns.text])


def _id(part: Part, number: int, given: Any) -> str:
    if given is None:
        return f"{part.name}:{number}"
    return str(given).encode("utf8", "replace").decode("utf8")
