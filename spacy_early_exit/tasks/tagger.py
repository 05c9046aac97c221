"""``early_exit_tagger``: a tag for each word, such as its part of speech."""

from typing import Any, Callable, Iterable, List, Literal, Optional, Set, Tuple

import numpy as np
from spacy.language import Language
from spacy.parts_of_speech import IDS as UPOS
from spacy.tokens import Doc, Token
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Model

from ..pipe.component import EarlyExitPipe
from ..pipe.docs import Prediction, exit_layers, is_space
from ..pipe.records import write_record
from ..pipe.sharing import made_in
from ..tags import MISSING
from ..text.spans import SpanGetter
from .factory import default_config
from .scorers import tagger_score

Attribute = Literal["tag", "pos"]
SPACE = {"tag": "_SP", "pos": "SPACE"}  # spaCy's own for words of white space

DEFAULT_CONFIG = default_config(
    "spacy-early-exit.Viterbi.v1",
    "spacy-early-exit.tagger_scorer.v1",
    own="""
        attribute = "tag"
        overwrite = false
    """,
)


@Language.factory(
    "early_exit_tagger",
    assigns=["token.tag", "token.pos"],
    default_config=DEFAULT_CONFIG,
    # Whichever of the two it sets.
    default_score_weights={"tag_acc": 0.5, "pos_acc": 0.5, "exit_cost": 0.0},
)
def make_early_exit_tagger(
    nlp: Language,
    name: str,
    model: Model,
    attribute: Attribute,
    overwrite: bool,
    criterion: Any,
    decoder: Any,
    training: Any,
    threshold: Optional[float],
    speedup: Optional[float],
    adaptive: bool,
    store_exits: bool,
    batch_wordpieces: int,
    threads: Optional[int],
    window_length: Optional[int],
    window_overlap: int,
    get_spans: Optional[SpanGetter],
    kv: Literal["copy", "drop"],
    halt_special: bool,
    quantize: Optional[Literal["int8"]],
    scorer: Optional[Callable[..., Any]],
) -> "EarlyExitTagger":
    """Make the component. See ``EarlyExitTagger`` for the arguments."""
    pipe = EarlyExitTagger(
        nlp.vocab,
        model,
        name,
        attribute=attribute,
        overwrite=overwrite,
        criterion=criterion,
        decoder=decoder,
        training=training,
        threshold=threshold,
        speedup=speedup,
        adaptive=adaptive,
        store_exits=store_exits,
        batch_wordpieces=batch_wordpieces,
        threads=threads,
        window_length=window_length,
        window_overlap=window_overlap,
        get_spans=get_spans,
        kv=kv,
        halt_special=halt_special,
        quantize=quantize,
        scorer=scorer,
    )
    return made_in(nlp, pipe)


class EarlyExitTagger(EarlyExitPipe):
    """Tags words with a transformer that stops, word by word, when it is sure.

    Words of white space get spaCy's ``_SP`` or ``SPACE``. Others that have no wordpieces, some
    control characters, stay without a tag.

    vocab (Vocab): The shared vocabulary.
    model (Model): The model, of ``spacy-early-exit.EarlyExitTagger.v2``.
    name (str): Name of this instance.
    attribute (str): What is set: ``"tag"``, any labels, or ``"pos"``, those of Universal
        Dependencies.
    overwrite (bool): Whether to replace what other components have set.
    scorer (Optional[Callable]): The scorer.
    settings (Any): As ``EarlyExitPipe`` takes them.
    RAISES (ValueError): If a setting makes no sense.
    """

    kind = "early_exit_tagger"
    scheme = "free"

    def __init__(
        self,
        vocab: Vocab,
        model: Model,
        name: str = "early_exit_tagger",
        *,
        attribute: Attribute = "tag",
        overwrite: bool = False,
        scorer: Optional[Callable[..., Any]] = tagger_score,
        **settings: Any,
    ):
        if attribute not in SPACE:
            raise ValueError(f"attribute of '{name}' must be 'tag' or 'pos', not {attribute!r}.")
        self.attribute = attribute
        self.overwrite = overwrite
        self.main_score = f"{attribute}_acc"
        self.scores = (self.main_score,)
        super().__init__(vocab, model, name, scorer=scorer, **settings)

    def check_label(self, label: str) -> None:
        """RAISES (ValueError): If it is none that the attribute can be."""
        super().check_label(label)
        if self.attribute == "pos" and label not in UPOS:
            raise ValueError(
                f"'{self.name}' sets pos, which can't be {label!r}: it must be one of "
                f"{', '.join(sorted(filter(None, UPOS)))}. For other labels there is "
                f'attribute = "tag".'
            )

    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): The tags of the annotated words, in order."""
        words = (token for eg in examples for token in eg.reference if not is_space(token))
        return sorted({self._tag(token) for token in words} - {""})

    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """Find the right tags, as spaCy's ``tagger`` does: where words are cut otherwise in the
        annotation, all parts of a word have its tag; one that is several words has theirs if they
        have the same.

        example (Example): The example.
        RETURNS (Tuple[List[int], Set[str]]): See ``EarlyExitPipe.gold_tags``.
        """
        label_ids = {label: number for number, label in enumerate(self.labels)}
        gold = example.get_aligned(self.attribute.upper(), as_string=True)
        spaces = [is_space(token) for token in example.predicted]
        known = [None if space else label or None for label, space in zip(gold, spaces)]
        tags = [label_ids.get(label or "", MISSING) for label in known]
        return tags, {label for label in known if label is not None} - label_ids.keys()

    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write tags and the record into a Doc.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): What to write.
        """
        exits, attribute = prediction.exits, self.attribute.upper()
        strings = doc.vocab.strings  # another's than the component's, where it is sourced
        number = UPOS.__getitem__ if self.attribute == "pos" else strings.add
        ids = np.array([number(label) for label in self.labels], dtype=np.uint64)
        before = doc.to_array([attribute]).reshape(-1)
        tags = np.zeros(len(doc), dtype=np.uint64)
        tags[exits.words] = ids[prediction.tags]
        unseen = np.setdiff1d(np.arange(len(doc)), exits.words)
        spaces = [word for word in unseen.tolist() if is_space(doc[word])]
        if spaces:
            tags[spaces] = number(SPACE[self.attribute])
        kept = (before > 0) & (not self.overwrite)
        doc.from_array([attribute], np.where(kept, before, tags).reshape(-1, 1))
        layers = exit_layers(doc, exits).tolist() if self.store_exits else None
        write_record(doc, self.name, exits.spent, exits.full, layers, [])

    def answers(self, doc: Doc) -> List[str]:
        """RETURNS (List[str]): The tag of each word."""
        return [self._tag(token) for token in doc]

    def describe(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): The tag, twice."""
        return self._tag(token) or "none", self._tag(token)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> Any:
        """Score annotated examples.

        examples (Iterable[Example]): The examples.
        RETURNS (Dict[str, Any]): Those of the scorer.
        """
        return super().score(examples, **{"attribute": self.attribute, **kwargs})

    def _tag(self, token: Token) -> str:
        tag: str = getattr(token, f"{self.attribute}_")
        return tag
