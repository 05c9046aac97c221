"""Texts from files, annotated or not: ``.spacy``, JSON lines, or one text per line.

JSON lines are what annotation tools export: one object per line, with a ``text`` and with entities
by their first character and the one after their last, in one of these forms::

    {"text": "Ann lives in Oslo.", "spans": [{"start": 0, "end": 3, "label": "PER"}]}
    {"text": "Ann lives in Oslo.", "entities": [[0, 3, "PER"]]}
    {"text": "Ann lives in Oslo.", "label": [[0, 3, "PER"]]}

These are the forms of Prodigy, spaCy 2 and doccano. ``labels``, ``start_offset`` and ``end_offset``
are known, too.
"""

import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import srsly
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.util import filter_spans
from spacy.vocab import Vocab

from .tags import fault_in

LISTS = ("spans", "entities", "label", "labels")
NOT_ACCEPTED = ("reject", "ignore")  # Prodigy's answers
MAX_SHOWN = 80  # maximum number of characters shown of faulty text

# What is counted and its verb, in the singular and in the plural.
REMARKS = {
    "refused": (
        "text",
        'has the answer "reject" or "ignore" and is left out',
        'have the answer "reject" or "ignore" and are left out',
    ),
    "unlisted": (
        "text",
        "lists no entities and counts as not annotated",
        "list no entities and count as not annotated",
    ),
    "misaligned": (
        "entity",
        "does not align with word boundaries and is left out",
        "do not align with word boundaries and are left out",
    ),
    "overlapping": (
        "entity",
        "overlaps another and is left out",
        "overlap others and are left out",
    ),
}
PLURALS = {"text": "texts", "entity": "entities"}


class CorpusError(ValueError):
    """A file can't be read as what it should be. The message says which file, where and why."""


class Entity(NamedTuple):
    """An entity by its characters.

    start (int): The first character.
    end (int): The one after its last character.
    label (str): Its label.
    """

    start: int
    end: int
    label: str


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


class Corpus(NamedTuple):
    """Annotated texts.

    docs (List[Doc]): The texts. Words whose annotation is unknown have none.
    remarks (List[str]): What could not be used, one sentence for each kind: how many of how many,
        and an example.
    """

    docs: List[Doc]
    remarks: List[str]


def read_annotated(path: Path, nlp: Language) -> Corpus:
    """Read annotated texts.

    path (Path): A ``.spacy`` or ``.jsonl`` file.
    nlp (Language): The pipeline that they are for.
    RETURNS (Corpus): The texts.
    RAISES (CorpusError): If they can't be read.
    """
    if path.suffix == ".jsonl":
        return read_entities(path, nlp)
    return Corpus(read_docs(path, nlp.vocab), [])


def read_texts(path: Path, nlp: Language) -> List[Doc]:
    """Read texts, regardless of annotation.

    path (Path): A ``.spacy`` file; a ``.jsonl`` file with one ``{"text": ...}`` per line; or a file
        with one text per line.
    nlp (Language): The pipeline, for its tokenizer.
    RETURNS (List[Doc]): The texts. Only those of ``.spacy`` have their annotation.
    RAISES (CorpusError): If they can't be read.
    """
    if path.suffix == ".spacy":
        return read_docs(path, nlp.vocab)
    if path.suffix == ".jsonl":
        texts = [(number, about["text"]) for number, _, about in _read_objects(path)]
    else:
        texts = read_lines(path)
    return [_make_doc(nlp, text, _place(path, number)) for number, text in texts]


def read_docs(path: Path, vocab: Vocab) -> List[Doc]:
    """Read a ``.spacy`` file.

    path (Path): The file.
    vocab (Vocab): The vocabulary.
    RETURNS (List[Doc]): The texts.
    RAISES (CorpusError): If they can't be read.
    """
    _check_is_file(path)
    try:
        return list(DocBin().from_disk(path).get_docs(vocab))
    except Exception as e:  # this is all spaCy's and srsly's code, which raises many kinds
        raise CorpusError(
            f"{path} can't be read as a .spacy file: {type(e).__name__}: {_shown(str(e))}"
        ) from e


