import gc
import json
import os
import pickle
import random
import shutil
import subprocess
import sys

import pytest
import spacy
import srsly

from tests.makers.files import unsealed
from tests.makers.pipelines import answers, blank, train_small
from tests.makers.project import OTHERS, hiding
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


def everything(nlp):
    return [answers(doc) for doc in nlp.pipe(TEXTS)]


def test_round_trip_through_disk_and_bytes(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert everything(loaded) == everything(nlp)
    copy = spacy.util.load_model_from_config(nlp.config, auto_fill=True)
    assert everything(copy.from_bytes(nlp.to_bytes())) == everything(nlp)
    assert loaded.get_pipe(NAME).labels == nlp.get_pipe(NAME).labels


def test_component_round_trips_alone(nlp, tmp_path):
    ner = nlp.get_pipe(NAME)
    ner.to_disk(tmp_path, exclude=["vocab"])
    from_disk, from_bytes = blank("nowhere"), blank("nowhere")
    from_disk.get_pipe(NAME).from_disk(tmp_path, exclude=["vocab"])
    from_bytes.get_pipe(NAME).from_bytes(ner.to_bytes(exclude=["vocab"]), exclude=["vocab"])
    for loaded in (from_disk, from_bytes):
        loaded.get_pipe(NAME).threshold, loaded.get_pipe(NAME).store_exits = 0.15, True
        assert everything(loaded) == everything(nlp)


def test_thinc_model_round_trips_and_copies(nlp):
    model = nlp.get_pipe(NAME).model
    other = blank("nowhere").get_pipe(NAME).model
    other.from_bytes(model.to_bytes())
    docs = [nlp.make_doc(text) for text in TEXTS]
    for copy in (other, model.copy()):
        for mine, theirs in zip(model.predict(docs), copy.predict(docs)):
            assert (mine.logits == theirs.logits).all()
        assert copy.shims[0].id != model.shims[0].id


def test_pickling(nlp):
    assert everything(pickle.loads(pickle.dumps(nlp))) == everything(nlp)


def test_a_pickle_leaves_the_teacher_of_a_second_stage_behind(encoders):
    second = {"@misc": "spacy-early-exit.SelfSampling.v1", "pattern": "off_policy"}
    nlp = train_small(encoders["bert"], steps=1, training=second)
    shim = nlp.get_pipe(NAME).model.shims[0]
    with_teacher = len(pickle.dumps(nlp))
    assert shim._teacher is not None
    shim._teacher = None
    assert with_teacher == pytest.approx(len(pickle.dumps(nlp)), rel=0.01)
    copy = pickle.loads(pickle.dumps(nlp))
    assert everything(copy) == everything(nlp)
    copy.update(examples_of(copy), sgd=copy.resume_training())
    assert copy.get_pipe(NAME).model.shims[0]._teacher is not None, "made anew where it trains on"


@pytest.mark.parametrize(
    "family",
    [
        "modernbert",
        *(
            pytest.param(family, marks=pytest.mark.slow)
            for family in (
                "roberta",
                "xlm-roberta",
                "electra",
                "distilbert",
                "albert",
                "mpnet",
                "deberta-v2",
            )
        ),
    ],
)
@pytest.mark.takes(seconds=15)
def test_every_family_loads_offline_with_its_source_deleted(family, encoders, tmp_path):
    source = shutil.copytree(encoders[family], tmp_path / "source")
    nlp = train_small(str(source), steps=3)
    nlp.to_disk(tmp_path / "pipeline")
    expected = repr([[list(ents), layers] for ents, layers, *_ in everything(nlp)])
    shutil.rmtree(source)
    script = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = refuse\n" + hiding(*OTHERS) + "import spacy\n"
        # Only training and adopting need them.
        "for absent in ('transformers', 'huggingface_hub'): sys.modules[absent] = None\n"
        "nlp = spacy.load(sys.argv[1])\n"
        "docs = list(nlp.pipe(eval(sys.argv[2])))\n"
        "print(repr([[[(e.start, e.end, e.label_) for e in d.ents],"
        " d._.early_exit['early_exit_ner'].layers] for d in docs]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "pipeline"), repr(TEXTS)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().splitlines()[-1] == expected


def test_settings_are_in_the_config_alone(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    saved = json.loads((tmp_path / NAME / "cfg").read_text())
    checks = {name: saved.pop(name) for name in ("format_version", "network", "sha256")}
    assert saved == {"labels": ["LOC", "ORG", "PER"], "has_weights": True, "calibration": None}
    assert checks["format_version"] == 1


def test_no_file_is_a_pickle_and_weights_are_safetensors(nlp, tmp_path):
    from safetensors import safe_open

    nlp.to_disk(tmp_path)
    folder = tmp_path / NAME / "model"
    assert {path.name for path in folder.iterdir()} == {
        "network.json",
        "tokenizer.json",
        "weights.safetensors",
    }
    with safe_open(folder / "weights.safetensors", "pt") as file:
        assert "heads.0.weight" in file.keys()
    assert json.loads((folder / "network.json").read_text())["format_version"] == 1


def test_a_pipeline_that_knows_nothing_of_later_families_still_loads(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    path = tmp_path / NAME / "model" / "network.json"
    unsealed(path)
    unsealed(tmp_path / NAME / "cfg")
    about = json.loads(path.read_text())
    first = list(about["encoder"])[:12]
    assert first[0] == "family" and first[-1] == "token_types"
    about["encoder"] = {name: about["encoder"][name] for name in first}
    path.write_text(json.dumps(about))
    assert everything(spacy.load(tmp_path)) == everything(nlp)


def test_a_pipeline_that_was_never_initialized_can_be_saved(encoders, tmp_path):
    blank(encoders["bert"]).to_disk(tmp_path)
    with pytest.raises(ValueError, match="no weights yet"):
        spacy.load(tmp_path)("Ann")
    nlp = blank(encoders["bert"])
    nlp.from_bytes(nlp.to_bytes())


class TestDamage:
    @pytest.fixture
    def saved(self, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        return tmp_path

    def problem(self, saved) -> str:
        with pytest.raises(ValueError) as error:
            spacy.load(saved)
        return str(error.value)

    @pytest.mark.parametrize("name", ["network.json", "tokenizer.json", "weights.safetensors"])
    def test_a_missing_file_is_named(self, saved, name):
        (saved / NAME / "model" / name).unlink()
        assert f"{name} is missing" in self.problem(saved)

    @pytest.mark.parametrize("name", ["network.json", "tokenizer.json", "weights.safetensors"])
    def test_a_truncated_file_is_named(self, saved, name):
        path = saved / NAME / "model" / name
        path.write_bytes(path.read_bytes()[:100])
        assert name in self.problem(saved) and "damaged" in self.problem(saved)

    def test_a_missing_cfg_is_named(self, saved):
        (saved / NAME / "cfg").unlink()
        assert "cfg can't be read" in self.problem(saved)

    def test_a_cfg_that_can_not_be_is_named(self, saved):
        for wrong in (
            {"labels": None},
            {"labels": ["PER", "LOC", "PER"]},
            {"has_weights": None},
            {"calibration": {"points": []}},
        ):
            (saved / NAME / "cfg").write_text(json.dumps(wrong))
            assert "cfg can't be read" in self.problem(saved), wrong

    def test_a_truncated_cfg_is_named(self, saved):
        path = saved / NAME / "cfg"
        path.write_text(path.read_text()[:10])
        assert "cfg" in self.problem(saved) and "damaged" in self.problem(saved)

    def test_a_missing_folder_is_noticed(self, saved):
        shutil.rmtree(saved / NAME / "model")
        assert "missing" in self.problem(saved)

    def test_weights_of_another_network_are_noticed(self, saved, encoders, tmp_path):
        other = train_small(encoders["electra"], steps=1)
        other.to_disk(tmp_path / "other")
        source = tmp_path / "other" / NAME / "model" / "weights.safetensors"
        shutil.copy(source, saved / NAME / "model")
        assert "weights.safetensors" in self.problem(saved) and "not what was" in self.problem(
            saved
        )

    def test_weights_of_another_network_are_noticed_without_checksums(self, saved, encoders):
        unsealed(saved / NAME / "cfg")
        path = saved / NAME / "model" / "network.json"
        unsealed(path)
        about = json.loads(path.read_text())
        about["encoder"]["intermediate_size"] += 1
        path.write_text(json.dumps(about))
        assert "does not match" in self.problem(saved)

    def test_a_later_format_is_named(self, saved):
        path = saved / NAME / "model" / "network.json"
        about = {**json.loads(path.read_text()), "format_version": 99}
        path.write_text(json.dumps(about))
        assert "format version is 99" in self.problem(saved)

    def test_labels_that_do_not_fit_the_weights_are_noticed(self, saved):
        path = saved / NAME / "cfg"
        path.write_text(json.dumps({"labels": ["A"], "has_weights": True}))
        assert "not belong to the same pipeline" in self.problem(saved)


class TestDamagedBytes:
    @pytest.fixture
    def data(self, nlp):
        return nlp.get_pipe(NAME).to_bytes(exclude=["vocab"])

    def test_they_give_an_error_or_the_same_answers(self, nlp, data):
        expected, draw = everything(nlp), random.Random(0)
        other = blank("nowhere", store_exits=True, threshold=0.15)
        for number in range(300):
            # The names of the parts, cfg, which comes first, and anywhere.
            place = number // 2 if number < 200 else draw.randrange(len(data))
            damaged = bytearray(data)
            damaged[place] ^= 1 << draw.randrange(8)
            pipe = other.get_pipe(NAME)
            pipe._labels = ["LOC", "ORG", "PER"]  # in another order
            pipe.calibration = None
            try:
                pipe.from_bytes(bytes(damaged), exclude=["vocab"])
            except ValueError:
                continue
            assert everything(other) == expected, place

    def test_they_leave_the_garbage_collector_as_it_was(self, data):
        with pytest.raises(ValueError, match="damaged"):
            blank("nowhere").get_pipe(NAME).from_bytes(data[:-1])
        assert gc.isenabled()

    def test_a_part_that_is_missing_is_named(self, nlp, data):
        parts = srsly.msgpack_loads(data)
        for name in ("cfg", "model"):
            less = {part: parts[part] for part in parts if part != name}
            with pytest.raises(ValueError, match=f"no {name}"):
                blank("nowhere").get_pipe(NAME).from_bytes(
                    srsly.msgpack_dumps(less), exclude=["vocab"]
                )

    def test_weights_of_others_are_told_apart(self, nlp, data, encoders):
        other = train_small(encoders["bert"], steps=1).get_pipe(NAME).to_bytes(exclude=["vocab"])
        mixed = {**srsly.msgpack_loads(data), "model": srsly.msgpack_loads(other)["model"]}
        with pytest.raises(ValueError, match="model in the bytes"):
            blank("nowhere").get_pipe(NAME).from_bytes(
                srsly.msgpack_dumps(mixed), exclude=["vocab"]
            )

    def test_what_is_left_out_need_not_be_there(self, nlp):
        ner = nlp.get_pipe(NAME)
        before = everything(nlp)
        ner.from_bytes(ner.to_bytes(exclude=["vocab", "model"]), exclude=["vocab", "model"])
        assert everything(nlp) == before
