"""The search for an early-bird ticket."""

import copy
import pickle

import pytest
import spacy
import torch
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from thinc.api import Config

from spacy_early_exit.network.gates import gates_of, has_gates
from spacy_early_exit.network.slimming import distance, draw_ticket, gate_scores
from spacy_early_exit.training.early_bird import make_early_bird_search, make_until_drawn
from tests.makers.pipelines import blank
from tests.makers.texts import examples_of

NAME = "early_exit_ner"
SEARCH = {"@misc": "spacy-early-exit.EarlyBirdSearch.v1", "heads": 0.5, "neurons": 0.5}


def searching(encoder, updates=0, **settings):
    """A pipeline that has searched for some updates."""
    spacy.util.fix_random_seed(0)
    nlp = blank(encoder, training={**SEARCH, "every": 1, **settings})
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 1e-4
    for _ in range(updates):
        nlp.update(examples, sgd=optimizer)
    return nlp, examples, optimizer


def test_the_first_loss_is_that_of_joint_training_plus_the_penalty(encoders):
    losses = {}
    for penalty in (0.0, 0.01):
        nlp, examples, _ = searching(encoders["bert"], penalty=penalty)
        losses[penalty] = nlp.update(examples)[NAME]
    spacy.util.fix_random_seed(0)
    plain = blank(encoders["bert"])
    plain.initialize(lambda: examples_of(plain))
    examples = examples_of(plain)
    words = sum(len(eg.reference) for eg in examples)
    of_joint = plain.update(examples)[NAME]
    assert losses[0.0] == pytest.approx(of_joint, rel=1e-5)
    gates = 4 * (4 + 48)
    assert losses[0.01] == pytest.approx(of_joint + 0.01 * words * gates, rel=1e-5)


def test_every_gate_learns_at_its_own_rate_and_the_penalty_shrinks_it(encoders):
    nlp, _, _ = searching(encoders["bert"], updates=1, penalty=10.0, gate_lr_factor=50)
    for gate in (gate for kind in gates_of(nlp.get_pipe(NAME).network) for gate in kind):
        # Adam's first step is as long as the rate.
        torch.testing.assert_close(
            gate.detach(), torch.full_like(gate, 1 - 50 * 1e-4), rtol=1e-3, atol=0
        )


def test_batches_of_an_update_are_penalized_once(encoders):
    nlp, examples, _ = searching(encoders["bert"], penalty=1.0)
    whole = nlp.update(examples)[NAME]
    nlp, examples, _ = searching(encoders["bert"], penalty=1.0)
    nlp.get_pipe(NAME).batch_wordpieces = 24
    assert nlp.update(examples)[NAME] == pytest.approx(whole, rel=1e-5)


def test_the_ticket_is_drawn_when_it_differs_little_from_the_last_five(encoders):
    nlp, examples, optimizer = searching(encoders["bert"], bound=0.3)
    stage, tickets = nlp.get_pipe(NAME).training, []
    while not stage.progress.drawn and len(tickets) < 60:
        nlp.update(examples, sgd=optimizer)
        scores = gate_scores(nlp.get_pipe(NAME).network)
        tickets.append(draw_ticket(scores, 0.5, 0.5, "layerwise", "global"))
    checks = stage.progress.checks
    # After the last update, the gates are as when the ticket was drawn.
    *tickets, drawn = tickets
    assert all(torch.equal(a, b) for kind in zip(drawn, tickets[-1]) for a, b in zip(*kind))
    for check in checks:
        ticket, before = (
            tickets[check.update - 1],
            tickets[max(check.update - 6, 0) : check.update - 1],
        )
        apart = [distance(ticket, earlier) for earlier in before]
        assert (check.heads, check.neurons) == tuple(max(kind) for kind in zip(*apart))
    stable = [check.update >= 6 and max(check[1:]) < 0.3 for check in checks]
    assert stable.index(True) == len(stable) - 1 and len(checks) == len(tickets) - 1
    assert stage.progress.drawn == "it is stable, as both shares are below 30.0%"


