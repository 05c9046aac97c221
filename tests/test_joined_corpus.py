"""Training on joined texts."""

import pytest
import spacy
from spacy import registry
from spacy.tokens import Doc, DocBin

from spacy_early_exit.corpora.joined import join_some, make_joined_corpus
from tests.makers.texts import SENTENCES, examples_of


@pytest.fixture
def nlp():
    return spacy.blank("en")


@pytest.fixture
def docs(nlp):
    return [example.reference for example in examples_of(nlp)] * 5


@pytest.fixture
def path(docs, tmp_path):
    DocBin(docs=docs).to_disk(tmp_path / "train.spacy")
    return tmp_path / "train.spacy"


def entities(docs):
    return [(ent.text, ent.label_) for doc in docs for ent in doc.ents]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_about_the_share_of_words_is_in_joined_texts(docs, share):
    found = list(join_some(docs, share, 20, 60))
    assert [t.text for doc in found for t in doc] == [t.text for doc in docs for t in doc]
    assert entities(found) == entities(docs)
    longest = max(map(len, docs))
    inside = sum(len(doc) for doc in found if len(doc) > longest)
    assert inside / sum(map(len, found)) == pytest.approx(share, abs=0.15)


def test_lengths_are_drawn_and_each_pass_is_the_same(docs):
    first, again = ([len(doc) for doc in join_some(docs, 1.0, 20, 60)] for _ in range(2))
    assert first == again
    assert len(set(first[:-1])) > 3
    assert all(20 <= length < 60 + max(map(len, docs)) for length in first[:-1])


def test_missing_annotation_stays_missing(nlp, docs):
    known, unknown = docs[0], nlp.make_doc(SENTENCES[1][0])
    (both,) = join_some([known, unknown], 1.0, 100, 100)
    assert [token.ent_iob for token in both[len(known) :]] == [0] * len(unknown)
    assert [t.ent_iob for t in both[: len(known)]] == [t.ent_iob for t in known]


def test_long_texts_do_not_count_as_joined(docs):
    long = [Doc.from_docs(docs[:10]) for _ in range(6)]
    found = list(join_some([*long, *docs], 0.3, 20, 60))
    assert found[: len(long)] == long
    assert len(found) < len(long) + len(docs)


def test_sentences_are_annotated_where_they_were(docs):
    (joined,) = join_some(docs[:3], 1.0, 1000, 1000)
    assert not joined.has_annotation("SENT_START")
    for doc in docs[:3]:
        for token in doc:
            token.is_sent_start = token.i == 0
    (joined,) = join_some(docs[:3], 1.0, 1000, 1000)
    assert [len(sent) for sent in joined.sents] == [len(doc) for doc in docs[:3]]


def test_given_words_stay_as_they_are(nlp, tmp_path):
    words = ["did", "n't", "U.S", ".", "e-mail"]
    docs = [Doc(nlp.vocab, words=words) for _ in range(3)]
    assert docs[0].has_unknown_spaces
    DocBin(docs=docs).to_disk(tmp_path / "words.spacy")
    (example,) = make_joined_corpus(tmp_path / "words.spacy", 1.0, [50, 50])(nlp)
    assert [token.text for token in example.predicted] == words * 3


def test_the_reader_is_found_by_its_name(nlp, path, docs):
    make = registry.readers.get("spacy-early-exit.JoinedCorpus.v1")
    whole = list(make(path, share=0.5, words=[20, 40])(nlp))
    assert len(whole) < len(docs)
    assert entities(example.reference for example in whole) == entities(docs)
    assert all(eg.predicted.text == eg.reference.text for eg in whole)
    assert not any(eg.predicted.ents for eg in whole)
    assert len(list(make(path, share=0.0)(nlp))) == len(docs)
    assert len(list(make(path, share=0.0, limit=7)(nlp))) == 7


@pytest.mark.parametrize(
    "given,message",
    [
        ({"path": None}, "path is null"),
        ({"share": 1.5}, "share must be between 0 and 1"),
        ({"words": [400, 50]}, "fewest and the most"),
        ({"words": [0, 50]}, "fewest and the most"),
        ({"words": [50]}, "fewest and the most"),
    ],
)
def test_impossible_arguments_are_refused(path, given, message):
    with pytest.raises(ValueError, match=message):
        make_joined_corpus(**{"path": path, **given})
