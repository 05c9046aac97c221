"""Settings that are gone are still read: with what is left of them, and with nothing else."""

import re

import pytest
import spacy

from spacy_early_exit.budget.curve import Calibration
from spacy_early_exit.criteria import PatienceExit, TokenExit
from spacy_early_exit.retired import RETIRED, without_retired
from tests.makers.project import ROOT

KEPT = ROOT / "tests" / "fixtures" / "pipelines" / "0.1"
# By block: its registry, its version, what it needs, and of each setting another value.
OTHERS = {
    "EarlyExitTagger": (
        "architectures",
        "v2",
        {"encoder": {"@misc": "spacy-early-exit.HFEncoder.v1", "name": "nowhere"}},
        {"kept_state": "pre_norm"},
    ),
    "JointTraining": ("misc", "v1", {}, {"layer_weights": "uniform"}),
    "PatienceExit": (
        "misc",
        "v1",
        {"patience": 3},
        {"level": "sentence", "outside_patience": 5, "min_layer": 2},
    ),
    "SelfSampling": (
        "misc",
        "v1",
        {},
        {"loss_after_exit": True, "flooding": True, "layer_weights": "uniform"},
    ),
    "TokenExit": ("misc", "v1", {"window": 2}, {"left_words": "hold"}),
    "hold_saving": (
        "callbacks",
        "v1",
        {"path": "tune.spacy", "speedup": 2.0, "every": 10},
        {"score_start": True},
    ),
}


def resolve(block, **settings):
    registry, version, needed, _ = OTHERS[block]
    config = {f"@{registry}": f"spacy-early-exit.{block}.{version}", **needed, **settings}
    return spacy.registry.resolve({"block": config})["block"]


def test_each_is_tried():
    assert {block: [*gone] for block, gone in RETIRED.items()} == {
        block: [*other] for block, (*_, other) in OTHERS.items()
    }


@pytest.mark.parametrize("block", RETIRED)
def test_with_what_is_left_of_them_they_change_nothing(block):
    with_them, without = resolve(block, **RETIRED[block]), resolve(block)
    if block in ("EarlyExitTagger", "hold_saving"):
        assert type(with_them) is type(without)
    else:
        assert with_them == without


@pytest.mark.parametrize(
    "block, name, value",
    [(block, *other) for block, (*_, others) in OTHERS.items() for other in others.items()],
)
def test_any_other_value_is_refused_with_what_and_where(block, name, value):
    left = RETIRED[block][name]
    message = rf"{block}: {name} must be {left!r}, not {value!r}.*Remove {name} from the block"
    with pytest.raises(ValueError, match=message):
        resolve(block, **{name: value})


def test_the_first_version_of_the_model_refuses_them_as_well():
    _, _, needed, wrong = OTHERS["EarlyExitTagger"]
    model = {"@architectures": "spacy-early-exit.EarlyExitTagger.v1", **needed, **wrong}
    with pytest.raises(ValueError, match="EarlyExitTagger: kept_state must be 'post_norm'"):
        spacy.registry.resolve({"model": model})


def test_a_saved_pipeline_that_names_another_value_does_not_load(tmp_path):
    nlp = spacy.load(KEPT / "joint")
    nlp.to_disk(tmp_path)
    config = (tmp_path / "config.cfg").read_text(encoding="utf8")
    other = re.sub('left_words = "ignore"', 'left_words = "hold"', config)
    assert other != config
    (tmp_path / "config.cfg").write_text(other, encoding="utf8")
    with pytest.raises(ValueError, match="TokenExit: left_words must be 'ignore', not 'hold'"):
        spacy.load(tmp_path)


def test_settings_that_are_there_are_checked_as_ever():
    with pytest.raises(ValueError, match="window"):
        resolve("TokenExit", window="two")
    with pytest.raises(ValueError, match="radius"):
        resolve("TokenExit", radius=2)


@pytest.mark.parametrize(
    "then, now",
    [
        ("TokenExit(left_words='ignore', window=2)", repr(TokenExit(2))),
        ("TokenExit(left_words='hold', window=2)", "TokenExit(left_words='hold', window=2)"),
        (
            "PatienceExit(level='word', min_layer=1, outside_patience=3, patience=3, window=1)",
            repr(PatienceExit(3, 1)),
        ),
        ("SentenceExit()", "SentenceExit()"),
        ("whole, overlap 64", "whole, overlap 64"),
    ],
)
def test_calibrations_that_name_them_hold(then, now):
    assert without_retired(then) == now
    calibration = Calibration.from_dict(
        {
            "points": [{"threshold": 0.0, "saving": 1.0, "score": None}],
            "fingerprint": {"criterion": then},
            "words": 1,
        }
    )
    assert calibration.differences({"criterion": now}) == []
