"""What else a process tells torch changes nothing: not what is learnt, not what is said."""

import contextlib

import pytest
import spacy
import torch

from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.temperature import fit_temperatures, scale_heads
from spacy_early_exit.network.products import packed
from spacy_early_exit.runtime.torch_state import usual_dtype, usual_torch
from tests.makers.encoders import FAMILIES, VARIANTS
from tests.makers.marks import rest_slow
from tests.makers.pipelines import answers, blank
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths
from tests.model.test_devices import STAGES

NAME = "early_exit_ner"


SOME_QUICK = rest_slow(
    [(family,) for family in (*FAMILIES, *VARIANTS)],
    lambda family: family in ("bert", "modernbert", "deberta-v2"),
)


@contextlib.contextmanager
def told(tell, value, usual):
    """Torch after a call that changes it for good."""
    tell(value)
    try:
        yield
    finally:
        tell(usual)


STATES = {
    "float64": lambda: told(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: told(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "no_gradients": lambda: told(torch.set_grad_enabled, False, True),
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta_device": lambda: told(torch.set_default_device, "meta", None),
    "cpu_device": lambda: told(torch.set_default_device, "cpu", None),
    "deterministic": lambda: told(torch.use_deterministic_algorithms, True, False),
    "no_denormals": lambda: told(torch.set_flush_denormal, True, False),
    "several": lambda: several("bfloat16", "meta_device", "inference_mode", "autocast"),
}


@contextlib.contextmanager
def several(*names):
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(STATES[name]())
        yield


# Those that change most.
QUICK_STATES = ("float64", "inference_mode", "several")


@pytest.fixture(params=rest_slow([(name,) for name in STATES], lambda name: name in QUICK_STATES))
def state(request):
    return STATES[request.param]


@pytest.fixture(scope="module")
def saved(trained_bytes, tmp_path_factory):
    """The folder of a trained pipeline."""
    config, data = trained_bytes
    config = spacy.util.Config().from_str(config)
    nlp = spacy.util.load_model_from_config(config, auto_fill=True).from_bytes(data)
    nlp.to_disk(folder := tmp_path_factory.mktemp("saved"))
    return folder


def quantized(precision):
    return {"components": {NAME: {"quantize": precision}}}


def initialized(encoder, start_from=None, **config):
    """A pipeline before its first step."""
    spacy.util.fix_random_seed(0)
    nlp = blank(encoder, **config)
    if start_from is not None:
        nlp.config["initialize"]["components"] = {NAME: {"start_from": str(start_from)}}
    optimizer = nlp.initialize(lambda: examples_of(nlp))
    optimizer.learn_rate = 1e-3
    return nlp, optimizer


def take_steps(nlp, optimizer, steps=2):
    spacy.util.fix_random_seed(0)
    for _ in range(steps):
        nlp.update(examples_of(nlp), sgd=optimizer, drop=0.1)
    return weights_of(nlp)


def train_on(nlp, steps=1):
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 1e-3
    return take_steps(nlp, optimizer, steps)


def weights_of(nlp):
    return nlp.get_pipe(NAME).model.shims[0].trained.network.state_dict()


def assert_same(weights, others):
    assert {name: weight.dtype for name, weight in weights.items()} == {
        name: torch.float32 for name in others
    }
    assert [name for name in others if not torch.equal(weights[name], others[name])] == []


def logits_of(nlp):
    pipe, texts = nlp.get_pipe(NAME), [*TEXTS, *texts_of_all_lengths(count=16)]
    found = pipe.predict([nlp.make_doc(text) for text in texts])
    return [(f.exits.logits.tobytes(), f.exits.exit_layer.tolist(), f.tags.tolist()) for f in found]


class TestPredicting:
    @pytest.mark.parametrize("precision", [None, "int8"])
    def test_answers_are_the_same(self, state, saved, precision):
        plain = spacy.load(saved, config=quantized(precision))
        nlp = spacy.load(saved, config=quantized(precision))  # what is derived is made in the state
        with state():
            found = logits_of(nlp), answers(nlp(TEXTS[0])), [answers(d) for d in nlp.pipe(TEXTS)]
        expected = answers(plain(TEXTS[0])), [answers(d) for d in plain.pipe(TEXTS)]
        assert found == (logits_of(plain), *expected)

    def test_answers_of_packed_weights_are_the_same(self, state, saved, monkeypatch):
        if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            pytest.skip("this torch has no packed products")
        monkeypatch.setattr("spacy_early_exit.model.copies.is_worth_packing", lambda network: True)
        plain, nlp = spacy.load(saved), spacy.load(saved)
        with state():
            found = logits_of(nlp)
        assert found == logits_of(plain)

    def test_whether_to_pack_is_found_out_as_usual(self, state, monkeypatch):
        monkeypatch.setattr(packed, "VENDORS", ("",))  # any
        monkeypatch.setattr(packed, "_is_faster_here", packed._is_faster_here.__wrapped__)
        usual = packed._is_faster_here()
        with state():
            assert packed._is_faster_here() == usual

    @pytest.mark.parametrize("family", SOME_QUICK)
    def test_answers_of_every_family_are_the_same(self, family, encoders, tmp_path):
        nlp, _ = initialized(encoders[family], threshold=0.9)
        expected = logits_of(nlp)
        for name in ("float64", "several"):
            with STATES[name]():
                assert logits_of(nlp) == expected, name

    @pytest.mark.parametrize("stage", ["crf", "ain", "beliefs", "reduction", "patience"])
    def test_answers_of_every_decoder_and_criterion_are_the_same(self, stage, saved, encoders):
        nlp, _ = initialized(encoders["bert"], saved, threshold=0.9, **STAGES[stage])
        expected = logits_of(nlp)
        for name in ("float64", "several"):
            with STATES[name]():
                assert logits_of(nlp) == expected, name

    def test_calibrations_and_temperatures_are_the_same(self, saved):
        found = []
        for surroundings in (contextlib.nullcontext, STATES["several"]):
            with surroundings():
                nlp = spacy.load(saved)
                pipe, examples = nlp.get_pipe(NAME), examples_of(nlp)
                temperatures = fit_temperatures(pipe, examples)
                scale_heads(pipe, temperatures)
                found.append((temperatures, calibrate(pipe, examples, [1.5]).points))
            train_on(nlp)  # its heads are parameters as before
        assert found[0] == found[1]


class TestTraining:
    def test_initialize_and_the_first_steps_are_the_same(self, state, encoders):
        expected = take_steps(*initialized(encoders["bert"]))
        with state():
            found = take_steps(*initialized(encoders["bert"]))
        assert_same(found, expected)

    @pytest.mark.parametrize("stage", list(STAGES))
    def test_every_stage_is_the_same(self, stage, saved, encoders):
        expected = take_steps(*initialized(encoders["bert"], saved, **STAGES[stage]))
        for name in ("float64", "no_gradients", "several"):
            with STATES[name]():
                found = take_steps(*initialized(encoders["bert"], saved, **STAGES[stage]))
            assert_same(found, expected)

    @pytest.mark.parametrize("family", SOME_QUICK)
    def test_every_family_is_the_same(self, family, encoders):
        expected = take_steps(*initialized(encoders[family]), steps=1)
        for name in ("float64", "several"):
            with STATES[name]():
                found = take_steps(*initialized(encoders[family]), steps=1)
            assert_same(found, expected)

    def test_mixed_precision_is_the_same_and_follows_the_weights(self, encoders):
        model = {"model": {"mixed_precision": True}}
        expected = take_steps(*initialized(encoders["bert"], **model), steps=3)
        for name in ("autocast", "several"):
            with STATES[name]():
                found = take_steps(*initialized(encoders["bert"], **model), steps=3)
            assert_same(found, expected)

    def test_new_labels_and_averages_are_the_same(self, state, saved):
        found = []
        for surroundings in (contextlib.nullcontext, state):
            nlp = spacy.load(saved)
            with surroundings():
                spacy.util.fix_random_seed(0)
                nlp.get_pipe(NAME).add_label("NEW")
                optimizer = nlp.resume_training()
                optimizer.learn_rate, optimizer.averages = 1e-3, {}
                take_steps(nlp, optimizer)
                with nlp.use_params(optimizer.averages):
                    averages = {name: w.clone() for name, w in weights_of(nlp).items()}
            found.append((averages, train_on(nlp)))
        for expected, same in zip(*found):
            assert_same(same, expected)


class TestLoading:
    def test_what_was_loaded_from_a_folder_learns_the_same(self, state, saved):
        with state():
            nlp = spacy.load(saved)
        assert_same(weights_of(nlp), weights_of(spacy.load(saved)))
        assert_same(train_on(nlp), train_on(spacy.load(saved)))

    def test_what_was_loaded_from_bytes_and_copied_learns_the_same(self, state, saved):
        plain, nlp = spacy.load(saved), spacy.load(saved)
        with state():
            nlp.from_bytes(plain.to_bytes())
            pipe = nlp.get_pipe(NAME)
            pipe.model = pipe.model.copy()
            assert nlp.to_bytes() == plain.to_bytes()
        assert_same(train_on(nlp), train_on(plain))

    def test_what_is_saved_is_the_same(self, state, saved, tmp_path):
        with state():
            spacy.load(saved).to_disk(tmp_path)
        for file in (saved / NAME).rglob("*.*"):
            assert (tmp_path / NAME / file.relative_to(saved / NAME)).read_bytes() == (
                file.read_bytes()
            )


@pytest.mark.parametrize("name", list(STATES))
def test_torch_is_left_as_it_was(name):
    def seen():
        new = torch.empty(1)
        recorded = (torch.get_default_dtype(), torch.is_grad_enabled(), new.is_inference())
        return recorded, new.dtype, new.device, torch.is_autocast_enabled("cpu")

    with STATES[name]():
        before = seen()
        with usual_torch():
            new, one = torch.zeros(1), torch.tensor(0.1)
            assert (new.dtype, one.dtype, new.device.type) == (torch.float32, torch.float32, "cpu")
            assert one.item() == torch.tensor(0.1, dtype=torch.float32, device="cpu").item()
            assert torch.tensor([1]).dtype == torch.arange(3).dtype == torch.int64
            assert torch.zeros(1, dtype=torch.float64).dtype == torch.float64
            assert torch.is_grad_enabled() and not new.is_inference()
        assert seen() == before


def test_an_encoder_may_be_taken_from_what_is_made_for_it():
    with STATES["bfloat16"]():
        with usual_dtype(), usual_dtype():  # by the same thread
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.bfloat16
