"""Self-training: what the teacher says, which of it to believe, and what each word is worth."""

import copy

import pytest
import spacy
import torch
from spacy.tokens import DocBin
from spacy.training import Example
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacy_early_exit.criteria import TokenExit
from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.pipe import targets
from spacy_early_exit.tags import MISSING
from spacy_early_exit.text.windows import windows_of
from spacy_early_exit.training.base import Labelled
from spacy_early_exit.training.look_ahead import gradient_on, normalised, slopes_along
from spacy_early_exit.training.loss_decay import LossDecay
from spacy_early_exit.training.losses import layer_weighted, word_losses
from spacy_early_exit.training.pseudo_labels import (
    certainty,
    most_confident,
    pseudo_labels,
    stability,
    target_losses,
)
from spacy_early_exit.training.self_training import make_meta_self_training
from tests.makers.encoders import FAMILIES
from tests.makers.marks import rest_slow
from tests.makers.networks import network_of
from tests.makers.pipelines import blank, trained_pipeline
from tests.makers.texts import SENTENCES, TEXTS, examples_of

NAME = "early_exit_ner"
CPU = torch.device("cpu")
STAGE = "spacy-early-exit.MetaSelfTraining.v1"


@pytest.fixture(scope="module")
def trained(encoders):
    return network_of(encoders["bert"])


@pytest.fixture(scope="module")
def windows(trained, en):
    return list(windows_of([en.make_doc(text) for text in TEXTS], trained.tokenizer, 48, 8))


def labelled_of(windows, seed=0):
    """Windows with tags drawn at random, some of them missing."""
    torch.manual_seed(seed)
    tags = [torch.randint(7, (len(window.words),)).numpy() for window in windows]
    for some in tags:
        some[2::3] = MISSING
    return [Labelled(*one) for one in zip(windows, tags)]


def by_double_backward(network, batch, targets, labelled, labelled_tags, per_head, detach):
    """The weights as published: differentiate the loss on labelled text after a step, with respect
    to the weights of the words in that step.
    """

    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, batch):
            return run_all_heads(self.network, batch, detach_early_heads=detach)

    run = Heads()
    parameters = dict(run.named_parameters())
    rows = network.spec.layers if per_head else 1
    weights = torch.zeros(rows, batch.words, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        losses = target_losses(run(batch), targets) * weights
        loss = losses.sum() if per_head else layer_weighted(losses)
        slopes = torch.autograd.grad(
            loss, [*parameters.values()], create_graph=True, materialize_grads=True
        )
        after = {n: p - 1e-3 * slope for (n, p), slope in zip(parameters.items(), slopes)}
        logits = functional_call(run, after, (labelled,))
        (found,) = torch.autograd.grad(layer_weighted(word_losses(logits, labelled_tags)), weights)
    return normalised(-found)


@pytest.mark.parametrize("detach", [False, True], ids=["all heads teach", "the deepest teaches"])
@pytest.mark.parametrize("per_head", [False, True], ids=["one weight", "one per head"])
@pytest.mark.parametrize("labels", ["sampled", "soft"])
def test_weights_are_those_of_double_backward(trained, windows, labels, per_head, detach):
    network = copy.deepcopy(trained.network).double()
    batch, few = Batch.of(windows[:5], CPU), labelled_of(windows[5:])
    stage = make_meta_self_training(
        weight_per_head=per_head, labelled_texts=99, detach_early_heads=detach
    )
    stage.learn_by(few, wordpieces=40)  # so that there are several batches
    torch.manual_seed(0)
    right = pseudo_labels(torch.randn(batch.words, 7), labels, 7).double()
    weights = stage._weights(network, batch, right)
    tags = torch.cat([torch.from_numpy(one.tags) for one in few])
    labelled = Batch.of([one.window for one in few], CPU)
    expected = by_double_backward(network, batch, right, labelled, tags, per_head, detach)
    assert weights.shape == (network.spec.layers if per_head else 1, batch.words)
    assert (expected > 0).any()
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "family", rest_slow([(f,) for f in FAMILIES], lambda f: f in ("bert", "mpnet", "deberta-v2"))
)
def test_of_every_family_the_derivative_is_a_quotient_of_differences(family, encoders, en):
    trained = network_of(encoders[family])
    network = trained.network.double()
    windows = list(windows_of([en.make_doc(t) for t in TEXTS], trained.tokenizer, 40, 8))
    batch = Batch.of(windows[:5], CPU)
    torch.manual_seed(0)
    right = pseudo_labels(torch.randn(batch.words, 7), "sampled", 7).double()
    few = [(Batch.of([w], CPU), torch.arange(len(w.words)) % 7) for w in windows[5:]]
    direction = gradient_on(network, few, detach_early_heads=False)
    found = slopes_along(network, batch, lambda y: target_losses(y, right), direction, False)
    step = 1e-5 / torch.cat([slope.flatten() for slope in direction.values()]).norm()
    sides = []
    for by in (step, -2 * step, step):
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if f"network.{name}" in direction:
                    parameter += by * direction[f"network.{name}"]
            sides.append(target_losses(run_all_heads(network, batch), right))
    assert found.abs().max() > 0
    scale = found.abs().max().item()
    torch.testing.assert_close(
        found, (sides[0] - sides[1]) / (2 * step), rtol=1e-4, atol=1e-5 * scale
    )


