"""Training components that share an encoder, in spaCy's loop."""

import warnings

import pytest
import spacy
import torch
from spacy.tokens import Doc
from thinc.api import PyTorchGradScaler

from spacy_early_exit.model import learn_shared
from spacy_early_exit.network.all_heads import run_all_heads, run_all_layers
from spacy_early_exit.training import taught
from spacy_early_exit.training.halting import SpeedupDraws
from spacy_early_exit.training.joint import JointTraining
from tests.makers.shared import (
    NER,
    TAGGER,
    add_tagger,
    all_answers,
    blank_shared,
    both_of,
    shared_encoder,
    step,
    train_shared,
)
from tests.makers.texts import TEXTS

SECOND = {"@misc": "spacy-early-exit.SelfSampling.v1", "max_threshold": 0.5}
FULL = {NER: {"threshold": 0.0}}


@pytest.fixture
def nlp(encoders):
    nlp = blank_shared(encoders["bert"])
    nlp.initialize(lambda: both_of(nlp))
    return nlp


@pytest.fixture
def passes(monkeypatch):
    """How many batches went through the encoder, while learning."""
    found = []
    real = learn_shared._run_batch

    def counted(network, batch, settings, dropout):
        found.append(batch)
        return real(network, batch, settings, dropout)

    monkeypatch.setattr(learn_shared, "_run_batch", counted)
    return found


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, module) -> bool:
    return any(not torch.equal(value, before[n]) for n, value in module.state_dict().items())


def heads_of(nlp, name):
    return nlp.get_pipe(name).network.heads


def gradients(nlp) -> dict:
    encoder = nlp.get_pipe(NER).network.encoder
    return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.takes(seconds=10)
def test_both_are_learnt(encoders):
    nlp = train_shared(blank_shared(encoders["bert"]), steps=40)
    scores = nlp.evaluate(both_of(nlp), component_cfg=FULL)
    assert scores["ents_f"] > 0.8 and scores["pos_acc"] > 0.9


@pytest.mark.takes(seconds=15)
def test_three_are_learnt_in_one_pass(encoders, passes):
    """The third learns features."""
    nlp = blank_shared(encoders["bert"])
    model = {"encoder": shared_encoder()}
    training = {"@misc": "spacy-early-exit.JointTraining.v1", "detach_early_heads": False}
    add_tagger(nlp, "features", attribute="morph", model=model, training=training)
    examples = both_of(nlp)
    for token in (token for eg in examples for token in eg.reference):
        token.set_morph("Case=Nom|Number=Sing" if token.is_title else "")
    train_shared(nlp, steps=40, examples=examples)
    assert len(passes) == 40
    scores = nlp.evaluate(examples, component_cfg=FULL)
    assert scores["ents_f"] > 0.8 and scores["pos_acc"] > 0.9 and scores["morph_acc"] > 0.9
    assert nlp.config["training"]["score_weights"]["morph_acc"] > 0, "checkpoints are chosen by it"
    doc = nlp("Ann lives in Oslo.")
    assert str(doc[0].morph) == "Case=Nom|Number=Sing" and doc[0].pos_ == "PROPN"


def test_the_encoder_runs_once_for_both_and_losses_are_added(nlp, passes):
    optimizer = nlp.create_optimizer()
    losses = step(nlp, both_of(nlp), optimizer)
    assert len(passes) == 1
    assert set(losses) == {NER, TAGGER} and all(loss > 0 for loss in losses.values())
    step(nlp, both_of(nlp), optimizer)
    assert len(passes) == 2


