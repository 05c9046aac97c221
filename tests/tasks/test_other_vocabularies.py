"""Docs of another vocabulary, as where a component is sourced, get the same answers."""

import pickle

import pytest
import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.vocab import Vocab

from tests.makers.pipelines import trained_pipeline
from tests.makers.texts import TEXTS
from tests.tasks.conftest import SENTENCES
from tests.tasks.test_segmenter import examples_of as of_segmenter
from tests.tasks.test_tagger import examples_of as of_tagger

SPACED = ["Ann  lives\n\n in New York .", " \n ", "", *TEXTS]
KINDS = ("early_exit_ner", "tag", "pos", "early_exit_segmenter")


@pytest.fixture(scope="module", params=KINDS)
def nlp(request, encoders, characters):
    if request.param == "early_exit_ner":
        return trained_pipeline(encoders["bert"])
    is_segmenter = request.param == "early_exit_segmenter"
    encoder = characters if is_segmenter else encoders["bert"]
    config = {"model": {"encoder": {"name": encoder}}, "store_exits": True}
    nlp = spacy.blank("zh" if is_segmenter else "en")
    if is_segmenter:
        nlp.add_pipe(request.param, config=config)
        examples = of_segmenter(nlp)
    else:
        nlp.add_pipe("early_exit_tagger", config={**config, "attribute": request.param})
        examples = of_tagger(nlp, request.param)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    for _ in range(20):
        nlp.update(examples, sgd=optimizer)
    return nlp


def texts_for(nlp):
    if nlp.lang == "zh":
        return ["".join(words) for words in SENTENCES] + ["我们 去\n\n公园", "公\n园", " ", ""]
    return SPACED


def read(doc):
    """All that a component may have said, read by name."""
    words = [(t.text, t.tag_, t.pos_, t.ent_type_, t.ent_iob_, t._.exit_layer) for t in doc]
    ents = [(ent.text, ent.label_, ent._.confidence) for ent in doc.ents]
    return words, ents, doc._.early_exit


def of_another(nlp, text, vocab):
    doc = nlp.make_doc(text)
    spaces = [bool(token.whitespace_) for token in doc]
    return Doc(vocab, words=[token.text for token in doc], spaces=spaces)


def test_docs_of_another_vocabulary_get_the_same_answers(nlp):
    (pipe,) = (component for _, component in nlp.pipeline)
    for text in texts_for(nlp):
        doc, vocab = of_another(nlp, text, Vocab()), Vocab()
        assert read(pipe(doc)) == read(nlp(text))
        assert read(pickle.loads(pickle.dumps(doc))) == read(nlp(text))
        binned = DocBin(store_user_data=True, docs=[doc]).to_bytes()
        (again,) = DocBin(store_user_data=True).from_bytes(binned).get_docs(vocab)
        assert read(again) == read(nlp(text))
    texts = texts_for(nlp)
    docs = list(pipe.pipe(of_another(nlp, text, Vocab()) for text in texts))
    assert [read(doc) for doc in docs] == [read(doc) for doc in nlp.pipe(texts)]


def test_what_it_says_does_not_depend_on_the_strings_of_its_own_vocabulary(nlp):
    (pipe,) = (component for _, component in nlp.pipeline)
    data = pipe.to_bytes(exclude=["vocab"])
    other = spacy.blank(nlp.lang)
    config = {key: value for key, value in nlp.get_pipe_config(pipe.name).items()}
    copy = other.add_pipe(config.pop("factory"), name="copy", config=config)
    copy.from_bytes(data, exclude=["vocab"])
    copy.vocab = Vocab()
    for text in texts_for(nlp):
        words, ents, _ = read(copy(other.make_doc(text)))
        assert (words, ents) == read(nlp(text))[:2]


def test_it_may_be_sourced(nlp):
    (pipe,) = (component for _, component in nlp.pipeline)
    other = spacy.blank(nlp.lang)
    other.add_pipe(pipe.name, source=nlp)
    texts = texts_for(nlp)
    assert [read(doc) for doc in other.pipe(texts)] == [read(doc) for doc in nlp.pipe(texts)]


def test_gold_annotation_of_another_vocabulary_is_read_by_name(nlp):
    (pipe,) = (component for _, component in nlp.pipeline)
    text = texts_for(nlp)[0]
    gold = pipe(of_another(nlp, text, Vocab()))
    tags, unknown = pipe.gold_tags(Example(nlp.make_doc(text), gold))
    known = pipe.gold_tags(Example(nlp.make_doc(text), nlp(text)))
    assert (tags, unknown) == known and not unknown
