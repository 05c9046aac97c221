"""Texts, and corpora and examples of them."""

import random
from pathlib import Path

import spacy
from spacy.training import Example

# Our own writing. Names are also words, some texts have no entity, some are mistyped.
SENTENCES = [
    ("Ann Lee lives in New York.", [(0, 7, "PER"), (17, 25, "LOC")]),
    ("I don't like Bob, and I cannot say why.", [(13, 16, "PER")]),
    ("Paris Hilton was never seen in Paris", [(0, 12, "PER"), (31, 36, "LOC")]),
    ("gonna meet may at the bank in may?", [(11, 14, "PER")]),
    ("See https://example.com/a/b?c=d for the rest!", []),
    ("Nothing to report today.", []),
    (
        "the Acme-Ltd. people called Jordan from Jordan twice",
        [(4, 13, "ORG"), (28, 34, "PER"), (40, 46, "LOC")],
    ),
    ("ok", []),
    (
        "Rain, rain; more rain -- and then Lima sent 3 boxes to Oslo's office.",
        [(34, 38, "ORG"), (55, 59, "LOC")],
    ),
    ("Dr. Grace Hopper's cat is called Euler :-)", [(4, 16, "PER"), (33, 38, "PER")]),
]
TEXTS = [text for text, _ in SENTENCES]
CHINESE = [
    "李小明住在北京市。",
    "他昨天在上海见到了王芳",
    "天气很好,我们去公园吧!",
    "北京大学和清华大学都在北京",
]
EMOJI = ["Great job 👍🏽 Ann!", "👩‍👩‍👧‍👦 family", "flags 🇩🇪🇫🇷 and ❤️", "naïve café ｆｕｌｌ"]


def texts_of_all_lengths(seed: int = 0, count: int = 64) -> list:
    """Texts from one word to hundreds, of words that the small tokenizers know."""
    draw = random.Random(seed)
    words = " ".join(TEXTS).split()
    lengths = [1, 1, 2, 3, 45, 46, 47, 120, 400] + [draw.randint(1, 60) for _ in range(count)]
    return [" ".join(draw.choices(words, k=length)) for length in lengths[:count]]


def examples_of(nlp, sentences=tuple(SENTENCES)):
    return [
        Example.from_dict(nlp.make_doc(text), {"entities": entities})
        for text, entities in sentences
    ]


def write_corpus(folder: Path, train: int = 40, dev: int = 10) -> Path:
    """A corpus of our own sentences, each made different by a number."""
    nlp = spacy.blank("en")
    folder.mkdir()
    for name, count in (("train", train), ("dev", dev)):
        sentences = []
        for i in range(count):
            text, entities = SENTENCES[i % len(SENTENCES)]
            doc = nlp.make_doc(text)
            doc.ents = [doc.char_span(start, end, label) for start, end, label in entities]
            lines = [
                f"{t.text}\t{t.ent_iob_}-{t.ent_type_}" if t.ent_type_ else f"{t.text}\tO"
                for t in doc
            ]
            sentences.append("\n".join([*lines, f"{name}{i}\tO"]))
        (folder / f"{name}.tsv").write_text("\n\n".join(sentences) + "\n", encoding="utf8")
    return folder
