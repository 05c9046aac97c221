"""Adam as thinc has it, computed by torch."""

import numpy as np
import pytest
import spacy
import torch
from spacy import registry
from thinc.api import Optimizer, warmup_linear

from spacy_early_exit.training.adam import FusedAdam, make_adam
from tests.makers.project import ROOT

KEY = (0, "W")


def steps_of(optimizer, steps=40, shape=(50, 30), scale=2.0):
    """The weights after steps along random gradients, of which some are clipped."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=shape).astype(np.float32)
    for _ in range(steps):
        size = rng.choice([1e-6, 1e-2, 1.0])
        gradient = (rng.normal(size=shape) * size).astype(np.float32)
        weights, gradient = optimizer(KEY, weights, gradient, lr_scale=scale)
        assert not gradient.any()
        optimizer.step_schedules()
    return weights


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"L2": 0.0, "grad_clip": 0.0, "use_averages": False},
        {"L2": 0.1, "L2_is_weight_decay": False},
        {"beta1": 0.8, "beta2": 0.99, "eps": 1e-3},
    ],
)
def test_its_steps_are_those_of_thinc(how):
    ours, theirs = make_adam(1e-3, **how), registry.optimizers.get("Adam.v1")(1e-3, **how)
    assert type(ours) is FusedAdam and type(theirs) is Optimizer
    np.testing.assert_allclose(steps_of(ours), steps_of(theirs), atol=5e-6)
    for mine, other in ((ours.mom1, theirs.mom1), (ours.mom2, theirs.mom2)):
        np.testing.assert_allclose(mine[KEY], other[KEY], rtol=1e-4, atol=1e-9)
    assert ours.nr_update == theirs.nr_update
    if theirs.averages is None:
        assert ours.averages is None
    else:
        np.testing.assert_allclose(ours.averages[KEY], theirs.averages[KEY], atol=5e-6)


def test_weight_decay_differs_by_that_of_the_step():
    """thinc takes the step before it decays, torch after it."""
    how = {"L2": 0.01, "grad_clip": 1.0, "use_averages": False}
    ours, theirs = make_adam(1e-3, **how), registry.optimizers.get("Adam.v1")(1e-3, **how)
    difference = np.abs(steps_of(ours) - steps_of(theirs)).max()
    # 40 steps of at most about the rate, each decayed once: 2e-3 * 2e-3 * 0.01 * 40
    assert 0 < difference < 1e-5


def test_schedules_of_the_rate_move_it():
    rates = [1e-3, 5e-4]
    warm = [warmup_linear(rate, warmup_steps=5, total_steps=40) for rate in rates]
    high, low = (steps_of(make_adam(rate, use_averages=False)) for rate in warm)
    theirs = registry.optimizers.get("Adam.v1")
    same = steps_of(theirs(warmup_linear(1e-3, 5, 40), use_averages=False))
    np.testing.assert_allclose(high, same, atol=5e-6)
    assert np.abs(high - low).max() > 1e-4


def test_weights_that_torch_cannot_change_in_place_are_left_to_thinc():
    weights = np.asfortranarray(np.ones((4, 3), dtype=np.float32))
    gradient = np.ones((4, 3), dtype=np.float32)
    found, _ = make_adam(1e-2, L2=0.0)(KEY, weights, gradient)
    same, _ = registry.optimizers.get("Adam.v1")(1e-2, L2=0.0)(
        KEY, np.ones((4, 3), dtype=np.float32), np.ones((4, 3), dtype=np.float32)
    )
    np.testing.assert_allclose(found, same)
    assert found.max() < 1.0


@pytest.mark.parametrize("sizes", [(6, 3), (3, 6)])
def test_sizes_that_do_not_fit_are_refused_before_anything_is_written(sizes):
    weights, gradient = (np.ones(size, dtype=np.float32) for size in sizes)
    with pytest.raises(ValueError, match="shape"):
        make_adam(0.1, use_averages=False)(KEY, weights, gradient)
    assert np.array_equal(weights, np.ones(sizes[0], dtype=np.float32))


def test_weights_that_have_grown_since_the_last_step_are_refused():
    optimizer = make_adam(0.1, use_averages=False)
    optimizer(KEY, np.ones(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(ValueError, match="shape"):
        optimizer(KEY, np.ones(8, np.float32), np.ones(8, np.float32))


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_callers_default_device_does_not_matter(device):
    with torch.device(device):
        found = steps_of(make_adam(1e-3, use_averages=False), steps=3)
    same = steps_of(make_adam(1e-3, use_averages=False), steps=3)
    assert np.array_equal(found, same)


def test_it_has_no_other_attributes_than_thincs():
    with pytest.raises(AttributeError):
        make_adam(0.1).learning_rate = 0.2


def test_without_momenta_it_is_thincs_gradient_descent():
    optimizer = make_adam(0.1, beta1=0.0, beta2=0.0, L2=0.0, grad_clip=0.0)
    weights, _ = optimizer(KEY, np.ones(3, np.float32), np.ones(3, np.float32))
    np.testing.assert_allclose(weights, 0.9)


def test_parameters_without_values_are_left_alone():
    nothing = np.zeros((0, 3), dtype=np.float32)
    weights, gradient = make_adam(0.1)(KEY, nothing, nothing)
    assert weights.shape == gradient.shape == (0, 3)


CONFIGS = [p for p in sorted((ROOT / "configs").glob("*.cfg")) if "[training.opt" in p.read_text()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_use_it(path):
    config = spacy.util.load_config(path, interpolate=False)
    assert config["training"]["optimizer"]["@optimizers"] == "spacy-early-exit.Adam.v1"


def test_other_components_learn_with_it():
    """thinc's own layers count on gradients that are 0 after the step."""
    nlp = spacy.blank("en")
    tagger = nlp.add_pipe("tagger")
    docs = [("the cat", ["D", "N"]), ("a dog", ["D", "N"])]
    examples = [
        spacy.training.Example.from_dict(nlp.make_doc(text), {"tags": tags}) for text, tags in docs
    ]
    for tag in ("D", "N"):
        tagger.add_label(tag)
    nlp.initialize(lambda: examples)
    optimizer = make_adam(0.01)
    for _ in range(20):
        losses = {}
        nlp.update(examples, sgd=optimizer, losses=losses)
    assert losses["tagger"] < 0.1
    assert [token.tag_ for token in nlp("the dog")] == ["D", "N"]
