"""The stages of training."""

import copy
import math
from dataclasses import replace

import pytest
import spacy
import torch

from spacy_early_exit.criteria import SentenceExit, TokenExit
from spacy_early_exit.network.all_heads import run_all_heads, run_all_heads_halting
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.reference import run_reference
from spacy_early_exit.tags import MISSING
from spacy_early_exit.text.windows import windows_of
from spacy_early_exit.training.base import Answers
from spacy_early_exit.training.halting import (
    Drawn,
    RandomHalting,
    SampledHalting,
    draw_thresholds,
    neighbourhoods,
)
from spacy_early_exit.training.joint import make_joint_training
from spacy_early_exit.training.losses import distillation_loss, layer_weighted
from spacy_early_exit.training.self_sampling import make_self_sampling
from tests.makers.networks import network_of
from tests.makers.pipelines import blank, trained_pipeline
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(encoders):
    return network_of(encoders["bert"])


@pytest.fixture
def network(trained):
    """A copy whose layers do not all normalise alike."""
    network = copy.deepcopy(trained.network)
    torch.manual_seed(0)
    for layer in network.encoder.layers:
        torch.nn.init.normal_(layer.output_norm.weight, mean=1.0, std=0.1)
    return network


@pytest.fixture(scope="module")
def batch(trained, en):
    docs = [en.make_doc(text) for text in TEXTS]
    return Batch.of(windows_of(docs, trained.tokenizer, 48, 8), CPU)


def fixed(batch, criterion, threshold):
    """Everybody halts by one criterion at one threshold, as in prediction."""
    return SampledHalting(
        batch=batch,
        thresholds=torch.full((batch.windows,), threshold),
        criteria=[(criterion, criterion.start(batch))],
        choice=torch.zeros(batch.windows, dtype=torch.int64),
        learned={},
    )


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.2, 1.0])
@pytest.mark.parametrize(
    "criterion",
    [SentenceExit(), TokenExit(0), TokenExit(2)],
    ids=str,
)
def test_training_with_halting_sees_what_prediction_will_see(network, batch, criterion, threshold):
    with torch.no_grad():
        halting = fixed(batch, criterion, threshold)
        logits, exit_layer = run_all_heads_halting(network, batch, halting)
        predicted = run_with_exits(network, batch, criterion, threshold)
    assert torch.equal(exit_layer, predicted.exit_layer)
    at_exit = logits[exit_layer - 1, torch.arange(batch.words)]
    torch.testing.assert_close(at_exit, predicted.logits, rtol=1e-4, atol=1e-4)
    if threshold == 0.2 and isinstance(criterion, TokenExit):
        assert len(exit_layer.unique()) > 1


@pytest.mark.parametrize("how", [{"kv": "drop"}, {"halt_special": True}], ids=str)
def test_training_sees_what_prediction_will_see_whatever_becomes_of_what_left(network, batch, how):
    dropping, criterion = replace(batch, **how), TokenExit(0)
    with torch.no_grad():
        halting = fixed(dropping, criterion, 0.2)
        logits, exit_layer = run_all_heads_halting(network, dropping, halting)
        predicted = run_with_exits(network, dropping, criterion, 0.2)
    assert torch.equal(exit_layer, predicted.exit_layer) and len(exit_layer.unique()) > 1
    at_exit = logits[exit_layer - 1, torch.arange(batch.words)]
    torch.testing.assert_close(at_exit, predicted.logits, rtol=1e-4, atol=1e-4)


def test_without_halting_it_is_joint_training(trained, batch):
    halting = fixed(batch, TokenExit(0), 0.0)
    logits, exit_layer = run_all_heads_halting(trained.network, batch, halting)
    assert torch.equal(logits, run_all_heads(trained.network, batch))
    assert (exit_layer == trained.network.spec.layers).all()


