"""Holding the saving while training."""

import warnings

import pytest
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus
from spacy.training.loop import create_evaluation_callback
from spacy.util import Config, load_model_from_config

from spacy_early_exit.measure.hold_saving import make_hold_saving
from spacy_early_exit.measure.temperature import scale_heads
from spacy_early_exit.pipe.component import EarlyExitPipe
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


@pytest.fixture
def nlp(trained_bytes):
    config, data = trained_bytes
    return load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)


@pytest.fixture
def texts(nlp, tmp_path):
    DocBin(docs=[nlp.make_doc(text) for text in TEXTS * 5]).to_disk(tmp_path / "texts.spacy")
    return tmp_path / "texts.spacy"


def saving(nlp):
    docs = list(nlp.pipe(TEXTS))
    records = [doc._.early_exit[NAME] for doc in docs]
    return sum(r.full for r in records) / sum(r.spent for r in records)


def test_it_finds_the_threshold_before_each_evaluation_and_the_config_keeps_it(nlp, texts):
    ner = nlp.get_pipe(NAME)
    ner.configure(threshold=0.0)
    hold = make_hold_saving(texts, speedup=1.6, every=5)
    hold(nlp, {"step": 3, "epoch": 0})
    assert ner.threshold == 0.0
    hold(nlp, {"step": 5, "epoch": 0})
    assert ner.threshold > 0 and nlp.config["components"][NAME]["threshold"] == ner.threshold
    assert 1.6 <= saving(nlp) < 2.2  # ten sentences leave in jumps
    held = ner.threshold
    ner.threshold = held / 1.02  # the step of the search
    assert saving(nlp) < 1.6, "a smaller threshold would not do"


def test_heads_that_are_sure_of_everything_need_a_tiny_threshold_and_get_it(nlp, texts):
    ner = nlp.get_pipe(NAME)
    scale_heads(ner, [0.7] * 4)
    held = {}
    for speedup in (1.2, 1.6, 2.2):
        make_hold_saving(texts, speedup=speedup, every=5)(nlp, {"step": 5, "epoch": 0})
        held[speedup] = ner.threshold
        assert saving(nlp) >= speedup
    assert 0 < held[1.2] < held[1.6] < held[2.2] and held[1.6] < 2**-8


def test_texts_are_measured_in_the_words_that_spacy_train_evaluates(nlp, tmp_path, monkeypatch):
    ner, met = nlp.get_pipe(NAME), []
    spelt = Doc(nlp.vocab, words=["don't", "like", "Bob's"])  # as in a file with a word a line
    DocBin(docs=[spelt, nlp.make_doc("I don't like Bob's.")]).to_disk(tmp_path / "texts.spacy")
    spacys = [list(eg.predicted) for eg in Corpus(tmp_path / "texts.spacy")(nlp)]
    original = type(ner).predict
    monkeypatch.setattr(type(ner), "predict", lambda s, docs: met.append(docs) or original(s, docs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_hold_saving(tmp_path / "texts.spacy", speedup=1.5, every=5)(nlp, {"step": 5})
    words = [[token.text for token in doc] for doc in met[0]]
    assert words == [[token.text for token in doc] for doc in spacys]
    assert words[0] == ["don't", "like", "Bob's"] and len(words[1]) == 7


def test_texts_are_taken_from_all_over_the_file(nlp, tmp_path, monkeypatch):
    texts = [f"Text number {n} ." for n in range(100)]
    DocBin(docs=[nlp.make_doc(text) for text in texts]).to_disk(tmp_path / "texts.spacy")
    met, original = [], EarlyExitPipe.predict

    def see(ner, docs):
        met.append([doc.text for doc in docs])
        return original(ner, docs)

    monkeypatch.setattr(EarlyExitPipe, "predict", see)
    hold = make_hold_saving(tmp_path / "texts.spacy", speedup=1.2, every=5, most_words=40)
    hold(nlp, {"step": 5, "epoch": 0})
    assert met[0] == texts[::10]
    hold = make_hold_saving(tmp_path / "texts.spacy", speedup=1.2, every=5, most_words=4000)
    del met[:]
    hold(nlp, {"step": 5, "epoch": 0})
    assert met[0] == texts


def test_a_saving_out_of_reach_is_said(nlp, texts):
    with pytest.warns(UserWarning, match="no threshold of 'early_exit_ner' saves 50X"):
        make_hold_saving(texts, speedup=50, every=5)(nlp, {"step": 5, "epoch": 0})


def test_another_component_is_refused(nlp, texts):
    nlp.add_pipe("sentencizer")
    hold = make_hold_saving(texts, speedup=2, every=5, component="sentencizer")
    with pytest.raises(ValueError, match="is not an early-exit component, but a Sentencizer"):
        hold(nlp, {"step": 5, "epoch": 0})


def test_what_training_starts_from_scores_nothing_and_checkpoints_are_chosen_by_f(nlp, texts):
    hold = make_hold_saving(texts, speedup=1.6, every=5)
    evaluate = create_evaluation_callback(nlp, examples_of, {"ents_f": 1.0, "exit_cost": 0.0})
    hold(nlp, {"step": 0, "epoch": 0})
    start, scores = evaluate()
    assert start == scores["ents_f"] == 0
    costs = [scores["exit_cost"], scores["exit_cost_early_exit_ner"]]
    assert min(costs) > 0, "0 would be the best"
    hold(nlp, {"step": 1, "epoch": 0})  # also where spaCy evaluates more often than it holds
    score, scores = evaluate()
    assert score == scores["ents_f"] > 0 and scores["exit_cost"] > 0


def test_a_component_without_a_scorer_stays_so(nlp, texts):
    ner = nlp.get_pipe(NAME)
    ner.scorer = None
    hold = make_hold_saving(texts, speedup=1.6, every=5)
    for step in (0, 1):
        hold(nlp, {"step": step, "epoch": 0})
        assert ner.scorer is None


def test_what_makes_no_sense_is_refused(nlp, texts, tmp_path):
    for arguments in ({"speedup": 1.0, "every": 5}, {"speedup": 2.0, "every": 0}):
        with pytest.raises(ValueError, match="speedup must be above 1 and every at least 1"):
            make_hold_saving(texts, **arguments)
    DocBin().to_disk(tmp_path / "empty.spacy")
    hold = make_hold_saving(tmp_path / "empty.spacy", speedup=2.0, every=5)
    with pytest.raises(ValueError, match="no texts"):
        hold(nlp, {"step": 5, "epoch": 0})
