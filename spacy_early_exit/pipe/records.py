"""What a Doc says about the run that annotated it.

``Doc._.early_exit``, ``Token._.exit_layer`` and ``Span._.confidence`` read the plain values
that the component leaves in ``doc.user_data``, so they survive ``Doc.to_bytes``, pickling and
worker processes.
"""

import warnings
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from spacy.tokens import Doc, Span, Token

KEY = "spacy_early_exit"


Record = Mapping[str, Any]  # as stored in user_data


class ExitRecord(Dict[str, Any]):
    """What one component spent on a Doc. It is also a plain dict, so that it can be written as
    JSON.
    """

    @property
    def spent(self) -> int:
        """RETURNS (int): The MACs that the method spent."""
        return int(self["spent"])

    @property
    def full(self) -> int:
        """RETURNS (int): MACs of full depth with one head."""
        return int(self["full"])

    @property
    def layers(self) -> Optional[Tuple[int, ...]]:
        """RETURNS (Optional[Tuple[int, ...]]): The layer at which each word exited, counted from 1;
        0 for words without wordpieces. None unless the component has ``store_exits = true``.
        """
        layers: Optional[Tuple[int, ...]] = self["layers"]
        return layers

    @property
    def of_pass(self) -> Optional[str]:
        """RETURNS (Optional[str]): If the component shares an encoder, the name of the encoder's
        owner: the cost is that of its whole pass, and is in its record, too.
        """
        return self.get("pass")


def write_record(
    doc: Doc,
    component: str,
    spent: int,
    full: int,
    layers: Optional[List[int]],
    confidences: List[Tuple[int, int, str, float]],
) -> None:
    """Store a record in a Doc.

    doc (Doc): The Doc.
    component (str): Name of the component.
    spent (int): The MACs that the method spent.
    full (int): MACs of full depth with one head.
    layers (Optional[List[int]]): The exit layer of each word, if they are kept.
    confidences (List[Tuple[int, int, str, float]]): For each entity: its first character, the one
        after its last, its label, and its confidence.
    """
    records = doc.user_data.setdefault(KEY, {})
    # A second run keeps the entities of the first, so it also keeps what was recorded of them.
    known = records.get(component, {}).get("confidence_of", {})
    ents = doc.ents if known else ()  # it takes time
    kept = {key: known[key] for key in map(_key, ents) if key in known}
    records[component] = {
        "spent": spent,
        "full": full,
        "layers": layers,
        "confidence_of": {
            **kept,
            **{f"{start} {end} {label}": sure for start, end, label, sure in confidences},
        },
        "characters": _characters(doc),
    }


def name_pass(doc: Doc, component: str, owner: str) -> None:
    """Note in a record that the cost is that of another component's pass, which read the text for
    several.

    doc (Doc): The Doc.
    component (str): Name of the component.
    owner (str): Name of the other one.
    """
    doc.user_data[KEY][component]["pass"] = owner


def get_records(doc: Doc) -> Dict[str, ExitRecord]:
    """Getter of ``Doc._.early_exit``.

    doc (Doc): The Doc.
    RETURNS (Dict[str, ExitRecord]): A record for each early-exit component that ran on it.
    """
    found = {}
    for component, record in doc.user_data.get(KEY, {}).items():
        layers = _layers(doc, record)
        found[component] = ExitRecord(
            spent=record["spent"],
            full=record["full"],
            layers=None if layers is None else tuple(layers),
        )
        if "pass" in record:
            found[component]["pass"] = record["pass"]
    return found


def get_exit_layer(token: Token, component: Optional[str] = None) -> Optional[int]:
    """Getter of ``Token._.exit_layer``.

    token (Token): The token.
    component (Optional[str]): Name of the component; None: the first early-exit component that ran
        and stored exits.
    RETURNS (Optional[int]): The layer at which the token exited, counted from 1; 0 for a word
        without wordpieces. None if exits were not stored.
    """
    doc = token.doc
    for record in _stored(doc, component):
        layers = _layers(doc, record)
        if layers is not None:
            return int(layers[token.i])
    return None