def test_detached_early_heads_learn_and_leave_the_encoder_alone(network, batch):
    stage = make_joint_training(detach_early_heads=True)
    answers = stage.run(network, batch, 0.0, TokenExit(0), None)
    for layer, reaches in ((1, False), (network.spec.layers, True)):
        network.zero_grad()
        answers.logits[layer - 1].square().sum().backward(retain_graph=True)
        assert network.head(layer).weight.grad.abs().max() > 0
        gradients = [p.grad for p in network.encoder.parameters() if p.grad is not None]
        assert any(gradient.abs().max() > 0 for gradient in gradients) == reaches
    network.zero_grad()
    assert torch.equal(answers.logits, run_all_heads(network, batch))


def test_windows_that_drew_differently_do_not_mix(trained, batch):
    """Each window halts as if all had drawn the same as it."""
    criteria = [TokenExit(0), TokenExit(2)]
    choice = torch.arange(batch.windows) % 2
    thresholds = torch.linspace(0.0, 0.3, batch.windows)
    mixed = SampledHalting(batch, thresholds, [(c, c.start(batch)) for c in criteria], choice, {})
    with torch.no_grad():
        _, found = run_all_heads_halting(trained.network, batch, mixed)
        for window in range(batch.windows):
            criterion, threshold = criteria[window % 2], float(thresholds[window])
            alone = run_with_exits(trained.network, batch, criterion, threshold).exit_layer
            mine = batch.window_of_word == window
            assert torch.equal(found[mine], alone[mine])
    assert len(found.unique()) > 1


