"""``early_exit_segmenter``: characters become words."""

import itertools

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_early_exit.decoders.viterbi import make_viterbi
from spacy_early_exit.measure.temperature import heads_on
from spacy_early_exit.tags import BMES, grammar
from spacy_early_exit.tasks.segmenter import merge
from tests.makers.pipelines import SEED
from tests.tasks.conftest import SENTENCES

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


def test_its_labels_are_fixed(nlp, characters):
    segmenter = nlp.get_pipe(NAME)
    assert segmenter.labels == BMES
    with pytest.raises(ValueError, match="B, M, E, S"):
        segmenter.add_label("X")
    new = spacy.blank("zh")
    segmenter = new.add_pipe(NAME, config={"model": {"encoder": {"name": characters}}})
    segmenter.add_label("S")
    with pytest.raises(ValueError, match="B, M, E, S, not 'B', 'E'"):
        segmenter.initialize(lambda: examples_of(new), labels=["B", "E"])
    segmenter.initialize(lambda: examples_of(new), labels=["S", "B", "M", "E"])
    assert segmenter.labels == BMES


def test_tokens_that_are_no_characters_are_refused(characters):
    config = {"model": {"encoder": {"name": characters}}}
    for lang, unknown in (("en", False), ("zh", True)):
        nlp = spacy.blank(lang)
        nlp.add_pipe(NAME, config=config)
        reference = Doc(nlp.vocab, words=["我们", "很", "好"], spaces=[True, True, False])
        predicted = nlp.make_doc(reference.text)
        if unknown:  # as spaCy's reader makes it of words without spaces
            predicted = Doc(nlp.vocab, words=["我们", "很", "好"])
        with pytest.raises(ValueError, match="'我们'.*spacy.blank"):
            nlp.initialize(lambda p=predicted, r=reference: [Example(p, r)])


def test_characters_without_a_wordpiece_go_on_with_the_one_before(nlp):
    words = SENTENCES[0]
    for mark in ("\u0301", "\ufe0f", "\u200b"):
        text = "".join(f"{word[0]}{mark}{word[1:]}{mark}" for word in words)
        doc = nlp(text, component_cfg={NAME: {"threshold": 0}})
        assert doc.text == text
        found = [token.text.replace(mark, "") for token in doc]
        assert found == words, mark
    assert words_of(nlp("\u0301好")) == ["\u0301", "好"]


def test_gold_words_end_with_their_last_character_that_is_seen(nlp):
    ner = nlp.get_pipe(NAME)
    words = ["李\u0301小明\u0301", "住\u0301", "在"]
    reference = Doc(nlp.vocab, words=words, spaces=[False] * 3)
    example = Example(nlp.make_doc("".join(words)), reference)
    _, gold = heads_on(ner, [example])
    assert "".join(BMES[tag] for tag in gold) == "BMESS"


def test_what_is_annotated_already_stays_as_it_is(nlp):
    text = "".join(SENTENCES[0]) * 2  # 李小明住在北京市。
    doc = nlp.make_doc(text)
    entities = [doc.char_span(1, 4, "PER"), doc.char_span(5, 7, "LOC")]  # 小明住, 北京
    doc.set_ents(entities)
    doc.ents[0]._.confidence  # noqa: B018 - the extension is there
    doc.spans["groups"] = [doc[0:2], doc[10:13], doc[3:3]]
    for token in doc:
        token.is_sent_start = token.i in (0, 2, 9)
    said = [(e.text, e.label_) for e in doc.ents]
    done = nlp(doc, component_cfg={NAME: {"threshold": 0}})
    assert [(e.text, e.label_) for e in done.ents] == said
    assert {token.idx for token in done if token.is_sent_start} == {0, 2, 9}
    spans = done.spans["groups"]
    assert [(s.start_char <= a, s.end_char >= b) for s, (a, b) in zip(spans, [(0, 2), (10, 13)])]
    assert all(s.doc is done and text[s.start_char : s.end_char] == s.text for s in spans)


