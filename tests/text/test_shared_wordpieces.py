"""Words that would share a wordpiece: tokenized one by one, or sharing it, as the setting says."""

import json
import pickle
import re

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.text.tokenizer import WordpieceTokenizer
from spacy_early_exit.text.windows import windows_of
from tests.makers.encoders import write_encoder
from tests.makers.pipelines import SEED, blank, train_small
from tests.makers.texts import CHINESE, EMOJI, TEXTS, examples_of
from tests.makers.tokenizers import ROBERTA_SPECIALS, SPECIALS

CONTRACTIONS = [
    "I don't like Bob",
    "don't",
    "He said (don't) \"can't\" and I cannot",
    "gonna go, don't you?",
    "a  don't",
    "a\ndon't\tcan't",
    " don't",
    "never seen in\u00a0Paris, cannot.don't",
]
# Tokenizers put a sign of white space before a text, and before each of its words, in several ways.
PREFIXES = {
    "roberta": {"type": "ByteLevel", "trim_offsets": True, "use_regex": True},
    "xlm-roberta": {"type": "Metaspace", "replacement": "▁", "split": True},
    "deberta-v2": {"type": "Metaspace", "replacement": "▁", "split": True},
}
BYTE_LEVEL = [{"add_prefix_space": False}, {"add_prefix_space": True}]
METASPACE = [{"prepend_scheme": scheme} for scheme in ("always", "first", "never")]
LAYOUTS = [
    *(("roberta", how, False) for how in BYTE_LEVEL),
    *(("xlm-roberta", how, False) for how in METASPACE),
    *(("deberta-v2", how, False) for how in METASPACE),
    ("xlm-roberta", METASPACE[0], True),  # as it is published
]


@pytest.fixture(scope="module")
def tokenizer_of(encoders):
    made = {}

    def tokenizer(family):
        if family not in made:
            made[family] = WordpieceTokenizer(HFEncoder(encoders[family]).load().tokenizer)
        return made[family]

    return tokenizer


@pytest.fixture(scope="module")
def zh():
    """Chinese, one word a character."""
    return spacy.blank("zh")


def window(doc, tokenizer, shared, **settings):
    found = windows_of([doc], tokenizer, 10_000, 0, shared=shared, **settings)
    return found[0] if found else None


def pieces_of(doc, tokenizer, shared):
    """The wordpieces, as the vocabulary has them."""
    found = window(doc, tokenizer, shared)
    ids = [] if found is None else found.ids.tolist()
    return [tokenizer._tokenizer.id_to_token(i) for i in ids]


def sharing(doc, tokenizer, shared):
    """The words that are of one unit, for each unit of several."""
    found = window(doc, tokenizer, shared)
    units = {}
    for word, unit in zip(found.words.tolist(), found.unit_of_word.tolist()):
        units.setdefault(unit, []).append(doc[word].text)
    return [words for words in units.values() if len(words) > 1]


