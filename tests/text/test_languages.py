"""Scripts, emoji and marks: entities are where they are in the text, however it is tokenized."""

import re
import unicodedata

import pytest
import spacy
from spacy.training import Example

from spacy_early_exit.text.alignment import align, word_offsets
from tests.makers.encoders import write_encoder
from tests.makers.pipelines import SEED, answers
from tests.makers.tokenizers import roberta_tokenizer, sentencepiece_tokenizer

NAME = "early_exit_ner"
# Our own writing, by spaCy's language; entities as [text|LABEL].
MARKED = {
    "de": [
        "Frau [Müller-Lüdenscheidt|PER] fährt von [Köln|LOC] nach [Göttingen|LOC].",
        "Große Straßen gibt's in [Weißenfels|LOC], sagte [Jörg Größe|PER] – „ja“!",
        "Der [Donaudampfschifffahrtsverein Österreichs|ORG] schläft z.B. nie.",
        "Müller mahlen, und im Mai war er müde",
    ],
    "ar": [
        "تعيش [مريم|PER] في [القاهرة|LOC] منذ عام ٢٠١٩.",
        "ذَهَبَ [مُحَمَّدٌ|PER] إلى [بيروت|LOC]، ثم عاد.",
        "هل زرت [دمشق|LOC] مع [ليلى حدّاد|PER]؟",
        "لا شيء جديد اليوم",
    ],
    "zh": [
        "[李小明|PER]住在[北京市|LOC]。",
        "他昨天在[上海|LOC]见到了[王芳|PER],真的!",
        "天气很好,我们去公园吧",
        "[清华大学|ORG]的[陈𠮷祥|PER]来了 3 次。",
    ],
    # Emoji of several characters, marks that combine, full-width characters.
    "en": [
        "👍🏽 [Ann|PER] 👩‍👩‍👧‍👦 lives in [Köln|LOC] 🇩🇪🇫🇷!",
        unicodedata.normalize("NFD", "[José|PER] left [São Paulo|LOC] ❤️ for [Kōbe|LOC]"),
        "[Ｂｏｂ|PER] met no one in [Ｏｓｌｏ|LOC] １２３ times",
        "🤷🏿‍♀️🤷🏿‍♀️ z̸̢͝a̷l̵g̶o̸ only",
    ],
}
KINDS = ["byte-level", "sentencepiece"]


def read(marked):
    """The text, and its entities by character."""
    text, entities = "", []
    for part in re.split(r"(\[[^]]*\])", marked):
        name, _, label = part.strip("[]").partition("|") if part.startswith("[") else (part, "", "")
        if label:
            entities.append((len(text), len(text) + len(name), label))
        text += name
    return text, entities


# And all of them as one text, longer than a window.
SENTENCES = {
    lang: [read(one) for one in [*marked, " ".join(marked)]] for lang, marked in MARKED.items()
}


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, tmp_path_factory):
    """A small encoder whose tokenizer has learnt all of these."""
    folder = tmp_path_factory.mktemp(request.param)
    texts = [text for sentences in SENTENCES.values() for text, _ in sentences]
    if request.param == "byte-level":
        write_encoder("roberta", roberta_tokenizer(texts), folder)
    else:
        tokenizer = sentencepiece_tokenizer(folder, texts=texts, vocab_size=330)
        write_encoder("xlm-roberta", tokenizer, folder)
    return str(folder)


@pytest.fixture(scope="module", params=list(SENTENCES))
def trained(request, encoder):
    """A pipeline that has learnt the texts of a language, and these."""
    spacy.util.fix_random_seed(SEED)
    sentences = SENTENCES[request.param]
    nlp = spacy.blank(request.param)
    config = {"model": {"encoder": {"name": encoder}}, "store_exits": True, "threshold": 0.0}
    nlp.add_pipe(NAME, config=config)
    examples = [Example.from_dict(nlp.make_doc(t), {"entities": ents}) for t, ents in sentences]
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    for _ in range(200):
        nlp.update(examples, sgd=optimizer, drop=0.0)
        if all(found(nlp(text)) == entities for text, entities in sentences):
            return nlp, sentences
    raise AssertionError(f"200 steps did not teach a small encoder five texts: {request.param}")


def found(doc):
    return [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]


class TestEndToEnd:
    def test_entities_are_where_they_were_annotated(self, trained):
        nlp, sentences = trained
        for text, entities in sentences:
            doc = nlp(text)
            assert found(doc) == entities
            assert [ent.text for ent in doc.ents] == [text[a:b] for a, b, _ in entities]

    def test_the_same_alone_and_in_batches(self, trained):
        nlp, sentences = trained
        texts = [text for text, _ in sentences]
        texts += [" ".join(texts[::-1]), *(text[:9] for text in texts)]  # not learnt
        left = set()
        for threshold in (0.0, 0.2, 0.6):
            cfg = {NAME: {"threshold": threshold}}
            alone = [answers(nlp(text, component_cfg=cfg)) for text in texts]
            assert [answers(doc) for doc in nlp.pipe(texts, component_cfg=cfg)] == alone
            backwards = list(nlp.pipe(texts[::-1], component_cfg=cfg, batch_size=3))
            assert [answers(doc) for doc in backwards[::-1]] == alone
            left |= {layer for _, layers, *_ in alone for layer in layers}
        assert len(left - {0}) > 1

    def test_every_visible_word_is_tagged_from_a_piece_with_its_first_character(self, trained):
        nlp, sentences = trained
        tokenizer = nlp.get_pipe(NAME).model.shims[0].trained.tokenizer
        for text, _ in sentences:
            doc = nlp.make_doc(text)
            ((ids, offsets),) = tokenizer([text])
            (pieces,) = align([(ids, offsets)], [word_offsets(doc)])
            assert pieces.words.tolist() == [token.i for token in doc if not token.is_space]
            for word, piece in zip(pieces.words.tolist(), pieces.piece_of_word.tolist()):
                start, behind = offsets[piece]
                assert start <= doc[word].idx < behind, (text, doc[word])
