"""The guarantee errs as rarely as it says, and is not empty."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from spacy.util import Config, load_model_from_config

from spacy_early_exit.budget.guarantee import accept_in_order, documents_needed, hoeffding_bentkus
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.guarantee import guarantee
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"


def exact_cdf(most, trials, p):
    p = Fraction(p)
    return float(
        sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(most + 1))
    )


@pytest.mark.parametrize(
    "documents, mean, bound", [(50, 0.02, 0.1), (400, 0.0125, 0.03), (9, 0, 0.5)]
)
def test_the_p_value_is_the_smaller_of_two_bounds(documents, mean, bound):
    heads = mean * math.log(mean / bound) if mean else 0.0
    divergence = heads + (1 - mean) * math.log((1 - mean) / (1 - bound))
    bentkus = math.e * exact_cdf(math.ceil(documents * mean - 1e-9), documents, bound)
    expected = min(math.exp(-documents * divergence), bentkus, 1.0)
    assert hoeffding_bentkus(mean, documents, bound) == pytest.approx(expected, rel=1e-9)
    assert hoeffding_bentkus(bound, documents, bound) == 1.0


def test_how_many_documents_it_takes():
    assert documents_needed(0.0, 0.02, 0.95) == math.ceil(math.log(0.05) / math.log(0.98)) == 149
    for mean in (0.0, 0.005, 0.01, 0.018):
        needed = documents_needed(mean, 0.02, 0.95)
        assert hoeffding_bentkus(mean, needed, 0.02) <= 0.05 + 1e-9
        assert hoeffding_bentkus(mean, int(needed * 0.9), 0.02) > 0.05
    assert documents_needed(0.0199999, 0.02, 0.95) > 10**9, "and that soon"
    assert documents_needed(0.02, 0.02, 0.95) is None


@pytest.mark.parametrize("kind", ["rare and total", "small and common"])
def test_it_errs_at_most_as_often_as_stated(kind):
    """Documents are drawn over and over; to choose what is truly above the bound is an error."""
    rng, bound, confidence, documents, trials = np.random.default_rng(0), 0.05, 0.9, 300, 3000
    true = np.linspace(0.01, 0.09, 17)  # of settings from slow to fast; nine keep the bound
    errors, chosen = 0, []
    for _ in range(trials):
        # One draw for all settings: what differs at a slow one differs at a faster one, too.
        luck = rng.random(documents)
        if kind == "rare and total":
            shares = (luck[None] < true[:, None]).astype(float)
        else:
            shares = np.clip(true[:, None] * 2 * luck[None], 0, 1)
        verdicts = accept_in_order(len(true), shares.tolist().__getitem__, bound, confidence)
        passed = sum(verdict.passed for verdict in verdicts)
        chosen.append(passed)
        errors += passed > 0 and true[passed - 1] > bound
    print(f"{errors} errors in {trials} trials, {np.mean(chosen):.1f} settings accepted")
    assert errors / trials <= 1 - confidence
    assert np.mean(chosen) > 2, "it must not be empty"
    if kind == "rare and total":
        assert errors > 0, "the test must be able to see an error"


def test_testing_ends_with_the_first_failure():
    tried = []
    shares = [[0.0] * 500, [0.0] * 500, [0.5] * 500, [0.0] * 500]
    verdicts = accept_in_order(4, lambda i: tried.append(i) or shares[i], 0.05, 0.95)
    assert tried == [0, 1, 2] and [v.passed for v in verdicts] == [True, True, False]


@pytest.fixture(scope="module")
def ner(trained_bytes):
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    ner = nlp.get_pipe(NAME)
    texts = [*TEXTS, *texts_of_all_lengths(count=60)]
    calibrate(
        ner, examples_of(nlp, [(text, []) for text in texts]), [1.2, 1.5, 2, 3], with_score=False
    )
    return nlp, ner


def shares_of(nlp, docs, threshold):
    texts = [doc.text for doc in docs]
    full, early = (
        list(nlp.pipe(texts, component_cfg={NAME: {"threshold": t}})) for t in (0.0, threshold)
    )
    return [
        np.mean([a.ent_iob_ + a.ent_type_ != b.ent_iob_ + b.ent_type_ for a, b in zip(one, other)])
        for one, other in zip(early, full)
    ]


@pytest.mark.takes(seconds=10)
@pytest.mark.parametrize("most", [5, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.takes(seconds=12)
@pytest.mark.slow
def test_on_a_pipeline_it_chooses_the_fastest_that_passed(most, ner):
    nlp, ner = ner
    texts = [" ".join(text.split()[:most]) for text in texts_of_all_lengths(count=400)]
    docs = [nlp.make_doc(text) for text in texts if text.strip()]
    found = guarantee(ner, [*docs, nlp.make_doc("")], 0.1, 0.9)
    assert found.documents == len(docs)
    speedups = [saving for saving, _ in found.candidates]
    assert speedups == sorted(speedups) and found.speedup > 1.0
    passed = [v.passed for v in found.verdicts]
    assert passed[:-1] == [True] * (len(passed) - 1)
    last = sum(passed) - 1
    assert (found.speedup, found.threshold) == found.candidates[last]
    assert found.verdicts[last].mean == pytest.approx(
        np.mean(shares_of(nlp, docs, found.threshold))
    )
    tight = guarantee(ner, docs, 0.009, 0.9)
    assert tight.speedup < found.speedup


def test_a_curve_of_full_depth_alone_has_nothing_to_guarantee(ner):
    nlp, ner = ner
    kept = ner.calibration
    ner.calibration = replace(kept, points=kept.points[:1])
    try:
        with pytest.raises(ValueError, match="only full depth"):
            guarantee(ner, [nlp.make_doc(text) for text in TEXTS], 0.5, 0.5)
    finally:
        ner.calibration = kept


def test_too_few_documents_are_refused_with_the_number_that_is_needed(ner):
    nlp, ner = ner
    with pytest.raises(ValueError, match=r"10 documents are too few.*takes 149"):
        guarantee(ner, [nlp.make_doc(text) for text in TEXTS], 0.02, 0.95)
    with pytest.raises(ValueError, match="max_disagreement must be between 0 and 1"):
        guarantee(ner, [], 2.0, 0.95)
