"""Input that nobody would write: it works, or it fails with an error that helps."""

import time

import pytest
import spacy
from spacy.tokens import Doc

from tests.makers.pipelines import answers, blank, trained_pipeline
from tests.makers.project import OLD_CONFECTION
from tests.makers.texts import TEXTS

NAME = "early_exit_ner"

HOSTILE = {
    "empty": "",
    "a space": " ",
    "white space": " \n\t\r\n \u3000\u2028 ",
    "one emoji": "👍",
    "an emoji sequence": "👩‍👩‍👧‍👦",
    "control characters": "\x00\x01\x07\x1b[0m\x7f",
    "zero width": "\u200b\u200d\ufeff",
    "bidi marks": "\u202eAnn\u202c \u2066Bob\u2069",
    "combining": "Z̸̢̛̫a̴͎͝l̵̙͐g̸͎̈́o",
    "special tokens": "[CLS] Ann [SEP] [PAD] [MASK] <s> </s>",
    "a long word": "a" * 40_000,
    "a long word of punctuation": "." * 5_000,
    "an unassigned character": "\U000e0fff",
}


@pytest.fixture(scope="module", params=["bert", "roberta", "xlm-roberta"])
def pipeline(request, encoders):
    return trained_pipeline(encoders[request.param])


@pytest.mark.filterwarnings("ignore:A word has more wordpieces")
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_text_is_answered_and_harms_nobody(kind, pipeline):
    expected = [answers(doc) for doc in pipeline.pipe(TEXTS)]
    texts = [*TEXTS[:5], HOSTILE[kind], *TEXTS[5:]]
    docs = list(pipeline.pipe(texts))
    assert [doc.text for doc in docs] == texts
    found = [answers(doc) for doc in docs]
    assert found[:5] + found[6:] == expected
    assert answers(pipeline(HOSTILE[kind])) == found[5]
    for ent in docs[5].ents:
        assert not ent[0].is_space and not ent[-1].is_space


def test_20_000_words_are_all_answered(pipeline):
    text = " ".join(TEXTS * 250)[:100_000]
    doc = pipeline.make_doc(text)
    words = [token.text for token in doc][:20_000]
    doc = Doc(pipeline.vocab, words=words)
    assert len(doc) == 20_000
    start = time.perf_counter()
    doc = pipeline(doc)
    print(f"{20_000 / (time.perf_counter() - start):.0f} words/s")
    record = doc._.early_exit[NAME]
    assert all(record.layers) and all(token.ent_iob for token in doc)
    assert 0 < record.spent < record.full


def test_a_long_word_between_others_is_warned_of_and_takes_none_along(encoders):
    nlp = trained_pipeline(encoders["roberta"])
    text = "Ann Lee lives in New York. " + "q" * 40_000 + " Paris Hilton was never seen in Paris"
    with pytest.warns(UserWarning, match="more wordpieces"):
        doc = nlp(text)
    assert all(layer > 0 for layer in doc._.early_exit[NAME].layers)
    assert "Ann Lee" in {ent.text for ent in doc.ents}


def test_a_surrogate_fails_in_spacy_before_us(pipeline):
    with pytest.raises(UnicodeEncodeError):
        pipeline("\ud800")


@pytest.mark.parametrize(
    "config,complaint",
    [
        ({"threshold": 2.0}, "threshold in the component's config"),
        ({"speedup": 0.2}, "speedup in the component's config"),
        ({"batch_wordpieces": 0}, "batch_wordpieces"),
        pytest.param(
            *({"threshold": "0.2"}, "must be a number, not '0.2'"),
            marks=pytest.mark.skipif(OLD_CONFECTION, reason="this confection makes a number of it"),
        ),
        ({"criterion": None}, "needs a criterion"),
        ({"decoder": None}, "needs a decoder"),
        ({"window_length": 0}, "window_length"),
        ({"window_overlap": -1}, "window_overlap"),
        ({"criterion": {"@misc": "spacy-early-exit.TokenExit.v1", "window": -2}}, "window"),
        ({"model": {"head_lr_factor": 0.0}}, "head_lr_factor"),
        ({"model": {"kept_state": "sum"}}, "kept_state"),
        ({"model": {"shared_wordpieces": "merge"}}, "shared_wordpieces"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        blank("nowhere", **config)


@pytest.mark.parametrize(
    "block, other, lacks",
    [
        ("criterion", "BIOViterbi", "own_loop"),
        ("decoder", "TokenExit", "for_scheme, loss"),
        ("training", "TokenExit", "copies, loss"),
    ],
)
def test_a_block_of_another_kind_is_refused_with_what_it_lacks(block, other, lacks):
    with pytest.raises(ValueError, match=f"The {block} of '{NAME}' must follow .* lacks .*{lacks}"):
        blank("nowhere", **{block: {"@misc": f"spacy-early-exit.{other}.v1"}})


@pytest.mark.parametrize(
    "config",
    [
        {"criterion": {"@misc": "spacy-early-exit.Nonsense.v1"}},
        {"criterion": {"@misc": "spacy-early-exit.TokenExit.v1", "radius": 2}},
        {"treshold": 0.1},
    ],
)
def test_an_unknown_block_or_argument_is_spacys_own_error(config):
    with pytest.raises(ValueError):
        blank("nowhere", **config)


@pytest.mark.parametrize("length", [2, 49])
def test_a_window_that_the_encoder_cannot_take_is_refused_with_the_range(encoders, length):
    nlp = blank(encoders["bert"], window_length=length)
    nlp.get_pipe(NAME).add_label("PER")
    with pytest.raises(ValueError, match="3 to 48 wordpieces"):
        nlp.initialize()


def test_a_shorter_window_works(encoders):
    nlp = trained_pipeline(encoders["bert"], window_length=32, window_overlap=6)
    doc = nlp(" ".join(TEXTS))
    assert all(doc._.early_exit[NAME].layers)


def test_add_pipe_touches_no_network_and_initialize_names_the_encoder(monkeypatch):
    # Its environment variable is read once, when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    nlp = spacy.blank("en")
    ner = nlp.add_pipe(NAME)
    ner.add_label("PER")
    with pytest.raises(ValueError, match="sentence-transformers/all-MiniLM-L6-v2"):
        nlp.initialize()