def test_gradients_flow_through_kept_states_as_in_the_plain_loop(network, batch):
    criterion, threshold = TokenExit(0), 0.2
    found = []
    for plain in (False, True):
        network.zero_grad()
        if plain:
            at_exit = run_reference(network, batch, criterion, threshold).logits
        else:
            halting = fixed(batch, criterion, threshold)
            logits, exit_layer = run_all_heads_halting(network, batch, halting)
            at_exit = logits[exit_layer - 1, torch.arange(batch.words)]
        (at_exit**2).mean().backward()
        found.append(
            {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        )
    network.zero_grad()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_heads_answer_for_words_that_left_from_the_state_they_kept(trained, batch):
    network = trained.network
    everybody_at_2 = RandomHalting(torch.full((batch.words,), 2))
    with torch.no_grad():
        logits, exit_layer = run_all_heads_halting(network, batch, everybody_at_2)
        kept = run_with_exits(network, batch, TokenExit(0), 1.0, keep_states=True)
    assert (exit_layer == 2).all() and logits.shape[0] == network.spec.layers
    assert (kept.exit_layer == 1).all()  # so its states are those of layer 1
    with torch.no_grad():
        first = RandomHalting(torch.ones(batch.words, dtype=torch.int64))
        logits, _ = run_all_heads_halting(network, batch, first)
        last = network.logits(network.spec.layers, kept.states[batch.piece_of_word])
    torch.testing.assert_close(logits[-1], last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", ["on_policy", "off_policy", "random"])
def test_patterns(trained, batch, pattern, encoders):
    """On-policy follows the running pass, off-policy the teacher, random nobody."""
    stage = make_self_sampling(
        pattern, max_threshold=0.3, windows=[0], aggressive_share=0.8, distillation=0.0
    )
    sure = network_of(encoders["bert"], spread=5.0).network  # its heads are always certain
    layers = {}
    for name, network, teacher in (
        ("own", sure, trained.network),
        ("theirs", trained.network, sure),
    ):
        torch.manual_seed(0)
        answers = stage.run(network, batch, 0.0, TokenExit(0), teacher)
        layers[name] = answers.exit_head.float().mean().item()
    if pattern == "on_policy":
        assert layers["own"] < layers["theirs"] - 0.5
    elif pattern == "off_policy":
        assert layers["own"] > layers["theirs"] + 0.5
    else:
        assert layers["own"] == layers["theirs"]
    assert stage.needs_teacher == (pattern == "off_policy")


def test_neighbourhoods_and_shares_are_drawn_for_every_window(trained, batch):
    stage = make_self_sampling(
        windows=[3, 0, 1], aggressive_share=0.3, full_share=0.3, distillation=0.0
    )
    torch.manual_seed(0)
    drawn = []  # threshold and neighbourhood
    for _ in range(60):
        halting = stage.halting(trained.network, batch, TokenExit(2), None)
        windows = [halting.criteria[number][0].window for number in halting.choice.tolist()]
        drawn += zip(halting.thresholds.tolist(), windows)
    most = max(threshold for threshold, _ in drawn)
    aggressive = [window for threshold, window in drawn if threshold == most]
    full = [window for threshold, window in drawn if threshold == 0]
    between = [window for threshold, window in drawn if 0 < threshold < most]
    assert most == pytest.approx(0.3) and set(aggressive) == {0}
    for some, share in ((aggressive, 0.3), (full, 0.3)):
        assert len(some) / len(drawn) == pytest.approx(share, abs=0.06)
    for window in (0, 1, 3):
        assert between.count(window) / len(between) == pytest.approx(1 / 3, abs=0.1)


class Anybodys:
    """A criterion that somebody else has written, with a neighbourhood."""

    def __init__(self, window):
        self.window = window

    def with_window(self, window):
        return Anybodys(window)


def test_neighbourhoods_of_any_criterion_are_drawn():
    assert [c.window for c in neighbourhoods(Anybodys(5), [0, 2])] == [0, 2]
    own = Anybodys(5)
    assert neighbourhoods(own, []) == [own]
    assert neighbourhoods(SentenceExit(), [0, 2]) == [SentenceExit()]


def test_random_patterns_use_every_layer_and_spare_a_share(trained, batch):
    stage = make_self_sampling("random", full_share=0.5, distillation=0.0)
    torch.manual_seed(0)
    shares = []
    for _ in range(40):
        exit_layer = stage.run(trained.network, batch, 0.0, SentenceExit(), None).exit_head
        full = torch.stack(
            [(exit_layer[batch.window_of_word == w] == 4).all() for w in range(batch.windows)]
        )
        shares.append(full.float().mean().item())
    assert set(exit_layer.tolist()) == {1, 2, 3, 4}
    assert 0.4 < sum(shares) / len(shares) < 0.75  # short windows may also draw it by chance


def test_drawn_thresholds_have_the_shares_that_were_asked_for():
    torch.manual_seed(0)
    drawn = draw_thresholds(20_000, 0.3, aggressive_share=0.25, full_share=0.4, drawn=Drawn())
    assert drawn.min() == 0.0 and drawn.max() == pytest.approx(0.3)
    assert (drawn == 0.3).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert (drawn == 0).float().mean().item() == pytest.approx(0.4, abs=0.02)
    between = drawn[(drawn > 0) & (drawn < 0.3)]
    assert between.mean().item() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("criterion", [TokenExit(0), SentenceExit()], ids=str)
def test_drawn_speedups_are_those_of_the_network_however_sure_it_is(encoders, batch, criterion):
    """What is known by heart is trained at every depth, too."""
    means, largest = [], []
    for spread in (0.5, 2.0, 8.0):
        network = network_of(encoders["bert"], spread=spread).network
        stage = make_self_sampling(
            windows=[], full_share=0.4, distillation=0.0, max_speedup=network.spec.layers
        )
        torch.manual_seed(0)
        first = stage.run(network, batch, 0.0, criterion, None)
        assert (first.exit_head == network.spec.layers).all()  # nothing was known
        drawn, layers = [], []
        for _ in range(25):
            halting = stage.halting(network, batch, criterion, None)
            _, exit_layer = run_all_heads_halting(network, batch, halting)
            exits = halting.thresholds[batch.window_of_word] > 0
            layers.append(exit_layer[exits].float())
            drawn.append(halting.thresholds)
            stage.run(network, batch, 0.0, criterion, None)
        means.append(torch.cat(layers).mean().item())
        largest.append(torch.cat(drawn).median().item())
        assert (torch.cat(drawn) == 0).float().mean().item() == pytest.approx(0.4, abs=0.1)
    assert largest[0] > 10 * largest[2] > 0
    # Of 4 layers, a speedup from 1 to 4 leaves 4 * ln(4) / 3 on average.
    assert means == pytest.approx([4 * math.log(4) / 3] * 3, abs=0.6)


def example_answers():
    torch.manual_seed(0)
    logits, teacher = torch.randn(4, 6, 5), torch.randn(4, 6, 5)
    return Answers(logits, torch.tensor([1, 2, 3, 4, 4, 2]), teacher)


def at_the_end(answers):
    """As if nobody had left: every head is trained on every word."""
    return answers._replace(exit_head=torch.full_like(answers.exit_head, 4))


TAGS = torch.tensor([0, 1, 2, MISSING, 4, 0])


def by_hand(answers, tags, count):
    """The joint loss as a sum over words and heads; ``count(word, layer)``: what counts."""
    total = 0.0
    for word, tag in enumerate(tags.tolist()):
        for layer in range(1, 5):
            if tag != MISSING and count(word, layer):
                log_p = answers.logits[layer - 1, word].log_softmax(0)
                total += layer / 10 * -log_p[tag].item()
    return total


def test_the_deeper_a_head_the_more_it_weighs_and_none_learns_after_the_exit():
    answers = example_answers()
    exits = answers.exit_head.tolist()
    for make, counts in (
        (make_joint_training, lambda word, layer: True),
        (make_self_sampling, lambda word, layer: layer <= exits[word]),
    ):
        loss = make(distillation=0.0).loss(answers, TAGS).item()
        assert loss == pytest.approx(by_hand(answers, TAGS, counts), rel=1e-5)


def test_distillation_is_a_divergence_on_annotated_words():
    answers = at_the_end(example_answers())
    deepest = answers.teacher[-1]
    losses = distillation_loss(answers.logits, deepest, TAGS)
    assert losses.shape == (4, 6) and (losses[:, 3] == 0).all() and (losses[:, :3] > 0).all()
    for layer, word in ((0, 0), (3, 4)):
        p, q = deepest[word].softmax(0), answers.logits[layer, word].softmax(0)
        kl = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist()))
        assert losses[layer, word].item() == pytest.approx(kl, rel=1e-4)
    same = distillation_loss(deepest.expand(4, -1, -1), deepest, TAGS)
    assert same.abs().max() < 1e-6
    without, with_it = (make_self_sampling(distillation=d).loss(answers, TAGS) for d in (0, 2))
    assert with_it.item() == pytest.approx(without.item() + 2 * layer_weighted(losses).item())


