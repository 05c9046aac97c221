"""``early_exit_tagger``: what it sets, what it keeps, what it learns from."""

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

import spacy_early_exit
from spacy_early_exit.decoders import make_bio_viterbi
from tests.makers.pipelines import SEED, trained_pipeline
from tests.makers.texts import TEXTS

NAME = "early_exit_tagger"
CLOSED = {"the": "DET", "at": "ADP", "in": "ADP", "for": "ADP", "is": "AUX", "and": "CCONJ"}


def pos_of(token) -> str:
    if token.is_punct:
        return "PUNCT"
    return CLOSED.get(token.lower_, "PROPN" if token.is_title else "NOUN")


def examples_of(nlp, attribute="pos"):
    found = []
    for text in TEXTS:
        doc = nlp.make_doc(text)
        for token in doc:
            setattr(token, f"{attribute}_", "SPACE" if token.is_space else pos_of(token))
        found.append(Example(nlp.make_doc(text), doc))
    return found


def blank(encoder, **config):
    nlp = spacy.blank("en")
    nlp.add_pipe(NAME, config={"model": {"encoder": {"name": encoder}}, **config})
    return nlp


def train(encoder, attribute="pos", **config):
    spacy.util.fix_random_seed(SEED)
    nlp = blank(encoder, attribute=attribute, store_exits=True, **config)
    examples = examples_of(nlp, attribute)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    for _ in range(100):
        nlp.update(examples, sgd=optimizer, drop=0.0)
        full_depth = {NAME: {"threshold": 0}}
        scores = nlp.evaluate(examples_of(nlp, attribute), component_cfg=full_depth)
        if scores[f"{attribute}_acc"] == 1.0:
            break
    else:
        raise AssertionError("100 steps did not teach a small encoder ten sentences")
    # A threshold at which some words leave early and others don't.
    for threshold in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
        spacy_early_exit.configure(nlp, threshold=threshold, name=NAME)
        if len(exit_layers(nlp)) > 2:
            return nlp
    raise AssertionError("at no threshold do words leave at different layers")


def exit_layers(nlp) -> set:
    return {layer for doc in nlp.pipe(TEXTS) for layer in doc._.early_exit[NAME].layers}


@pytest.fixture(scope="module")
def nlp(encoders):
    return train(encoders["bert"])


def tags(doc) -> list:
    return [token.pos_ for token in doc]


def test_it_tags_what_it_has_learnt(nlp):
    for eg in examples_of(nlp):
        doc = nlp(eg.text, component_cfg={NAME: {"threshold": 0}})
        assert tags(doc) == tags(eg.reference)
        assert not any(token.tag_ for token in doc)


def test_a_text_gets_the_same_tags_and_exit_layers_alone_and_in_any_batch(nlp):
    alone = [nlp(text) for text in TEXTS]
    assert len(exit_layers(nlp)) > 2
    for size in (1, 3, 100):
        nlp.get_pipe(NAME).batch_wordpieces = size * 10
        for doc, other in zip(nlp.pipe(TEXTS[::-1], batch_size=size), alone[::-1]):
            assert tags(doc) == tags(other)
            assert doc._.early_exit[NAME] == other._.early_exit[NAME]
    nlp.get_pipe(NAME).batch_wordpieces = 2048


def test_other_attribute_other_score(encoders):
    nlp = train(encoders["bert"], "tag")
    doc = nlp(TEXTS[0], component_cfg={NAME: {"threshold": 0}})
    assert [token.tag_ for token in doc] == [pos_of(token) for token in doc]
    assert not any(tags(doc))
    scores = nlp.evaluate(examples_of(nlp, "tag"))
    assert scores["tag_acc"] > 0.5 and 0 < scores["exit_cost"] < 1.1


def test_the_score_is_that_of_the_attribute_and_has_the_cost(nlp):
    ner = nlp.get_pipe(NAME)
    scores = nlp.evaluate(examples_of(nlp))
    assert scores["pos_acc"] > 0.9 and 0 < scores["exit_cost"] < 1
    assert ner.main_score == "pos_acc"
    assert scores[f"exit_cost_{NAME}"] == scores["exit_cost"]


def test_what_is_set_stays_unless_it_is_to_be_overwritten(nlp):
    doc = nlp.make_doc(TEXTS[0])
    doc[0].pos_ = "X"
    tagger = nlp.get_pipe(NAME)
    assert tags(tagger(doc))[0] == "X"
    tagger.overwrite = True
    assert tags(tagger(doc))[0] == pos_of(doc[0])
    tagger.overwrite = False


def test_white_space_is_space(nlp):
    doc = nlp("Ann  lives\n\n")
    assert [token.pos_ for token in doc if token.is_space] == ["SPACE", "SPACE"]
    assert nlp("")._.early_exit[NAME].full == 0 and len(nlp("   ")) == 1


def test_missing_tags_carry_no_loss(nlp):
    text = TEXTS[0]
    gold = nlp.make_doc(text)
    gold[1].pos_ = "NOUN"
    eg = Example(nlp.make_doc(text), gold)
    assert nlp.get_pipe(NAME).gold_tags(eg)[0].count(-1) == len(gold) - 1


def test_unknown_tags_count_as_missing_with_a_warning(nlp):
    gold = nlp.make_doc(TEXTS[0])
    gold[0].pos_ = "SYM"
    eg = Example(nlp.make_doc(TEXTS[0]), gold)
    assert nlp.get_pipe(NAME).gold_tags(eg) == ([-1] * len(gold), {"SYM"})


