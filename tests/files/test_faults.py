"""What goes wrong outside: damaged files, full disks, diverged weights, killed processes."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import spacy
import srsly
import torch
from spacy.tokens import DocBin

from tests.makers.commands import run
from tests.makers.files import unsealed
from tests.makers.pipelines import answers, blank, train_small
from tests.makers.project import ROOT
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
OURS = [f"{NAME}/cfg", *(f"{NAME}/model/{part}" for part in ("network.json", "tokenizer.json"))]
OURS.append(f"{NAME}/model/weights.safetensors")


def everything(nlp):
    return [answers(doc) for doc in nlp.pipe(TEXTS)]


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def saved(nlp, tmp_path):
    nlp.to_disk(tmp_path / "pipeline")
    return tmp_path / "pipeline"


class TestDamagedFiles:
    @pytest.mark.parametrize("kind", ["a flipped bit", "a lost end"])
    @pytest.mark.parametrize("name", OURS)
    def test_damage_is_an_error_that_names_the_file_or_harmless(self, kind, name, nlp, saved):
        """25 times in each file, in each way: 200 in all."""
        expected = everything(nlp)
        path, draw = saved / name, random.Random(f"{kind} {name}")
        whole = path.read_bytes()
        component = blank("nowhere", store_exits=True, threshold=0.15)
        for _ in range(25):
            place = draw.randrange(len(whole))
            flipped = bytes([whole[place] ^ 1 << draw.randrange(8)])
            end = b"" if kind == "a lost end" else flipped + whole[place + 1 :]
            path.write_bytes(whole[:place] + end)
            try:
                component.get_pipe(NAME).from_disk(saved / NAME, exclude=["vocab"])
            except ValueError as e:
                assert path.name in str(e), f"byte {place}: {e}"
            else:  # such as a bit of the checksum's own name
                assert everything(component) == expected, f"byte {place}"

    @pytest.mark.parametrize("name", OURS[:2])
    def test_a_later_format_is_named(self, name, saved):
        about = json.loads((saved / name).read_text())
        (saved / name).write_text(json.dumps({**about, "format_version": 2}))
        with pytest.raises(ValueError, match="format version is 2") as error:
            spacy.load(saved)
        assert Path(name).name in str(error.value)

    def test_pipelines_without_checksums_still_load(self, nlp, saved):
        for name in OURS[:2]:
            unsealed(saved / name)
        assert b"sha256" not in (saved / OURS[0]).read_bytes()
        assert everything(spacy.load(saved)) == everything(nlp)

    def test_files_of_two_pipelines_are_told_apart(self, encoders, saved, tmp_path):
        train_small(encoders["bert"], steps=1).to_disk(tmp_path / "other")
        shutil.copytree(
            tmp_path / "other" / NAME / "model", saved / NAME / "model", dirs_exist_ok=True
        )
        with pytest.raises(ValueError, match="not belong to the same pipeline"):
            spacy.load(saved)

    def test_a_calibration_is_the_same_after_saving(self, nlp, saved, tmp_path):
        from spacy_early_exit.measure.calibrate import calibrate

        calibrate(nlp.get_pipe(NAME), examples_of(nlp), [1.5, 2])
        nlp.to_disk(tmp_path / "calibrated")
        loaded = spacy.load(tmp_path / "calibrated").get_pipe(NAME)
        assert loaded.calibration == nlp.get_pipe(NAME).calibration


class TestLoadingThatFails:
    """What is refused leaves the component as it was: some try to load anew, and go on."""

    @pytest.fixture
    def other(self, encoders):
        return train_small(encoders["bert"], steps=1)

    @pytest.mark.parametrize("tags", ["as many tags", "other tags"])
    def test_files_of_two_pipelines(self, tags, other, nlp, saved, tmp_path):
        if tags == "other tags":
            other.get_pipe(NAME).add_label("NEVERSEEN")
        other.to_disk(tmp_path / "other")
        if tags == "other tags":
            for folder in (saved, tmp_path / "other"):  # only sizes are to tell
                unsealed(folder / NAME / "cfg")
            shutil.copy(tmp_path / "other" / NAME / "cfg", saved / NAME)
        else:
            own = saved / NAME / "model"
            shutil.copytree(tmp_path / "other" / NAME / "model", own, dirs_exist_ok=True)
            assert everything(other) != everything(nlp)
        expected, labels = everything(nlp), nlp.get_pipe(NAME).labels
        with pytest.raises(ValueError, match="not belong to the same pipeline"):
            nlp.get_pipe(NAME).from_disk(saved / NAME, exclude=["vocab"])
        assert everything(nlp) == expected and nlp.get_pipe(NAME).labels == labels
        assert "NEVERSEEN" not in nlp.vocab.strings

    @pytest.mark.parametrize("checksums", ["checksums", "no checksums"])
    def test_bytes_of_two_pipelines(self, checksums, other, nlp):
        other.get_pipe(NAME).add_label("NEVERSEEN")
        parts = srsly.msgpack_loads(nlp.get_pipe(NAME).to_bytes(exclude=["vocab"]))
        others = srsly.msgpack_loads(other.get_pipe(NAME).to_bytes(exclude=["vocab"]))
        if checksums == "no checksums":
            about = json.loads(others["cfg"])
            kept = {name: about[name] for name in ("labels", "has_weights")}
            others["cfg"] = json.dumps(kept).encode("utf8")
        mixed = srsly.msgpack_dumps({**parts, "cfg": others["cfg"]})
        expected, labels = everything(nlp), nlp.get_pipe(NAME).labels
        message = (
            "does not match its checksum"
            if checksums == "checksums"
            else "not belong to the same pipeline"
        )
        with pytest.raises(ValueError, match=message):
            nlp.get_pipe(NAME).from_bytes(mixed, exclude=["vocab"])
        assert everything(nlp) == expected and nlp.get_pipe(NAME).labels == labels

    @pytest.mark.parametrize("way", ["disk", "bytes"])
    def test_what_the_other_has_not_does_not_stay(self, way, nlp, saved, encoders, tmp_path):
        from spacy_early_exit.measure.calibrate import calibrate

        def load(pipe, given, folder):
            given.to_disk(folder, exclude=["vocab"])
            if way == "disk":
                return pipe.from_disk(folder, exclude=["vocab"])
            return pipe.from_bytes(given.to_bytes(exclude=["vocab"]), exclude=["vocab"])

        pipe, plain = nlp.get_pipe(NAME), spacy.load(saved).get_pipe(NAME)
        calibrate(pipe, examples_of(nlp), [1.5, 2])
        load(pipe, plain, tmp_path / "uncalibrated")
        with pytest.raises(ValueError, match="is not calibrated"):
            nlp(TEXTS[0], component_cfg={NAME: {"speedup": 1.5}})
        assert everything(nlp)
        load(pipe, blank(encoders["bert"]).get_pipe(NAME), tmp_path / "untrained")
        with pytest.raises(ValueError, match="has no weights yet"):
            nlp(TEXTS[0])
        load(pipe, plain, tmp_path / "again")
        assert everything(nlp) == everything(spacy.load(saved))


@contextlib.contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def somebody_else():
    """Whom a read-only folder stops: root writes everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestSavingThatFails:
    @pytest.mark.parametrize("size", [0, 1_000, 20_000, 100_000])
    def test_a_full_disk_leaves_what_was_there(self, size, nlp, saved):
        folder = saved / NAME
        before, expected = contents(folder), everything(nlp)
        nlp.update(examples_of(nlp), sgd=nlp.resume_training())
        with files_of_at_most(size), pytest.raises(OSError):
            nlp.get_pipe(NAME).to_disk(folder, exclude=["vocab"])
        assert contents(folder) == before
        assert everything(spacy.load(saved)) == expected

    @pytest.mark.parametrize("read_only", ["everything", "component", "component/model"])
    def test_a_read_only_folder_leaves_what_was_there(self, read_only, nlp):
        with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to others
            os.chmod(place, 0o755)
            folder = Path(place) / "component"
            nlp.get_pipe(NAME).to_disk(folder, exclude=["vocab"])
            before = contents(folder)
            theirs = [folder, *folder.rglob("*")]
            if os.geteuid() == 0:
                for path in theirs:
                    os.chown(path, 65534, -1)
            for path in theirs if read_only == "everything" else [Path(place) / read_only]:
                path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
            nlp.update(examples_of(nlp), sgd=nlp.resume_training())
            with somebody_else(), pytest.raises(PermissionError):
                nlp.get_pipe(NAME).to_disk(folder, exclude=["vocab"])
            assert contents(folder) == before
            for path in (folder, folder / "model"):
                path.chmod(0o755)

    def test_a_folder_in_the_place_of_a_file_leaves_what_was_there(self, nlp, saved):
        (saved / NAME / "model" / "weights.safetensors").unlink()
        (saved / NAME / "model" / "weights.safetensors").mkdir()
        before = contents(saved / NAME)
        nlp.update(examples_of(nlp), sgd=nlp.resume_training())
        with pytest.raises(IsADirectoryError, match="must be replaced by a file"):
            nlp.get_pipe(NAME).to_disk(saved / NAME, exclude=["vocab"])
        assert contents(saved / NAME) == before

    @pytest.mark.parametrize("link", [f"{NAME}/model", NAME, f"{NAME}/.saving"])
    def test_nothing_is_saved_through_a_link(self, link, nlp, saved, tmp_path):
        shutil.rmtree(saved / link, ignore_errors=True)
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "network.json").write_text("of somebody")
        (saved / link).symlink_to(tmp_path / "outside", target_is_directory=True)
        before = contents(saved)
        with pytest.raises(OSError, match="is a link to|File exists"):
            nlp.to_disk(saved)
        assert {name.name for name in (tmp_path / "outside").iterdir()} == {"network.json"}
        assert (tmp_path / "outside" / "network.json").read_text() == "of somebody"
        assert {path: data for path, data in contents(saved).items() if path in before} == before
        assert not [path for path in saved.rglob("*.saving") if not path.is_symlink()]

    def test_a_link_in_the_place_of_a_file_is_replaced(self, nlp, saved, tmp_path):
        (tmp_path / "outside").write_text("of somebody")
        expected = everything(nlp)
        for name in OURS:
            (saved / name).unlink()
            (saved / name).symlink_to(tmp_path / "outside")
        nlp.to_disk(saved)
        assert (tmp_path / "outside").read_text() == "of somebody"
        assert not any((saved / name).is_symlink() for name in OURS)
        assert everything(spacy.load(saved)) == expected

    def test_what_a_killed_save_left_is_cleared_away_by_the_next(self, nlp, saved):
        names = {path.name for path in (saved / NAME).iterdir()}
        (saved / NAME / ".saving" / "model").mkdir(parents=True)
        (saved / NAME / ".saving" / "model" / "weights.safetensors").write_bytes(b"half")
        (saved / NAME / "cfg.saving").write_bytes(b"whole, but not in its place")
        expected = everything(nlp)
        assert everything(spacy.load(saved)) == expected
        nlp.to_disk(saved)
        assert {path.name for path in (saved / NAME).iterdir()} == names
        assert everything(spacy.load(saved)) == expected