def test_the_encoders_gradient_is_that_of_both_losses(nlp):
    """Beside autograd's own, of both losses in one graph."""
    examples = both_of(nlp)
    nlp.update(examples, sgd=False, drop=0.0)
    ner, tagger = nlp.get_pipe(NER), nlp.get_pipe(TAGGER)
    ner.model.shims[0].learning_pass.teach_encoder()
    found = gradients(nlp)
    for parameter in ner.network.parameters():
        parameter.grad = None

    from spacy_early_exit.model.predict import windows_for
    from spacy_early_exit.network.batch import Batch
    from spacy_early_exit.pipe.targets import targets
    from spacy_early_exit.training.base import Answers, Places

    run = ner.ready()
    docs = [eg.predicted for eg in examples]
    windows = windows_for(ner.model.shims[0].trained, docs, run)
    batch = Batch.of(windows, torch.device("cpu"), run.kv, run.halt_special)
    total = 0.0
    for pipe in (ner, tagger):
        logits = run_all_heads(pipe.network, batch)
        gold = torch.from_numpy(targets(pipe, examples, Places.of(windows)))
        layers = torch.full_like(batch.piece_of_word, len(logits))
        total = total + JointTraining(detach_early_heads=False).loss(
            Answers(logits, layers, None), gold
        )
    total.backward()
    expected = gradients(nlp)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_batches_in_parts_add_up(nlp, passes):
    """accumulate_gradient: several updates before a step."""
    examples = both_of(nlp)
    nlp.update(examples[:5], sgd=False, drop=0.0)
    nlp.update(examples[5:], sgd=False, drop=0.0)
    shim = nlp.get_pipe(NER).model.shims[0]
    shim.learning_pass.teach_encoder()
    in_parts = gradients(nlp)
    for pipe in (nlp.get_pipe(NER), nlp.get_pipe(TAGGER)):
        for parameter in pipe.network.parameters():
            parameter.grad = None
    nlp.update(examples, sgd=False, drop=0.0)
    shim.learning_pass.teach_encoder()
    for name, gradient in gradients(nlp).items():
        torch.testing.assert_close(gradient, in_parts[name], rtol=1e-3, atol=1e-5)


def test_an_optimizer_in_nlp_update_works_too(encoders):
    nlp = blank_shared(encoders["bert"])
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: both_of(nlp))
    optimizer.learn_rate = 5e-3
    for _ in range(40):
        nlp.update(both_of(nlp), sgd=optimizer, drop=0.0)
    scores = nlp.evaluate(both_of(nlp), component_cfg=FULL)
    assert scores["ents_f"] > 0.8 and scores["pos_acc"] > 0.9


class TestGradientScaling:
    """fp16 with scaled gradients, on a CPU, where thinc refuses to scale."""

    def blank(self, encoders, monkeypatch, scale):
        monkeypatch.setattr(PyTorchGradScaler, "_scale_tensor", lambda self, t, *_: t * self._scale)
        model = {"mixed_precision": True, "grad_scaler_config": {"init_scale": scale}}
        owner = {"model": {"encoder": {"name": encoders["bert"]}, **model}}
        nlp = blank_shared(encoders["bert"], owner)
        spacy.util.fix_random_seed(0)
        nlp.initialize(lambda: both_of(nlp))
        return nlp

    def test_the_encoders_gradient_is_nearly_that_of_fp32(self, encoders, monkeypatch):
        nlp = self.blank(encoders, monkeypatch, 1024.0)
        shim = nlp.get_pipe(NER).model.shims[0]
        found = {}
        for name in ("fp16", "fp32"):
            shim.mixed_precision = name == "fp16"
            if name == "fp32":
                shim.scaler = None
            nlp.update(both_of(nlp), sgd=False, drop=0.0)
            shim.learning_pass.teach_encoder()
            assert not shim._overflowed()
            found[name] = [
                *gradients(nlp).values(),
                *(h.weight.grad for h in heads_of(nlp, NER).values()),
            ]
            for parameter in nlp.get_pipe(NER).network.parameters():
                parameter.grad = None
        for mixed, plain in zip(found["fp16"], found["fp32"], strict=True):
            assert not torch.equal(mixed, plain) or not plain.any()
            assert (mixed - plain).norm() <= 0.1 * plain.norm() + 1e-3

    def test_both_are_learnt_and_the_scale_is_the_owners(self, encoders, monkeypatch):
        nlp = self.blank(encoders, monkeypatch, 1024.0)
        optimizer = nlp.create_optimizer()
        optimizer.learn_rate = 5e-3
        first, *_, last = [step(nlp, both_of(nlp), optimizer) for _ in range(20)]
        assert all(last[name] < 0.7 * first[name] for name in (NER, TAGGER))
        scalers = [nlp.get_pipe(name).model.shims[0].scaler for name in (NER, TAGGER)]
        assert scalers[0]._growth_tracker.item() == 20 and scalers[1] is None

    def test_a_step_that_overflows_is_left_out(self, encoders, monkeypatch):
        nlp = self.blank(encoders, monkeypatch, 2.0**100)
        ner, tagger = nlp.get_pipe(NER), nlp.get_pipe(TAGGER)
        before, heads = weights_of(ner.network), weights_of(tagger.network.heads)
        step(nlp, both_of(nlp), nlp.create_optimizer())
        assert not changed(before, ner.network) and not gradients(nlp)
        assert ner.model.shims[0].scaler._scale.item() == 2.0**99
        assert changed(heads, tagger.network.heads), "its gradients are not scaled"

    def test_a_borrower_has_no_scale(self, encoders):
        model = {"encoder": shared_encoder(), "mixed_precision": True, "grad_scaler_config": {}}
        with pytest.raises(ValueError, match=f"that of '{NER}'. Set grad_scaler_config there"):
            blank_shared(encoders["bert"], tagger={"model": model})