def read_lines(path: Path) -> List[Tuple[int, str]]:
    """Read the lines of a text file.

    path (Path): The file, in UTF-8.
    RETURNS (List[Tuple[int, str]]): The number, from 1, and the content of each line that is not
        blank.
    RAISES (CorpusError): If it can't be read.
    """
    _check_is_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except OSError as e:
        raise CorpusError(f"{path} can't be read: {e.strerror or e}.") from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise CorpusError(
            f"{path} is not UTF-8: the byte {e.object[e.start]:#04x} in line {line}."
        ) from e
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


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
    docs, total = [], 0
    unlisted: List[Tuple[int, str]] = []
    misaligned: List[Tuple[int, str]] = []
    overlapping: List[Tuple[int, str]] = []
    for number, _, text, entities in records:
        doc = _make_doc(nlp, text, _place(path, number))
        docs.append(doc)
        if entities is None:
            unlisted.append((number, text))
            continue
        total += len(set(entities))
        for kind, found in zip((misaligned, overlapping), set_entities(doc, entities)):
            kind.extend((number, text[start:end]) for start, end, _ in found)
    remarks += _remark("unlisted", unlisted, len(docs))
    remarks += _remark("misaligned", misaligned, total)
    remarks += _remark("overlapping", overlapping, total)
    if len(unlisted) == len(docs):
        raise CorpusError(" ".join([f"{path} has no annotated texts.", *remarks]))
    return Corpus(docs, remarks)


def read_records(path: Path) -> Tuple[List[Record], List[str]]:
    """Read texts and entities from JSON lines.

    path (Path): The file.
    RETURNS (Tuple[List[Record], List[str]]): The texts, except those that were rejected or ignored,
        and a remark on these.
    RAISES (CorpusError): If they can't be read.
    """
    records, refused = [], []
    for number, line, about in _read_objects(path):
        if about.get("answer") in NOT_ACCEPTED:
            refused.append((number, about["text"]))
            continue
        entities = _entities_of(about, _place(path, number))
        records.append(Record(number, line, about["text"], entities))
    return records, _remark("refused", refused, len(records) + len(refused))


def set_entities(doc: Doc, entities: Sequence[Entity]) -> Tuple[List[Entity], List[Entity]]:
    """Annotate a text with entities.

    doc (Doc): The text, changed in place.
    entities (Sequence[Entity]): Its entities.
    RETURNS (Tuple[List[Entity], List[Entity]]): The entities that can't be annotated: those that do
        not align with words, and those that overlap a longer entity, or an earlier one of the same
        length. Their words are left without annotation.
    """
    spans = {entity: doc.char_span(*entity) for entity in dict.fromkeys(entities)}
    kept = filter_spans([span for span in spans.values() if span is not None])
    misaligned = [entity for entity, span in spans.items() if span is None]
    of_kept = {(span.start_char, span.end_char, span.label_) for span in kept}
    overlapping = [
        entity for entity, span in spans.items() if span is not None and entity not in of_kept
    ]
    unknown: Set[int] = set()
    for start, end, _ in (*misaligned, *overlapping):
        unknown.update(t.i for t in doc if t.idx < end and start < t.idx + len(t))
    unknown.difference_update(token.i for span in kept for token in span)
    doc.set_ents(kept, missing=[doc[i : i + 1] for i in sorted(unknown)])
    return misaligned, overlapping


def check_label(label: str, place: str) -> None:
    """Check that a label can be learnt.

    label (str): The label.
    place (str): Where it occurs, for the message.
    RAISES (CorpusError): If spaCy would mistake it for something else, or it looks the same as
        another label.
    """
    problem = fault_in(label) if label else "it is empty. Give it a name."
    if problem:
        raise CorpusError(f"{place}: the label {label!r} can't be used: {problem}")
    _check_characters(label, "label", place)