class TestWordpieces:
    @pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "albert", "deberta-v2"])
    def test_words_of_contractions_have_their_own(self, family, tokenizer_of, en):
        tokenizer, together = tokenizer_of(family), []
        for text in CONTRACTIONS:
            doc = en.make_doc(text)
            together += sharing(doc, tokenizer, "keep")
            left = [
                [word for word in words if word.strip()]
                for words in sharing(doc, tokenizer, "split")
            ]
            assert all(len(words) < 2 for words in left), text
        assert ["do", "n't"] in together

    def test_they_are_those_of_the_words_apart(self, tokenizer_of, en):
        tokenizer = tokenizer_of("bert")
        for text in ["I don't like Bob", "don't", "He said (don't) \"can't\"", "a  don't"]:
            raw = en.make_doc(text)
            apart = Doc(en.vocab, [token.text for token in raw])  # do n't
            assert pieces_of(raw, tokenizer, "split") == pieces_of(apart, tokenizer, "keep")

    @pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
    def test_chinese_characters_have_their_own(self, family, tokenizer_of, zh):
        tokenizer = tokenizer_of(family)
        doc = zh.make_doc("".join(CHINESE))
        found = window(doc, tokenizer, "split")
        assert found.words.tolist() == list(range(len(doc)))
        assert found.units == len(doc)

    def test_names_in_latin_letters_as_well(self, tokenizer_of, zh):
        doc = zh.make_doc("Ann在Oslo的office")
        for family in ("bert", "roberta", "xlm-roberta"):
            assert sharing(doc, tokenizer_of(family), "keep")
            assert not sharing(doc, tokenizer_of(family), "split")

    @pytest.mark.parametrize("family, how, splits_first", LAYOUTS)
    @pytest.mark.parametrize("lang", ["en", "zh"])
    def test_signs_of_white_space_stay_where_the_text_has_some(
        self, family, how, splits_first, lang, encoders
    ):
        step = {**PREFIXES[family], **how}
        if splits_first:
            step = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, step]}
        as_json = json.loads(HFEncoder(encoders[family]).load().tokenizer)
        tokenizer = WordpieceTokenizer(json.dumps({**as_json, "pre_tokenizer": step}))
        nlp, shared = spacy.blank(lang), 0
        for text in [*CONTRACTIONS, *TEXTS, *CHINESE, "New York,北京 大学 don't"]:
            doc = nlp.make_doc(text.strip())
            pieces = [pieces_of(doc, tokenizer, how) for how in ("keep", "split")]
            # What is unknown has no characters to compare.
            whole, split = ("".join(p for p in of if "unk" not in p.lower()) for of in pieces)
            assert split == whole, text
            shared += pieces[0] != pieces[1]
        assert shared > 5

    def test_a_span_is_a_text_of_its_own(self, tokenizer_of, en):
        def second_half(docs):
            return [[doc[1:]] for doc in docs]

        tokenizer = tokenizer_of("xlm-roberta")
        doc, alone = en.make_doc("I don't like"), en.make_doc("don't like")
        ids = [
            found.ids.tolist()
            for found in windows_of([doc], tokenizer, 100, 0, second_half, "split")
        ]
        assert ids[1] == window(alone, tokenizer, "split").ids.tolist()

    def test_words_that_only_together_have_one_go_on_to_share_it(self, zh):
        made = Tokenizer(models.WordLevel({"[UNK]": 0, "xy": 1, "d": 2}, unk_token="[UNK]"))
        together = [("a(?=b)", "x"), ("(?<=x)b", "y")]
        steps = [normalizers.Replace(Regex(of), by) for of, by in [*together, ("[ab]", "")]]
        made.normalizer = normalizers.Sequence(steps)
        made.pre_tokenizer = pre_tokenizers.Split("d", "isolated")
        tokenizer, doc = WordpieceTokenizer(made.to_str()), zh.make_doc("abd")
        assert sharing(doc, tokenizer, "split") == sharing(doc, tokenizer, "keep") == [["a", "b"]]
        assert pieces_of(doc, tokenizer, "split") == ["xy", "d"]


