"""Decoders that learn are trained, saved, loaded and refused with the pipeline they belong to."""

import dataclasses

import numpy as np
import pytest
import spacy
import torch
from spacy.training import Example

from spacy_early_exit.decoders import make_bio_viterbi
from spacy_early_exit.measure.temperature import scale_heads
from spacy_early_exit.pipe.dial import Knob
from spacy_early_exit.relatives.reduction_loop import repeated
from spacy_early_exit.training.base import by_text
from spacy_early_exit.training.joint import JointTraining
from tests.makers.pipelines import answers, train_small, trained_pipeline
from tests.makers.texts import SENTENCES, TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
DECODERS = {
    "crf": {"@misc": "spacy-early-exit.CRFDecoder.v1"},
    "ain": {"@misc": "spacy-early-exit.AINDecoder.v1", "iterations": 2, "order": 2},
}
BELIEF = {"@misc": "spacy-early-exit.BeliefExit.v1", "iterations": 2, "window": 1}


@pytest.fixture(scope="module", params=DECODERS)
def nlp(request, encoders):
    return trained_pipeline(encoders["bert"], decoder=DECODERS[request.param])


def learned(nlp):
    network = nlp.get_pipe(NAME).model.shims[0].trained.network
    return {
        name: parameter.detach().clone() for name, parameter in network.extra_parameters.items()
    }


def test_it_learns_from_the_annotation(nlp):
    known = learned(nlp)
    assert all((parameter != 0).any() for parameter in known.values())
    name = next(name for name in known if name.startswith("transitions"))
    tags = ["O"] + [f"{bi}-{label}" for label in nlp.get_pipe(NAME).labels for bi in "BI"]
    begin, inside = tags.index("B-PER"), tags.index("I-PER")
    # "Ann Lee", "Paris Hilton", "Grace Hopper" go on; nobody is followed by another.
    assert known[name][begin, inside] > known[name][begin, begin]
    for text, entities in SENTENCES:
        doc = nlp(text, component_cfg={NAME: {"threshold": 0}})
        assert [(e.start_char, e.end_char, e.label_) for e in doc.ents] == sorted(entities)


def test_what_it_has_learnt_decides(nlp):
    network = nlp.get_pipe(NAME).model.shims[0].trained.network
    kept = learned(nlp)
    before = [answers(doc) for doc in nlp.pipe(TEXTS)]
    try:
        for parameter in network.extra_parameters.values():
            parameter.data[..., 1:] -= 100.0  # nothing but O begins, ends or follows anything
        assert not any(doc.ents for doc in nlp.pipe(TEXTS))
    finally:
        for name, parameter in network.extra_parameters.items():
            parameter.data = kept[name]
    assert [answers(doc) for doc in nlp.pipe(TEXTS)] == before


@pytest.mark.parametrize("threshold", [0, 0.15, 0.5])
def test_same_answer_alone_and_in_any_batch(nlp, threshold):
    texts, cfg = TEXTS + texts_of_all_lengths(count=20) + [""], {NAME: {"threshold": threshold}}
    alone = [answers(nlp(text, component_cfg=cfg)) for text in texts]
    for size in (2, 64):
        assert [answers(d) for d in nlp.pipe(texts, batch_size=size, component_cfg=cfg)] == alone