class TestMissingAnnotation:
    def test_carries_no_loss(self, nlp):
        only_names = nlp.update(both_of(nlp, tags=False), sgd=False)
        assert only_names[NER] > 0 and only_names[TAGGER] == 0
        only_tags = nlp.update(both_of(nlp, names=False), sgd=False)
        assert only_tags[NER] == 0 and only_tags[TAGGER] > 0
        examples = both_of(nlp, tags=True)
        for example in examples:
            words, pos = zip(*((token.text, token.pos_) for token in example.reference))
            example.reference = Doc(nlp.vocab, words=words, pos=pos)
        assert nlp.update(examples, sgd=False)[NER] == 0, "nothing is known of names"

    def test_texts_with_names_and_others_with_tags_teach_both(self, encoders):
        nlp = blank_shared(encoders["bert"])
        examples = [*both_of(nlp, tags=False), *both_of(nlp, names=False)]
        train_shared(nlp, steps=60, examples=examples)
        scores = nlp.evaluate(both_of(nlp), component_cfg=FULL)
        assert scores["ents_f"] > 0.8 and scores["pos_acc"] > 0.9


class TestFreezing:
    def test_the_owner_is_frozen(self, nlp):
        encoder = weights_of(nlp.get_pipe(NER).network.encoder)
        heads = weights_of(heads_of(nlp, NER))
        own = weights_of(heads_of(nlp, TAGGER))
        optimizer = nlp.create_optimizer()
        for _ in range(3):
            losses = step(nlp, both_of(nlp), optimizer, exclude=[NER])
        assert NER not in losses
        assert not changed(encoder, nlp.get_pipe(NER).network.encoder)
        assert not changed(heads, heads_of(nlp, NER)) and changed(own, heads_of(nlp, TAGGER))
        assert not gradients(nlp), "what is left would be part of the next step"

    def test_the_borrower_is_frozen(self, nlp):
        encoder = weights_of(nlp.get_pipe(NER).network.encoder)
        own = weights_of(heads_of(nlp, TAGGER))
        step(nlp, both_of(nlp), nlp.create_optimizer(), exclude=[TAGGER])
        assert changed(encoder, nlp.get_pipe(NER).network.encoder)
        assert not changed(own, heads_of(nlp, TAGGER))

    def test_a_borrower_that_no_longer_learns_is_warned_of(self, nlp):
        """The encoder changes under its heads."""
        optimizer = nlp.create_optimizer()
        optimizer.learn_rate = 1e-4
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for sgd in (False, optimizer):  # spaCy takes steps after all, or after each
                for _ in range(3):
                    nlp.update(both_of(nlp), sgd=sgd)
        step(nlp, both_of(nlp), optimizer, exclude=[TAGGER])
        with pytest.warns(UserWarning, match=f"'{TAGGER}', over the same encoder, did not learn"):
            step(nlp, both_of(nlp), optimizer, exclude=[TAGGER])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step(nlp, both_of(nlp), optimizer, exclude=[TAGGER])

    def test_an_owner_whose_encoder_stays_may_learn_alone(self, encoders):
        model = {"encoder": {"name": encoders["bert"]}, "freeze_encoder": True}
        nlp = blank_shared(encoders["bert"], {"model": model})
        optimizer = nlp.initialize(lambda: both_of(nlp))
        optimizer.learn_rate = 1e-4
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                step(nlp, both_of(nlp), optimizer, exclude=[TAGGER])

    def test_who_learns_again_from_the_same_batch_learns_alone(self, nlp):
        examples, optimizer = both_of(nlp), nlp.create_optimizer()
        step(nlp, examples, optimizer)
        tagger, own = nlp.get_pipe(TAGGER), weights_of(heads_of(nlp, TAGGER))
        tagger.update(examples, sgd=optimizer)
        tagger.update(examples, sgd=optimizer)
        assert changed(own, heads_of(nlp, TAGGER))
        assert not gradients(nlp), "what is left would be part of the owner's next step"

    @pytest.mark.parametrize("frozen", ["freeze_encoder", "freeze_full_depth"])
    def test_a_borrower_that_does_not_teach_the_encoder(self, encoders, frozen):
        nlp = blank_shared(encoders["bert"])
        nlp.remove_pipe(TAGGER)
        add_tagger(nlp, model={"encoder": shared_encoder(), frozen: True})
        nlp.initialize(lambda: both_of(nlp))
        nlp.update(both_of(nlp), sgd=False, drop=0.0)
        nlp.get_pipe(NER).model.shims[0].learning_pass.teach_encoder()
        both = gradients(nlp)
        for parameter in nlp.get_pipe(NER).network.parameters():
            parameter.grad = None
        nlp.update(both_of(nlp), sgd=False, drop=0.0, exclude=[TAGGER])
        nlp.get_pipe(NER).model.shims[0].learning_pass.teach_encoder()
        for name, gradient in gradients(nlp).items():
            assert torch.equal(gradient, both[name])

    def test_a_borrower_added_to_a_finished_pipeline_leaves_its_answers_bit_for_bit(
        self, encoders, tmp_path
    ):
        nlp = blank_shared(encoders["bert"])
        nlp.remove_pipe(TAGGER)
        train_shared(nlp, steps=30)
        thresholds = (0.0, 0.03, 0.3)
        before = [all_answers(nlp, component_cfg={NER: {"threshold": t}}) for t in thresholds]
        logits = [one.logits for one in nlp.get_pipe(NER).predict(list(map(nlp.make_doc, TEXTS)))]
        tagger = add_tagger(nlp)
        tagger.initialize(lambda: both_of(nlp), nlp=nlp)
        optimizer = nlp.create_optimizer()
        optimizer.learn_rate = 5e-3
        for _ in range(30):
            step(nlp, both_of(nlp), optimizer, exclude=[NER])
        nlp.to_disk(tmp_path / "saved")
        again = spacy.load(tmp_path / "saved")
        assert again.evaluate(both_of(nlp), component_cfg=FULL)["pos_acc"] > 0.5
        with again.select_pipes(disable=TAGGER):
            for threshold, expected in zip(thresholds, before):
                assert all_answers(again, component_cfg={NER: {"threshold": threshold}}) == [
                    {**one, "pos": [""] * len(one["pos"])} for one in expected
                ]
            docs = list(map(again.make_doc, TEXTS))
            found = [one.logits for one in again.get_pipe(NER).predict(docs)]
        assert all((a == b).all() for a, b in zip(found, logits))
        # With the tagger, at full depth: the same passes, and one head more.
        together = all_answers(again, component_cfg=FULL)
        assert [one["ents"] for one in together] == [one["ents"] for one in before[0]]