def test_words_that_are_cut_otherwise_are_read_as_spacys_tagger_reads_them(nlp):
    tagger = nlp.get_pipe(NAME)

    def known(gold, pos, predicted):
        gold = Doc(nlp.vocab, words=gold, pos=pos)
        eg = Example(Doc(nlp.vocab, words=predicted), gold)
        tags, unknown = tagger.gold_tags(eg)
        assert not unknown
        return [None if tag == -1 else tagger.labels[tag] for tag in tags]

    parts = known(["Ann Lee", "cat"], ["PROPN", "NOUN"], ["Ann", "Lee", "cat"])
    assert parts == ["PROPN", "PROPN", "NOUN"]
    several = ["Ann", "Lee", "the", "cat", "of", "Bob"]
    tags = ["PROPN", "PROPN", "DET", "NOUN", "", "PROPN"]
    assert known(several, tags, ["Ann Lee", "the cat", "of Bob"]) == ["PROPN", None, None]


def test_saved_and_loaded_it_says_the_same(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert loaded.get_pipe(NAME).attribute == "pos"
    for text in TEXTS:
        assert tags(loaded(text)) == tags(nlp(text))


@pytest.mark.parametrize("how", ["start_from", "bytes"])
def test_labels_that_come_without_the_vocabulary_have_names(how, encoders, tmp_path):
    """As those of a first stage, that the second stage's texts lack."""
    first = blank(encoders["bert"], attribute="tag")
    first.initialize(lambda: examples_of(first, "tag"))
    tagger = first.get_pipe(NAME)
    names = [f"tag-of-{how}-{number}" for number in range(len(tagger.labels))]
    tagger._labels = names
    second = blank(encoders["bert"], attribute="tag")
    if how == "bytes":
        data = tagger.to_bytes(exclude=["vocab"])
        second.get_pipe(NAME).from_bytes(data, exclude=["vocab"])
    else:
        first.to_disk(tmp_path / "first")
        examples = [Example(second.make_doc("ok"), second.make_doc("ok"))]
        start = {"start_from": str(tmp_path / "first")}
        second.get_pipe(NAME).initialize(lambda: examples, nlp=second, **start)
    second.to_disk(tmp_path / "second")
    for nlp in (second, spacy.load(tmp_path / "second")):
        assert {token.tag_ for doc in nlp.pipe(TEXTS) for token in doc} <= {*names, "_SP"}


def test_pos_has_no_other_labels_and_says_what_has(encoders):
    nlp = blank(encoders["bert"], attribute="pos")
    with pytest.raises(ValueError, match='attribute = "tag"'):
        nlp.get_pipe(NAME).add_label("NNS")
    with pytest.raises(ValueError, match="'tag', 'pos'"):
        blank(encoders["bert"], attribute="dep")


def test_a_decoder_for_entities_is_refused(encoders):
    with pytest.raises(ValueError, match=r"Viterbi\.v1 is for any tags"):
        blank(encoders["bert"], decoder={"@misc": "spacy-early-exit.BIOViterbi.v1"})
    assert make_bio_viterbi().for_scheme("bio") is not None


@pytest.mark.parametrize("decoder", ["CRFDecoder", "AINDecoder"])
def test_learnt_decoders_have_all_sequences(encoders, decoder):
    block = {"@misc": f"spacy-early-exit.{decoder}.v1"}
    nlp = train(encoders["bert"], decoder=block)
    doc = nlp(TEXTS[0], component_cfg={NAME: {"threshold": 0}})
    assert tags(doc) == [pos_of(token) for token in doc]


def test_beside_entities_it_keeps_its_own_record(nlp, encoders):

    both = trained_pipeline(encoders["bert"])
    both.add_pipe(NAME, source=nlp)
    doc = both(TEXTS[0])
    assert set(doc._.early_exit) == {"early_exit_ner", NAME}
    alone = nlp(TEXTS[0])._.early_exit[NAME]
    assert doc._.early_exit[NAME] == alone and tags(doc) == tags(nlp(TEXTS[0]))
    spacy_early_exit.configure(both, threshold=0, name=NAME)
    assert both(TEXTS[0])._.early_exit[NAME].layers != alone.layers


def test_it_sets_morphological_features(encoders):
    nlp = spacy.blank("en")
    nlp.add_pipe(
        NAME, config={"attribute": "morph", "model": {"encoder": {"name": encoders["bert"]}}}
    )
    examples = []
    for text in TEXTS:
        doc = nlp.make_doc(text)
        for token in doc:
            token.set_morph("Number=Sing|Case=Nom" if token.is_title else "")
        examples.append(Example(nlp.make_doc(text), doc))
    spacy.util.fix_random_seed(SEED)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    tagger = nlp.get_pipe(NAME)
    assert tagger.labels == ("Case=Nom|Number=Sing", "_") and tagger.main_score == "morph_acc"
    for _ in range(30):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    cfg = {NAME: {"threshold": 0}}
    assert nlp.evaluate(examples, component_cfg=cfg)["morph_acc"] > 0.9
    doc = nlp("Ann Lee lives in New York.", component_cfg=cfg)
    assert doc[0].morph.get("Case") == ["Nom"] and doc[3].has_morph() and not str(doc[3].morph)
    missing = Example(nlp.make_doc("Ann"), nlp.make_doc("Ann"))
    assert nlp.update([missing], sgd=False)[NAME] == 0.0