def test_nothing_is_learnt_once_the_ticket_is_drawn(encoders):
    nlp, examples, optimizer = searching(encoders["bert"], updates=4, bound=0, max_updates=3)
    pipe = nlp.get_pipe(NAME)
    assert "max_updates" in pipe.training.progress.drawn
    before = copy.deepcopy(pipe.network.state_dict())
    nlp.update(examples, sgd=optimizer, drop=0.1)
    after = pipe.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_that_add_up_are_one_update(encoders):
    nlp, examples, optimizer = searching(encoders["bert"], bound=0, max_updates=3)
    for update in range(5):
        for example in examples[:4]:
            nlp.update([example], sgd=False)
            assert nlp.get_pipe(NAME).training.progress.updates == min(update, 3)
        nlp.get_pipe(NAME).finish_update(optimizer)
    progress = nlp.get_pipe(NAME).training.progress
    assert progress.drawn and [check.update for check in progress.checks] == [2, 3]


def test_texts_without_words_do_not_put_off_the_last_update(encoders):
    nlp, examples, optimizer = searching(encoders["bert"], updates=2, bound=0, max_updates=2)
    empty = Example.from_dict(nlp.make_doc(""), {})
    nlp.update([empty], sgd=optimizer)
    nlp.update(examples, sgd=optimizer)
    assert nlp.get_pipe(NAME).training.progress.drawn


def test_a_pipeline_that_is_initialized_again_searches_again(encoders):
    nlp, examples, optimizer = searching(encoders["bert"], updates=4, bound=0, max_updates=2)
    pipe = nlp.get_pipe(NAME)
    assert pipe.training.progress.drawn
    nlp.initialize(lambda: examples)
    before = copy.deepcopy(pipe.network.state_dict())
    nlp.update(examples, sgd=optimizer)
    assert not pipe.training.progress.drawn and pipe.training.progress.updates == 0
    after = pipe.network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_searched_pipeline_is_searched_anew(encoders, tmp_path):
    nlp, examples, optimizer = searching(encoders["bert"], updates=4, bound=0, max_updates=2)
    nlp.to_disk(tmp_path)
    pipe = nlp.get_pipe(NAME)
    pipe.from_disk(tmp_path / NAME, exclude=["vocab"])
    nlp.update([Example.from_dict(nlp.make_doc(""), {})], sgd=optimizer)
    nlp.update(examples, sgd=optimizer)
    assert not pipe.training.progress.drawn and pipe.training.progress.updates == 0
    with pytest.raises(ValueError, match="set freeze_encoder and freeze_full_depth to false"):
        spacy.load(
            tmp_path, config={"components": {NAME: {"model": {"freeze_encoder": True}}}}
        ).update(examples)


def test_a_pipeline_can_be_pickled_while_it_searches(encoders):
    nlp, _, _ = searching(encoders["bert"], updates=2)
    stage = pickle.loads(pickle.dumps(nlp.get_pipe(NAME).training))
    assert stage.progress.updates == 1 and stage.progress.network is None


@pytest.mark.parametrize("setting", ["freeze_encoder", "freeze_full_depth"])
def test_a_frozen_encoder_is_not_searched(setting, encoders):
    nlp = blank(encoders["bert"], training=SEARCH, model={setting: True})
    examples = examples_of(nlp)
    nlp.initialize(lambda: examples)
    with pytest.raises(ValueError, match="set freeze_encoder and freeze_full_depth to false"):
        nlp.update(examples)


def test_a_searched_pipeline_is_saved_and_loaded_with_its_gates(encoders, tmp_path):
    nlp, examples, _ = searching(encoders["bert"], updates=3)
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    networks = [pipeline.get_pipe(NAME).network for pipeline in (nlp, again)]
    assert has_gates(networks[1])
    states = [network.state_dict() for network in networks]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    texts = [eg.text for eg in examples]
    for a, b in zip(nlp.pipe(texts), again.pipe(texts)):
        assert [*map(str, a.ents)] == [*map(str, b.ents)]


