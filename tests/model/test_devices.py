"""GPUs, where there is one, and mixed precision and 16 bits, which a CPU has as well."""

import contextlib
import warnings

import numpy as np
import pytest
import spacy
import thinc.api
import torch
from thinc.api import PyTorchGradScaler

from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.temperature import heads_on
from spacy_early_exit.model import learn, predict
from spacy_early_exit.network.products.half import HALVES as DTYPES
from spacy_early_exit.network.products.half import halved
from tests.makers.commands import run
from tests.makers.encoders import FAMILIES
from tests.makers.pipelines import answers, blank, train_small, trained_pipeline
from tests.makers.shared import blank_shared, train_shared
from tests.makers.texts import TEXTS, examples_of, write_corpus

NAME = "early_exit_ner"
STAGES = {
    "joint": {"training": {"distillation": 1.0, "detach_early_heads": True}},
    "self_sampling": {
        "training": {"@misc": "spacy-early-exit.SelfSampling.v1", "distillation": 1.0}
    },
    "early_bird": {"training": {"@misc": "spacy-early-exit.EarlyBirdSearch.v1"}},
    "sentences": {
        "training": {"@misc": "spacy-early-exit.SelfSampling.v1"},
        "criterion": {"@misc": "spacy-early-exit.SentenceExit.v1"},
    },
    "patience": {
        "training": {"@misc": "spacy-early-exit.SelfSampling.v1"},
        "criterion": {"@misc": "spacy-early-exit.PatienceExit.v1"},
    },
    "beliefs": {
        "training": {"@misc": "spacy-early-exit.SelfSampling.v1"},
        "decoder": {"@misc": "spacy-early-exit.AINDecoder.v1"},
        "criterion": {"@misc": "spacy-early-exit.BeliefExit.v1"},
    },
    "reduction": {
        "training": {"@misc": "spacy-early-exit.ReductionTraining.v1", "joint": True},
        "criterion": {"@misc": "spacy-early-exit.TokenReduction.v1", "layers": [1, 3]},
    },
    "crf": {"decoder": {"@misc": "spacy-early-exit.CRFDecoder.v1"}},
    "ain": {
        "decoder": {"@misc": "spacy-early-exit.AINDecoder.v1"},
        "criterion": {"@misc": "spacy-early-exit.BeliefExit.v1"},
    },
}


def network_of(ner):
    return ner.model.shims[0].trained.network


def block(name):
    return {"@misc": f"spacy-early-exit.{name}.v1"}


def trained_for(steps, encoder, start_from=None, **config):
    """A pipeline after a few steps, and their losses."""
    spacy.util.fix_random_seed(0)
    nlp = blank(encoder, **config)
    examples = examples_of(nlp)
    if start_from is not None:
        nlp.config["initialize"]["components"] = {NAME: {"start_from": str(start_from)}}
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 1e-3
    return nlp, [nlp.update(examples, sgd=optimizer, drop=0.0)[NAME] for _ in range(steps)]


