"""Whatever a Doc is, it is answered, and as if it were alone."""

import copy
import random
from collections import Counter
from functools import partial

import pytest
import spacy
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.makers.any_input import NAME, PIPELINES, Pipelines, cases, check, is_tie, trivial
from tests.makers.marks import examples
from tests.makers.pipelines import answers, trained_pipeline
from tests.makers.texts import TEXTS, texts_of_all_lengths

ANY = {"suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def pipelines(encoders):
    return Pipelines(encoders)


@examples(60, **ANY)
@given(case=cases(), name=st.sampled_from(PIPELINES))
def test_any_docs_are_answered_alike_alone_and_in_any_batch(case, name, pipelines):
    check(pipelines[name], case, Counter())


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_many_more_docs_are(name, pipelines, capsys):
    counts = Counter()

    @examples(500, **ANY)
    @given(case=cases())
    def many(case):
        check(pipelines[name], case, counts)

    many()
    with capsys.disabled():
        print(f"\n{name}: {dict(counts)}")
    assert not trivial(counts), trivial(counts)


def test_what_is_no_tie_is_told_apart(pipelines):
    nlp = pipelines["bert"]
    for text in TEXTS:
        for threshold in (0.0, 0.3, 1.0):
            assert not is_tie(nlp, partial(nlp.make_doc, text), threshold)


def test_layers_that_all_but_disagree_are_a_tie(pipelines):
    nlp = pipelines["patience"]
    shim = nlp.get_pipe(NAME).model.shims[0]
    heads = shim.trained.network.heads.values()
    before = [copy.deepcopy(head.state_dict()) for head in heads]
    try:
        for apart, tie in ((1.0, False), (1e-6, True)):
            for head in heads:  # they say the same of any word
                torch.nn.init.zeros_(head.weight)
                torch.nn.init.zeros_(head.bias)
                head.bias.data[1] = apart
            shim.weights_changed()
            assert is_tie(nlp, partial(nlp.make_doc, "Ann"), 1.0) == tie, apart
    finally:
        for head, weights in zip(heads, before):
            head.load_state_dict(weights)
        shim.weights_changed()


HOSTILE = [
    *("\x00", "\x01\x07\x1b[0m\x7f", "\x85\x9f", "\u202eAnn\u202c \u2066Bob\u2069", "\u200e\u200f"),
    *("\u200b\u200d\ufeff", " \n\t\r\n \u3000\u2028 ", "Z̸̢̛̫a̴͎͝l̵̙͐g̸͎̈́o", "👩‍👩‍👧‍👦" * 20, "\U000e0fff"),
    *("[CLS] Ann [SEP] [PAD] [MASK] <s> </s>", "." * 500, "a" * 2_000, "\u0300" * 300),
]


def hostile_text(draw):
    pieces = draw.choices([*HOSTILE, "Ann", "New York", "1"], k=draw.randint(1, 4))
    return draw.choice(["", " ", "\u202e"]).join(pieces)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A word has more wordpieces")
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_10_000_hostile_docs_and_100_000_empty_ones_harm_no_other(family, encoders):
    nlp = trained_pipeline(encoders[family])
    draw = random.Random(0)
    normal = {text: answers(nlp(text)) for text in [*TEXTS, *texts_of_all_lengths(count=40)]}
    longest = ["a" * 999_999, "." * 999_999, "\u202e" * 999_999, "Ann " + "é" * 999_990]
    texts = [
        *(hostile_text(draw) for _ in range(10_000)),
        *longest,
        *[""] * 100_000,
        *draw.choices(list(normal), k=2_000),
    ]
    draw.shuffle(texts)
    asked = [(text, number) for number, text in enumerate(texts)]
    answered = 0
    for doc, number in nlp.pipe(asked, as_tuples=True, batch_size=1_000):
        assert number == answered and doc.text == texts[number]
        assert doc.text not in normal or answers(doc) == normal[doc.text]
        assert len(doc._.early_exit[NAME].layers) == len(doc)
        answered += 1
    assert answered == len(texts)


def test_lone_surrogates_are_cured_as_the_docs_say(pipelines):
    nlp, text = pipelines["bert"], "Ann \ud83d lives in New York\udc00."
    for either in (nlp, spacy.blank("en")):  # it is spaCy's, with or without the component
        with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
            either(text)
        with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
            list(either.pipe(["Ann", text]))
    cured = text.encode("utf8", "replace").decode("utf8")
    assert nlp(cured).text == "Ann ? lives in New York?." and len(cured) == len(text)
