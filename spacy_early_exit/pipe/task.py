"""What a task must say of itself: the tags, and what becomes of them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Iterable, List, Sequence, Set, Tuple

from spacy.errors import Errors
from spacy.tokens import Doc, Token
from spacy.training import Example

from ..network.arrays import Floats, Ints
from ..tags import fault_in
from .docs import same_words

if TYPE_CHECKING:
    from ..model.predict import DocExits


@dataclass(frozen=True)
class Prediction:
    """The answer for one Doc.

    exits (DocExits): What the network says.
    logits (Floats): What of that was decoded. *Shape:* ``(words, tags)``
    tags (Ints): The decoded tag of each word that has wordpieces. *Shape:* ``(words,)``
    """

    exits: "DocExits"
    logits: Floats
    tags: Ints


class Task:
    """A task: what ``EarlyExitPipe`` leaves to its subclasses, in ``tasks/``."""

    kind: ClassVar[str]  # the factory's name
    scheme: ClassVar[str]  # see tags.py
    main_score: str  # what a checkpoint is best in
    scores: Tuple[str, ...]  # what is shown of a score, main_score among them
    name: str

    @property
    @abstractmethod
    def labels(self) -> Tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): The labels."""

    @abstractmethod
    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): The labels that examples are annotated with, in order."""

    @abstractmethod
    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """RETURNS (Tuple[List[int], Set[str]]): The right tag of each word of the predicted Doc,
        ``MISSING`` where it is not known; and annotated labels that the component does not have.
        """

    @abstractmethod
    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write the answer for a Doc into it, and its record.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): The answer.
        """

    @abstractmethod
    def answers(self, doc: Doc) -> List[Any]:
        """RETURNS (List[Any]): What was said of an annotated Doc, one by one, to be compared with
        what another setting says of the same text.
        """

    @abstractmethod
    def shown(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): What an annotated word is, for reports: the group that it is
        counted in, and what to write beside it.
        """

    def to_decode(self, doc: Doc, exits: "DocExits") -> Floats:
        """Prepare what the network says for the decoder.

        doc (Doc): The Doc.
        exits (DocExits): What the network says of it.
        RETURNS (Floats): The logits to decode. *Shape:* ``(words, tags)``
        """
        return exits.logits

    def unannotated(self, doc: Doc) -> Doc:
        """RETURNS (Doc): A Doc's text as the component is to meet it: the same words, without
        annotation.
        """
        return same_words(doc)

    def confidences(self, doc: Doc, reference: Doc) -> List[Tuple[float, bool]]:
        """RETURNS (List[Tuple[float, bool]]): How sure it was of each thing that it said of a Doc,
        and whether that is right. Empty where confidences are not kept.
        """
        return []

    def check_labels(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If they can't be those of a saved component of this task."""
        for label in labels:
            self.check_label(label)
        if len(set(labels)) < len(labels):
            raise ValueError("a label is there twice")

    def check_new_labels(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If one can be no label. What is there, saved when less was refused,
        may stay.
        """
        for label in labels:
            self.check_label(label)
            fault = "" if label in self.labels else fault_in(label)
            if fault:
                raise ValueError(f"A label of '{self.name}' can't be {label!r}: {fault}")

    def check_label(self, label: str) -> None:
        """RAISES (ValueError): If it can be no label of this task."""
        if not isinstance(label, str):
            raise ValueError(Errors.E187)
        if not label or label != label.encode("utf8", "replace").decode("utf8"):
            raise ValueError(f"A label of '{self.name}' can't be {label!r}.")