def network_of(nlp):
    return nlp.get_pipe(NAME).model.shims[0].trained.network


PARAMETERS = [
    ("encoder.layers.2.intermediate.weight", "layer 3"),
    ("heads.1.bias", "layer 2"),
    ("encoder.embeddings.word.weight", "embeddings"),
]


class TestNumbersThatAreNone:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("name, where", PARAMETERS)
    def test_weights_that_are_none_are_named_before_any_text(self, name, where, value, nlp, saved):
        nlp = spacy.load(saved)
        parameter = dict(network_of(nlp).named_parameters())[name]
        parameter.data.view(-1)[7 % parameter.numel()] = value
        nlp.to_disk(saved)
        loaded = spacy.load(saved)
        with pytest.raises(ValueError, match=where) as error:
            loaded(TEXTS[0])
        assert name in str(error.value)
        loaded.set_error_handler(lambda *a: pytest.fail("it is no fault of a text"))
        with pytest.raises(ValueError, match=where):
            list(loaded.pipe(TEXTS))

    @pytest.mark.parametrize("quantize", [None, "int8"])
    @pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("layer", [1, 3])
    def test_what_comes_of_them_is_never_a_label(self, layer, threshold, quantize, nlp, saved):
        settings = {"threshold": threshold, "quantize": quantize}
        nlp = spacy.load(saved, config={"components": {NAME: settings}})
        # The weights are in order when they are looked at.
        expected = {doc.text: answers(doc) for doc in nlp.pipe(TEXTS)}
        network_of(nlp).encoder.layer(layer).attention_norm.weight.data[:] = np.nan
        failed = []
        nlp.set_error_handler(lambda name, pipe, docs, e: failed.append(str(e)))
        kept = {doc.text: answers(doc) for doc in nlp.pipe(TEXTS)}
        assert all(f"from layer {layer} on" in message for message in failed)
        assert len(kept) + len(failed) == len(TEXTS)
        # Whose words had all left before is as it was.
        assert all(max(layers) < layer for _, layers, *_ in kept.values())
        assert kept == {text: expected[text] for text in kept}

    def test_one_text_that_overflows_takes_no_other_along(self, nlp):
        expected = {text: answers(nlp(text)) for text in TEXTS}
        network = network_of(nlp)
        (row,) = set(nlp.get_pipe(NAME).model.shims[0].trained.tokenizer(["ok"])[0][0][:1])
        others = {i for t in TEXTS[:7] + TEXTS[8:] for i in tokens_of(nlp, t)}
        assert row not in others
        network.encoder.embeddings.word.weight.data[row] = 3e38
        failed = []
        nlp.set_error_handler(lambda name, pipe, docs, e: failed.extend(d.text for d in docs))
        found = {doc.text: answers(doc) for doc in nlp.pipe(TEXTS)}
        assert failed == ["ok"]
        assert found == {text: expected[text] for text in TEXTS if text != "ok"}

    def test_a_training_that_diverges_stops_and_says_where(self, nlp):
        network_of(nlp).encoder.layer(3).output.weight.data[0, 0] = np.inf
        before = [p.detach().clone() for p in network_of(nlp).parameters()]
        with pytest.raises(ValueError, match="from layer 3 on.*smaller learn_rate"):
            nlp.update(examples_of(nlp), sgd=nlp.resume_training())
        assert all(map(torch.equal, before, network_of(nlp).parameters()))


