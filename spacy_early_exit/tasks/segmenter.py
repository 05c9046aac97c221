"""``early_exit_segmenter``: where words begin and end, as BMES tags of characters."""

from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Iterable,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup, Token
from spacy.training import Example, validate_get_examples
from spacy.util import get_words_and_spaces
from spacy.vocab import Vocab
from thinc.api import Model

from ..network.arrays import Bools, Floats, Ints
from ..pipe.component import EarlyExitPipe
from ..pipe.docs import exit_layers, is_space
from ..pipe.records import get_records, write_record
from ..pipe.task import Prediction
from ..tags import BMES, MISSING
from .factory import default_config, make_factory
from .scorers import segmenter_score

if TYPE_CHECKING:
    from ..model.predict import DocExits

BEGIN, MIDDLE, END, SINGLE = range(len(BMES))
MERGES = 1000  # at a time: spaCy compares each merge with all others


class EarlyExitSegmenter(EarlyExitPipe):
    """Merges characters into words with a transformer that stops, character by character, when it
    is sure.

    It is for tokenizers that make each character a token, as that of ``spacy.blank("zh")`` does.
    Words of a Doc that has already been segmented stay as they are, as do tokens of several
    characters. No word reaches across white space, the boundaries of existing entities or the start
    of a sentence. Characters without a wordpiece, such as combining accents, belong to the same
    word as the character before. The encoder should have wordpieces of single characters, as
    encoders trained on Chinese do: characters that would share a wordpiece are tokenized one by
    one.

    Settings: ``Settings``.
    """

    kind = "early_exit_segmenter"
    scheme = "bmes"
    default_scorer = staticmethod(segmenter_score)
    main_score = "token_f"
    scores = ("token_p", "token_r", "token_f")

    def __init__(self, vocab: Vocab, model: Model, name: str = kind, **settings: Any):
        super().__init__(vocab, model, name, **settings)
        for label in BMES:
            self.add_label(label)

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Optional[Language] = None,
        labels: Optional[Sequence[str]] = None,
        start_from: Optional[str] = None,
        labelled: Optional[str] = None,
    ) -> None:
        """As ``EarlyExitPipe.initialize``. The labels are fixed.

        RAISES (ValueError): If other labels are given, or tokens are not characters.
        """
        validate_get_examples(get_examples, f"{type(self).__name__}.initialize")
        if labels is not None and set(labels) != set(BMES):
            raise ValueError(
                f"The labels of '{self.name}' are {', '.join(BMES)}, not "
                f"{', '.join(map(repr, labels))}. Leave them out of "
                f"[initialize.components.{self.name}]."
            )
        tokens = [token.text for eg in get_examples() for token in eg.predicted]
        longer = [token for token in tokens if len(token) > 1 and not token.isspace()]
        if longer:
            raise ValueError(
                f"'{self.name}' joins characters into words, but {len(longer)} of {len(tokens)} "
                f"tokens in the examples have several characters, such as {longer[0]!r}. The "
                f'tokenizer must make each character a token, as that of spacy.blank("zh") does. '
                f"Annotated texts must say where spaces are: Doc(vocab, words=..., spaces=...)."
            )
        super().initialize(
            get_examples, nlp=nlp, labels=BMES, start_from=start_from, labelled=labelled
        )

    def check_labels(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If they are not B, M, E and S, in this order: tags are numbered."""
        if list(labels) != list(BMES):
            raise ValueError(f"labels must be {', '.join(BMES)}, in this order")

    def check_label(self, label: str) -> None:
        """RAISES (ValueError): If it is not one of B, M, E and S."""
        if label not in BMES:
            raise ValueError(f"The labels of '{self.name}' are {', '.join(BMES)}, not {label!r}.")

    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): B, M, E and S."""
        return list(BMES)

    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """RETURNS (Tuple[List[int], Set[str]]): See ``EarlyExitPipe.gold_tags``. Missing for
        characters that belong to no word, or to several.
        """
        words, characters = example.alignment.x2y, example.alignment.y2x
        tags = []
        for i, token in enumerate(example.predicted):
            tag = MISSING
            if len(words[i]) == 1 and not is_space(token):
                inside = characters[int(words[i][0])]
                first, last = i == inside[0], i == inside[-1]
                tag = (SINGLE if last else BEGIN) if first else END if last else MIDDLE
            tags.append(tag)
        return tags, set()

    def to_decode(self, doc: Doc, exits: "DocExits") -> Floats:
        """Keep words from reaching across a boundary.

        doc (Doc): The Doc.
        exits (DocExits): What the network says of it.
        RETURNS (Floats): The logits to decode. *Shape:* ``(words, tags)``
        """
        passed = np.cumsum(borders(doc))[exits.words]
        apart = np.diff(passed) > 0
        if not apart.any():
            return exits.logits
        logits, never = exits.logits.copy(), np.finfo(np.float32).min
        before = np.flatnonzero(apart)
        logits[before[:, None], [BEGIN, MIDDLE]] = never
        logits[before[:, None] + 1, [MIDDLE, END]] = never
        return logits

    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Merge the characters of each word, and write the record.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): What to write.
        """
        exits, tags = prediction.exits, prediction.tags
        layers = exit_layers(doc, exits)
        goes_on = ~borders(doc)  # whether a character continues a word
        goes_on[exits.words] = (tags == MIDDLE) | (tags == END)
        if self.name in get_records(doc):  # the same Doc again: its tokens are words
            goes_on[:] = False
        starts = np.flatnonzero(~goes_on)
        merge(doc, starts, np.append(starts[1:], len(doc))[: len(starts)])
        kept = None
        if self.settings.store_exits:
            # A word has exited when its last character has.
            kept = np.maximum.reduceat(layers, starts).tolist() if len(starts) else []
        write_record(doc, self.name, exits.spent, exits.full, kept, [])

    def answers(self, doc: Doc) -> List[bool]:
        """RETURNS (List[bool]): For each character, whether a word begins with it."""
        return [not i for token in doc if not is_space(token) for i in range(len(token))]

    def shown(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): Its length, and no caption."""
        return f"length {len(token)}", ""

    def unannotated(self, doc: Doc) -> Doc:
        """RETURNS (Doc): The characters of a Doc's text."""
        characters = [character for character in doc.text if not character.isspace()]
        words, spaces = get_words_and_spaces(characters, doc.text)
        return Doc(doc.vocab, words=words, spaces=spaces)