def _read_objects(path: Path) -> Iterator[Tuple[int, str, Dict[str, Any]]]:
    """YIELDS (Tuple[int, str, Dict[str, Any]]): The number and content of each line, and its
    object. The object's text is a string.
    """
    for number, line in read_lines(path):
        place = _place(path, number)
        try:
            about = srsly.json_loads(line)
        except ValueError as e:
            raise CorpusError(f"{place}: not valid JSON ({e}): {_shown(line)!r}") from e
        text = about.get("text") if isinstance(about, dict) else None
        if not isinstance(text, str):
            raise CorpusError(f'{place}: expected {{"text": "..."}}, found {_shown(line)!r}')
        _check_characters(text, "text", place)
        yield number, line, about


def _entities_of(about: Dict[str, Any], place: str) -> Optional[List[Entity]]:
    """RETURNS (Optional[List[Entity]]): The entities that a line lists; None if it has no list."""
    given = {key: about[key] for key in LISTS if about.get(key) is not None}
    lists = {key: value for key, value in given.items() if isinstance(value, list)}
    filled = [key for key, value in lists.items() if value]
    if given and not lists:
        key, value = next(iter(given.items()))
        raise CorpusError(f'{place}: "{key}" must be a list of entities, not {_shown(repr(value))}')
    if len(filled) > 1:
        both = " and ".join(f'"{key}"' for key in filled)
        raise CorpusError(f"{place}: entities are listed under {both}. Keep one of the lists.")
    if filled:
        return [_entity_in(item, len(about["text"]), place) for item in lists[filled[0]]]
    # Prodigy lists nothing if the annotator accepted that there is nothing.
    return [] if lists or about.get("answer") == "accept" else None


def _entity_in(item: Any, length: int, place: str) -> Entity:
    """RETURNS (Entity): The entity that a list's item describes, in a text of a given length."""
    found = item
    if isinstance(item, dict):
        start, end = (item.get(key, item.get(f"{key}_offset")) for key in ("start", "end"))
        found = [start, end, item.get("label")]
    if not isinstance(found, list) or [type(part) for part in found] != [int, int, str]:
        raise CorpusError(
            f'{place}: an entity must be [start, end, "label"] or {{"start": ..., "end": ..., '
            f'"label": "..."}}, not {_shown(repr(item))}'
        )
    entity = Entity(*found)
    if not 0 <= entity.start < entity.end <= length:
        raise CorpusError(
            f"{place}: an entity can't reach from character {entity.start} to {entity.end} in a "
            f"text of {length} characters."
        )
    check_label(entity.label, place)
    return entity


def _make_doc(nlp: Language, text: str, place: str) -> Doc:
    try:
        doc: Doc = nlp.make_doc(text)
    except ValueError as e:  # the text is too long for spaCy
        raise CorpusError(f"{place}: {e}") from e
    return doc


def _check_is_file(path: Path) -> None:
    # Not path.is_dir(), which fails if names are too long.
    if os.path.isdir(path):
        raise CorpusError(f"{path} is a folder, not a file.")
    if not os.path.isfile(path):
        raise CorpusError(f"There is no file {path}.")


def _check_characters(text: str, what: str, place: str) -> None:
    """RAISES (CorpusError): If there is half of a character, which JSON can express and UTF-8
    can't.
    """
    try:
        text.encode("utf8")
    except UnicodeEncodeError as e:
        raise CorpusError(
            f"{place}: character {e.start} of the {what} is a lone surrogate, "
            f"{text[e.start]!r}, half of a character."
        ) from e


def _remark(kind: str, found: Sequence[Tuple[int, str]], total: int) -> List[str]:
    """RETURNS (List[str]): A sentence on what was found of a kind, if anything was.

    kind (str): The kind.
    found (Sequence[Tuple[int, str]]): For each, its line and the text concerned.
    total (int): How many there are in total, of this kind or not.
    """
    if not found:
        return []
    what, does, do = REMARKS[kind]
    number, text = found[0]
    one = f"{_shown(text)!r} in line {number}"
    if total == 1:
        return [f"The only {what} {does}: {one}."]
    of = f"{len(found)} of {total} {PLURALS[what]}"
    return [f"{of} {does}: {one}." if len(found) == 1 else f"{of} {do}, such as {one}."]


def _place(path: Path, number: int) -> str:
    return f"{path}, line {number}"


def _shown(text: str) -> str:
    """RETURNS (str): A text, or the beginning of a long one."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
