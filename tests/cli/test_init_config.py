"""A training config that trains well is one command away."""

import json
from pathlib import Path

import pytest
import spacy
from spacy.tokens import DocBin
from spacy.util import load_config, load_model_from_config

from spacy_early_exit.recipe import DEFAULT_ENCODER, recipe_for, set_steps, training_config
from tests.cli.test_commands import early_exit
from tests.cli.test_refusals import refused
from tests.makers.commands import run
from tests.makers.pipelines import blank
from tests.makers.project import ROOT
from tests.makers.texts import examples_of

NAME = "early_exit_ner"
KINDS = (NAME, "early_exit_tagger", "early_exit_segmenter")


def different(one, other, path=""):
    """The settings in which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {*one, *other}:
            yield from different(one.get(name), other.get(name), f"{path}.{name}".lstrip("."))
    elif one != other:
        yield path


def filled(config):
    return load_model_from_config(config, auto_fill=True).config


def test_it_is_that_of_the_project_without_a_second_stage():
    path = ROOT / "configs" / "joint.cfg"
    if not path.exists():
        pytest.skip("not a checkout")
    project = filled(load_config(path, interpolate=False))
    ours = training_config("en", NAME, DEFAULT_ENCODER, 2e-4)
    set_steps(ours, words=600, epochs=600)
    ours["training"]["eval_frequency"] = 100
    ours["training"]["optimizer"]["learn_rate"] |= {"warmup_steps": 60, "total_steps": 600}
    assert {*different(ours, project)} == {
        "paths.train",
        "paths.dev",
    }


@pytest.mark.parametrize(
    "words, epochs, steps, every",
    [
        (60_000, 4, 400, 50),  # large enough
        (12_000, 20, 400, 40),  # five times as often
        (6_100, 37, 407, 40),  # whole epochs
        (1_000, 40, 80, 8),  # as often as is allowed
    ],
)
def test_small_corpora_are_passed_over_more_often(words, epochs, steps, every):
    config = training_config("en", NAME, DEFAULT_ENCODER, 2e-4)
    assert set_steps(config, words, epochs=4, min_steps=400, max_epochs=40) == epochs
    training = config["training"]
    assert training["max_steps"] == steps and training["eval_frequency"] == every
    assert training["optimizer"]["learn_rate"]["warmup_steps"] == steps // 10
    assert set_steps(config, words, epochs=4) == 4 and set_steps(config, words, epochs=50) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_missing_in_it(kind, encoders, tmp_path):
    early_exit("init-config", tmp_path / "a.cfg", "-p", kind, "-l", "zh", "-e", encoders["bert"])
    config = load_config(tmp_path / "a.cfg", interpolate=False)
    assert config == filled(config)
    assert config["nlp"]["lang"] == "zh" and config["nlp"]["pipeline"] == [kind]
    weights = {n: weight for n, weight in config["training"]["score_weights"].items() if weight}
    assert list(weights.values()) == [1.0]
    assert set(weights) <= {"ents_f", "tag_acc", "token_f"}


def test_spacy_trains_with_it(encoders, tmp_path):
    corpora = tmp_path / "train.spacy", tmp_path / "dev.spacy"
    for corpus in corpora:
        docs = [example.reference for example in examples_of(spacy.blank("en"))]
        DocBin(docs=docs * 4).to_disk(corpus)
    printed = early_exit(
        *("init-config", tmp_path / "a.cfg", "--encoder", encoders["bert"]),
        *("--train", corpora[0], "--epochs", "2"),
    )
    assert f"spacy train {tmp_path / 'a.cfg'}" in printed
    schedule = load_config(tmp_path / "a.cfg")["training"]
    words = sum(
        len(doc) for doc in DocBin().from_disk(corpora[0]).get_docs(spacy.blank("en").vocab)
    )
    assert schedule["max_steps"] == 2 * -(-words // 600)
    assert schedule["optimizer"]["learn_rate"]["total_steps"] == schedule["max_steps"]
    trained = tmp_path / "out"
    printed = run(
        *("-m", "spacy", "train", tmp_path / "a.cfg", "--output", trained),
        *("--paths.dev", corpora[1]),
    )
    assert "learning rate" not in printed
    assert spacy.load(trained / "model-last").get_pipe(NAME).labels == ("LOC", "ORG", "PER")


def test_without_a_corpus_the_schedule_follows_the_steps(encoders, tmp_path):
    early_exit("init-config", tmp_path / "a.cfg", "--encoder", encoders["bert"])
    config = load_config(tmp_path / "a.cfg", overrides={"training.max_steps": 77}, interpolate=True)
    assert config["training"]["optimizer"]["learn_rate"]["total_steps"] == 77


def test_rate_and_batches_suit_the_encoder(encoders, tmp_path):
    assert recipe_for(DEFAULT_ENCODER) == recipe_for(encoders["bert"]) == (2e-4, 1e-4, 600)
    about = json.loads((Path(encoders["bert"]) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, "hidden_size": 768}))
    assert recipe_for(str(tmp_path)) == recipe_for("bert-base-cased") == (1e-4, 1e-4, 300)
    printed = early_exit("init-config", tmp_path / "base.cfg", "--encoder", "bert-base-cased")
    assert "learning rate is 0.0001, with 300 words a step" in " ".join(printed.split())
    training = load_config(tmp_path / "base.cfg", interpolate=False)["training"]
    assert training["batcher"]["size"] == 300
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused = early_exit("init-config", tmp_path / "a.cfg", "--encoder", tmp_path, ok=False)
    assert "gpt2" in refused


def test_what_is_there_stays_unless_forced(tmp_path):
    (tmp_path / "a.cfg").write_text("mine")
    assert "--force" in early_exit("init-config", tmp_path / "a.cfg", ok=False)
    assert (tmp_path / "a.cfg").read_text() == "mine"
    early_exit("init-config", tmp_path / "a.cfg", "--force")
    assert "[training]" in (tmp_path / "a.cfg").read_text()


@pytest.fixture
def wrong(encoders, tmp_path, monkeypatch):
    """A folder of what can't be trained with, where commands run."""
    about = json.loads((Path(encoders["bert"]) / "config.json").read_text())
    for name, config in {
        "list": "[]",
        "odd": "{",
        "latin": b"\xff\xfe",
        "gpt2": '{"model_type": "gpt2"}',
        "words": json.dumps({**about, "hidden_size": "many"}),
        "nothing": None,
    }.items():
        (tmp_path / name).mkdir()
        if config is not None:
            data = config if isinstance(config, bytes) else config.encode()
            (tmp_path / name / "config.json").write_bytes(data)
    nlp = spacy.blank("en")
    DocBin().to_disk(tmp_path / "none.spacy")
    DocBin(docs=[nlp.make_doc(" ")]).to_disk(tmp_path / "spaces.spacy")
    (tmp_path / "good.jsonl").write_text('{"text": "Ann!", "spans": []}')
    (tmp_path / "broken.jsonl").write_text('{"text": ')
    (tmp_path / "texts.txt").write_text("Ann")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments,why",
    [
        (["--pipeline", "ner"], "--pipeline must be one of early_exit_ner"),
        (["--lang", "nowhere"], "[E048]"),
        (["--train", "missing.spacy"], "There is no file missing.spacy"),
        (["--train", "texts.txt"], "texts.txt can't be read as a .spacy file"),
        (["--train", "broken.jsonl"], "broken.jsonl, line 1: not valid JSON"),
        (["--train", "none.spacy"], "none.spacy has no words"),
        (["--train", "spaces.spacy"], "spaces.spacy has no words"),
        (["--train", "good.jsonl", "--pipeline", "early_exit_tagger"], "has entities, but"),
        *((["--learn-rate", rate], "must be above 0, such as") for rate in ("0", "-1", "nan")),
        (["--learn-rate", "inf"], "not inf"),
        (["--encoder", "list"], "config.json is not a JSON object"),
        (["--encoder", "odd"], "config.json is not valid JSON"),
        (["--encoder", "latin"], "config.json is not valid JSON"),
        (["--encoder", "gpt2"], "family 'gpt2' are not supported"),
        (["--encoder", "words"], "hidden_size='many', which is not a number"),
        (["--encoder", "nothing"], "the folder has no config.json"),
        *((["--encoder", name], "no such folder") for name in ("/nope/dir", "./nope", "odd/nope")),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments, why, wrong):
    assert why in refused("init-config", "a.cfg", *arguments)
    assert not (wrong / "a.cfg").exists()


