from dataclasses import replace

import pytest
import spacy
import torch
import torch.nn.functional as F
from spacy.tokens import Doc
from spacy.training import Example

from spacy_early_exit.criteria import TokenExit
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.network.all_heads import run_all_heads_halting
from spacy_early_exit.network.batch import Batch, Running
from spacy_early_exit.pipe.dial import Knob
from spacy_early_exit.relatives.reduction_exit import make_token_reduction
from spacy_early_exit.relatives.reduction_loop import repeated, run_tries
from spacy_early_exit.relatives.reduction_training import (
    Decisions,
    Tries,
    make_reduction_training,
    policy_loss,
    saliency,
)
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import network_of
from tests.makers.pipelines import answers, trained_pipeline
from tests.makers.project import OLD_CONFECTION
from tests.makers.texts import SENTENCES, TEXTS, examples_of

NAME = "early_exit_ner"
CPU = torch.device("cpu")
CRITERION = make_token_reduction([1, 3])
BLOCK = {"@misc": "spacy-early-exit.TokenReduction.v1", "layers": [1, 3]}


@pytest.fixture(scope="module")
def trained(encoders):
    trained = network_of(encoders["bert"])
    torch.manual_seed(0)
    trained.network.make_room_for({}, CRITERION.parameters(trained.network.spec))
    return trained


@pytest.fixture(scope="module")
def windows(trained, en):
    docs = [en.make_doc(text) for text in TEXTS]
    return windows_of(docs, trained.tokenizer, 48, 8)


def test_a_batch_repeated_is_that_of_its_windows_repeated(windows):
    found, expected = repeated(Batch.of(windows, CPU), 3), Batch.of(windows * 3, CPU)
    for name, value in vars(expected).items():
        same = torch.equal(value, vars(found)[name]) if torch.is_tensor(value) else None
        assert same if torch.is_tensor(value) else value == vars(found)[name], name


class Alternating:
    """In each copy other words leave, at other layers."""

    def leave(self, layer, words, logits, states):
        return (words * 7 + layer) % 5 == 0 if layer >= 2 else torch.zeros_like(words, dtype=bool)


def test_copies_that_branch_late_are_as_if_each_had_run_from_the_start(trained, windows):
    batch = Batch.of(windows, CPU)
    with torch.no_grad():
        found = run_tries(trained.network, batch, Alternating(), 3, branch_after=2, dropout=0.0)
        expected = run_all_heads_halting(trained.network, repeated(batch, 3), Alternating())
    assert torch.equal(found[1], expected[1]) and len(found[1].unique()) > 2
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)


