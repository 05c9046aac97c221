"""What a task must define: the tags, and what becomes of them."""

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

    exits (DocExits): The output of the network.
    logits (Floats): The logits that were decoded. *Shape:* ``(words, tags)``
    tags (Ints): The decoded tag of each word that has wordpieces. *Shape:* ``(words,)``
    """

    exits: "DocExits"
    logits: Floats
    tags: Ints


class Task:
    """A task: what ``EarlyExitPipe`` leaves to its subclasses, in ``tasks/``."""

    kind: ClassVar[str]  # the factory's name
    scheme: ClassVar[str]  # see tags.py
    main_score: str  # what the best checkpoint is chosen by
    scores: Tuple[str, ...]  # the scores shown to users, including main_score
    name: str

    @property
    @abstractmethod
    def labels(self) -> Tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): The labels."""

    @abstractmethod
    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): The labels in the examples' annotation, in order."""

    @abstractmethod
    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """RETURNS (Tuple[List[int], Set[str]]): The right tag of each word of the predicted Doc,
        ``MISSING`` where it is not known; and the annotated labels that the component does not
        have.
        """

    @abstractmethod
    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write the answer and the record into a Doc.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): The answer.
        """

    @abstractmethod
    def answers(self, doc: Doc) -> List[Any]:
        """RETURNS (List[Any]): The answers in an annotated Doc, one by one. They are compared with
        the answers of another setting on the same text.
        """

    @abstractmethod
    def shown(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): How reports show an annotated word: the group that it is
        counted in, and its caption.
        """

    def to_decode(self, doc: Doc, exits: "DocExits") -> Floats:
        """Prepare the network's output for the decoder.

        doc (Doc): The Doc.
        exits (DocExits): The network's output for it.
        RETURNS (Floats): The logits to decode. *Shape:* ``(words, tags)``
        """
        return exits.logits

    def unannotated(self, doc: Doc) -> Doc:
        """RETURNS (Doc): A Doc's text as input to the component: the same words, without
        annotation.
        """
        return same_words(doc)

    def confidences(self, doc: Doc, reference: Doc) -> List[Tuple[float, bool]]:
        """RETURNS (List[Tuple[float, bool]]): The confidence of each answer in a Doc, and whether
        the answer is right. Empty if confidences are not kept.
        """
        return []

    def check_labels(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If they can't be those of a saved component of this task."""
        for label in labels:
            self.check_label(label)
        if len(set(labels)) < len(labels):
            raise ValueError("a label occurs twice")

    def check_new_labels(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If one can't be a label. Labels that the component already has may
        stay, since earlier versions refused fewer.
        """
        for label in labels:
            self.check_label(label)
            fault = "" if label in self.labels else fault_in(label)
            if fault:
                raise ValueError(f"A label of '{self.name}' can't be {label!r}: {fault}")

    def check_label(self, label: str) -> None:
        """RAISES (ValueError): If it can't be a label of this task."""
        if not isinstance(label, str):
            raise ValueError(Errors.E187)
        if not label or label != label.encode("utf8", "replace").decode("utf8"):
            raise ValueError(f"A label of '{self.name}' can't be {label!r}.")