def get_confidence(span: Span, component: Optional[str] = None) -> Optional[float]:
    """Getter of ``Span._.confidence``.

    span (Span): The span.
    component (Optional[str]): Name of the component; None: the first one that set this entity.
    RETURNS (Optional[float]): For an entity that an early-exit component set, the smallest
        posterior of the decoded tags over its words, each at its exit. Otherwise None.
    """
    doc, key = span.doc, _key(span)
    for record in _stored(doc, component):
        confidence = record.get("confidence_of", {}).get(key)  # older saved Docs have none
        if confidence is not None and _is_of(doc, record):
            return float(confidence)
    return None


# What follows is called for every word and every entity: nothing is copied, and nothing is cached
# that could outlive the Doc.


def _stored(doc: Doc, component: Optional[str]) -> Iterable[Record]:
    """RETURNS (Iterable[Record]): The record of a component, if there is one; None: all records."""
    records = doc.user_data.get(KEY, {})
    found: Iterable[Record] = (
        records.values() if component is None else filter(None, [records.get(component)])
    )
    return found


def _layers(doc: Doc, record: Record) -> Optional[Sequence[int]]:
    """RETURNS (Optional[Sequence[int]]): The exit layers, if they are kept and there is still one
    per word: retokenization may have changed that.
    """
    layers: Optional[Sequence[int]] = record["layers"]
    if layers is None or len(layers) != len(doc) or not _is_of(doc, record):
        return None
    return layers


def _key(span: Span) -> str:
    """RETURNS (str): The key of an entity: its characters, since words may be merged."""
    return f"{span.start_char} {span.end_char} {span.label_}"


def _is_of(doc: Doc, record: Record) -> bool:
    """RETURNS (bool): Whether a record describes the whole Doc, and not a part of it or one of
    several Docs merged.
    """
    return bool(record["characters"] == _characters(doc))


def _characters(doc: Doc) -> int:
    """RETURNS (int): Length of the text, without trailing white space."""
    if not len(doc):
        return 0
    last = doc[-1]
    return int(last.idx + len(last))


def set_records(doc: Doc, value: Optional[Mapping[str, Record]]) -> None:
    """Setter of ``Doc._.early_exit``, for ``doc_cleaner``, ``Doc.from_json`` and the like.

    doc (Doc): The Doc.
    value (Optional[Mapping[str, Record]]): What the getter returns, which does not include
        confidences. None: the records are removed, along with exit layers and confidences.
    RAISES (ValueError): If it is something else.
    """
    try:
        records = {
            component: (int(record["spent"]), int(record["full"]), record["layers"])
            for component, record in ({} if value is None else value).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"doc._.early_exit must be None, which removes the records, or records as it gives "
            f"them, not {value!r}."
        ) from None
    known = doc.user_data.pop(KEY, {})
    if records:
        doc.user_data[KEY] = {name: known[name] for name in records if name in known}
    for component, (spent, full, layers) in records.items():
        write_record(doc, component, spent, full, None if layers is None else list(layers), [])
        if value and "pass" in value[component]:
            name_pass(doc, component, str(value[component]["pass"]))


def refuse(obj: Union[Token, Span], value: Any) -> None:
    """Setter of an attribute that can't be set.

    RAISES (AttributeError): Always.
    """
    raise AttributeError(
        "exit_layer and confidence are read from the records of the Doc and can't be set. "
        "doc._.early_exit = None removes the records."
    )


EXTENSIONS = (
    (Doc, "early_exit", get_records, set_records),
    (Token, "exit_layer", get_exit_layer, refuse),
    (Span, "confidence", get_confidence, refuse),
)


def register_extensions() -> None:
    """Register the extension attributes, unless another package has taken the name."""
    for holder, name, getter, setter in EXTENSIONS:
        if not holder.has_extension(name):
            holder.set_extension(name, getter=getter, setter=setter)


def warn_if_names_are_taken() -> None:
    """Warn if another package has registered an extension attribute with one of our names."""
    for holder, name, getter, _ in EXTENSIONS:
        if holder.get_extension(name)[2] is not getter:
            warnings.warn(
                f"{holder.__name__}._.{name} is not that of spacy-early-exit: something else has "
                f"registered an extension attribute of that name.",
                stacklevel=3,
            )
