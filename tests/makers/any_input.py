"""What holds for any input, and the input: for test_any_input.py and benchmarks.robustness.fuzz."""

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import spacy
import torch
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import registry

from spacy_early_exit.criteria.patience import PatienceExit
from spacy_early_exit.measure.temperature import heads_on
from tests.makers.pipelines import answers, blank
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
FAMILIES = ["bert", "roberta", "xlm-roberta", "albert", "modernbert", "mpnet", "deberta-v2"]
FAMILIES += ["bert-slim", "mpnet-slim"]
WAYS: dict[str, dict[str, Any]] = {
    "sentences": {"criterion": {"@misc": "spacy-early-exit.SentenceExit.v1"}},
    "patience": {
        "criterion": {"@misc": "spacy-early-exit.PatienceExit.v1", "patience": 1, "window": 0},
        "alike": True,
    },
    "reduction, dropped": {
        "criterion": {"@misc": "spacy-early-exit.TokenReduction.v1", "layers": [1, 2]},
        "kv": "drop",
    },
    "CRF, dropped": {"decoder": {"@misc": "spacy-early-exit.CRFDecoder.v1"}, "kv": "drop"},
    "AIN, beliefs": {
        "criterion": {"@misc": "spacy-early-exit.BeliefExit.v1", "window": 1},
        "decoder": {"@misc": "spacy-early-exit.AINDecoder.v1", "order": 2},
    },
}
WAYS["special tokens leave"] = {"halt_special": True}
WAYS["greedy tags"] = {"decoder": {"@misc": "spacy-early-exit.Greedy.v1"}}
WAYS["short windows"] = {"window_length": 12, "window_overlap": 4}
WAYS["int8"] = {"quantize": "int8"}
# Many batches of the Docs of a case, which run side by side where there is more than one thread.
WAYS["small batches"] = {"batch_wordpieces": 24}
PIPELINES = [*FAMILIES, *WAYS]
TIE = 1e-5  # how near the threshold floating point may decide
LABEL_TIE = 1e-4  # how near the best tags others may be, in logits
KINDS = ["entity", "blocked", "missing", "outside", None]
THRESHOLDS = [0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0]
MAX_TIES = 1e-3  # of the Docs answered
SEVERAL = "docs whose words left at several layers"


def untrained(
    encoder: str, criterion: dict[str, Any] | None = None, alike: bool = False, **config: Any
) -> Language:
    """A pipeline with random weights that is sure of some words, and not of others.

    alike: Whether all layers ask the same of their states, so that some agree.
    """
    nlp = blank(encoder, **{"store_exits": True, **config})
    nlp.initialize(lambda: examples_of(nlp))
    pipe = nlp.get_pipe(NAME)
    shim = pipe.model.shims[0]
    if criterion is not None:  # only now: one that learns must be trained
        pipe.criterion = registry.resolve({"criterion": criterion})["criterion"]
        shim.make_room_for(pipe.decoder, pipe.criterion)
    network = shim.trained.network
    torch.manual_seed(1)
    for head in network.heads.values():
        torch.nn.init.normal_(head.weight, std=0.6 * (32 / network.spec.hidden_size) ** 0.5)
        torch.nn.init.normal_(head.bias, std=0.1)
    *early, own = network.heads.values()
    width = network.spec.hidden_size
    for head in early if alike else ():
        start = (head.in_features - width) // 2  # where the word's own state is
        torch.nn.init.zeros_(head.weight)
        head.weight.data[:, start : start + width] = own.weight.data
        head.bias.data[:] = own.bias.data
    for parameter in network.extra_parameters.values():
        torch.nn.init.normal_(parameter, std=0.5)
    shim.weights_changed()
    logits, _ = heads_on(pipe, examples_of(nlp))
    network.scale_heads([_temperature(of_layer) for of_layer in logits])
    shim.weights_changed()
    return nlp


def _temperature(logits: Any) -> float:
    """What makes half of some words more than half as uncertain as can be, by one head's logits."""
    low, high = 1e-3, 1e3
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        halved = torch.tensor(logits) / middle
        entropy = torch.distributions.Categorical(logits=halved).entropy()
        half = float(entropy.median()) > 0.5 * math.log(halved.shape[-1])
        low, high = (low, middle) if half else (middle, high)
    return high


@dataclass(frozen=True)
class Given:
    """A Doc to be made: a text for the tokenizer, or words and spaces by hand; and for runs of
    words what was set before. The runs are laid out from the first word on.
    """

    text: str | None
    words: tuple[str, ...]
    spaces: tuple[bool, ...]
    presets: tuple[tuple[int, str | None], ...]

    def doc(self, nlp: Language) -> Doc:
        if self.text is not None:
            doc = nlp.make_doc(self.text)
        else:
            doc = Doc(nlp.vocab, words=list(self.words), spaces=list(self.spaces))
        spans: dict[str | None, list[Span]] = {kind: [] for kind in KINDS}
        start = 0
        for length, kind in self.presets:
            end = min(start + length, len(doc))
            if start < end:
                spans[kind].append(Span(doc, start, end, "SET" if kind == "entity" else ""))
            start = end
        if self.presets:
            parts = {kind: spans[kind] for kind in ("blocked", "missing", "outside")}
            doc.set_ents(spans["entity"], **parts)
        return doc


