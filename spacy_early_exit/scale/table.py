"""The Arrow schema of tagged texts, and the Parquet files that they are written to."""

import os
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ..corpora import CorpusError

# Characters are counted as Python counts them: by code points.
ENTITY = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("label", pa.string()),
        ("text", pa.string()),
        ("confidence", pa.float32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("entities", pa.list_(ENTITY)),
        ("spent", pa.int64()),
        ("full", pa.int64()),
        ("error", pa.string()),
    ]
)
# The same for Spark.
SPARK_SCHEMA = (
    "id string, entities array<struct<start:int, end:int, label:string, text:string, "
    "confidence:float>>, spent bigint, full bigint, error string"
)
ASIDE = "_temporary"  # Spark, Hive and pyarrow skip what begins with "_"
KEY = "spacy_early_exit."


class Tagged(NamedTuple):
    """What is known of a text.

    words (int): The number of its words.
    entities (Optional[Sequence[Mapping]]): Its entities, as in ``ENTITY``. Like the costs, None if
        there is an error.
    spent (Optional[int]): Its cost, in MACs.
    full (Optional[int]): Its cost at full depth.
    error (Optional[str]): Why it could not be tagged.
    """

    words: int
    entities: Optional[Sequence[Mapping[str, Any]]] = None
    spent: Optional[int] = None
    full: Optional[int] = None
    error: Optional[str] = None


def to_table(ids: Sequence[Optional[str]], tagged: Sequence[Tagged]) -> pa.RecordBatch:
    """RETURNS (RecordBatch): Tagged texts in the schema.

    ids (Sequence[Optional[str]]): The id of each.
    tagged (Sequence[Tagged]): What is known of each.
    """
    columns: Dict[str, Sequence[Any]] = {
        "id": ids,
        "entities": [one.entities for one in tagged],
        "spent": [one.spent for one in tagged],
        "full": [one.full for one in tagged],
        "error": [one.error for one in tagged],
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


@contextmanager
def whole_file(path: Path) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file that is there as a whole or not at all, whenever the process is killed.
    It gets its name once it is written and on the disk.

    path (Path): The file.
    YIELDS (ParquetWriter): What to write to. If an exception leaves the block, nothing is left.
    """
    aside = path.parent / ASIDE / f"{uuid.uuid4().hex}.parquet"  # of two that do the same, one wins
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(aside, "wb") as file:
            with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
                yield writer
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_about(writer: pq.ParquetWriter, about: Mapping[str, Any]) -> None:
    """Write numbers about a file into the file itself, so that they are there when it is.

    writer (ParquetWriter): The file's writer.
    about (Mapping[str, Any]): The numbers, by name.
    """
    writer.add_key_value_metadata({f"{KEY}{name}": repr(value) for name, value in about.items()})


def read_about(path: Path) -> Dict[str, float]:
    """Read what ``write_about`` wrote.

    path (Path): The file.
    RETURNS (Dict[str, float]): The numbers, by name.
    RAISES (CorpusError): If the file is damaged, or something else wrote it.
    """
    with reading(path):
        found = pq.read_metadata(path).metadata or {}
    about = {
        key.decode().removeprefix(KEY): float(value)
        for key, value in found.items()
        if key.decode().startswith(KEY)
    }
    if not about:
        raise CorpusError(f"{path} was not written by this command. Write to another folder.")
    return about


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """RAISES (CorpusError): If a file can't be read in the block. The message names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as e:
        raise CorpusError(f"{path} can't be read: {e}") from e