def test_wrong_labels_have_lower_weights_than_right_ones(encoders):
    spacy.util.fix_random_seed(0)
    nlp = blank(encoders["bert"], model={"head_lr_factor": 1.0})
    texts = examples_of(nlp)
    optimizer = nlp.initialize(lambda: texts)
    optimizer.learn_rate = 1e-3  # not more, else tags are favoured and disfavoured as a whole
    for _ in range(30):
        nlp.update(texts, sgd=optimizer, drop=0.0)
    ner = nlp.get_pipe(NAME)
    trained = ner.model.shims[0].trained
    shown = make_meta_self_training()
    targets.show_labelled(shown, ner, trained, texts, ner.ready())
    labelled = shown.labelled
    of_wrong, of_right = [], []
    for half in (0, 1):
        stage = make_meta_self_training(labelled_texts=99, detach_early_heads=False)
        stage.learn_by(labelled[half::2], wordpieces=512)
        others = labelled[1 - half :: 2]
        batch = Batch.of([one.window for one in others], CPU)
        right = torch.cat([torch.from_numpy(one.tags) for one in others])
        for _ in range(5):
            flipped = torch.rand(len(right)) < 0.3
            drawn = (right + torch.randint(1, 7, right.shape)) % 7
            tags = torch.where(flipped, drawn, right)
            one_hot = torch.nn.functional.one_hot(tags, 7).float()
            weights = stage._weights(trained.network, batch, one_hot)[0]
            of_wrong += weights[flipped].tolist()
            of_right += weights[~flipped].tolist()
    assert sum(of_wrong) / len(of_wrong) < 0.6 * sum(of_right) / len(of_right)


class TestSampling:
    def test_texts_whose_losses_change_alike_are_drawn_alike(self):
        decay = LossDecay(4)
        for loss in (2.0, 2.0, 2.0):
            decay.observe(torch.full((4,), loss))
            assert decay.chances().tolist() == pytest.approx([0.25] * 4)

    def test_where_the_loss_falls_a_text_is_drawn_more_often(self):
        decay = LossDecay(3)
        decay.observe(torch.tensor([2.0, 2.0, 2.0]))
        decay.observe(torch.tensor([1.0, 2.0, 3.0]))
        # Their scores are 1, 0 and 0, and the largest is added to each.
        assert decay.chances().tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-4)

    def test_the_last_loss_is_compared_with_the_mean_of_four_before(self):
        decay = LossDecay(2)
        for first in (99.0, 4.0, 3.0, 2.0, 1.0, 0.5):
            decay.observe(torch.tensor([first, 1.0]))
        scores = decay.chances() * (2.0 + 2.0 + 2.0)
        assert scores.tolist() == pytest.approx([4.0, 2.0], abs=1e-3)

    def test_no_text_is_drawn_twice(self):
        assert sorted(LossDecay(5).draw(9)) == [0, 1, 2, 3, 4]
        assert len(set(LossDecay(50).draw(9))) == 9