CHARACTERS = st.characters(exclude_categories=["Cs"])
# What tokenizers, terminals and decoders take for more than a character.
PIECES = st.sampled_from(
    [
        *("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "<s>", "</s>", "<pad>", "\u2581", "##s"),
        *("\u202e", "\u2066", "\u2069", "\u200b", "\u200d", "\ufeff", "\x00", "\x1b[0m", "\r\n"),
        *(
            "👩‍👩‍👧‍👦",
            "🇩🇪",
            "Z̸̢a",
            "ｆｕｌｌ",
            "ﬁ",
            "İ",
            "ß",
            "한국",
            "北京",
            "\u3000",
            " ",
            "  ",
            "\n\n",
        ),
        *" ".join(TEXTS).split(),
        "a" * 120,
        "." * 60,
    ]
)
ANY_TEXT = st.text(CHARACTERS, max_size=80)
MIXED = st.lists(st.one_of(PIECES, ANY_TEXT, st.just(" ")), max_size=40).map("".join)
TEXT = st.one_of(ANY_TEXT, MIXED, MIXED.map(lambda text: " ".join([text] * 8)))
WORD = st.one_of(PIECES, st.text(CHARACTERS, min_size=1, max_size=8))
WORDS = st.lists(st.tuples(WORD, st.booleans()), max_size=60)
PRESETS = st.one_of(
    st.just([]), st.lists(st.tuples(st.integers(1, 6), st.sampled_from(KINDS)), max_size=12)
)


def _cut(text: str, cuts: list[int]) -> list[tuple[str, bool]]:
    """A text cut into words anywhere, within characters of several code points as well."""
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [(text[start:end], False) for start, end in zip(bounds, bounds[1:])]


def _by_hand(words: list[tuple[str, bool]], presets: list[Any]) -> Given:
    texts, spaces = zip(*words) if words else ((), ())
    return Given(None, texts, spaces, tuple(presets))


CUT = st.builds(_cut, TEXT, st.lists(st.integers(0, 10_000), max_size=30))
GIVEN = st.one_of(
    st.builds(lambda text, presets: Given(text, (), (), tuple(presets)), TEXT, PRESETS),
    st.builds(_by_hand, st.one_of(WORDS, CUT), PRESETS),
)


@dataclass(frozen=True)
class Case:
    """Docs to run together, in which order once more, and how."""

    given: list[Given]
    order: list[int]
    threshold: float
    batch_size: int


@st.composite
def cases(draw: Any) -> Case:
    given = draw(st.lists(GIVEN, min_size=1, max_size=8))
    return Case(
        given=given,
        order=draw(st.permutations(range(len(given)))),
        threshold=draw(st.sampled_from(THRESHOLDS)),
        batch_size=draw(st.integers(1, 9)),
    )


def check(nlp: Language, case: Case, counts: Counter[str]) -> None:
    """Every Doc is answered, with valid spans, as if it were alone. Whatever is raised, other than
    the one warning, is a failure: there is no documented error that a Doc could be met with.

    counts: What was run is added, and the ties that were found.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What Python's own configuration would only show once.
        warnings.filterwarnings("ignore", "A word has more wordpieces")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        run = partial(_run, nlp, case.threshold)
        alone = [run([given], None)[0] for given in case.given]
        for given, doc in zip(case.given, alone):
            check_valid(nlp, given, doc)
        orders = [range(len(case.given)), case.order]
        for order in orders:
            docs = run([case.given[i] for i in order], case.batch_size)
            assert len(docs) == len(order)
            for i, doc in zip(order, docs):
                check_same(nlp, case.given[i], case.threshold, alone[i], doc, counts)
    counts["texts"] += len(case.given)
    counts["words"] += sum(map(len, alone))
    counts["docs answered"] += len(case.given) * (1 + len(orders))
    for doc in alone:
        left = Counter(doc._.early_exit[NAME].layers)
        counts[SEVERAL] += len(left.keys() - {0}) > 1
        counts["entities"] += len(doc.ents)
        counts.update({f"words that left at layer {at}": left[at] for at in left})


def trivial(counts: Counter[str]) -> str:
    """RETURNS (str): Why what was run shows little, or too little agrees; empty if it does."""
    left = sorted(counts[key] for key in counts if key.startswith("words that left at layer "))
    if sum(left[:-1]) < 0.2 * counts["words"]:
        return "nearly all words left at one layer"
    if counts["ties"] + counts["ties of labels"] > MAX_TIES * counts["docs answered"]:
        return "there are too many ties"
    return "" if counts["entities"] else "there are no entities"


def _run(nlp: Language, threshold: float, given: list[Given], batch_size: int | None) -> list[Doc]:
    cfg = {NAME: {"threshold": threshold}}
    docs = [one.doc(nlp) for one in given]
    if batch_size is None:
        return [nlp(doc, component_cfg=cfg) for doc in docs]
    return list(nlp.pipe(docs, batch_size=batch_size, component_cfg=cfg))


def check_valid(nlp: Language, given: Given, doc: Doc) -> None:
    """The text is what it was, what was set before stays, and what is new makes sense."""
    before = given.doc(nlp)
    assert [token.text_with_ws for token in doc] == [token.text_with_ws for token in before]
    layers = len(nlp.get_pipe(NAME).model.shims[0].trained.network.heads)
    record = doc._.early_exit[NAME]
    assert len(record.layers) == len(doc)
    assert all(0 <= layer <= layers for layer in record.layers)
    assert (record.full > 0) == any(record.layers) and 0 <= record.spent
    assert all(token.ent_iob for token in doc), "a word that nobody decided on"
    preset = [(ent.start, ent.end, ent.label_) for ent in before.ents]
    found = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
    assert set(preset) <= set(found)
    for ent in doc.ents:
        assert 0 <= ent.start < ent.end <= len(doc)
        if (ent.start, ent.end, ent.label_) in preset:
            continue
        assert ent.label_ in nlp.get_pipe(NAME).labels
        assert not ent[0].is_space and not ent[-1].is_space
        assert 0 < ent._.confidence <= 1
        for token in ent:
            blocked = before[token.i].ent_iob_ == "B" and not before[token.i].ent_type
            assert not blocked, "an entity over a blocked word"
    again = Doc(nlp.vocab).from_bytes(doc.to_bytes())  # as from another process
    assert answers(again) == answers(doc)


def check_same(
    nlp: Language, given: Given, threshold: float, alone: Doc, doc: Doc, counts: Counter[str]
) -> None:
    """Two answers for a Doc are the same, or a tie: that is counted."""
    assert doc.text == alone.text
    if answers(doc) == answers(alone):
        return
    if doc._.early_exit[NAME].layers != alone._.early_exit[NAME].layers:
        near = is_tie(nlp, partial(given.doc, nlp), threshold)
        assert near, f"leaving elsewhere than alone, and no uncertainty is near {threshold}"
        counts["ties"] += 1
    else:
        apart = _apart(nlp, given, threshold, alone, doc)
        assert apart <= LABEL_TIE, f"other tags than alone, {apart} worse"
        counts["ties of labels"] += 1


def is_tie(nlp: Language, make_doc: Any, threshold: float) -> bool:
    """Whether a hair's breadth of threshold moves the words of a Doc, alone, as well; or of what
    the heads say, where it is their tags that decide.
    """
    if not threshold:
        return False
    pipe = nlp.get_pipe(NAME)
    found = set()

    def leave(hair: float) -> None:
        cfg = {NAME: {"threshold": min(max(threshold + hair, 0.0), 1.0)}}
        found.add(nlp(make_doc(), component_cfg=cfg)._.early_exit[NAME].layers)

    for hair in (-TIE, TIE):
        leave(hair)
    if isinstance(pipe.criterion, PatienceExit):
        shim = pipe.model.shims[0]
        heads = shim.trained.network.heads.values()
        biases = [head.bias.data for head in heads]
        draw = torch.Generator().manual_seed(0)
        try:
            for _ in range(8):
                for head, bias in zip(heads, biases):
                    head.bias.data = bias + TIE * torch.randn(bias.shape, generator=draw)
                shim.weights_changed()
                leave(0.0)
        finally:
            for head, bias in zip(heads, biases):
                head.bias.data = bias
            shim.weights_changed()
    return len(found) > 1


def _apart(nlp: Language, given: Given, threshold: float, alone: Doc, doc: Doc) -> float:
    """How much worse, by the logits of a Doc alone, the tags of another answer are."""
    pipe = nlp.get_pipe(NAME)
    before, pipe.threshold = pipe.threshold, threshold
    try:
        (prediction,) = pipe.predict([given.doc(nlp)])
    finally:
        pipe.threshold = before
    tags = {"O": 0}
    for number, label in enumerate(pipe.labels):
        tags |= {f"B{label}": 2 * number + 1, f"I{label}": 2 * number + 2}

    def score(answer: Doc) -> float:
        total = 0.0
        for row, word in zip(prediction.exits.logits, prediction.exits.words.tolist()):
            token = answer[word]
            total += float(row[tags.get(token.ent_iob_ + token.ent_type_, 0)])
        return total

    return abs(score(alone) - score(doc))


class Pipelines:
    """Pipelines with random weights: a family's, or BERTs that leave or decode in another way.

    Each is made when it is first asked for.
    """

    def __init__(self, encoders: Any):
        self.encoders = encoders
        self.made: dict[str, Language] = {}

    def __getitem__(self, name: str) -> Language:
        if name not in self.made:
            spacy.util.fix_random_seed(0)
            family = "bert" if name in WAYS else name
            self.made[name] = untrained(self.encoders[family], **WAYS.get(name, {}))
        return self.made[name]