def test_empty_spans_stay_empty_and_where_they_are(nlp):
    doc = nlp.make_doc("".join(SENTENCES[0]))  # 李小明 住 在 北京市 。
    doc.spans["empty"] = [Span(doc, i, i, "E") for i in (0, 3, 7, len(doc))]
    done = nlp(doc, component_cfg={NAME: {"threshold": 0}})
    assert words_of(done) == SENTENCES[0]
    spans = [(span.start, span.end, span.label_) for span in done.spans["empty"]]
    assert spans == [(0, 0, "E"), (1, 1, "E"), (4, 4, "E"), (5, 5, "E")]  # 7: within 北京市


def test_blocked_characters_stay_by_themselves(nlp):
    doc = nlp.make_doc("".join(SENTENCES[0]))
    doc.set_ents([], blocked=[doc[1:2]])
    done = nlp(doc, component_cfg={NAME: {"threshold": 0}})
    assert words_of(done)[:3] == ["李", "小", "明"] and words_of(done)[3:] == SENTENCES[0][1:]
    assert [token.text for token in done if token.ent_iob == 3] == ["小"]


def test_words_that_are_there_stay_as_they_are(nlp):
    doc = nlp.make_doc("".join(SENTENCES[0]))
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[2:5])
    words = words_of(nlp(doc, component_cfg={NAME: {"threshold": 0}}))
    assert (
        "明住在" in words
        and words[-2:] == ["北京市", "。"]
        and "".join(words) == "".join(SENTENCES[0])
    )


@pytest.mark.parametrize("batch_size", [1, 10])
def test_the_same_doc_may_come_again(batch_size, nlp):
    texts = ["".join(words) for words in SENTENCES]
    expected = [words_of(nlp(text)) for text in texts]
    docs = [nlp.make_doc(text) for text in texts]
    found = list(nlp.pipe([*docs, *docs], batch_size=batch_size))
    assert [words_of(doc) for doc in docs] == expected and found == docs * 2


def test_the_words_of_a_long_text_are_merged_in_blocks(nlp):
    words, blocks = SENTENCES[0] * 600, []
    retokenize = Doc.retokenize
    doc = nlp.make_doc("".join(words))
    ends = np.cumsum([len(word) for word in words])

    class Watched:
        def __init__(self, doc):
            self.doc, self.spans = doc, doc.spans

        def __getattr__(self, name):
            return getattr(self.doc, name)

        def __getitem__(self, key):
            return self.doc[key]

        def retokenize(self):
            blocks.append(1)
            return retokenize(self.doc)

    merge(Watched(doc), ends - [len(word) for word in words], ends)
    assert words_of(doc) == words
    assert len(blocks) == 2, "1,200 words of several characters"


@pytest.mark.slow
def test_adaptive_is_the_same_in_any_batch_size(nlp):
    from spacy_early_exit.measure.calibrate import calibrate

    segmenter = nlp.get_pipe(NAME)
    calibrate(segmenter, examples_of(nlp), [1.1, 1.2])
    texts = ["".join(SENTENCES[i % 4]) * (1 + i % 7) for i in range(300)]
    at = {NAME: {"speedup": 1.1, "adaptive": True}}

    def costs(size):
        docs = nlp.pipe(texts, batch_size=size, component_cfg=at)
        return [doc._.early_exit[NAME].spent for doc in docs]

    try:
        assert costs(7) == costs(1000)
    finally:
        segmenter.calibration = None


@pytest.mark.slow
def test_white_space_is_no_document_of_a_guarantee(nlp):
    from spacy_early_exit.measure.calibrate import calibrate
    from spacy_early_exit.measure.guarantee import guarantee

    segmenter = nlp.get_pipe(NAME)
    calibrate(segmenter, examples_of(nlp), [1.1])
    texts = [nlp.make_doc(text) for text in [*("".join(w) for w in SENTENCES), " ", "\n "] * 60]
    try:
        found = guarantee(segmenter, texts, 0.2, 0.9)
        assert found.documents == 300
    finally:
        segmenter.calibration = None


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
