"""``early_exit_tagger``: a tag for each word, such as its part of speech."""

from dataclasses import dataclass
from typing import Any, Iterable, List, Literal, Set, Tuple

import numpy as np
from spacy.parts_of_speech import IDS as UPOS
from spacy.tokens import Doc, Token
from spacy.training import Example

from ..pipe.component import EarlyExitPipe
from ..pipe.docs import exit_layers, is_space
from ..pipe.records import write_record
from ..pipe.task import Prediction
from ..settings import Settings, check_choice
from ..tags import MISSING
from .factory import default_config, make_factory
from .scorers import tagger_score

Attribute = Literal["tag", "pos", "morph"]
SPACE = {"tag": "_SP", "pos": "SPACE", "morph": "_"}  # spaCy's own tags for white space


@dataclass(frozen=True)
class TaggerSettings(Settings):
    """The settings of ``early_exit_tagger``.

    attribute (str): What is set: ``"tag"``, with any labels; ``"pos"``, with those of Universal
        Dependencies; or ``"morph"``, morphological features such as ``Case=Nom|Number=Sing``, each
        combination being a label, and ``_`` that of words without features.
    overwrite (bool): Whether to replace what other components have set.
    """

    attribute: Attribute = "tag"
    overwrite: bool = False

    def check(self, name: str) -> None:
        """RAISES (ValueError): If a setting makes no sense.

        name (str): The component's name.
        """
        super().check(name)
        check_choice(name, "attribute", self.attribute, [*SPACE])


class EarlyExitTagger(EarlyExitPipe):
    """Tags words with a transformer that stops, word by word, when it is sure.

    White space gets spaCy's ``_SP`` or ``SPACE``. Other words without wordpieces, such as some
    control characters, get no tag.

    Settings: ``TaggerSettings``.
    """

    kind = "early_exit_tagger"
    scheme = "free"
    settings: TaggerSettings
    settings_class = TaggerSettings
    default_scorer = staticmethod(tagger_score)

    @property
    def main_score(self) -> str:  # type: ignore[override]
        """RETURNS (str): What the best checkpoint is chosen by."""
        return f"{self.settings.attribute}_acc"

    @property
    def scores(self) -> Tuple[str, ...]:  # type: ignore[override]
        """RETURNS (Tuple[str, ...]): The scores shown to users."""
        return (self.main_score,)

    def check_label(self, label: str) -> None:
        """RAISES (ValueError): If the attribute can't have this value."""
        super().check_label(label)
        if self.settings.attribute == "pos" and label not in UPOS:
            raise ValueError(
                f"'{self.name}' sets pos, which can't be {label!r}: it must be one of "
                f"{', '.join(sorted(filter(None, UPOS)))}. For other labels, set "
                f'attribute = "tag".'
            )

    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): The tags of the annotated words, in order."""
        words = (token for eg in examples for token in eg.reference if not is_space(token))
        return sorted({self._tag(token) for token in words} - {""})

    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """Find the right tags, as spaCy's ``tagger`` does. If the annotation is tokenized
        differently, all parts of an annotated word get its tag. A word that covers several
        annotated ones gets their tag if they have the same one.

        example (Example): The example.
        RETURNS (Tuple[List[int], Set[str]]): See ``EarlyExitPipe.gold_tags``.
        """
        label_ids = {label: number for number, label in enumerate(self.labels)}
        gold = example.get_aligned(self.settings.attribute.upper(), as_string=True)
        spaces = [is_space(token) for token in example.predicted]
        known = [None if space else label or None for label, space in zip(gold, spaces)]
        tags = [label_ids.get(label or "", MISSING) for label in known]
        return tags, {label for label in known if label is not None} - label_ids.keys()

    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write tags and the record into a Doc.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): What to write.
        """
        exits, attribute = prediction.exits, self.settings.attribute.upper()
        strings = doc.vocab.strings  # not the component's own, if it is sourced
        numbers = {"tag": strings.add, "pos": UPOS.__getitem__, "morph": doc.vocab.morphology.add}
        number = numbers[self.settings.attribute]
        ids = np.array([number(label) for label in self.labels], dtype=np.uint64)
        before = doc.to_array([attribute]).reshape(-1)
        tags = np.zeros(len(doc), dtype=np.uint64)
        tags[exits.words] = ids[prediction.tags]
        unseen = np.setdiff1d(np.arange(len(doc)), exits.words)
        spaces = [word for word in unseen.tolist() if is_space(doc[word])]
        if spaces:
            tags[spaces] = number(SPACE[self.settings.attribute])
        kept = (before > 0) & (not self.settings.overwrite)
        doc.from_array([attribute], np.where(kept, before, tags).reshape(-1, 1))
        layers = exit_layers(doc, exits).tolist() if self.settings.store_exits else None
        write_record(doc, self.name, exits.spent, exits.full, layers, [])

    def answers(self, doc: Doc) -> List[str]:
        """RETURNS (List[str]): The tag of each word."""
        return [self._tag(token) for token in doc]

    def shown(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): The tag, twice."""
        return self._tag(token) or "none", self._tag(token)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> Any:
        """Score annotated examples.

        examples (Iterable[Example]): The examples.
        RETURNS (Dict[str, Any]): The scores that the scorer returns.
        """
        return super().score(examples, **{"attribute": self.settings.attribute, **kwargs})

    def _tag(self, token: Token) -> str:
        if self.settings.attribute == "morph":
            return token.vocab.strings[token.morph.key] if token.has_morph() else ""
        tag: str = getattr(token, f"{self.settings.attribute}_")
        return tag


DEFAULT_CONFIG = default_config(
    EarlyExitTagger, "spacy-early-exit.Viterbi.v1", "spacy-early-exit.tagger_scorer.v1"
)
make_early_exit_tagger = make_factory(
    EarlyExitTagger,
    DEFAULT_CONFIG,
    assigns=["token.tag", "token.pos", "token.morph"],
    # It sets one of the three; the scores of the others do not exist.
    score_weights={"tag_acc": 0.5, "pos_acc": 0.5, "morph_acc": 0.5, "exit_cost": 0.0},
)
