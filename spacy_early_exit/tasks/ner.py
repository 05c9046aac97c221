"""``early_exit_ner``: named entities, as BIO tags."""

import warnings
from bisect import bisect_right
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Set,
    Tuple,
)

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc, Span, Token
from spacy.training import Example

from ..network.arrays import Bools, Floats, Ints
from ..pipe.component import EarlyExitPipe
from ..pipe.docs import exit_layers, is_space, spaces
from ..pipe.records import get_confidence, write_record
from ..pipe.task import Prediction
from ..settings import Settings
from ..tags import MISSING, encode, entities, extent, is_inside
from ..text.spans import after_line_break
from .factory import default_config, make_factory
from .scorers import ner_score

if TYPE_CHECKING:
    from ..model.predict import DocExits

NEVER = np.finfo(np.float32).min


@dataclass(frozen=True)
class NERSettings(Settings):
    """The settings of ``early_exit_ner``.

    across_lines (bool): Whether entities may reach across line breaks, as in wrapped text.
    """

    across_lines: bool = False

    def fingerprint(self) -> Dict[str, str]:
        """RETURNS (Dict[str, str]): What a calibration depends on, by name."""
        found = super().fingerprint()
        # Scores and guarantees depend on it. It is only named if true, so that calibrations made
        # before this setting existed still hold.
        return {**found, "across_lines": "true"} if self.across_lines else found


