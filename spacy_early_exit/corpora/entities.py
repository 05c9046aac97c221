"""Entities by characters, and Docs that have them."""

from pathlib import Path
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import filter_spans

from ..tags import fault_in
from .lines import CorpusError, check_characters, make_doc, shown
from .remarks import Corpus, remark


class Entity(NamedTuple):
    """An entity by its characters.

    start (int): The first character.
    end (int): The one after its last character.
    label (str): Its label.
    """

    start: int
    end: int
    label: str


class Text(NamedTuple):
    """A text with its entities.

    number (int): The number of its line or task, from 1.
    text (str): The text.
    entities (Optional[Sequence[Entity]]): Its entities; None: the text is not annotated.
    """

    number: int
    text: str
    entities: Optional[Sequence[Entity]]


def to_corpus(
    path: Path, texts: Iterable[Text], remarks: Sequence[str], nlp: Language, counted: str = "line"
) -> Corpus:
    """Annotate texts with entities.

    path (Path): The file that they are from, for messages.
    texts (Iterable[Text]): The texts.
    remarks (Sequence[str]): What is known already to be of no use.
    nlp (Language): The pipeline, for its tokenizer.
    counted (str): What is numbered: ``"line"``, or ``"task"``.
    RETURNS (Corpus): The texts.
    RAISES (CorpusError): If none is annotated, or one is too long.
    """
    docs, total = [], 0
    unlisted: List[Tuple[int, str]] = []
    misaligned: List[Tuple[int, str]] = []
    overlapping: List[Tuple[int, str]] = []
    for number, text, entities in texts:
        doc = make_doc(nlp, text, f"{path}, {counted} {number}")
        docs.append(doc)
        if entities is None:
            unlisted.append((number, text))
            continue
        total += len(set(entities))
        for kind, found in zip((misaligned, overlapping), set_entities(doc, entities)):
            kind.extend((number, text[start:end]) for start, end, _ in found)
    remarks = [
        *remarks,
        *remark("unlisted", unlisted, len(docs), counted),
        *remark("misaligned", misaligned, total, counted),
        *remark("overlapping", overlapping, total, counted),
    ]
    if len(unlisted) == len(docs):
        raise CorpusError(" ".join([f"{path} has no annotated texts.", *remarks]))
    return Corpus(docs, remarks)


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


def check_entity(found: Any, length: int, place: str) -> Entity:
    """RETURNS (Entity): An entity, if it can be one of a text of a given length.

    found (Any): Its start, end and label, of whatever types.
    length (int): Characters of the text.
    place (str): Where it is, for messages.
    RAISES (CorpusError): If it can't.
    """
    if not isinstance(found, list) or [type(part) for part in found] != [int, int, str]:
        raise CorpusError(
            f'{place}: an entity must be [start, end, "label"] or {{"start": ..., "end": ..., '
            f'"label": "..."}}, not {shown(repr(found))}'
        )
    entity = Entity(*found)
    if not 0 <= entity.start < entity.end <= length:
        raise CorpusError(
            f"{place}: an entity can't reach from character {entity.start} to {entity.end} in a "
            f"text of {length} characters."
        )
    check_label(entity.label, place)
    return entity


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
    check_characters(label, "label", place)