class TestPolicyLoss:
    WINDOW = torch.tensor([0, 0, 1, 1, 2, 3])  # two tries of a window of two words, of one of one
    ORIGINAL = torch.tensor([0, 0, 1, 1])

    def gradient(self, losses, goes_on, cost_weight, asked=None, known=None, odds=(0.0,) * 6):
        goes_on = torch.tensor([goes_on]) > 0
        asked = torch.ones_like(goes_on) if asked is None else torch.tensor([asked]) > 0
        known = torch.ones(6) > 0 if known is None else torch.tensor(known) > 0
        odds = torch.tensor([odds], requires_grad=True)
        loss = policy_loss(
            torch.tensor(losses),
            known,
            Decisions(odds, goes_on, asked, self.WINDOW, self.ORIGINAL),
            cost_weight,
        )
        return loss, torch.autograd.grad(loss, odds)[0][0]

    def test_tries_that_end_alike_teach_nothing(self):
        _, gradient = self.gradient([1.0, 2.0, 2.0, 1.0, 5.0, 5.0], [1, 0, 0, 1, 1, 1], 0.3)
        assert (gradient == 0).all()

    def test_what_had_the_smaller_loss_becomes_likelier(self):
        _, gradient = self.gradient([0.0, 0.0, 3.0, 1.0, 0.0, 0.0], [1, 1, 1, 0, 1, 1], 0.0)
        assert gradient[0] < 0 and gradient[1] < 0  # went on: odds shall rise
        assert gradient[2] > 0 > gradient[3]  # the other way round in the worse try
        assert (gradient[4:] == 0).all()

    def test_where_losses_are_equal_leaving_becomes_likelier(self):
        _, gradient = self.gradient([0.0] * 6, [1, 1, 0, 0, 0, 1], 0.5)
        assert (gradient > 0).all()  # odds of going on fall in every case

    def test_it_is_what_the_formula_says(self):
        losses, goes_on = [0.5, 1.5, 0.25, 0.25, 2.0, 1.0], [1, 0, 1, 1, 0, 1]
        odds = [0.2, -0.4, 1.0, 0.3, -1.0, 0.5]
        loss, _ = self.gradient(losses, goes_on, 0.5, odds=odds)
        signs = 2 * torch.tensor(goes_on) - 1
        surprise = -F.logsigmoid(signs * torch.tensor(odds))
        # Rewards of the first window's tries: -1 - 0.25 and -0.25 - 0.5; the second's: -2 and
        # -1 - 0.5. So each first try was a quarter worse than the mean.
        of_tries = [surprise[:2].mean(), surprise[2:4].mean(), surprise[4], surprise[5]]
        expected = 2 * 0.25 * (of_tries[1] - of_tries[0]) + 0.25 * (of_tries[3] - of_tries[2])
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)

    def test_words_that_had_left_or_have_no_tag_do_not_count(self):
        asked = [1, 0, 1, 1, 1, 1]
        _, gradient = self.gradient([0.0] * 6, [1, 0, 0, 0, 1, 1], 0.5, asked=asked)
        assert gradient[0] > 0 and gradient[1] == 0
        # The mean is that of the words with a tag: a loss of 1 each time.
        losses, goes_on = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0], [1, 1, 0, 1, 1, 1]
        known = goes_on
        _, gradient = self.gradient(losses, goes_on, 0.0, known=known)
        assert (gradient == 0).all()
        _, gradient = self.gradient(losses, goes_on, 0.0)
        assert (gradient[:4] != 0).all()


def test_saliency_is_the_slope_of_the_loss_towards_the_state_where_a_word_stopped(trained, windows):
    network, batch = trained.network, Batch.of(windows[:4], CPU)
    found = saliency(network, batch, (1, 2))
    # A word may stop where others would be looked at: then one looks further on.
    assert (found != 0).all() and (saliency(network, batch, (1, 3)) != 0).all()
    running, kept, states = Running.all_of(batch), None, {}
    with torch.no_grad():
        kept = network.encoder.embeddings(batch.ids, batch.offsets)
        for number in range(1, 4):  # 4 layers: the reference is the third
            kept = network.encoder.run_layer(number, kept, running)
            states[number] = kept

        def loss(state):
            last = network.encoder.run_layer(4, state, running)
            logits = network.logits(4, last[batch.piece_of_word])
            return F.cross_entropy(logits.double(), right, reduction="sum")

        full = network.encoder.run_layer(4, kept, running)
        right = network.logits(4, full[batch.piece_of_word]).argmax(1)
        for word in range(0, batch.words, 5):
            piece, step = batch.piece_of_word[word], 1e-3
            moved = [kept.clone(), kept.clone()]
            towards = states[1][piece] - kept[piece]
            moved[0][piece] += step * towards
            moved[1][piece] -= step * towards
            slope = (loss(moved[0]) - loss(moved[1])) / (2 * step)
            assert found[0, word].item() == pytest.approx(abs(slope.item()), rel=0.05, abs=0.02)


def test_in_the_imitating_try_the_most_salient_words_go_on(trained, windows):
    batch = repeated(Batch.of(windows, CPU), 2)
    words = batch.words // 2
    important = torch.rand(2, words)
    tries = Tries(CRITERION, trained.network, batch, important)
    torch.manual_seed(0)
    states = torch.randn(batch.words, trained.network.spec.hidden_size)
    left = tries.leave(1, torch.arange(batch.words), states[:, :0], states)
    assert torch.equal(tries.goes_on[0], ~left) and tries.asked[0].all()
    assert not tries.asked[1].any()
    chance = tries.log_odds[0].detach().sigmoid()
    for window in range(len(windows)):
        mine = (batch.window_of_word[:words] == window).nonzero().squeeze(1)
        most = int(chance[mine].sum().round())
        assert int(tries.goes_on[0, mine].sum()) == most
        best = important[0, mine].sort(descending=True).indices[:most]
        assert tries.goes_on[0, mine[best]].all()


