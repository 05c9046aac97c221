"""JSON lines, as annotation tools export them: one object per line, with a ``text`` and with
entities by their first character and the one after their last, in one of these forms::

    {"text": "Ann lives in Oslo.", "spans": [{"start": 0, "end": 3, "label": "PER"}]}
    {"text": "Ann lives in Oslo.", "entities": [[0, 3, "PER"]]}
    {"text": "Ann lives in Oslo.", "label": [[0, 3, "PER"]]}

These are the forms of Prodigy, spaCy 2 and doccano. ``labels``, ``start_offset`` and ``end_offset``
are known, too.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import srsly
from spacy.language import Language

from .entities import Entity, Text, check_entity, to_corpus
from .lines import CorpusError, check_characters, in_line, read_lines, shown
from .remarks import Corpus, remark

LISTS = ("spans", "entities", "label", "labels")
NOT_ACCEPTED = ("reject", "ignore")  # Prodigy's answers


class Record(NamedTuple):
    """An annotated text of a file of JSON lines.

    number (int): The number of its line, from 1.
    line (str): That line.
    text (str): The text.
    entities (Optional[List[Entity]]): Its entities; None: the text is not annotated.
    """

    number: int
    line: str
    text: str
    entities: Optional[List[Entity]]


def read_entities(path: Path, nlp: Language) -> Corpus:
    """Read texts with entities from JSON lines.

    Entities must begin and end exactly with words, as in ``Doc.char_span``. Those that begin or end
    within a word are left out, and so are those that overlap a longer one. Their words have no
    annotation then, as with spaCy's ``offsets_to_biluo_tags``: they are neither learnt from nor
    scored.

    path (Path): The file.
    nlp (Language): The pipeline, for its tokenizer.
    RETURNS (Corpus): The texts.
    RAISES (CorpusError): If they can't be read, or none is annotated.
    """
    records, remarks = read_records(path)
    texts = (Text(number, text, entities) for number, _, text, entities in records)
    return to_corpus(path, texts, remarks, nlp)


def read_records(path: Path) -> Tuple[List[Record], List[str]]:
    """Read texts and entities from JSON lines.

    path (Path): The file.
    RETURNS (Tuple[List[Record], List[str]]): The texts, except those that were rejected or ignored,
        and a remark on these.
    RAISES (CorpusError): If they can't be read.
    """
    records, refused = [], []
    for number, line, about in read_objects(path):
        if about.get("answer") in NOT_ACCEPTED:
            refused.append((number, about["text"]))
            continue
        entities = _entities_of(about, in_line(path, number))
        records.append(Record(number, line, about["text"], entities))
    return records, remark("refused", refused, len(records) + len(refused))


def read_objects(path: Path) -> Iterator[Tuple[int, str, Dict[str, Any]]]:
    """Read JSON lines.

    path (Path): The file.
    YIELDS (Tuple[int, str, Dict[str, Any]]): The number and content of each line, and its object.
        The object's text is a string.
    RAISES (CorpusError): If they can't be read.
    """
    for number, line in read_lines(path):
        place = in_line(path, number)
        try:
            about = srsly.json_loads(line)
        except ValueError as e:
            raise CorpusError(f"{place}: not valid JSON ({e}): {shown(line)!r}") from e
        text = about.get("text") if isinstance(about, dict) else None
        if not isinstance(text, str):
            raise CorpusError(f'{place}: expected {{"text": "..."}}, found {shown(line)!r}')
        check_characters(text, "text", place)
        yield number, line, about


def _entities_of(about: Dict[str, Any], place: str) -> Optional[List[Entity]]:
    """RETURNS (Optional[List[Entity]]): The entities that a line lists; None if it has no list."""
    given = {key: about[key] for key in LISTS if about.get(key) is not None}
    lists = {key: value for key, value in given.items() if isinstance(value, list)}
    filled = [key for key, value in lists.items() if value]
    if given and not lists:
        key, value = next(iter(given.items()))
        raise CorpusError(f'{place}: "{key}" must be a list of entities, not {shown(repr(value))}')
    if len(filled) > 1:
        both = " and ".join(f'"{key}"' for key in filled)
        raise CorpusError(f"{place}: entities are listed under {both}. Keep one of the lists.")
    if filled:
        return [_entity_in(item, len(about["text"]), place) for item in lists[filled[0]]]
    # Prodigy lists nothing if the annotator accepted that there is nothing.
    return [] if lists or about.get("answer") == "accept" else None


def _entity_in(item: Any, length: int, place: str) -> Entity:
    """RETURNS (Entity): The entity that a list's item describes, in a text of a given length."""
    if isinstance(item, dict):
        start, end = (item.get(key, item.get(f"{key}_offset")) for key in ("start", "end"))
        item = [start, end, item.get("label")]
    return check_entity(item, length, place)
