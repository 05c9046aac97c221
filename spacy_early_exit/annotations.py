"""From decoded tags to a Doc's entities, around what others have set."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, List, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc, Span

from .network.window import Bools, Ints
from .records import write_record
from .tags import entities

if TYPE_CHECKING:
    from .model import DocExits

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """The answer for one Doc.

    exits (DocExits): What the network says.
    tags (Ints): The decoded tag of each word that has wordpieces. *Shape:* ``(words,)``
    """

    exits: "DocExits"
    tags: Ints


def logits_around_presets(doc: Doc, exits: "DocExits") -> Floats:
    """Bind the words of preset entities and blocked words to O.

    So the decoder finds the best entities around them.

    doc (Doc): The Doc.
    exits (DocExits): What the network says of it.
    RETURNS (Floats): The logits to decode. *Shape:* ``(words, tags)``
    """
    preset = _presets(doc)[exits.words]
    if not preset.any():
        return exits.logits
    logits = exits.logits.copy()
    logits[preset, 1:] = np.finfo(np.float32).min
    return logits


def annotate(
    doc: Doc, prediction: Prediction, labels: Sequence[str], component: str, store_exits: bool
) -> None:
    """Write entities and the record into a Doc. Preset entities and blocked words stay.

    doc (Doc): The Doc, changed in place.
    prediction (Prediction): What to write.
    labels (Sequence[str]): The entity labels.
    component (str): Name of the component.
    store_exits (bool): Whether to keep the exit layer of every word.
    """
    exits, preset = prediction.exits, _presets(doc)
    ents: List[Span] = []
    confidences: List[Tuple[int, int, str, float]] = []
    for first, behind, label in entities(prediction.tags):
        confidence = _posteriors(exits.logits[first:behind], prediction.tags[first:behind]).min()
        whole = (int(exits.words[first]), int(exits.words[behind - 1]) + 1)
        for start, end in _free_parts(doc, preset, *whole):
            ent = Span(doc, start, end, label=labels[label])
            ents.append(ent)
            confidences.append((ent.start_char, ent.end_char, ent.label_, float(confidence)))
    doc.set_ents(ents, default="unmodified")
    # Words that nobody has decided on become O.
    undecided = np.concatenate([[False], doc.to_array(["ENT_IOB"]).reshape(-1) == 0, [False]])
    bounds = np.flatnonzero(np.diff(undecided)).tolist()
    outside = [doc[start:end] for start, end in zip(bounds[::2], bounds[1::2])]
    if outside:
        doc.set_ents([], outside=outside, default="unmodified")
    layers = None
    if store_exits:
        by_word = np.zeros(len(doc), dtype=np.int64)
        by_word[exits.words] = exits.exit_layer
        layers = by_word.tolist()
    write_record(doc, component, exits.spent, exits.full, layers, confidences)


def _presets(doc: Doc) -> Bools:
    """RETURNS (Bools): Whether a word is of a preset entity, or blocked. *Shape:* ``(words,)``"""
    iob = doc.to_array(["ENT_IOB"]).reshape(-1)
    preset: Bools = (iob == 1) | (iob == 3)
    return preset


def _free_parts(doc: Doc, preset: Bools, start: int, end: int) -> Iterator[Tuple[int, int]]:
    """YIELDS (Tuple[int, int]): The parts of a span that are not preset, without white space at
    their ends. More than one if a preset word without wordpieces lies inside.
    """
    bounds = [start - 1, *(start + np.flatnonzero(preset[start:end])).tolist(), end]
    for before, behind in zip(bounds, bounds[1:]):
        first, last = before + 1, behind
        while first < last and doc[first].is_space:
            first += 1
        while first < last and doc[last - 1].is_space:
            last -= 1
        if first < last:
            yield first, last


def _posteriors(logits: Floats, tags: Ints) -> Floats:
    """RETURNS (Floats): The softmax at each word's tag. *Shape:* ``(words,)``"""
    weights = np.exp(logits - logits.max(1, keepdims=True))
    posteriors: Floats = weights[np.arange(len(tags)), tags] / weights.sum(1)
    return posteriors