class TestMixedPrecision:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_trains_nearly_as_in_fp32(self, family, encoders):
        _, plain = trained_for(3, encoders[family])
        nlp, mixed = trained_for(3, encoders[family], model={"mixed_precision": True})
        assert mixed != plain
        np.testing.assert_allclose(mixed, plain, rtol=0.1)
        network = nlp.get_pipe(NAME).model.shims[0].trained.network
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}

    @pytest.mark.parametrize("stage", list(STAGES))
    def test_every_stage_and_what_is_learnt_beside_it_train(self, stage, encoders, tmp_path):
        train_small(encoders["bert"], steps=1).to_disk(tmp_path)
        config = {"model": {"mixed_precision": True}, **STAGES[stage]}
        _, losses = trained_for(3, encoders["bert"], tmp_path, **config)
        assert np.isfinite(losses).all()

    @pytest.mark.parametrize("name", ["SentenceExit", "PatienceExit", "BeliefExit"])
    def test_who_leaves_is_judged_in_fp32(self, name, encoders, monkeypatch):
        judge = type(blank(encoders["bert"], criterion=block(name)).get_pipe(NAME).criterion)
        seen, leave = set(), judge.leave

        def watched(self, step, state):
            product = step.states @ step.states.T  # bfloat16 where autocast is on
            seen.update((step.logits.dtype, step.states.dtype, product.dtype))
            return leave(self, step, state)

        monkeypatch.setattr(judge, "leave", watched)
        stage = {"training": block("SelfSampling"), "criterion": block(name)}
        decoder = {"decoder": block("AINDecoder")} if name == "BeliefExit" else {}
        trained_for(1, encoders["bert"], model={"mixed_precision": True}, **stage, **decoder)
        assert seen == {torch.float32}

    @pytest.mark.parametrize("shared", [False, True])
    def test_where_it_is_emulated_a_warning_says_so_once(self, shared, encoders, monkeypatch):
        emulated = "torch does not multiply 16-bit numbers on this processor"

        def told(multiplies):
            monkeypatch.setattr(learn, "multiplies_bfloat16", lambda: multiplies)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if shared:
                    model = {"encoder": {"name": encoders["bert"]}, "mixed_precision": True}
                    train_shared(blank_shared(encoders["bert"], {"model": model}), steps=2)
                else:
                    trained_for(2, encoders["bert"], model={"mixed_precision": True})
            return [emulated in str(one.message) for one in caught].count(True)

        assert told(False) == 1
        assert told(True) == 0

    def test_heads_are_measured_in_fp32(self, encoders):
        nlp, _ = trained_for(1, encoders["bert"])
        ner, examples = nlp.get_pipe(NAME), examples_of(nlp)
        plain, _ = heads_on(ner, examples)
        ner.model.shims[0].mixed_precision = True
        np.testing.assert_array_equal(heads_on(ner, examples)[0], plain)

    def test_it_learns_and_predicts_in_fp32(self, encoders, tmp_path):
        nlp = trained_pipeline(encoders["bert"], model={"mixed_precision": True})
        nlp.to_disk(tmp_path)
        model = {"model": {"mixed_precision": False}}
        plain = spacy.load(tmp_path, config={"components": {NAME: model}})
        assert [answers(nlp(text)) for text in TEXTS] == [answers(plain(text)) for text in TEXTS]


class TestGradientScaling:
    """fp16 with scaled gradients, on a CPU, where thinc refuses to scale."""

    CONFIG = {"mixed_precision": True, "grad_scaler_config": {"init_scale": 1024.0}}

    @pytest.fixture
    def scales_on_a_cpu(self, monkeypatch):
        def scale(self, tensor, known, inplace):
            return tensor * self._scale

        monkeypatch.setattr(PyTorchGradScaler, "_scale_tensor", scale)

    @pytest.mark.takes(seconds=15)
    def test_it_trains_nearly_as_in_fp32(self, encoders, scales_on_a_cpu):
        _, plain = trained_for(3, encoders["bert"])
        nlp, mixed = trained_for(3, encoders["bert"], model=self.CONFIG)
        assert mixed != plain
        np.testing.assert_allclose(mixed, plain, rtol=0.1)
        assert nlp.get_pipe(NAME).model.shims[0].scaler._growth_tracker.item() == 3

    def test_a_step_that_overflows_is_left_out_and_the_scale_falls(self, encoders, scales_on_a_cpu):
        config = {"mixed_precision": True, "grad_scaler_config": {"init_scale": 2.0**100}}
        nlp, _ = trained_for(0, encoders["bert"], model=config)
        shim = nlp.get_pipe(NAME).model.shims[0]
        before = {n: p.detach().clone() for n, p in shim.trained.network.named_parameters()}
        nlp.update(examples_of(nlp), sgd=nlp.resume_training(), drop=0.0)
        for name, parameter in shim.trained.network.named_parameters():
            assert torch.equal(parameter, before[name]) and parameter.grad is None
        assert shim.scaler._scale.item() == 2.0**99

    def test_without_a_gpu_thinc_says_so(self, encoders):
        with pytest.raises(ValueError, match="Gradient scaling is"):
            trained_for(1, encoders["bert"], model=self.CONFIG)

    @pytest.mark.parametrize(
        "config, said",
        [
            ({"grad_scaler_config": {"enabled": True}}, "set mixed_precision = true"),
            ({**CONFIG, "grad_scaler_config": {"scale": 2.0}}, "may have enabled, init_scale"),
            ({**CONFIG, "grad_scaler_config": {"scale": 2.0, "enabled": True}}, "not scale."),
        ],
    )
    def test_settings_that_make_no_sense_are_refused(self, config, said, encoders):
        with pytest.raises(ValueError, match=said):
            blank(encoders["bert"], model=config)

    @pytest.mark.parametrize("config", [{}, {"init_scale": 2.0}])
    def test_spacys_own_block_scales_nothing_without_mixed_precision(self, config, encoders):
        pipe = blank(encoders["bert"], model={"grad_scaler_config": config}).get_pipe(NAME)
        assert pipe.model.shims[0].scaler is None

    def test_switched_off_it_is_bfloat16(self, encoders):
        config = {"mixed_precision": True, "grad_scaler_config": {"enabled": False}}
        assert blank(encoders["bert"], model=config).get_pipe(NAME).model.shims[0].scaler is None