DEFAULT_CONFIG = default_config(
    EarlyExitSegmenter, "spacy-early-exit.Viterbi.v1", "spacy-early-exit.segmenter_scorer.v1"
)
make_early_exit_segmenter = make_factory(
    EarlyExitSegmenter,
    DEFAULT_CONFIG,
    assigns=[],
    retokenizes=True,
    score_weights={"token_f": 1.0, "token_p": 0.0, "token_r": 0.0, "exit_cost": 0.0},
)


def borders(doc: Doc) -> Bools:
    """Find where words end regardless of the network: at white space, entities, blocked tokens,
    tokens of several characters and sentences.

    doc (Doc): The Doc, whose tokens are characters.
    RETURNS (Bools): Whether there is a boundary before each token. *Shape:* ``(tokens,)``
    """
    found = np.zeros(len(doc) + 1, dtype=np.bool_)
    found[0] = True
    for token in doc:
        if is_space(token) or len(token) > 1:
            found[token.i : token.i + 2] = True
        if token.whitespace_:
            found[token.i + 1] = True
        if token.is_sent_start:
            found[token.i] = True
        if token.ent_iob_ == "B" and not token.ent_type:  # blocked
            found[token.i : token.i + 2] = True
    for entity in doc.ents:
        found[[entity.start, entity.end]] = True
    return found[:-1]


def merge(doc: Doc, starts: Ints, ends: Ints) -> None:
    """Merge tokens. Spans in span groups move to the words that cover them; empty spans stay empty.

    doc (Doc): The Doc, changed in place.
    starts (Ints): First token of each word. *Shape:* ``(words,)``
    ends (Ints): The token after the last of each word. *Shape:* ``(words,)``
    """
    groups = {
        key: ([_moved(span, starts) for span in group], group.attrs)
        for key, group in doc.spans.items()
    }
    long = np.flatnonzero(ends - starts > 1)
    # From the end, so that the indices of earlier tokens do not change.
    for last in range(len(long), 0, -MERGES):
        with doc.retokenize() as retokenizer:
            for word in long[max(0, last - MERGES) : last]:
                retokenizer.merge(doc[int(starts[word]) : int(ends[word])])
    for key, (spans, attrs) in groups.items():
        moved = [
            Span(doc, start, end, label=label, kb_id=kb_id, span_id=span_id)
            for start, end, label, kb_id, span_id in spans
        ]
        doc.spans[key] = SpanGroup(doc, name=key, attrs=attrs, spans=moved)


def _moved(span: Span, starts: Ints) -> Tuple[int, int, int, int, int]:
    """RETURNS (Tuple[int, ...]): A span's start and end in words, its label, kb_id and id."""
    start = int(np.searchsorted(starts, span.start, side="right")) - 1
    end = int(np.searchsorted(starts, span.end, side="left"))
    if span.start == span.end:
        start = end
    return start, end, span.label, span.kb_id, span.id