def test_a_rate_that_is_too_large_is_warned_of(encoders, tmp_path):
    arguments = ["init-config", tmp_path / "a.cfg", "--encoder", encoders["bert"], "--learn-rate"]
    assert "forget" not in early_exit(*arguments, "0.0005")
    assert "forget" in early_exit(*arguments, "0.001", "--force")
    assert load_config(tmp_path / "a.cfg")["training"]["optimizer"]["learn_rate"][
        "initial_rate"
    ] == pytest.approx(0.001)


def test_steps_are_fitted_to_json_lines_too_which_spacy_does_not_read(encoders, tmp_path):
    lines = [json.dumps({"text": "Ann Lee lives in Oslo.", "spans": []})] * 200  # 6 words
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    arguments = ["--encoder", encoders["bert"], "--train", tmp_path / "train.jsonl", "-n", "3"]
    said = " ".join(early_exit("init-config", tmp_path / "a.cfg", *arguments).split())
    assert "1,200 words, 3 epochs of 2 steps" in said and "spaCy trains on .spacy files" in said
    assert "--paths.train train.spacy" in said
    config = load_config(tmp_path / "a.cfg")
    assert config["training"]["max_steps"] == 6 and config["paths"]["train"] is None


class TestTooLargeALearningRate:
    def step(self, encoder, rate, **config):
        nlp = blank(encoder, **config)
        optimizer = nlp.initialize(lambda: examples_of(nlp))
        optimizer.learn_rate = rate
        nlp.update(examples_of(nlp), sgd=optimizer)
        return nlp, optimizer

    def test_update_warns_once_and_names_the_command(self, encoders):
        with pytest.warns(UserWarning, match=r"rate of 0\.001.*init-config") as found:
            nlp, optimizer = self.step(encoders["bert"], 1e-3)
            nlp.update(examples_of(nlp), sgd=optimizer)
        assert len([w for w in found if "learning rate" in str(w.message)]) == 1

    @pytest.mark.parametrize(
        "rate,model",
        [(5e-4, {}), (1e-2, {"freeze_encoder": True}), (1e-2, {"freeze_full_depth": True})],
    )
    def test_what_an_encoder_stands_is_not_warned_of(self, rate, model, encoders, recwarn):
        self.step(encoders["bert"], rate, model=model)
        assert not [w for w in recwarn if "learning rate" in str(w.message)]

    def test_a_rate_that_rises_is_seen(self, encoders):
        nlp, optimizer = self.step(encoders["bert"], 1e-4)
        optimizer.learn_rate = 1e-3
        with pytest.warns(UserWarning, match="learning rate"):
            nlp.update(examples_of(nlp), sgd=optimizer)