class Test16Bits:
    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_a_pipeline_predicts_in_them_and_stays_in_fp32(self, precision, nlp):
        expected = [answers(doc) for doc in nlp.pipe(TEXTS)]
        ner = nlp.get_pipe(NAME)
        weights = {n: p.detach().clone() for n, p in network_of(ner).named_parameters()}
        ner.precision = precision
        found = [answers(doc) for doc in nlp.pipe(TEXTS)]
        alike = sum(a[0] == b[0] for a, b in zip(found, expected))
        assert alike >= 0.8 * len(TEXTS)
        half = ner.model.shims[0].prepare_for(precision).network
        assert half.encoder.embeddings.word.weight.dtype == DTYPES[precision]
        for name, parameter in network_of(ner).named_parameters():
            assert torch.equal(parameter, weights[name])

    def test_a_calibration_is_for_its_precision(self, nlp):
        ner = nlp.get_pipe(NAME)
        calibrate(ner, examples_of(nlp), [1.2])
        ner.calibrated()
        ner.precision = "bf16"
        with pytest.raises(ValueError, match="precision"):
            ner.calibrated()
        calibrate(ner, examples_of(nlp), [1.2])
        ner.calibrated()

    def test_it_is_part_of_the_config(self, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        loaded = spacy.load(tmp_path, config={"components": {NAME: {"precision": "bf16"}}})
        assert loaded.get_pipe(NAME).precision == "bf16"
        assert len(list(loaded.pipe(TEXTS))) == len(TEXTS)

    @pytest.mark.parametrize(
        "setting, value, said",
        [
            ("precision", "bfloat16", "must be 'fp32' or 'bf16' or 'fp16', not 'bfloat16'"),
            ("precision", None, "not None"),
            ("quantize", "int8", "int8 or in bf16, not both"),
            ("device", 0, "a name such as 'cuda'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, setting, value, said, nlp):
        ner = nlp.get_pipe(NAME)
        ner.precision = "bf16"
        with pytest.raises(ValueError, match=said):
            setattr(ner, setting, value)

    def test_overflow_in_fp16_is_an_error_that_says_so(self, nlp):
        ner = nlp.get_pipe(NAME)
        ner.precision = "fp16"
        with torch.no_grad():
            network_of(ner).encoder.embeddings.norm.weight.fill_(6e4)
        ner.model.shims[0].weights_changed()
        with pytest.raises(ValueError, match="in fp16, which ends at 65,504"):
            nlp("Ann met Bob in Rome.")

    def test_a_gpu_without_bfloat16_is_named(self, nlp, monkeypatch):
        network = network_of(nlp.get_pipe(NAME))
        monkeypatch.setattr(type(network), "device", torch.device("cuda:0"))
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
        with pytest.raises(ValueError, match="which Tesla V100 is not. Set precision to 'fp16'"):
            halved(network, "bf16")


class TestDevice:
    def test_another_device_predicts_from_a_copy(self, nlp):
        ner = nlp.get_pipe(NAME)
        expected = [answers(doc) for doc in nlp.pipe(TEXTS)]
        ner.device = "cpu:0"  # another name
        assert [answers(doc) for doc in nlp.pipe(TEXTS)] == expected
        assert ner.model.shims[0].prepare_for("fp32", "cpu:0").network is not network_of(ner)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_without_a_gpu_it_says_what_to_do(self, nlp):
        nlp.get_pipe(NAME).device = "cuda"
        with pytest.raises(ValueError, match="sees no GPU here. Install a build of torch for GPUs"):
            nlp("Ann")

    def test_training_on_a_gpu_without_cupy_says_what_to_install(self, monkeypatch, nlp):
        network = network_of(nlp.get_pipe(NAME))
        monkeypatch.setattr(type(network), "device", torch.device("cuda:0"))
        monkeypatch.setattr(learn, "has_cupy", False)
        with pytest.raises(ValueError, match="pip install cupy-cuda12x"):
            learn.check_cupy(network)

    def test_batches_are_larger_there(self, nlp, monkeypatch):
        counts, run = [], predict.run_with_exits

        def watched(network, batch, *given):
            counts.append(batch.windows)
            return run(network, batch, *given)

        monkeypatch.setattr(predict, "run_with_exits", watched)
        ner = nlp.get_pipe(NAME)
        ner.batch_wordpieces, ner.threads = 50, 1
        list(nlp.pipe(TEXTS))
        here, counts[:] = len(counts), []
        monkeypatch.setattr(predict, "is_asynchronous", lambda device: True)
        list(nlp.pipe(TEXTS))
        assert len(counts) < here / 2


def no_gpu() -> str:
    """Why there is none to test on; empty if there is."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    found = thinc.api.prefer_gpu()
    thinc.api.require_cpu()
    return "" if found else "thinc sees no GPU: is cupy installed?"


NO_GPU = no_gpu()


@pytest.mark.skipif(bool(NO_GPU), reason=f"not tested on a GPU: {NO_GPU}")
class TestGPU:
    @pytest.fixture(autouse=True)
    def on_gpu(self):
        thinc.api.require_gpu()
        yield
        thinc.api.require_cpu()

    @pytest.mark.parametrize("stage", list(STAGES))
    @pytest.mark.parametrize("mixed_precision", [False, True])
    def test_every_stage_trains_there(self, stage, mixed_precision, encoders, tmp_path):
        train_small(encoders["bert"], steps=1).to_disk(tmp_path)
        config = {"model": {"mixed_precision": mixed_precision}, **STAGES[stage]}
        nlp, losses = trained_for(3, encoders["bert"], tmp_path, **config)
        assert np.isfinite(losses).all()
        assert nlp.get_pipe(NAME).model.shims[0].trained.network.device.type == "cuda"

    @pytest.mark.parametrize("family", FAMILIES)
    def test_what_was_trained_there_answers_alike_on_a_cpu(self, family, encoders, tmp_path):
        nlp = train_small(encoders[family], steps=20)
        calibrate(nlp.get_pipe(NAME), examples_of(nlp), [1.2])
        nlp.to_disk(tmp_path)
        expected = [[(e.start, e.end, e.label_) for e in doc.ents] for doc in nlp.pipe(TEXTS)]
        thinc.api.require_cpu()
        cpu = spacy.load(tmp_path)
        assert cpu.get_pipe(NAME).model.shims[0].trained.network.device.type == "cpu"
        found = [[(e.start, e.end, e.label_) for e in doc.ents] for doc in cpu.pipe(TEXTS)]
        assert found == expected
        cpu.get_pipe(NAME).calibrated()

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_cpus_pipeline_predicts_there_without_cupy(self, precision, encoders):
        thinc.api.require_cpu()
        nlp = train_small(encoders["bert"], steps=20)
        expected = [[(e.start, e.end, e.label_) for e in doc.ents] for doc in nlp.pipe(TEXTS)]
        ner = nlp.get_pipe(NAME)
        ner.device, ner.precision = "cuda", precision
        found = [[(e.start, e.end, e.label_) for e in doc.ents] for doc in nlp.pipe(TEXTS)]
        assert found == expected or precision == "bf16"

    def test_int8_is_refused_there(self, encoders):
        nlp = train_small(encoders["bert"], steps=1, quantize=None)
        nlp.get_pipe(NAME).quantize = "int8"
        with pytest.raises(ValueError, match="is for CPUs"):
            nlp("Ann")

    def test_gpu_id_of_spacy_train(self, encoders, tmp_path):
        corpus = write_corpus(tmp_path / "data")
        for part in ("train", "dev"):
            source = corpus / f"{part}.tsv"
            run("-m", "spacy", "convert", source, tmp_path, "-c", "ner", "-n", "1")
        run(
            *("-m", "spacy", "train", "configs/joint.cfg", "--output", tmp_path, "--gpu-id", "0"),
            *("--paths.train", tmp_path / "train.spacy", "--paths.dev", tmp_path / "dev.spacy"),
            *("--paths.encoder", encoders["bert"], "--training.max_steps", "2"),
            fresh=True,
        )
