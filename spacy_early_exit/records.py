"""What a Doc tells about the run that annotated it.

``Doc._.early_exit``, ``Token._.exit_layer`` and ``Span._.confidence`` read the plain values
that the component leaves in ``doc.user_data``, so they survive ``Doc.to_bytes``, pickling and
worker processes.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from spacy.tokens import Doc, Span, Token

KEY = "spacy_early_exit"


@dataclass(frozen=True)
class ExitRecord:
    """What one component spent on a Doc.

    spent (int): MACs of the method.
    full (int): MACs of full depth with one head.
    layers (Optional[Tuple[int, ...]]): The layer at which each word left, counted from 1; 0
        for words without wordpieces. None unless the component has ``store_exits = true``.
    """

    spent: int
    full: int
    layers: Optional[Tuple[int, ...]]


def write_record(
    doc: Doc,
    component: str,
    spent: int,
    full: int,
    layers: Optional[List[int]],
    confidences: List[Tuple[int, int, str, float]],
) -> None:
    """Leave a record in a Doc.

    doc (Doc): The Doc.
    component (str): Name of the component.
    spent (int): MACs of the method.
    full (int): MACs of full depth with one head.
    layers (Optional[List[int]]): The exit layer of each word, if they are kept.
    confidences (List[Tuple[int, int, str, float]]): Of each entity, its first character, the
        one behind its last, its label, and the confidence.
    """
    records = doc.user_data.setdefault(KEY, {})
    # A second run keeps the entities of the first: so it keeps what was said of them.
    spans = {(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents}
    spans -= {(start, end, label) for start, end, label, _ in confidences}
    kept = [
        list(old)
        for old in records.get(component, {}).get("confidences", ())
        if tuple(old[:3]) in spans
    ]
    records[component] = {
        "spent": spent,
        "full": full,
        "layers": layers,
        "confidences": kept + [list(confidence) for confidence in confidences],
        "characters": _characters(doc),
    }


def get_records(doc: Doc) -> Dict[str, ExitRecord]:
    """Getter of ``Doc._.early_exit``.

    doc (Doc): The Doc.
    RETURNS (Dict[str, ExitRecord]): A record for each early-exit component that ran on it.
    """
    return {
        component: ExitRecord(
            record["spent"],
            record["full"],
            None if record["layers"] is None else tuple(record["layers"]),
        )
        for component, record in _stored(doc).items()
    }


def get_exit_layer(token: Token) -> Optional[int]:
    """Getter of ``Token._.exit_layer``.

    token (Token): The token.
    RETURNS (Optional[int]): The layer at which it left the first early-exit component that
        ran, counted from 1; 0 for a word without wordpieces. None if exits were not stored.
    """
    for record in _stored(token.doc).values():
        if record["layers"] is not None:
            return int(record["layers"][token.i])
    return None


def get_confidence(span: Span) -> Optional[float]:
    """Getter of ``Span._.confidence``.

    span (Span): The span.
    RETURNS (Optional[float]): For an entity that an early-exit component set, the smallest
        posterior of the decoded tags over its words, each at its exit. Else None.
    """
    for record in _stored(span.doc).values():
        for start, end, label, confidence in record["confidences"]:
            if (start, end, label) == (span.start_char, span.end_char, span.label_):
                return float(confidence)
    return None


def _stored(doc: Doc) -> Dict[str, Dict[str, Any]]:
    """RETURNS (Dict[str, Dict[str, Any]]): The records by component, without what no longer fits:
    layers after a retokenization, and also confidences in a part or a union of Docs.
    """
    fitting = {}
    for component, record in doc.user_data.get(KEY, {}).items():
        record = dict(record)
        if record["characters"] != _characters(doc):
            record["layers"], record["confidences"] = None, []
        elif record["layers"] is not None and len(record["layers"]) != len(doc):
            record["layers"] = None
        fitting[component] = record
    return fitting


def _characters(doc: Doc) -> int:
    """RETURNS (int): Length of the text, without white space behind its last word."""
    return int(doc[-1].idx + len(doc[-1])) if len(doc) else 0


EXTENSIONS = (
    (Doc, "early_exit", get_records),
    (Token, "exit_layer", get_exit_layer),
    (Span, "confidence", get_confidence),
)


def register_extensions() -> None:
    """Register the extension attributes, where no other package has taken the name."""
    for holder, name, getter in EXTENSIONS:
        if not holder.has_extension(name):
            holder.set_extension(name, getter=getter)


def warn_if_names_are_taken() -> None:
    """Say so where somebody else has an extension attribute of our name."""
    for holder, name, getter in EXTENSIONS:
        if holder.get_extension(name)[2] is not getter:
            warnings.warn(
                f"{holder.__name__}._.{name} is not that of spacy-early-exit: something else has "
                f"registered an extension attribute of that name.",
                stacklevel=3,
            )