class TestPseudoLabels:
    def test_sampled_ones_follow_the_softmax(self):
        torch.manual_seed(0)
        logits = torch.tensor([2.0, 1.0, 0.0])
        found = pseudo_labels(logits.expand(20_000, 3), "sampled", 3)
        assert (found.sum(-1) == 1).all()
        assert found.mean(0).tolist() == pytest.approx(logits.softmax(0).tolist(), abs=0.02)

    def test_soft_ones_are_sharper_and_favour_rare_tags(self):
        logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.5, 0.4]])
        p, found = logits.softmax(-1), pseudo_labels(logits, "soft", 2)
        expected = p**2 / p.sum(0)
        torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
        assert found[0, 0] > p[0, 0] and found[2, 1] > 0.5 > p[2, 1]

    @pytest.mark.parametrize("labels", ["sampled", "argmax", "soft"])
    def test_tags_that_the_teacher_does_not_know_are_never_right(self, labels):
        found = pseudo_labels(torch.randn(6, 3), labels, 5)
        assert found.shape == (6, 5) and (found[:, 3:] == 0).all()
        assert found.sum(-1).tolist() == pytest.approx([1.0] * 6)

    def test_their_loss_is_the_cross_entropy(self):
        logits, tags = torch.randn(4, 6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
        targets = torch.nn.functional.one_hot(tags, 5).float()
        torch.testing.assert_close(target_losses(logits, targets), word_losses(logits, tags))


class TestConfidence:
    def test_tags_that_stay_the_same_from_an_early_layer_on_are_stable(self):
        tags = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 1, 1]])
        logits = 3.0 * torch.nn.functional.one_hot(tags, 2).float()
        always, changed, sure = stability(logits)[1], stability(logits)[0], stability(logits)[2]
        assert 2 < always < 3 and 1 < changed < 2 and 0 < sure < 1

    def test_of_equally_stable_tags_the_surer_one_is_more_stable(self):
        logits = torch.tensor([[[1.0, 0.0], [4.0, 0.0]], [[2.0, 0.0], [2.0, 0.0]]])
        assert stability(logits)[1] > stability(logits)[0]

    def test_passes_with_dropout_that_agree_are_certain(self, trained, windows):
        batch = Batch.of(windows, CPU)
        torch.manual_seed(0)
        with_dropout = certainty(trained.network, batch, 4, dropout=0.3)
        without = certainty(trained.network, batch, 2, dropout=0.0)
        with torch.no_grad():
            p = run_all_heads(trained.network, batch)[-1].softmax(-1).max(-1).values
        torch.testing.assert_close(without, p, rtol=1e-4, atol=1e-5)
        assert with_dropout.mean() < without.mean()
        assert with_dropout.min() >= 0 and with_dropout.max() <= 1

    def test_a_share_of_every_tag_is_selected(self):
        tags = torch.tensor([0, 0, 0, 0, 1, 2, 2])
        confidence = torch.tensor([0.1, 0.4, 0.3, 0.2, 0.01, 0.5, 0.5])
        found = most_confident(confidence, tags, 0.5)
        assert found.tolist() == [False, True, True, False, True, True, True]
        assert not most_confident(confidence, tags, 0.0).any()
        assert most_confident(confidence, tags, 1.0).all()

    @pytest.mark.parametrize("confidence", ["heads", "dropout"])
    def test_words_that_are_not_believed_have_no_weight(self, trained, windows, confidence):
        stage = make_meta_self_training(
            labels="argmax", weights="equal", confidence=confidence, keep=0.3
        )
        batch = Batch.of(windows, CPU)
        torch.manual_seed(0)
        answers = stage.run(trained.network, batch, 0.1, TokenExit(0), trained.network)
        weights = answers.own[0].weights
        share = (weights > 0).float().mean().item()
        assert 0.3 <= share < 0.5 and weights.mean().item() == pytest.approx(1.0, rel=1e-4)
        figures = stage.figures()
        assert figures == {"pseudo_weighted": pytest.approx(share), "pseudo_weight": 1.0}
        assert not any(stage.figures().values())  # since the last look

    @pytest.mark.parametrize("confidence", ["heads", "dropout"])
    def test_a_drawn_tag_is_believed_only_if_it_is_the_best(self, trained, windows, confidence):
        stage = make_meta_self_training(weights="equal", confidence=confidence, keep=1.0)
        batch = Batch.of(windows, CPU)
        torch.manual_seed(0)
        answers = stage.run(trained.network, batch, 0.1, TokenExit(0), trained.network)
        targets, weights = answers.own[0]
        with torch.no_grad():
            best = run_all_heads(trained.network, batch)[-1].argmax(-1)
        is_best = targets.argmax(-1) == best
        assert not is_best.all()
        assert torch.equal(weights[0] > 0, is_best)