def test_it_is_saved_with_the_weights(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    from_bytes = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    for loaded in (spacy.load(tmp_path), from_bytes):
        assert [answers(doc) for doc in loaded.pipe(TEXTS)] == [answers(d) for d in nlp.pipe(TEXTS)]


def test_what_is_no_number_in_it_is_named_before_any_text(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    damaged = spacy.load(tmp_path)
    network = damaged.get_pipe(NAME).model.shims[0].trained.network
    name, parameter = next(iter(network.extra_parameters.items()))
    parameter.data.view(-1)[1] = np.nan
    damaged.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    loaded.set_error_handler(lambda *a: pytest.fail("it is no fault of a text"))
    with pytest.raises(ValueError, match=name):
        list(loaded.pipe(TEXTS))


def test_without_it_the_pipeline_runs_with_plain_decoding(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    block = {"@misc": "spacy-early-exit.BIOViterbi.v1"}
    config = {"components": {NAME: {"decoder": block}}}
    assert [len(doc) for doc in spacy.load(tmp_path, config=config).pipe(TEXTS)]


def test_a_label_that_is_added_grows_it_and_keeps_what_is_known(encoders):
    nlp = train_small(encoders["bert"], steps=2, decoder=DECODERS["crf"])
    before = learned(nlp)
    nlp.get_pipe(NAME).add_label("NEW")
    for name, parameter in learned(nlp).items():
        known = tuple(slice(length) for length in before[name].shape)
        assert set(parameter.shape) == {before[name].shape[0] + 2}
        assert torch.equal(parameter[known], before[name])
        parameter[known] = 0.0
        assert (parameter == 0).all()
    assert nlp(TEXTS[0]) is not None


@pytest.mark.parametrize("stage", ["JointTraining", "SelfSampling"])
def test_it_may_be_learnt_on_top_of_a_pipeline_without_it(stage, encoders, tmp_path):
    first = train_small(encoders["bert"], steps=20)
    first.to_disk(tmp_path)
    block = {"@misc": f"spacy-early-exit.{stage}.v1"}
    nlp = spacy.blank("en")
    config = {"decoder": DECODERS["ain"], "criterion": BELIEF, "training": block}
    nlp.add_pipe(NAME, config={**config, "threshold": 0.15})
    nlp.config["initialize"]["components"] = {NAME: {"start_from": str(tmp_path)}}
    optimizer = nlp.initialize(lambda: examples_of(nlp))
    assert all((parameter == 0).all() for parameter in learned(nlp).values())
    # Without transitions it answers as the pipeline it goes on from.
    at = {NAME: {"threshold": 0}}
    ents = [[str(e) for e in doc.ents] for doc in nlp.pipe(TEXTS, component_cfg=at)]
    assert ents == [[str(e) for e in doc.ents] for doc in first.pipe(TEXTS, component_cfg=at)]
    nlp.update(examples_of(nlp), sgd=optimizer, drop=0.1)
    assert all((parameter != 0).any() for parameter in learned(nlp).values())


@pytest.mark.parametrize("copies", [1, 3])
def test_training_sees_the_texts_that_are_decoded(copies, encoders):
    short = {"window_length": 12, "window_overlap": 4, "batch_wordpieces": 30}
    nlp = train_small(encoders["bert"], steps=2, decoder=DECODERS["crf"], **short)
    docs = [nlp.make_doc(text) for text in (TEXTS[0], " ".join(TEXTS), "", TEXTS[1])]
    ner = nlp.get_pipe(NAME)
    settings = dataclasses.replace(ner.ready(Knob(speedup=1.0)), stage=Repeated(copies))
    scores, _ = ner.model.begin_update((docs, settings))
    assert not scores.owned.all()
    order, texts = by_text(scores)
    starts = [0, *(np.flatnonzero(np.diff(texts)) + 1), len(texts)]
    found = [order[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    words = [(int(scores.doc[rows[0]]), scores.word[rows].tolist()) for rows in found]
    assert words == [(d, list(range(len(doc)))) for d, doc in enumerate(docs) if len(doc)] * copies


class Repeated(JointTraining):
    """Runs every window as often, one time behind the other."""

    def __init__(self, copies):
        super().__init__()
        object.__setattr__(self, "copies", copies)

    def run(self, network, batch, *others):
        return super().run(network, repeated(batch, self.copies), *others)


def test_an_entity_that_begins_with_white_space_has_a_likely_path(encoders):
    nlp = train_small(encoders["bert"], steps=2, decoder=DECODERS["crf"])
    ner, label = nlp.get_pipe(NAME), nlp.get_pipe(NAME).labels[0]
    losses = []
    for text, start in (("x York is", 2), ("x \n York is", 2)):
        example = Example.from_dict(
            nlp.make_doc(text), {"entities": [(start, text.index(" is"), label)]}
        )
        scores, _ = ner.model.begin_update([example.predicted])
        losses.append(ner.get_loss([example], scores)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_gradient_is_that_of_the_loss(encoders):
    nlp = train_small(encoders["bert"], steps=5, decoder=DECODERS["crf"])
    ner, examples = nlp.get_pipe(NAME), examples_of(nlp)
    network = ner.model.shims[0].trained.network
    scores, backprop = ner.model.begin_update([eg.predicted for eg in examples])
    _, gradient = ner.get_loss(examples, scores)
    parameter = network.extra_parameters["transitions"]
    found = []
    for step in (1e-2, -1e-2):
        parameter.data[1, 2] += step
        changed, _ = ner.model.begin_update([eg.predicted for eg in examples])
        found.append(ner.get_loss(examples, changed)[0])
        parameter.data[1, 2] -= step
    expected = (found[0] - found[1]) / 2e-2
    assert gradient.learned["transitions"][1, 2] == pytest.approx(expected, abs=1e-2)
    backprop(gradient)
    np.testing.assert_array_equal(parameter.grad.numpy(), gradient.learned["transitions"])


def test_a_label_that_is_added_between_updates_is_no_problem_for_the_teacher(encoders):
    block = {"@misc": "spacy-early-exit.SelfSampling.v1", "distillation": 4.0}
    nlp = train_small(encoders["bert"], steps=1, training=block)
    nlp.get_pipe(NAME).add_label("NEW")
    assert nlp.update(examples_of(nlp), sgd=nlp.resume_training())[NAME] > 0


def test_what_another_decoder_has_learnt_stays_as_it_is(nlp):
    other = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    other.get_pipe(NAME).decoder = make_bio_viterbi()
    before = learned(other)
    other.update(examples_of(other), sgd=other.resume_training())
    assert all(torch.equal(known, before[name]) for name, known in learned(other).items())


class TestRefused:
    def test_temperatures(self, nlp):
        with pytest.raises(ValueError, match="Temperatures.*Decoder.*BIOViterbi"):
            scale_heads(nlp.get_pipe(NAME), [2.0] * 4)

    def test_a_decoder_that_nothing_was_learnt_for(self, encoders, tmp_path):
        train_small(encoders["bert"], steps=1).to_disk(tmp_path)
        config = {"components": {NAME: {"decoder": DECODERS["crf"]}}}
        nlp = spacy.load(tmp_path, config=config)
        with pytest.raises(ValueError, match="CRFDecoder.*transitions.*another.*start_from"):
            nlp("Ann")
        with pytest.raises(ValueError, match="CRFDecoder"):
            list(nlp.pipe(TEXTS))
        with pytest.raises(ValueError, match="CRFDecoder"):
            nlp.update(examples_of(nlp))

    def test_a_criterion_whose_decoder_is_another(self, encoders):
        nlp = train_small(encoders["bert"], steps=1, decoder=DECODERS["ain"], criterion=BELIEF)
        assert len(nlp("Ann"))
        with pytest.raises(ValueError, match="BeliefExit.*transitions_1.*start_from"):
            train_small(encoders["bert"], steps=1, criterion=BELIEF)
