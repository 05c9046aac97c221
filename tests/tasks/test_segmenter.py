"""``early_exit_segmenter``: characters become words."""

import itertools

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from spacy_early_exit.decoders.viterbi import make_viterbi
from spacy_early_exit.tags import BMES, grammar
from tests.factories import SEED

from .conftest import SENTENCES

NAME = "early_exit_segmenter"


def examples_of(nlp):
    found = []
    for words in SENTENCES:
        reference = Doc(nlp.vocab, words=words, spaces=[False] * len(words))
        found.append(Example(nlp.make_doc("".join(words)), reference))
    return found


@pytest.fixture(scope="module")
def nlp(characters):
    spacy.util.fix_random_seed(SEED)
    nlp = spacy.blank("zh")
    model = {"encoder": {"name": characters}}
    nlp.add_pipe(NAME, config={"model": model, "store_exits": True, "threshold": 0.3})
    optimizer = nlp.initialize(lambda: examples_of(nlp))
    optimizer.learn_rate = 5e-3
    for _ in range(150):
        nlp.update(examples_of(nlp), sgd=optimizer, drop=0.0)
        scores = nlp.evaluate(examples_of(nlp), component_cfg={NAME: {"threshold": 0}})
        if scores["token_f"] == 1.0:
            return nlp
    raise AssertionError("150 steps did not teach a small encoder five sentences")


def words_of(doc) -> list:
    return [token.text for token in doc]


def test_characters_become_the_words_that_it_has_learnt(nlp):
    for words in SENTENCES:
        doc = nlp("".join(words), component_cfg={NAME: {"threshold": 0}})
        assert words_of(doc) == words and doc.text == "".join(words)


def test_a_text_gets_the_same_words_alone_and_in_any_batch(nlp):
    texts = ["".join(words) for words in SENTENCES] * 3
    alone = [nlp(text) for text in texts]
    for size in (1, 4, 100):
        for doc, other in zip(nlp.pipe(texts, batch_size=size), alone):
            assert words_of(doc) == words_of(other)
            assert doc._.early_exit[NAME] == other._.early_exit[NAME]


def test_a_word_has_one_exit_layer(nlp):
    doc = nlp("".join(SENTENCES[0]))
    layers = doc._.early_exit[NAME].layers
    assert len(layers) == len(doc) and all(1 <= layer <= 4 for layer in layers)
    assert [token._.exit_layer for token in doc] == list(layers)


def test_no_word_reaches_across_white_space(nlp):
    text = "北 京 大\n学 上海"
    doc = nlp(text)
    assert doc.text == text
    assert not any(len(token.text.split()) > 1 for token in doc)
    assert [token.text for token in doc][:2] == ["北", "京"]


def test_empty_and_blank_texts(nlp):
    assert len(nlp("")) == 0
    assert nlp("  \n").text == "  \n"


def test_gold_tags_are_bmes(nlp):
    eg = examples_of(nlp)[0]
    tags, unknown = nlp.get_pipe(NAME).gold_tags(eg)
    assert "".join(BMES[tag] for tag in tags) == "BMESSBMES" and not unknown


def test_its_labels_are_fixed(nlp):
    segmenter = nlp.get_pipe(NAME)
    assert segmenter.labels == BMES
    with pytest.raises(ValueError, match="B, M, E, S"):
        segmenter.add_label("X")


def test_saved_and_loaded_it_says_the_same(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    for words in SENTENCES:
        assert words_of(loaded("".join(words))) == words_of(nlp("".join(words)))


def test_components_behind_it_see_words(nlp):
    seen = []

    @spacy.Language.component("seen")
    def component(doc):
        seen.append(words_of(doc))
        return doc

    nlp.add_pipe("seen")
    nlp("".join(SENTENCES[1]), component_cfg={NAME: {"threshold": 0}})
    nlp.remove_pipe("seen")
    assert seen == [SENTENCES[1]]


@pytest.mark.parametrize("seed", range(20))
def test_the_decoder_finds_the_best_valid_sequence(seed):
    draw = np.random.default_rng(seed)
    length = int(draw.integers(1, 6))
    logits = draw.normal(size=(length, len(BMES))).astype(np.float32)
    valid = grammar("bmes", len(BMES))
    best = max(
        (
            path
            for path in itertools.product(range(len(BMES)), repeat=length)
            if valid.begins[path[0]]
            and valid.ends[path[-1]]
            and all(valid.follows[a, b] for a, b in zip(path, path[1:]))
        ),
        key=lambda path: sum(logits[word, tag] for word, tag in enumerate(path)),
    )
    assert make_viterbi().for_scheme("bmes")([logits], {})[0].tolist() == list(best)
