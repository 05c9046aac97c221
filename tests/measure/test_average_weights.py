"""Checkpoints between the weights that training started from and those that it has reached."""

import pytest
import spacy
import torch
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train

from spacy_early_exit.measure.average_weights import make_average_weights
from spacy_early_exit.recipe import training_config
from tests.makers.pipelines import answers, train_small
from tests.makers.shared import TAGGER, blank_shared, both_of, train_shared
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


def weights_of(nlp, name=NAME):
    return {
        key: w.detach().clone() for key, w in nlp.get_pipe(name).model.shims[0].own_parameters()
    }


def same(some, others):
    return [*some] == [*others] and all(torch.equal(some[key], others[key]) for key in some)


@pytest.fixture
def stages(encoders, tmp_path):
    """The folder of a pipeline, and the same trained further."""
    nlp = train_small(encoders["bert"], steps=5)
    nlp.to_disk(tmp_path / "first")
    for _ in range(3):
        nlp.update(examples_of(nlp), sgd=nlp.resume_training())
    return tmp_path / "first", nlp


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_each_weight_lies_between_both(stages, share):
    path, nlp = stages
    first, second = weights_of(spacy.load(path)), weights_of(nlp)
    found = weights_of(make_average_weights(path, share)(nlp))
    moved = 0
    for key, weight in found.items():
        assert torch.allclose(weight, share * first[key] + (1 - share) * second[key], atol=1e-6)
        moved += not torch.equal(weight, second[key])
    assert moved > 10


def test_shares_of_nothing_and_of_all(stages):
    path, nlp = stages
    assert same(weights_of(make_average_weights(path, 0.0)(nlp)), weights_of(nlp))
    whole = make_average_weights(path, 1.0)(nlp)
    assert same(weights_of(whole), weights_of(spacy.load(path)))
    first = [answers(doc) for doc in spacy.load(path).pipe(TEXTS)]
    assert [answers(doc) for doc in whole.pipe(TEXTS)] == first


def test_training_goes_on_with_its_own_weights(stages):
    path, nlp = stages
    before = weights_of(nlp)
    average = make_average_weights(path, 0.5)
    once = weights_of(average(nlp))
    assert same(weights_of(nlp), before)
    assert same(weights_of(average(nlp)), once)


def test_what_is_saved_is_the_average(stages, tmp_path):
    path, nlp = stages
    averaged = make_average_weights(path, 0.5)(nlp)
    averaged.to_disk(tmp_path / "averaged")
    again = spacy.load(tmp_path / "averaged")
    assert same(weights_of(again), weights_of(averaged))
    expected = [answers(doc) for doc in averaged.pipe(TEXTS)]
    assert [answers(doc) for doc in again.pipe(TEXTS)] == expected


def test_in_spacys_loop(stages, encoders, tmp_path):
    path, nlp = stages
    examples = [example.reference for example in examples_of(nlp)]
    DocBin(docs=examples).to_disk(tmp_path / "train.spacy")
    config = training_config("en", NAME, encoders["bert"], 1e-3)
    config["paths"].update(train=str(tmp_path / "train.spacy"), dev=str(tmp_path / "train.spacy"))
    loaded = spacy.load(path)
    config["components"][NAME] = loaded.config["components"][NAME]
    config["initialize"]["components"] = {NAME: {"start_from": str(path)}}
    config["training"].update(max_steps=2, eval_frequency=2)
    config["training"]["before_to_disk"] = {
        "@callbacks": "spacy-early-exit.average_weights.v1",
        "path": str(path),
        "share": 0.5,
        "texts": str(tmp_path / "train.spacy"),
        "speedup": 1.5,
    }
    (tmp_path / "out").mkdir()
    trained, _ = train(init_nlp(config), tmp_path / "out")
    first, last = weights_of(loaded), weights_of(trained)
    saved = spacy.load(tmp_path / "out" / "model-last")
    assert not same(first, last)
    for key, weight in weights_of(saved).items():
        assert torch.allclose(weight, (first[key] + last[key]) / 2, atol=1e-6)
    # Threshold and scores are those of what is saved.
    scores = saved.evaluate(examples_of(saved))
    assert 1 / scores["exit_cost"] >= 1.5
    said = saved.meta["performance"]
    assert said["ents_f"] == pytest.approx(scores["ents_f"])
    assert said["exit_cost"] == pytest.approx(scores["exit_cost"])
    threshold = saved.config["components"][NAME]["threshold"]
    assert threshold == saved.get_pipe(NAME).threshold
    assert said["threshold"] == pytest.approx(threshold)