class EarlyExitNER(EarlyExitPipe):
    """Named entity recognition with a transformer that stops, word by word, when it is sure.

    It sets ``doc.ents`` and keeps preset entities and blocked words, as spaCy's ``ner`` does.

    Settings: ``NERSettings``.
    """

    kind = "early_exit_ner"
    scheme = "bio"
    settings: NERSettings
    settings_class = NERSettings
    default_scorer = staticmethod(ner_score)
    main_score = "ents_f"
    scores = ("ents_p", "ents_r", "ents_f")

    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): The labels of the annotated entities, in order."""
        return sorted({ent.label_ for eg in examples for ent in eg.reference.ents})

    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """Entities that reach across a line break count as missing, unless ``across_lines``.

        example (Example): The example.
        RETURNS (Tuple[List[int], Set[str]]): See ``EarlyExitPipe.gold_tags``.
        """
        label_ids = {label: number for number, label in enumerate(self.labels)}
        tags, unknown = encode(example.get_aligned_ner(), label_ids)
        if self.settings.across_lines or not _forget_across_lines(example.predicted, tags):
            return tags, unknown
        warnings.warn(
            f"Some annotated entities reach across a line break, and '{self.name}' finds no such "
            f"entities: their words count as not annotated. If lines break within entities, as in "
            f"wrapped text, set across_lines = true in [components.{self.name}]. Otherwise correct "
            f"the annotation.",
            stacklevel=2,
        )
        return tags, unknown

    def to_decode(self, doc: Doc, exits: "DocExits") -> Floats:
        """Fix the words of preset entities and blocked words to O, so that the decoder finds the
        best entities around them. After a line break an entity can only begin: there, the logits of
        I-X count for B-X, unless ``across_lines``.

        doc (Doc): The Doc.
        exits (DocExits): What the network says of it.
        RETURNS (Floats): The logits to decode. *Shape:* ``(words, tags)``
        """
        iob = doc.to_array("ENT_IOB")
        after = np.zeros(len(exits.words), dtype=np.bool_)
        if not self.settings.across_lines:
            after = after_line_break(doc, exits.words)
        if not (iob.any() or after.any()):
            return exits.logits  # the usual case
        preset = _are_preset(iob)[exits.words]
        logits = exits.logits.copy()
        logits[after, 1::2] = np.logaddexp(logits[after, 1::2], logits[after, 2::2])
        logits[after, 2::2] = NEVER
        logits[preset, 1:] = NEVER
        return logits

    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write entities and the record into a Doc. Preset entities and blocked words stay.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): What to write.
        """
        exits, iob = prediction.exits, doc.to_array("ENT_IOB")
        ents: List[Span] = []
        confidences: List[Tuple[int, int, str, float]] = []
        found = [*entities(prediction.tags)]
        if found:  # few texts have any, and what follows takes time
            words, preset = exits.words.tolist(), _are_preset(iob)
            posteriors = _posteriors(prediction.logits, prediction.tags)
            for first, after, label in found:
                name, sure = self._labels[label], float(posteriors[first:after].min())
                for start, end in _free_parts(doc, preset, words[first], words[after - 1] + 1):
                    ent = Span(doc, start, end, label=name)
                    ents.append(ent)
                    confidences.append((ent.start_char, ent.end_char, name, sure))
        # Words that no component has decided on become O.
        if not iob.any():
            doc.set_ents(ents, default="outside")
        else:
            doc.set_ents(ents, default="unmodified")
            undecided = np.concatenate([[False], doc.to_array("ENT_IOB") == 0, [False]])
            bounds = np.flatnonzero(np.diff(undecided)).tolist()
            outside = [doc[start:end] for start, end in zip(bounds[::2], bounds[1::2])]
            doc.set_ents([], outside=outside, default="unmodified")
        layers = exit_layers(doc, exits).tolist() if self.settings.store_exits else None
        write_record(doc, self.name, exits.spent, exits.full, layers, confidences)

    def answers(self, doc: Doc) -> List[Tuple[str, str]]:
        """RETURNS (List[Tuple[str, str]]): The tag of each word."""
        return [(token.ent_iob_, token.ent_type_) for token in doc]

    def shown(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): The label, or O; and the label at an entity's first word, a
        dot at its others.
        """
        label = token.ent_type_
        return label or "O", label if token.ent_iob_ == "B" else "·" if label else ""

    def confidences(self, doc: Doc, reference: Doc) -> List[Tuple[float, bool]]:
        """RETURNS (List[Tuple[float, bool]]): The confidence of each entity that it set, and
        whether the entity is right, boundaries and label. As in spaCy's scores, entities on words
        whose annotation is missing are left out: they are neither right nor wrong.
        """
        right = {(ent.start_char, ent.end_char, ent.label_) for ent in reference.ents}
        missing = [(t.idx, t.idx + len(t)) for t in reference if not t.ent_iob]
        ends = [end for _, end in missing]

        def is_known(ent: Span) -> bool:
            after = bisect_right(ends, ent.start_char)  # the first that may be inside it
            return after == len(ends) or missing[after][0] >= ent.end_char

        sure = [(ent, get_confidence(ent, self.name)) for ent in doc.ents]
        return [
            (confidence, (ent.start_char, ent.end_char, ent.label_) in right)
            for ent, confidence in sure
            if confidence is not None and is_known(ent)
        ]


DEFAULT_CONFIG = default_config(
    EarlyExitNER, "spacy-early-exit.BIOViterbi.v1", "spacy-early-exit.ner_scorer.v1"
)
make_early_exit_ner = make_factory(
    EarlyExitNER,
    DEFAULT_CONFIG,
    assigns=["doc.ents", "token.ent_iob", "token.ent_type"],
    score_weights={
        "ents_f": 1.0,
        "ents_p": 0.0,
        "ents_r": 0.0,
        "ents_per_type": None,
        "exit_cost": 0.0,
    },
)


def _are_preset(iob: "NDArray[np.unsignedinteger[Any]]") -> Bools:
    """RETURNS (Bools): Whether a word is blocked or in a preset entity. *Shape:* ``(words,)``

    iob (NDArray): The ENT_IOB of each word. *Shape:* ``(words,)``
    """
    preset: Bools = (iob == 1) | (iob == 3)
    return preset


def _forget_across_lines(doc: Doc, tags: List[int]) -> bool:
    """RETURNS (bool): Whether there are entities that reach across a line break. Their tags are set
    to missing. White space at their ends is ignored.
    """
    words = np.flatnonzero(~spaces(doc))
    inside = is_inside(np.array(tags, dtype=np.int64))
    goes_on = after_line_break(doc, words) & inside[words]
    found = False
    for number in np.flatnonzero(goes_on).tolist():
        start, end = extent(inside, int(words[number]))
        if words[number - 1] >= start:
            tags[start:end] = [MISSING] * (end - start)
            found = True
    return found


def _free_parts(doc: Doc, preset: Bools, start: int, end: int) -> Iterator[Tuple[int, int]]:
    """YIELDS (Tuple[int, int]): The parts of a span that are not preset, without white space at
    their ends. There is more than one if a preset word without wordpieces is inside.
    """
    if not (preset[start:end].any() or is_space(doc[start]) or is_space(doc[end - 1])):
        yield start, end  # the usual case: a text may have a hundred thousand
        return
    space = np.array([is_space(token) for token in doc[start:end]])
    bounds = [-1, *np.flatnonzero(preset[start:end]).tolist(), end - start]
    for before, after in zip(bounds, bounds[1:]):
        words = start + before + 1 + np.flatnonzero(~space[before + 1 : after])
        if len(words):
            yield int(words[0]), int(words[-1]) + 1


def _posteriors(logits: Floats, tags: Ints) -> Floats:
    """RETURNS (Floats): The softmax at each word's tag. *Shape:* ``(words,)``"""
    weights = np.exp(logits - logits.max(1, keepdims=True))
    posteriors: Floats = weights[np.arange(len(tags)), tags] / weights.sum(1)
    return posteriors