def test_with_equal_weights_and_its_best_tags_it_is_joint_training(trained, windows):
    batch = Batch.of(windows, CPU)
    stage = make_meta_self_training(weights="equal", labels="argmax", detach_early_heads=False)
    answers = stage.run(trained.network, batch, 0.0, TokenExit(0), trained.network)
    tags = answers.logits[-1].argmax(-1)
    expected = layer_weighted(word_losses(answers.logits, tags))
    nothing = torch.full_like(tags, MISSING)
    torch.testing.assert_close(stage.loss(answers, nothing), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": "hard"},
        {"weights": "learnt"},
        {"sampling": "loss"},
        {"confidence": "entropy"},
        {"keep": 1.5},
        {"labelled_texts": 0},
        {"passes": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=f"MetaSelfTraining: {next(iter(wrong))} must be"):
        make_meta_self_training(**wrong)


@pytest.fixture(scope="module")
def teacher(encoders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "pipeline"
    trained_pipeline(encoders["bert"]).to_disk(folder)
    return folder


class TestAPipeline:
    def start(self, encoder, teacher, labelled=SENTENCES, how=None, **stage):
        spacy.util.fix_random_seed(0)
        block = {"@misc": STAGE, "detach_early_heads": False, **stage}
        nlp = blank(encoder, threshold=0.0, training=block, **(how or {}))
        given = {} if teacher is None else {"start_from": str(teacher)}
        if labelled is not None:
            given["labelled"] = str(self.written(teacher, nlp, labelled))
        self.raw = [Example(nlp.make_doc(t), nlp.make_doc(t)) for t in [*TEXTS, "", "a b"]]
        ner = nlp.get_pipe(NAME)
        ner.initialize(lambda: self.raw, nlp=nlp, **given)
        optimizer = nlp.create_optimizer()
        optimizer.learn_rate = 2e-3
        return nlp, ner, optimizer

    def written(self, folder, nlp, sentences):
        file = folder.parent / "labelled.spacy"
        DocBin(docs=[eg.reference for eg in examples_of(nlp, sentences)]).to_disk(file)
        return file

    def weights_of(self, ner):
        return {n: p.clone() for n, p in ner.network.named_parameters()}

    def test_a_student_begins_with_the_encoder_and_the_teacher_stays(self, encoders, teacher):
        nlp, ner, optimizer = self.start(encoders["bert"], teacher)
        fetched = network_of(encoders["bert"]).network.encoder.state_dict()
        for name, parameter in ner.network.encoder.named_parameters():
            assert torch.equal(parameter, fetched[name])
        nlp.update(self.raw, sgd=optimizer)
        taught = spacy.load(teacher).get_pipe(NAME)
        for name, parameter in ner.model.shims[0].teacher().named_parameters():
            assert torch.equal(parameter, taught.network.state_dict()[name])
        assert ner.labels == taught.labels
        assert 0 < nlp.evaluate(examples_of(nlp))["pseudo_weighted"] <= 1

    @pytest.mark.parametrize(
        "weights, steps", [("equal", 50), pytest.param("look_ahead", 130, marks=pytest.mark.slow)]
    )
    def test_a_student_learns_what_the_teacher_says(self, encoders, teacher, weights, steps):
        nlp, _, optimizer = self.start(encoders["bert"], teacher, weights=weights)
        for _ in range(steps):
            nlp.update(self.raw, sgd=optimizer, drop=0.0)
        assert nlp.evaluate(examples_of(nlp))["ents_f"] > 0.8

    def test_the_same_seed_gives_the_same_weights(self, encoders, teacher):
        found = []
        for _ in range(2):
            nlp, ner, optimizer = self.start(encoders["bert"], teacher, labelled_texts=3)
            for _ in range(3):
                nlp.update(self.raw, sgd=optimizer, drop=0.1)
            found.append(self.weights_of(ner))
        assert [name for name, p in found[0].items() if not torch.equal(p, found[1][name])] == []

    def test_where_no_word_has_a_weight_there_is_no_step(self, encoders, teacher, monkeypatch):
        nlp, ner, optimizer = self.start(encoders["bert"], teacher)
        nlp.update(self.raw, sgd=optimizer)  # so that there is momentum
        before = self.weights_of(ner)
        monkeypatch.setattr(
            type(ner.training), "_weights", lambda self, *_: normalised(-torch.ones(1, _[1].words))
        )
        losses = nlp.update(self.raw, sgd=optimizer)
        assert losses[NAME] == 0.0
        assert all(torch.equal(p, before[name]) for name, p in self.weights_of(ner).items())

    @pytest.mark.parametrize(
        "how",
        [
            {"model": {"mixed_precision": True}},
            {"model": {"freeze_encoder": True}},
            {"batch_wordpieces": 24},
            {"window_length": 12, "window_overlap": 4},
        ],
        ids=str,
    )
    @pytest.mark.parametrize(
        "stage", [{}, {"weight_per_head": True, "confidence": "dropout", "labels": "soft"}], ids=str
    )
    def test_it_goes_with_other_settings(self, encoders, teacher, how, stage):
        nlp, ner, optimizer = self.start(encoders["bert"], teacher, how=how, **stage)
        before = self.weights_of(ner)
        # The loss need not fall: weights go to what is learnt least.
        losses = [nlp.update(self.raw, sgd=optimizer, drop=0.1)[NAME] for _ in range(3)]
        assert all(0 < loss < float("inf") for loss in losses)
        learnt = {n for n, p in self.weights_of(ner).items() if not torch.equal(p, before[n])}
        assert {name for name in before if name.startswith("heads.")} <= learnt
        assert ("encoder.layers.0.qkv.weight" in learnt) == ("freeze_encoder" not in str(how))

    def test_labels_that_the_teacher_does_not_know_are_added(self, encoders, teacher):
        few = [*SENTENCES, ("Bread is cheap.", [(0, 5, "FOOD")])]
        nlp, ner, optimizer = self.start(encoders["bert"], teacher, few)
        assert ner.labels == ("LOC", "ORG", "PER", "FOOD")
        assert ner.model.shims[0].teacher().tags == 7
        assert nlp.update(self.raw, sgd=optimizer)[NAME] > 0

    def test_texts_without_any_word_teach_nothing(self, encoders, teacher):
        nlp, _, optimizer = self.start(encoders["bert"], teacher)
        empty = [Example(nlp.make_doc(text), nlp.make_doc(text)) for text in ("", " ")]
        assert nlp.update(empty, sgd=optimizer)[NAME] == 0.0

    @pytest.mark.parametrize("labels", ["sampled", "argmax", "soft"])
    def test_texts_without_any_entity_are_learnt_from(self, encoders, teacher, labels):
        nlp, ner, optimizer = self.start(encoders["bert"], teacher, labels=labels)
        texts = ("it rains .", "so it does .", "it rains .")
        raw = [Example(nlp.make_doc(text), nlp.make_doc(text)) for text in texts]
        for _ in range(2):
            assert 0 <= nlp.update(raw, sgd=optimizer, drop=0.1)[NAME] < float("inf")
        assert all(p.isfinite().all() for p in self.weights_of(ner).values())

    def test_it_needs_a_teacher_and_labelled_texts(self, encoders, teacher):
        with pytest.raises(ValueError, match="MetaSelfTraining needs a teacher: set start_from"):
            self.start(encoders["bert"], None, labelled=None)
        with pytest.raises(ValueError, match="labelled texts .* have no annotated words"):
            self.start(encoders["bert"], teacher, [(" ", [])])
        nlp, _, optimizer = self.start(encoders["bert"], teacher, labelled=None)
        with pytest.raises(ValueError, match="no labelled texts to weight words by"):
            nlp.update(self.raw, sgd=optimizer)
        nlp, _, optimizer = self.start(encoders["bert"], teacher, None, weights="equal")
        assert nlp.update(self.raw, sgd=optimizer)[NAME] > 0

    def test_a_teacher_with_another_tokenizer_is_refused(self, encoders, teacher):
        with pytest.raises(ValueError, match="teacher of 'early_exit_ner'.* another tokenizer"):
            self.start(encoders["roberta"], teacher)

    def test_a_saved_student_does_not_become_its_own_teacher(self, encoders, teacher, tmp_path):
        nlp, _, optimizer = self.start(encoders["bert"], teacher, weights="equal")
        nlp.update(self.raw, sgd=optimizer)
        nlp.to_disk(tmp_path)
        again = spacy.load(tmp_path)
        with pytest.raises(ValueError, match="MetaSelfTraining has no teacher"):
            again.update(self.raw, sgd=again.resume_training())

    def test_other_stages_take_no_labelled_texts(self, encoders):
        nlp = blank(encoders["bert"])
        with pytest.raises(ValueError, match="JointTraining learns from .* remove labelled"):
            nlp.get_pipe(NAME).initialize(lambda: examples_of(nlp), labelled="few.spacy")