def test_all_components_of_a_pass(encoders, tmp_path):
    nlp = train_shared(blank_shared(encoders["bert"]), steps=3)
    nlp.to_disk(tmp_path / "first")
    first = {name: weights_of(nlp, name) for name in (NAME, TAGGER)}
    nlp.update(both_of(nlp), sgd=nlp.resume_training())
    averaged = make_average_weights(tmp_path / "first", 0.5)(nlp)
    for name in (NAME, TAGGER):
        second = weights_of(nlp, name)
        for key, weight in weights_of(averaged, name).items():
            assert torch.allclose(weight, (first[name][key] + second[key]) / 2, atol=1e-6)
    expected = [doc.to_json() for doc in averaged.pipe(TEXTS)]
    averaged.to_disk(tmp_path / "averaged")
    again = spacy.load(tmp_path / "averaged")
    assert [doc.to_json() for doc in again.pipe(TEXTS)] == expected


def test_a_pass_has_its_own_threshold(encoders, tmp_path):
    nlp = train_shared(blank_shared(encoders["bert"]), steps=3)
    nlp.to_disk(tmp_path / "first")
    nlp.update(both_of(nlp), sgd=nlp.resume_training())
    DocBin(docs=[eg.reference for eg in both_of(nlp)]).to_disk(tmp_path / "tune.spacy")
    average = make_average_weights(tmp_path / "first", 0.3, tmp_path / "tune.spacy", 1.5)
    averaged = average(nlp)
    thresholds = {averaged.config["components"][name]["threshold"] for name in (NAME, TAGGER)}
    assert len(thresholds) == 1 and thresholds != {0.15}
    assert averaged.evaluate(both_of(averaged))["mac_speedup"] >= 1.5


def test_an_unreachable_speedup_is_a_warning(stages, tmp_path):
    path, nlp = stages
    DocBin(docs=[eg.reference for eg in examples_of(nlp)]).to_disk(tmp_path / "tune.spacy")
    average = make_average_weights(path, 0.3, tmp_path / "tune.spacy", 100.0)
    with pytest.warns(UserWarning, match="average_weights: no threshold of .* saves 100X"):
        average(nlp)


def test_what_is_learnt_anew_stays(stages, encoders):
    path, _ = stages
    crf = {"@misc": "spacy-early-exit.CRFDecoder.v1"}
    nlp = train_small(encoders["bert"], steps=2, decoder=crf)
    own = weights_of(nlp)
    found = weights_of(make_average_weights(path, 0.5)(nlp))
    assert any(key.startswith("decoder.") for key in own)
    for key, weight in found.items():
        assert torch.equal(weight, own[key]) == key.startswith("decoder.")


@pytest.mark.parametrize("label", ["NEW", "ANOTHER"])
def test_other_labels_are_refused(stages, label):
    path, nlp = stages
    nlp.get_pipe(NAME).add_label(label)
    with pytest.raises(ValueError, match=rf"has the labels .*{label}, but in .* are the labels"):
        make_average_weights(path, 0.5)(nlp)


def test_labels_in_another_order_are_refused(stages, tmp_path):
    path, nlp = stages
    other = spacy.load(path)
    pipe = other.get_pipe(NAME)
    pipe._labels = [*reversed(pipe._labels)]
    other.to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="no label may have been added"):
        make_average_weights(tmp_path / "other", 0.5)(nlp)


def test_a_pipeline_without_the_component_is_refused(stages, tmp_path):
    _, nlp = stages
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ValueError, match="there is no such component"):
        make_average_weights(tmp_path / "blank", 0.5)(nlp)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_impossible_shares_are_refused(share):
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        make_average_weights("nowhere", share)


@pytest.mark.parametrize(
    "given",
    [{"texts": "some.spacy"}, {"speedup": 2.0}, {"texts": "some.spacy", "speedup": 1.0}],
)
def test_texts_and_a_speedup_come_together(given):
    with pytest.raises(ValueError, match="speedup must be above 1, and given if texts are"):
        make_average_weights("nowhere", **given)