@pytest.fixture(scope="module")
def first_stage(encoders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    train_shared(blank_shared(encoders["bert"]), steps=30).to_disk(folder)
    return folder


class TestTheSecondStage:
    def second(self, encoders, folder, tagger=None, **stage):
        training = {**SECOND, **stage}
        own = {"training": training if tagger is None else {**training, **tagger}}
        nlp = blank_shared(encoders["bert"], {"training": training}, own)
        for name in (NER, TAGGER):
            nlp.config["initialize"]["components"][name] = {"start_from": str(folder)}
        optimizer = nlp.initialize(lambda: both_of(nlp))
        optimizer.learn_rate = 1e-3
        return nlp, optimizer

    @pytest.mark.parametrize(
        "stage",
        [{}, {"pattern": "off_policy"}, {"pattern": "random"}, {"max_speedup": 3.0}],
        ids=str,
    )
    def test_it_trains_both(self, encoders, first_stage, passes, stage):
        nlp, optimizer = self.second(encoders, first_stage, **stage)
        loaded = spacy.load(first_stage)
        assert not changed(weights_of(heads_of(loaded, TAGGER)), heads_of(nlp, TAGGER))
        for _ in range(4):
            losses = step(nlp, both_of(nlp), optimizer)
            assert all(0 < losses[name] < 1e4 for name in (NER, TAGGER))
        assert len(passes) == 4
        teachers = [nlp.get_pipe(name).model.shims[0].teacher() for name in (NER, TAGGER)]
        assert teachers[0].encoder is teachers[1].encoder, "one copy of the encoder teaches both"
        assert nlp.evaluate(both_of(nlp), component_cfg=FULL)["pos_acc"] > 0.8

    @pytest.mark.parametrize("pattern", ["on_policy", "off_policy"])
    def test_the_teachers_are_asked_once_of_each_text(
        self, encoders, first_stage, monkeypatch, pattern
    ):
        nlp, optimizer = self.second(encoders, first_stage, pattern=pattern)
        batches = []

        def watched(network, batch):
            batches.append(batch)
            return run_all_layers(network, batch)

        monkeypatch.setattr(taught, "run_all_layers", watched)
        for _ in range(3):
            step(nlp, both_of(nlp), optimizer)
        assert len(batches) == 1, "one pass, for the teachers of both"

    @pytest.mark.parametrize(
        "stage", [{}, {"aggressive_share": 0.3}, {"max_speedup": 3.0}], ids=str
    )
    def test_all_tasks_are_at_one_threshold_in_each_window(self, encoders, first_stage, stage):
        """As when predicting. If each drew its own, words would hardly exit."""
        nlp, _ = self.second(encoders, first_stage, full_share=0.3, **stage)
        ner, kinds = nlp.get_pipe(NER), set()
        for _ in range(6):
            nlp.update(both_of(nlp), sgd=False, drop=0.0)
            for part in ner.model.shims[0].learning_pass.parts:
                names, tags = part.haltings.values()
                assert torch.equal(names.thresholds, tags.thresholds)
                assert torch.equal(names.choice, tags.choice)
                kinds.update(names.thresholds.tolist())
        assert 0.0 in kinds and len(kinds) > 4

    def test_layers_at_random_are_drawn_once(self, encoders, first_stage):
        nlp, _ = self.second(encoders, first_stage, pattern="random")
        nlp.update(both_of(nlp), sgd=False, drop=0.0)
        (part,) = nlp.get_pipe(NER).model.shims[0].learning_pass.parts
        names, tags = part.exit_layers.values()
        assert torch.equal(names, tags) and len(set(names.tolist())) > 2

    def test_a_drawn_speedup_is_that_of_the_slowest_task(self, encoders, first_stage):
        nlp, _ = self.second(encoders, first_stage, max_speedup=3.0, full_share=0.0)
        draws = [nlp.get_pipe(name).training.draws for name in (NER, TAGGER)]
        steps = torch.linspace(1.0, 4.0, len(SpeedupDraws.THRESHOLDS))
        draws[0].speedups, draws[1].speedups = steps, 1.0 + (steps - 1.0) / 4
        nlp.update(both_of(nlp), sgd=False, drop=0.0)
        (part,) = nlp.get_pipe(NER).model.shims[0].learning_pass.parts
        for halting in part.haltings.values():
            place = torch.searchsorted(SpeedupDraws.THRESHOLDS, halting.thresholds)
            assert place.float().mean() > 0.7 * len(steps), "the tagger is slow until the last ones"

    def test_a_word_goes_on_while_any_task_wants_it(self, encoders, first_stage):
        """With a task that wants all words to the end, the other task's states are full depth's."""
        early = {"max_threshold": 1.0, "aggressive_share": 1.0, "full_share": 0.0}
        full = {"aggressive_share": 0.0, "full_share": 1.0}
        nlp, _ = self.second(encoders, first_stage, full, pattern="on_policy", **early)
        ner = nlp.get_pipe(NER)
        last = ner.network.spec.layers
        nlp.update(both_of(nlp), sgd=False, drop=0.0)
        (part,) = ner.model.shims[0].learning_pass.parts
        assert set(part.exit_layers[TAGGER].tolist()) == {last}
        assert set(part.exit_layers[NER].tolist()) == {1}
        states = list(run_all_layers(ner.network, part.batch))
        torch.testing.assert_close(torch.stack(part.states), torch.stack(states))
        assert not torch.allclose(states[0], states[-1])


def test_stages_that_run_the_encoder_themselves_are_refused(encoders):
    search = {"@misc": "spacy-early-exit.EarlyBirdSearch.v1"}
    nlp = blank_shared(encoders["bert"], tagger={"training": search})
    nlp.initialize(lambda: both_of(nlp))
    with pytest.raises(ValueError, match="EarlyBirdSearch can't train in a shared pass"):
        nlp.update(both_of(nlp), sgd=False)
    assert nlp.update(both_of(nlp), sgd=False, exclude=[TAGGER])[NER] > 0, "frozen, it may have any"


def test_a_borrower_before_its_owner_is_not_initialized(encoders):
    nlp = blank_shared(encoders["bert"])
    nlp._components.reverse()
    with pytest.raises(ValueError, match="must come first"):
        nlp.initialize(lambda: both_of(nlp))
