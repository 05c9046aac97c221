"""``early_exit_segmenter``: where words begin and end, of characters, as BMES tags."""

from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Literal, Optional, Set, Tuple

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, Token
from spacy.training import Example
from spacy.util import get_words_and_spaces
from spacy.vocab import Vocab
from thinc.api import Model

from ..annotations import Floats, Prediction, exit_layers
from ..component import EarlyExitPipe
from ..records import write_record
from ..scoring import segmenter_score
from ..spans import SpanGetter
from ..tags import BMES, MISSING
from .defaults import default_config

if TYPE_CHECKING:
    from ..model import DocExits

BEGIN, MIDDLE, END, SINGLE = range(len(BMES))
DEFAULT_CONFIG = default_config(
    "spacy-early-exit.Viterbi.v1", "spacy-early-exit.segmenter_scorer.v1"
)


@Language.factory(
    "early_exit_segmenter",
    default_config=DEFAULT_CONFIG,
    retokenizes=True,
    default_score_weights={"token_f": 1.0, "token_p": 0.0, "token_r": 0.0, "exit_cost": 0.0},
)
def make_early_exit_segmenter(
    nlp: Language,
    name: str,
    model: Model,
    criterion: Any,
    decoder: Any,
    training: Any,
    threshold: Optional[float],
    speedup: Optional[float],
    adaptive: bool,
    store_exits: bool,
    batch_wordpieces: int,
    window_length: Optional[int],
    window_overlap: int,
    get_spans: Optional[SpanGetter],
    kv: Literal["copy", "drop"],
    halt_special: bool,
    quantize: Optional[Literal["int8"]],
    scorer: Optional[Callable[..., Any]],
) -> "EarlyExitSegmenter":
    """Make the component. See ``EarlyExitSegmenter`` for the arguments."""
    return EarlyExitSegmenter(
        nlp.vocab,
        model,
        name,
        criterion=criterion,
        decoder=decoder,
        training=training,
        threshold=threshold,
        speedup=speedup,
        adaptive=adaptive,
        store_exits=store_exits,
        batch_wordpieces=batch_wordpieces,
        window_length=window_length,
        window_overlap=window_overlap,
        get_spans=get_spans,
        kv=kv,
        halt_special=halt_special,
        quantize=quantize,
        scorer=scorer,
    )


class EarlyExitSegmenter(EarlyExitPipe):
    """Merges characters into words with a transformer that stops, character by character, when it
    is sure.

    For tokenizers that make a token of each character, as that of ``spacy.blank("zh")`` does. No
    word reaches across white space. The encoder must have wordpieces of single characters, as those
    trained on Chinese have: characters that share one get the same tag.

    vocab (Vocab): The shared vocabulary.
    model (Model): The model, of ``spacy-early-exit.EarlyExitTagger.v1``.
    name (str): Name of this instance.
    scorer (Optional[Callable]): The scorer.
    settings (Any): As ``EarlyExitPipe`` takes them.
    RAISES (ValueError): If a setting makes no sense.
    """

    kind = "early_exit_segmenter"
    scheme = "bmes"
    main_score = "token_f"
    scores = ("token_p", "token_r", "token_f")

    def __init__(
        self,
        vocab: Vocab,
        model: Model,
        name: str = "early_exit_segmenter",
        *,
        scorer: Optional[Callable[..., Any]] = segmenter_score,
        **settings: Any,
    ):
        super().__init__(vocab, model, name, scorer=scorer, **settings)

    def add_label(self, label: str) -> int:
        """Its labels are B, M, E and S, and no others.

        label (str): The label.
        RETURNS (int): 0 if it is already there, otherwise 1.
        RAISES (ValueError): If it is another.
        """
        if label not in BMES:
            raise ValueError(f"The labels of '{self.name}' are {', '.join(BMES)}, not {label!r}.")
        return super().add_label(label)

    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): B, M, E and S."""
        return list(BMES)

    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """RETURNS (Tuple[List[int], Set[str]]): See ``EarlyExitPipe.gold_tags``. Missing for
        characters that are of no word, or of several.
        """
        words, characters = example.alignment.x2y, example.alignment.y2x
        tags = []
        for i, token in enumerate(example.predicted):
            tag = MISSING
            if len(words[i]) == 1 and not token.is_space:
                inside = characters[int(words[i][0])]
                first, last = i == inside[0], i == inside[-1]
                tag = (SINGLE if last else BEGIN) if first else END if last else MIDDLE
            tags.append(tag)
        return tags, set()

    def to_decode(self, doc: Doc, exits: "DocExits") -> Floats:
        """Let no word reach across white space.

        doc (Doc): The Doc.
        exits (DocExits): What the network says of it.
        RETURNS (Floats): The logits to decode. *Shape:* ``(words, tags)``
        """
        spaced = doc.to_array(["SPACY"]).reshape(-1) > 0
        apart = (np.diff(exits.words) > 1) | spaced[exits.words[:-1]]
        if not apart.any():
            return exits.logits
        logits, never = exits.logits.copy(), np.finfo(np.float32).min
        before = np.flatnonzero(apart)
        logits[before[:, None], [BEGIN, MIDDLE]] = never
        logits[before[:, None] + 1, [MIDDLE, END]] = never
        return logits

    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Merge the characters of words, and write the record.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): What to write.
        """
        exits, tags = prediction.exits, prediction.tags
        layers = exit_layers(doc, exits)
        goes_on = np.zeros(len(doc), dtype=bool)  # whether a character goes on with a word
        goes_on[exits.words] = (tags == MIDDLE) | (tags == END)
        starts = np.flatnonzero(~goes_on)
        ends = np.append(starts[1:], len(doc))[: len(starts)]
        with doc.retokenize() as retokenizer:
            for start, end in zip(starts.tolist(), ends.tolist()):
                if end - start > 1:
                    retokenizer.merge(doc[start:end])
        kept = None
        if self.store_exits:
            # A word has left when its last character has.
            kept = np.maximum.reduceat(layers, starts).tolist() if len(starts) else []
        write_record(doc, self.name, exits.spent, exits.full, kept, [])

    def answers(self, doc: Doc) -> List[bool]:
        """RETURNS (List[bool]): Of each character, whether a word begins with it."""
        return [not i for token in doc if not token.is_space for i in range(len(token))]

    def describe(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): Its length, and nothing."""
        return f"length {len(token)}", ""

    def unannotated(self, doc: Doc) -> Doc:
        """RETURNS (Doc): The characters of a Doc's text."""
        characters = [character for character in doc.text if not character.isspace()]
        words, spaces = get_words_and_spaces(characters, doc.text)
        return Doc(doc.vocab, words=words, spaces=spaces)