def test_words_that_share_a_wordpiece_go_on_together(trained, en):
    doc = Doc(en.vocab, ["Ann", "is", "n't", "in", "New", "York"], [1, 0, 1, 1, 1, 0])
    batch = repeated(Batch.of(windows_of([doc], trained.tokenizer, 48, 8), CPU), 40)
    units = replace(batch, unit_of_word=batch.unit_of_word // 2 * 2)  # two words each
    tries = Tries(CRITERION, trained.network, units)
    words = torch.arange(batch.words)
    states = torch.zeros(batch.words, trained.network.spec.hidden_size)
    tries.leave(1, words, states[:, :0], states - 5 * torch.eye(1, states.shape[1]))
    goes_on = tries.goes_on[0].view(-1, 2)
    assert (goes_on[:, 0] == goes_on[:, 1]).all() and 0 < goes_on.sum() < batch.words


def test_what_selectors_learn_reaches_the_encoder_where_all_learn(trained, windows):
    batch = Batch.of(windows, CPU)
    for joint, reaches in ((False, False), (True, True)):
        stage = make_reduction_training(joint=joint, guided_steps=0)
        answers = stage.run(trained.network, batch, 0.0, CRITERION, None)
        weight = next(iter(trained.network.encoder.layers[0].parameters()))
        odds = answers.own[0].log_odds.sum()
        (found,) = torch.autograd.grad(odds, weight, allow_unused=True)
        assert (found is not None and bool((found != 0).any())) is reaches


def test_nothing_is_imitated_where_all_learn(trained, windows, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "spacy_early_exit.relatives.reduction_training.saliency",
        lambda network, batch, layers: asked.append(1) or torch.rand(len(layers), batch.words),
    )
    for joint in (False, True):
        stage = make_reduction_training(joint=joint)
        stage.run(trained.network, Batch.of(windows[:2], CPU), 0.0, CRITERION, None)
        assert len(asked) == 1


@pytest.fixture(scope="module")
def first(encoders, tmp_path_factory):
    """A pipeline that knows the sentences, without selectors."""
    folder = tmp_path_factory.mktemp("first")
    trained_pipeline(encoders["bert"]).to_disk(folder)
    return folder


def second(
    folder, steps, stage="ReductionTraining", decoder="BIOViterbi", layers=(1, 3), **options
):
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    if stage == "ReductionTraining":
        options = {"guided_steps": 5, **options}
    config = {
        "criterion": {**BLOCK, "layers": list(layers)},
        "training": {"@misc": f"spacy-early-exit.{stage}.v1", **options},
        "decoder": {"@misc": f"spacy-early-exit.{decoder}.v1"},
    }
    nlp.add_pipe(NAME, config={**config, "threshold": 0.5, "store_exits": True})
    nlp.config["initialize"]["components"] = {NAME: {"start_from": str(folder)}}
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 2e-3
    network = nlp.get_pipe(NAME).model.shims[0].trained.network
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for _ in range(steps):
        nlp.update(examples, sgd=optimizer, drop=0.1)
    changed = {
        name.partition(".")[0]
        for name, p in network.named_parameters()
        if not torch.equal(p, before[name])
    }
    return nlp, changed


def share_that_goes_on(nlp):
    layers = [layer for doc in nlp.pipe(TEXTS) for layer in doc._.early_exit[NAME].layers]
    return sum(layer > 1 for layer in layers) / len(layers)


def test_the_selectors_alone_learn_what_may_leave(first):
    untrained, changed = second(first, 0)
    assert changed == set() and share_that_goes_on(untrained) == 1.0
    dear, changed = second(first, 60, cost_weight=50.0)
    assert changed == {"criterion"} and share_that_goes_on(dear) < 0.5


@pytest.mark.slow
def test_jointly_all_learn_and_tags_stay_right_where_words_leave(first):
    nlp, changed = second(first, 80, cost_weight=1.0, joint=True)
    assert changed == {"criterion", "encoder", "heads"}
    assert share_that_goes_on(nlp) < 0.9
    assert nlp.evaluate(examples_of(nlp))["ents_f"] > 0.8


@pytest.mark.slow
def test_a_reduced_pipeline_is_calibrated_saved_and_loaded(first, tmp_path):
    nlp, _ = second(first, 40, cost_weight=0.3)
    ner = nlp.get_pipe(NAME)
    calibration = calibrate(ner, examples_of(nlp), [1.3])
    assert calibration.points[-1].speedup >= 1.25
    nlp.to_disk(tmp_path)
    cfg = {NAME: {"speedup": 1.2}}
    loaded = spacy.load(tmp_path)
    found = [answers(doc) for doc in loaded.pipe(TEXTS, component_cfg=cfg)]
    assert found == [answers(doc) for doc in nlp.pipe(TEXTS, component_cfg=cfg)]
    assert sum(a[3] for a in found) / sum(a[2] for a in found) > 1.1


def test_at_threshold_0_it_is_full_depth(first):
    nlp, _ = second(first, 3)
    docs = nlp.pipe(TEXTS, component_cfg={NAME: {"threshold": 0}})
    plain = spacy.load(first).pipe(TEXTS, component_cfg={NAME: {"threshold": 0}})
    assert [answers(doc) for doc in docs] == [answers(doc) for doc in plain]


def test_texts_without_annotation_teach_nothing(first):
    nlp, _ = second(first, 3)
    words = ["Ann", "met", "Bob"]
    eg = Example.from_dict(Doc(nlp.vocab, words=words), {"words": words, "entities": ["-"] * 3})
    ner = nlp.get_pipe(NAME)
    scores, _ = ner.model.begin_update(([eg.predicted], settings_of(ner)))
    loss, gradient = ner.get_loss([eg], scores)
    assert loss == 0.0 and (gradient.own[0] == 0).all() and (gradient.logits == 0).all()


def settings_of(ner):
    return replace(ner.ready(Knob(speedup=1.0)), criterion=ner.criterion, stage=ner.training)


@pytest.mark.parametrize("joint", [False, True])
def test_a_batch_without_words_is_no_problem(first, joint):
    nlp, _ = second(first, 1, joint=joint)
    empty = [Example.from_dict(nlp.make_doc(text), {}) for text in ("", "  ")]
    assert nlp.update(empty, sgd=nlp.resume_training())[NAME] == 0.0


def test_a_decoder_learns_only_when_all_do(first):
    for joint in (False, True):
        _, changed = second(first, 2, joint=joint, decoder="CRFDecoder")
        assert ("decoder" in changed) == joint and "criterion" in changed


def test_predicting_draws_no_random_numbers(first):
    nlp, _ = second(first, 1)
    before = torch.get_rng_state()
    list(nlp.pipe(TEXTS))
    assert torch.equal(torch.get_rng_state(), before)


class TestRefused:
    @pytest.mark.parametrize("layers", [[4], [1, 6]])
    def test_layers_that_nobody_goes_on_from(self, first, layers):
        with pytest.raises(ValueError, match=f"at most 3 .* of 4 layers, not {layers[-1]}"):
            second(first, 1, layers=layers)

    @pytest.mark.parametrize("stage", ["JointTraining", "SelfSampling"])
    def test_stages_that_do_not_teach_selectors(self, first, stage):
        with pytest.raises(ValueError, match=f"{stage} does not teach.*ReductionTraining"):
            second(first, 1, stage=stage)

    @pytest.mark.skipif(OLD_CONFECTION, reason="this confection does not replace blocks")
    def test_selectors_that_were_never_trained(self, first):
        config = {"components": {NAME: {"criterion": BLOCK}}}
        nlp = spacy.load(first, config=config)
        with pytest.raises(ValueError, match="TokenReduction.*selector_1_in.*start_from"):
            nlp("Ann")

    def test_another_criterion_to_train(self, trained, windows):
        stage = make_reduction_training()
        with pytest.raises(ValueError, match="TokenReduction, not TokenExit"):
            stage.run(trained.network, Batch.of(windows, CPU), 0.0, TokenExit(0), None)

    @pytest.mark.parametrize(
        "arguments", [{"samples": 1}, {"cost_weight": -1.0}, {"guided_steps": -1}]
    )
    def test_nonsense(self, arguments):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            make_reduction_training(**arguments)


def test_sentences_are_still_known(first):
    nlp, _ = second(first, 1)
    docs = nlp.pipe([text for text, _ in SENTENCES], component_cfg={NAME: {"threshold": 0}})
    for doc, (_, entities) in zip(docs, SENTENCES):
        assert [(e.start_char, e.end_char, e.label_) for e in doc.ents] == sorted(entities)
