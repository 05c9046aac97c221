"""Pipelines that were saved by earlier versions load, and say what they said.
tests/makers/kept.py made them."""

import json

import pytest
import spacy

from tests.makers.kept import NAME, exact, said
from tests.makers.project import ROOT

KEPT = ROOT / "tests" / "fixtures" / "pipelines"
PIPELINES = [f"{path.parent.name}/{path.stem}" for path in sorted(KEPT.glob("*/*.json"))]


@pytest.fixture(scope="module", params=PIPELINES)
def kept(request):
    """A pipeline, and what it is known to say."""
    expected = json.loads((KEPT / f"{request.param}.json").read_text(encoding="utf8"))
    return spacy.load(KEPT / request.param), expected


def test_there_are_pipelines_of_both_stages():
    assert {"0.1/joint", "0.1/self_sampling"} <= set(PIPELINES)


def test_it_says_what_it_said(kept):
    nlp, expected = kept
    for run in expected["runs"]:
        knob = {name: value for name, value in run.items() if name != "docs"}
        found, docs = said(nlp, expected["texts"], **knob), run["docs"]
        assert exact(found) == exact(docs), knob
        for mine, theirs in zip(found, docs):
            assert mine["confidences"] == pytest.approx(theirs["confidences"], abs=1e-4)


def test_words_leave_at_different_layers_in_it(kept):
    _, expected = kept
    layers = {n for run in expected["runs"] for doc in run["docs"] for n in doc["layers"] if n}
    assert len(layers) > 2


def test_it_is_still_calibrated(kept):
    nlp, expected = kept
    calibration = nlp.get_pipe(NAME).calibrated()
    for speedup, threshold in expected["threshold_for"].items():
        assert calibration.threshold_for(float(speedup)) == pytest.approx(threshold, rel=1e-9)


def test_it_can_be_saved_again(kept, tmp_path):
    nlp, expected = kept
    nlp.to_disk(tmp_path)
    texts = expected["texts"]
    assert said(spacy.load(tmp_path), texts, speedup=1.5) == said(nlp, texts, speedup=1.5)
