"""Confidences that mean what they say."""

import numpy as np
import pytest
from spacy.training import Example
from spacy.util import Config, load_model_from_config

from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.evaluate import evaluate
from spacy_early_exit.measure.temperature import (
    confidence_error,
    fit_temperatures,
    heads_on,
    scale_heads,
)
from spacy_early_exit.pipe.docs import same_words
from tests.makers.networks import words_of_windows
from tests.makers.pipelines import answers
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


@pytest.fixture
def nlp(trained_bytes):
    config, data = trained_bytes
    return load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)


def half_wrong(nlp):
    """The texts twice, once without their entities: no head can be sure."""
    return [*examples_of(nlp), *examples_of(nlp, [(text, []) for text in TEXTS])]


def test_heads_that_are_too_sure_get_a_temperature_above_1_and_then_fit(nlp):
    ner = nlp.get_pipe(NAME)
    examples = half_wrong(nlp)
    before = [answers(doc) for doc in nlp.pipe(TEXTS, component_cfg={NAME: {"threshold": 0}})]
    found = fit_temperatures(ner, examples)
    assert len(found) == 4 and found[-1] > 1.2  # it is sure, and half of it is wrong
    scale_heads(ner, found)
    assert fit_temperatures(ner, examples) == pytest.approx([1.0] * 4, rel=0.01)
    scale_heads(ner, [2.0, 0.5, 1.0, 4.0])
    again = fit_temperatures(ner, examples)
    assert again == pytest.approx([0.5, 2.0, 1.0, 0.25], rel=0.01)
    after = [answers(doc) for doc in nlp.pipe(TEXTS, component_cfg={NAME: {"threshold": 0}})]
    assert before == after, "at full depth nothing but confidences changes"


def test_long_texts_are_looked_at_a_few_at_a_time(nlp, monkeypatch):
    ner, examples = nlp.get_pipe(NAME), half_wrong(nlp)
    at_once = fit_temperatures(ner, examples)
    counts = words_of_windows(monkeypatch, 30)
    assert fit_temperatures(ner, examples) == pytest.approx(at_once, rel=1e-3)
    words = [len(eg.reference) for eg in examples]
    assert sum(counts) == sum(words) and 2 < len(counts) and max(counts) < 30 + max(words)


def log_loss(ner, examples):
    """Mean of the negative log probability of the right tag, by layer."""
    fresh = [Example(same_words(eg.reference), eg.reference) for eg in examples]
    logits, tags = heads_on(ner, fresh)
    shifted = logits - logits.max(2, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(2, keepdims=True))
    return -log_p[:, np.arange(len(tags)), tags].mean(1)


def test_the_fit_lowers_the_log_loss_of_every_head_and_changes_no_entity(nlp):
    ner, examples = nlp.get_pipe(NAME), half_wrong(nlp)
    loss = log_loss(ner, examples)
    (before,) = evaluate(nlp, ner, examples, [1.0], rounds=0)
    scale_heads(ner, fit_temperatures(ner, examples))
    (after,) = evaluate(nlp, ner, examples, [1.0], rounds=0)
    assert (log_loss(ner, examples) <= loss).all() and log_loss(ner, examples)[-1] < loss[-1] - 0.01
    assert before["ents_f"] == after["ents_f"]
    assert before["confidence_error"] != after["confidence_error"]


def test_a_calibration_does_not_survive_it(nlp):
    ner = nlp.get_pipe(NAME)
    calibrate(ner, examples_of(nlp), [1.5], with_score=False)
    scale_heads(ner, [2.0] * 4)
    with pytest.raises(ValueError, match="calibrated with different weights"):
        ner.calibrated()


def test_the_expected_calibration_error():
    assert confidence_error([]) == 0.0
    assert confidence_error([(0.95, True)] * 19 + [(0.95, False)]) == pytest.approx(0.0)
    assert confidence_error([(1.0, False)]) == 1.0
    # Two bins: 10 of 0.85 with 6 right, 10 of 0.25 with 5 right; errors in each count.
    found = [(0.85, i < 6) for i in range(10)] + [(0.25, i < 5) for i in range(10)]
    assert confidence_error(found) == pytest.approx(0.25)


def test_texts_without_annotation_are_refused(nlp):
    from spacy.tokens import Doc

    doc = Doc(nlp.vocab, words=["a", "b"])
    with pytest.raises(ValueError, match="no word of these is annotated"):
        fit_temperatures(nlp.get_pipe(NAME), [Example(doc, doc.copy())])