@pytest.mark.parametrize("settings", [{"distillation": 2.0}, {"pseudo_labels": True}], ids=str)
def test_a_teacher_has_no_say_on_tags_that_it_does_not_know(settings):
    answers = at_the_end(example_answers())
    knows_less = answers._replace(teacher=answers.teacher[..., :4])
    new = torch.where(TAGS == 4, TAGS, MISSING)
    stage = make_self_sampling(**{"distillation": 0.0, **settings})
    plain = make_self_sampling(distillation=0.0).loss(answers, new)
    assert stage.loss(knows_less, new).item() == pytest.approx(plain.item())
    assert stage.loss(answers, new).item() != pytest.approx(plain.item())
    old = torch.where(TAGS == 4, MISSING, TAGS)
    assert stage.loss(knows_less, old).item() != pytest.approx(
        make_self_sampling(distillation=0.0).loss(answers, old).item()
    )


@pytest.mark.parametrize(
    "make, wrong",
    [
        (make_joint_training, {"distillation": -1}),
        (make_self_sampling, {"pattern": "sometimes"}),
        (make_self_sampling, {"max_threshold": 1.5}),
        (make_self_sampling, {"windows": [0, -1]}),
        (make_self_sampling, {"full_share": 0.7, "aggressive_share": 0.7}),
        (make_self_sampling, {"max_speedup": 1.0}),
        (make_self_sampling, {"max_speedup": math.inf}),
        (make_self_sampling, {"distillation": float("nan")}),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, wrong):
    with pytest.raises(ValueError, match="must be"):
        make(**wrong)


def test_with_drawn_speedups_no_threshold_is_the_largest():
    with pytest.raises(ValueError, match="aggressive_share = 0"):
        make_self_sampling(aggressive_share=0.1, max_speedup=4.0)


SELF_SAMPLING = {"training": {"@misc": "spacy-early-exit.SelfSampling.v1", "distillation": 0.5}}


@pytest.fixture(scope="module")
def first(encoders, tmp_path_factory):
    """A pipeline after the first stage."""
    folder = tmp_path_factory.mktemp("first") / "pipeline"
    trained_pipeline(encoders["bert"]).to_disk(folder)
    return folder


class TestStartingFromAPipeline:
    def start(self, first, examples=None):
        nlp = blank("nowhere/at-all", threshold=0.15, store_exits=True, **SELF_SAMPLING)
        nlp.config["initialize"]["components"] = {NAME: {"start_from": str(first)}}
        optimizer = nlp.initialize(lambda: examples or examples_of(nlp))
        return nlp, optimizer

    def test_it_goes_on_with_weights_and_labels(self, first):
        nlp, optimizer = self.start(first)
        before = spacy.load(first)
        assert nlp.get_pipe(NAME).labels == before.get_pipe(NAME).labels
        for text in TEXTS:
            assert str(nlp(text).ents) == str(before(text).ents)
        optimizer.learn_rate = 1e-3
        losses = []
        for step in range(40):
            torch.manual_seed(step % 10)  # what is drawn makes the loss jump from step to step
            losses.append(nlp.update(examples_of(nlp), sgd=optimizer)[NAME])
        assert sum(losses[-10:]) < 0.85 * sum(losses[:10])

    def test_the_teacher_stays_what_the_network_was(self, first):
        nlp, optimizer = self.start(first)
        shim = nlp.get_pipe(NAME).model.shims[0]
        before = {n: p.clone() for n, p in shim.trained.network.named_parameters()}
        for _ in range(3):
            nlp.update(examples_of(nlp), sgd=optimizer, drop=0.1)
        for name, parameter in shim.teacher().named_parameters():
            assert torch.equal(parameter, before[name]) and not parameter.requires_grad
        assert any(
            not torch.equal(p, before[n]) for n, p in shim.trained.network.named_parameters()
        )
        saved = nlp.to_bytes()
        assert len(saved) < 1.2 * len(spacy.load(first).to_bytes())  # the teacher is not kept

    def test_a_new_label_is_added(self, first):
        nlp = spacy.blank("en")
        new = examples_of(nlp, [("Bread is cheap.", [(0, 5, "FOOD")])])
        nlp, _ = self.start(first, new)
        assert nlp.get_pipe(NAME).labels == ("LOC", "ORG", "PER", "FOOD")
        assert nlp("Ann Lee lives in New York.").ents[0].label_ == "PER"

    @pytest.mark.parametrize(
        "settings",
        [pytest.param({"distillation": 4.0}, marks=pytest.mark.slow), {"pattern": "off_policy"}],
        ids=str,
    )
    def test_a_new_label_is_learnt_though_the_teacher_does_not_know_it(self, first, settings):
        texts = [("Bread is cheap.", [(0, 5, "FOOD")]), ("We like bread.", [(8, 13, "FOOD")])]
        nlp = spacy.blank("en")
        nlp, optimizer = self.start(first, [*examples_of(nlp), *examples_of(nlp, texts)])
        block = {"@misc": "spacy-early-exit.SelfSampling.v1", **settings}
        ner = nlp.get_pipe(NAME)
        ner.training = spacy.registry.resolve({"stage": block})["stage"]
        assert "FOOD" in ner.labels
        optimizer.learn_rate = 2e-3
        torch.manual_seed(0)
        examples = [*examples_of(nlp), *examples_of(nlp, texts)]
        for _ in range(150):
            nlp.update(examples, sgd=optimizer)
        assert ner.model.shims[0].teacher().tags == 7
        ner.threshold = 0.0
        for text, spans in texts:
            found = [(ent.start_char, ent.end_char, ent.label_) for ent in nlp(text).ents]
            assert spans[0] in found
        assert nlp("Ann Lee lives in New York.").ents[0].label_ == "PER"

    def test_a_folder_without_the_component_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="start_from.*no .*cfg"):
            self.start(tmp_path)