def tokens_of(nlp, text):
    return nlp.get_pipe(NAME).model.shims[0].trained.tokenizer([text])[0][0].tolist()


TRAINING = [
    *("--training.max_steps", "100000", "--training.eval_frequency", "1"),
    *("--training.optimizer.learn_rate.warmup_steps", "1"),
]


class TestKilledTrainings:
    @pytest.fixture
    def arguments(self, encoders, tmp_path):
        nlp = spacy.blank("en")
        docs = [example.reference for example in examples_of(nlp)]
        DocBin(docs=docs).to_disk(tmp_path / "corpus.spacy")
        config = tmp_path / "joint.cfg"
        run("-m", "spacy", "init", "fill-config", ROOT / "configs" / "joint.cfg", config)
        with config.open("a") as file:
            file.write(f"\n[initialize.components.{NAME}]\nstart_from = null\n")
        corpus = tmp_path / "corpus.spacy"
        paths = ["--paths.train", corpus, "--paths.dev", corpus]
        return ["-m", "spacy", "train", config, *paths, "--paths.encoder", encoders["bert"]]

    @pytest.mark.slow
    def test_one_of_two_checkpoints_loads_whenever_it_is_killed(self, arguments, tmp_path, capsys):
        """Ten times at random, every other one of them while it saves."""
        draw, outcomes = random.Random(0), []
        for number in range(10):
            output = tmp_path / f"output{number}"
            command = [sys.executable, *arguments, "--output", output, *TRAINING]
            log = (tmp_path / "log").open("wb")
            process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, cwd=ROOT)
            for _ in range(6000):
                if (output / "model-best" / NAME / "cfg").exists() or process.poll() is not None:
                    break
                time.sleep(0.05)
            time.sleep(draw.random() * 3)
            places = [output / "model-last" / NAME / ".saving", output / "model-best"]
            if number % 2:  # as saving begins, or while the best is copied
                there = number % 4 == 1
                while places[not there].exists() != there and process.poll() is None:
                    pass
                time.sleep(draw.random() * 0.02)
            assert process.poll() is None, (tmp_path / "log").read_text()
            process.send_signal(signal.SIGKILL)
            process.wait()
            found = {}
            for name in ("model-best", "model-last"):
                try:
                    found[name] = len(everything(spacy.load(output / name)))
                except Exception as e:  # spaCy's own files may be cut off, and say little
                    found[name] = f"{type(e).__name__}: {e}"
            outcomes.append(found)
            assert len(TEXTS) in found.values(), found
            best = next(name for name, outcome in found.items() if outcome == len(TEXTS))
            self.check_that_it_goes_on(arguments, output / best, tmp_path / f"resumed{number}")
        with capsys.disabled():
            print("\n", *(f"{found}\n" for found in outcomes))

    def check_that_it_goes_on(self, arguments, checkpoint, output):
        goes_on = [f"--initialize.components.{NAME}.start_from", checkpoint]
        one_step = ["--training.max_steps", "1", "--training.eval_frequency", "1"]
        run(*arguments, "--output", output, *goes_on, *one_step)
        assert len(everything(spacy.load(output / "model-last"))) == len(TEXTS)
        before = spacy.load(checkpoint).get_pipe(NAME)
        after = spacy.load(output / "model-last").get_pipe(NAME)
        assert before.labels == after.labels
        old, new = (p.model.shims[0].trained.network.head(4).weight for p in (before, after))
        fresh = torch.nn.init.normal_(torch.empty_like(old), std=0.02)
        assert (old - new).norm() < 0.2 * (old - fresh).norm()  # it did not begin anew

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_weights_and_answers(self, arguments, tmp_path):
        steps = ["--training.max_steps", "6", "--training.eval_frequency", "3"]
        for name in ("one", "other"):
            run(*arguments, "--output", tmp_path / name, *steps, fresh=True)
        one, other = (spacy.load(tmp_path / name / "model-last") for name in ("one", "other"))
        files = [
            (tmp_path / name / "model-last" / OURS[-1]).read_bytes() for name in ("one", "other")
        ]
        assert files[0] == files[1]
        docs = [one.make_doc(text) for text in TEXTS]
        for mine, theirs in zip(
            one.get_pipe(NAME).predict(docs), other.get_pipe(NAME).predict(docs)
        ):
            assert (mine.exits.logits == theirs.exits.logits).all()
            assert (mine.exits.exit_layer == theirs.exits.exit_layer).all()