def config_of(nlp, path, **training):
    examples = examples_of(nlp)
    spacy.tokens.DocBin(docs=[eg.reference for eg in examples]).to_disk(path)
    config = Config(nlp.config).copy()
    reader = {"@readers": "spacy.Corpus.v1", "path": str(path)}
    config["corpora"] = {"train": reader, "dev": reader}
    batcher = {
        "@batchers": "spacy.batch_by_words.v1",
        "size": 40,
        "tolerance": 0.2,
        "discard_oversize": False,
    }
    until = {"@batchers": "spacy-early-exit.until_drawn.v1", "batcher": batcher}
    config["training"] |= {"batcher": until, "max_steps": 500, "eval_frequency": 500, **training}
    return config


def test_spacys_training_ends_when_the_ticket_is_drawn(encoders, tmp_path, capsys):
    (tmp_path / "search").mkdir()
    for updates in (7, 4):  # the second is not ended by the first
        limits = {"every": 2, "bound": 0, "max_updates": updates}
        nlp = blank(encoders["bert"], training={**SEARCH, **limits})
        config = config_of(nlp, tmp_path / "train.spacy", max_epochs=50, patience=0)
        trained, last = train(init_nlp(config), tmp_path / "search")
        progress = trained.get_pipe(NAME).training.progress
        assert progress.drawn and progress.updates == updates
        assert has_gates(spacy.load(last).get_pipe(NAME).network)
        printed = capsys.readouterr().out
        assert f"The ticket is drawn after {updates} updates: it is not stable" in printed
        for check in progress.checks:
            assert f"Update {check.update}: {check.heads:.1%} of the heads" in printed


@pytest.mark.parametrize("limits", [{"max_steps": 5, "max_epochs": 50}, {"max_epochs": 2}])
def test_an_end_before_the_ticket_is_drawn_is_told(limits, encoders, tmp_path, capsys):
    (tmp_path / "search").mkdir()
    nlp = blank(encoders["bert"], training={**SEARCH, "bound": 0, "max_updates": 50})
    config = config_of(nlp, tmp_path / "train.spacy", patience=0, **limits)
    trained, _ = train(init_nlp(config), tmp_path / "search")
    told = " ".join(capsys.readouterr().out.split())
    updates = trained.get_pipe(NAME).training.progress.updates + 1  # the last is counted later
    assert 3 < updates < 10
    assert f"Training has ended after {updates} updates, and the ticket is not drawn" in told


def test_without_max_epochs_the_end_is_asked_for(encoders, tmp_path):
    (tmp_path / "search").mkdir()
    nlp = blank(encoders["bert"], training={**SEARCH, "bound": 0, "max_updates": 2})
    config = config_of(nlp, tmp_path / "train.spacy", max_epochs=0, patience=0)
    with pytest.raises(ValueError, match="set max_epochs"):
        train(init_nlp(config), tmp_path / "search")


def test_other_training_is_not_ended():
    batches = make_until_drawn(lambda examples: [[1], [2]])
    assert [*batches([])] == [[1], [2]] == [*batches([])]


@pytest.mark.parametrize(
    "settings, what",
    [
        ({"heads": 0}, "heads must be above 0 and at most 1, not 0"),
        ({"neurons": 1.5}, "neurons must be above 0 and at most 1, not 1.5"),
        ({"heads_scope": "all"}, "heads_scope must be 'layerwise' or 'global'"),
        ({"penalty": -1.0}, "penalty must be 0 or more"),
        ({"gate_lr_factor": 0.0}, "gate_lr_factor must be above 0, not 0.0"),
        ({"every": 0}, "every must be 1 or more"),
        ({"bound": 2.0}, "bound must be between 0 and 1"),
        ({"bound": 0.0}, "max_updates must be set"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings, what):
    with pytest.raises(ValueError, match=what):
        make_early_bird_search(**settings)
