"""GPUs, where there is one, and mixed precision, which a CPU has as well."""

import numpy as np
import pytest
import spacy
import thinc.api
import torch

from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.temperature import heads_on
from tests.makers.commands import run
from tests.makers.encoders import FAMILIES
from tests.makers.pipelines import answers, blank, train_small, trained_pipeline
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