class TestWordsWithoutAWordpiece:
    """By themselves: joiners, accents that combine, and what else a tokenizer drops."""

    def owners(self, doc, tokenizer):
        """Of each word, those that are tagged from its wordpiece."""
        found = window(doc, tokenizer, "split")
        assert found.words.tolist() == list(range(len(doc)))
        pieces = found.piece_of_word.tolist()
        return [[other for other, p in enumerate(pieces) if p == piece] for piece in pieces]

    @pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "deberta-v2"])
    @pytest.mark.parametrize(
        "text", ["ok 👩\u200d💻 hi", "👩\u200d👩\u200d👧 family", "북\u200d한"]
    )
    def test_none_loses_its_tag(self, text, family, tokenizer_of, en, zh):
        for nlp in (en, zh):
            doc = nlp.make_doc(text)
            before = window(doc, tokenizer_of(family), "keep").words.tolist()
            after = window(doc, tokenizer_of(family), "split").words.tolist()
            assert [i for i in before if not doc[i].is_space] == [
                i for i in after if not doc[i].is_space
            ]

    def test_a_joiner_is_tagged_as_the_word_before_it(self, tokenizer_of, en):
        doc = en.make_doc("ok 👩\u200d💻 hi")
        assert len(doc) == 5
        assert self.owners(doc, tokenizer_of("bert")) == [[0], [1, 2], [1, 2], [3], [4]]

    def test_or_as_the_one_after_it_if_it_is_first(self, zh):
        vocab = {"[UNK]": 0, "xbc": 1, "b": 2, "c": 3}
        made = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
        steps = [normalizers.Replace(Regex("a(?=b)"), "x"), normalizers.Replace("a", "")]
        made.normalizer = normalizers.Sequence(steps)
        tokenizer, doc = WordpieceTokenizer(made.to_str()), zh.make_doc("abc")
        assert pieces_of(doc, tokenizer, "keep") == ["xbc"]
        assert pieces_of(doc, tokenizer, "split") == ["b", "c"]
        assert self.owners(doc, tokenizer) == [[0, 1], [0, 1], [2]]


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MIXED = st.lists(
    st.sampled_from(
        [*CONTRACTIONS, *TEXTS, *CHINESE, *EMOJI, " ", "\n", "\u200b", "a\u0301", "x" * 30]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(
    text=st.one_of(ANY_TEXT, MIXED),
    family=st.sampled_from(["bert", "roberta", "xlm-roberta", "deberta-v2"]),
    lang=st.sampled_from(["en", "zh"]),
)
def test_only_words_that_share_are_tokenized_anew(text, family, lang, tokenizer_of, en, zh):
    tokenizer = tokenizer_of(family)
    doc = {"en": en, "zh": zh}[lang].make_doc(text)
    keep, split = window(doc, tokenizer, "keep"), window(doc, tokenizer, "split")
    if keep is None:
        assert split is None
        return
    # All words that had a wordpiece still have one.
    lost = set(keep.words.tolist()) - set(split.words.tolist())
    assert set(split.words.tolist()) <= set(keep.words.tolist())
    assert all(doc[word].is_space for word in lost)
    # Units of one word are as they were, in the same order.
    assert _lone_units(keep, keep, tokenizer) == _lone_units(split, keep, tokenizer)
    # Of those that share there is but one that has a wordpiece by itself.
    units = {}
    for word, unit in zip(split.words.tolist(), split.unit_of_word.tolist()):
        units.setdefault(unit, []).append(doc[word])
    for words in units.values():
        assert sum(_has_some(token, tokenizer) for token in words) < 2


def _lone_units(found, keep, tokenizer):
    """Word and wordpieces of the words that share with none where they are to share; without marks
    of white space behind them, which may be those of words that shared.
    """
    counts = np.bincount(keep.unit_of_word)
    lone = keep.words[counts[keep.unit_of_word] == 1].tolist()
    unit_of = dict(zip(found.words.tolist(), found.unit_of_word.tolist()))
    units = []
    for word in lone:
        ids = found.ids[found.unit_of_piece == unit_of[word]].tolist()
        units.append((word, [tokenizer._tokenizer.id_to_token(i) for i in ids]))
        while units[-1][1][-1:] in (["▁"], ["Ġ"]):
            units[-1][1].pop()
    return units


def _has_some(token, tokenizer):
    return not token.is_space and len(tokenizer([token.text], "word")[0][0]) > 0


# ----------------------------------------------------------------- what is learnt of them

NOT = ["do", "did", "could", "would", "should", "is", "was", "has", "have", "had", "ca", "wo"]
HALVES = {*NOT, "n't", "can", "not", "gon", "na"}
TAGGED = [
    *(f"I {verb}|AUX n't|PART like Bob" for verb in NOT),
    *(f"{verb}|AUX n't|PART they say why ?" for verb in NOT),
    "we can|AUX not|PART say",
    "they 're gon|VERB na|PART go",
    "it 's|AUX Bob 's|PART cat",
    "I 'll|AUX go and you 'll|AUX stay",
]


def tagged(nlp):
    """Sentences with contractions as English writes them; other words are X."""
    found = []
    for sentence in TAGGED:
        pairs = [word.split("|") for word in sentence.split()]
        words = [word for word, *_ in pairs]
        spaces = [not ("'" in after or after in ("not", "na", "?")) for after in [*words[1:], "."]]
        tags = [tag[0] if tag else "X" for _, *tag in pairs]
        doc = Doc(nlp.vocab, words, spaces=spaces, pos=tags)
        predicted = nlp.make_doc(doc.text)
        assert [token.text for token in predicted] == words
        found.append(Example(predicted, doc))
    return found


def right(nlp, name, among):
    """How many of some words have the right tag, and how many there are."""
    found = []
    for eg in tagged(nlp):
        doc = nlp(eg.text, component_cfg={name: {"threshold": 0}})
        found += [token.pos_ == gold.pos_ for token, gold in zip(doc, eg.reference) if among(gold)]
    return sum(found), len(found)


@pytest.fixture(scope="module")
def contracted(tmp_path_factory):
    """A small encoder whose wordpieces are what is between white space and punctuation marks, such
    as those of don, ' and t; and characters.
    """
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("contracted")
    texts = [eg.text.lower() for eg in tagged(spacy.blank("en"))]
    runs = {run for text in texts for run in re.findall(r"\w+|[^\w\s]", text)}
    letters = {letter for run in runs for letter in run}
    pieces = sorted({*runs, *letters, *(f"##{letter}" for letter in letters)})
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join([*SPECIALS, *pieces]))
    write_encoder("bert", BertTokenizerFast(vocab_file=str(vocab)), folder)
    return str(folder)


@pytest.mark.parametrize("shared", ["split", "keep"])
def test_contractions_are_learnt(shared, contracted):
    spacy.util.fix_random_seed(SEED)
    nlp, name = spacy.blank("en"), "early_exit_tagger"
    model = {"encoder": {"name": contracted}, "shared_wordpieces": shared}
    nlp.add_pipe(name, config={"attribute": "pos", "model": model})
    examples = tagged(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    for step in range(100):
        nlp.update(examples, sgd=optimizer, drop=0.0)
        if step % 10 == 9:
            found, of = right(nlp, name, lambda word: word.text in HALVES)
            if found == of or (step > 40 and shared == "keep"):
                break
    assert of == 52
    # Where they share a wordpiece, one of two is right at most.
    assert found == 52 if shared == "split" else found <= 26
    found, of = right(nlp, name, lambda word: word.text not in HALVES)
    assert found >= 0.99 * of


PLACES, PEOPLE = ["北京", "上海", "南京", "天津", "广州"], ["王芳", "李明", "陈静", "张伟", "刘洋"]
PATTERNS = ["{}住在{}", "{}昨天去了{}", "我和{}在{}见面", "{}喜欢{}", "听说{}要离开{}"]


def chinese(nlp, patterns, people, places):
    found = []
    for pattern in patterns:
        for person in people:
            for place in places:
                text = pattern.format(person, place)
                ents = [
                    (text.index(name), text.index(name) + len(name), label)
                    for name, label in ((person, "PER"), (place, "LOC"))
                ]
                found.append(Example.from_dict(nlp.make_doc(text), {"entities": ents}))
    return found


@pytest.fixture(scope="module")
def words_as_wordpieces(tmp_path_factory):
    """A small encoder whose wordpieces are the names, and characters."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("words")
    texts = [eg.text for eg in chinese(spacy.blank("zh"), PATTERNS, PEOPLE, PLACES)]
    names = [mark + name for name in (*PLACES, *PEOPLE) for mark in ("▁", "")]
    vocab = [*((special, 0.0) for special in ROBERTA_SPECIALS), *((name, -2.0) for name in names)]
    vocab += [(piece, -9.0) for piece in ("▁", *sorted(set("".join(texts))))]
    made = Tokenizer(models.Unigram(vocab, unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    specials = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", mask_token="<mask>", **specials
    )
    write_encoder("xlm-roberta", tokenizer, folder)
    return str(folder)


@pytest.mark.parametrize("shared", ["split", "keep"])
def test_names_of_characters_are_learnt(shared, words_as_wordpieces):
    spacy.util.fix_random_seed(SEED)
    nlp, name = spacy.blank("zh"), "early_exit_ner"
    model = {"encoder": {"name": words_as_wordpieces}, "shared_wordpieces": shared}
    nlp.add_pipe(name, config={"model": model})
    examples = chinese(nlp, PATTERNS, PEOPLE, PLACES)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    for _ in range(30):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    full_depth = {name: {"threshold": 0}}
    f = nlp.evaluate(chinese(nlp, PATTERNS, PEOPLE, PLACES), component_cfg=full_depth)["ents_f"]
    sure = [
        ent._.confidence
        for doc in nlp.pipe([eg.text for eg in examples], component_cfg=full_depth)
        for ent in doc.ents
    ]
    if shared == "split":
        assert f >= 0.95 and min(sure) > 0.5
    else:  # of two characters with the same tag, or none of which is sure of its own
        assert f < 0.95 or max(sure) < 0.501


# ------------------------------------------------------------------------- the setting


def model_of(nlp):
    return nlp.config["components"]["early_exit_ner"]["model"]


def what_is_set(nlp):
    return nlp.get_pipe("early_exit_ner").model.shims[0].shared_wordpieces


V1 = "spacy-early-exit.EarlyExitTagger.v1"


class TestSetting:
    def test_new_pipelines_split(self, encoders):
        nlp = blank(encoders["bert"])
        assert model_of(nlp)["shared_wordpieces"] == what_is_set(nlp) == "split"

    def test_a_config_from_before_there_was_the_setting_keeps(self, encoders, tmp_path):
        train_small(encoders["bert"], steps=1, model={"head_window": 0}).to_disk(tmp_path)
        config = spacy.util.load_config(tmp_path / "config.cfg")
        model = config["components"]["early_exit_ner"]["model"]
        del model["shared_wordpieces"], model["head_window"], model["exit_layers"]
        model["@architectures"] = V1
        config.to_disk(tmp_path / "config.cfg")
        old = spacy.load(tmp_path)
        assert what_is_set(old) == "keep"
        old.to_disk(tmp_path / "again")
        assert what_is_set(spacy.load(tmp_path / "again")) == "keep"

    @pytest.mark.parametrize("shared", ["split", "keep"])
    def test_it_is_saved_and_can_be_replaced_when_loading(self, shared, encoders, tmp_path):
        nlp = train_small(encoders["bert"], steps=1, model={"shared_wordpieces": shared})
        nlp.to_disk(tmp_path)
        assert what_is_set(spacy.load(tmp_path)) == shared
        other = {"split": "keep", "keep": "split"}[shared]
        settings = {"components": {"early_exit_ner": {"model": {"shared_wordpieces": other}}}}
        assert what_is_set(spacy.load(tmp_path, config=settings)) == other

    def test_what_it_is_decides_what_the_network_sees(self, nlp):
        text, full_depth = "I don't like Bob", {"early_exit_ner": {"speedup": 1}}
        model = nlp.get_pipe("early_exit_ner").model
        spent = {}
        for model.shims[0].shared_wordpieces in ("split", "keep"):
            (alone,) = model.predict([nlp.make_doc(text)])
            (doc,) = nlp.pipe([text], component_cfg=full_depth)
            assert doc._.early_exit["early_exit_ner"].full == alone.full
            spent[model.shims[0].shared_wordpieces] = alone.full
            logits = alone.logits[1:3]
            assert np.array_equal(*logits) == (model.shims[0].shared_wordpieces == "keep")
        assert spent["split"] > spent["keep"]
        assert model.copy().shims[0].shared_wordpieces == "keep"

    def test_a_calibration_is_of_one_setting(self, nlp):
        ner = nlp.get_pipe("early_exit_ner")
        shim = ner.model.shims[0]
        calibrate(ner, examples_of(nlp), [1.5])
        shim.shared_wordpieces = "keep"
        with pytest.raises(ValueError, match="calibrated with different shared wordpieces"):
            ner.calibrated()
        calibrate(ner, examples_of(nlp), [1.5])
        # As in calibrations from before there was the setting.
        assert "shared wordpieces" not in ner.calibration.fingerprint
        ner.calibrated()


def test_both_tokenizers_are_there_after_pickling(tokenizer_of, en):
    tokenizer = tokenizer_of("xlm-roberta")
    copy = pickle.loads(pickle.dumps(tokenizer))
    doc = en.make_doc("I don't like Bob")
    assert pieces_of(doc, copy, "split") == pieces_of(doc, tokenizer, "split")
