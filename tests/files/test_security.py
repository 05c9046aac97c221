"""What a pipeline or an encoder of somebody else can't do: run code, call out, read elsewhere, take
all memory. See SECURITY.md.
"""

import contextlib
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys

import pytest
import spacy
import srsly
import torch
from safetensors.torch import load_file, save_file

from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.files import network as storage
from spacy_early_exit.files.component import MAX_CFG_BYTES, MAX_LABELS, State, parse_state
from spacy_early_exit.files.integrity import checksum
from tests.makers.files import unsealed
from tests.makers.pipelines import blank
from tests.makers.project import hiding
from tests.makers.texts import TEXTS

NAME = "early_exit_ner"
PARTS = ("network.json", "tokenizer.json", "weights.safetensors")


@pytest.fixture
def saved(nlp, tmp_path):
    nlp.to_disk(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def model(saved):
    """The folder of a pipeline from before checksums: what any attacker can make."""
    for name in ("cfg", "model/network.json"):
        unsealed(saved / NAME / name)
    return saved / NAME / "model"


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@contextlib.contextmanager
def little_memory():
    """No more than 200 MB on top of what the process has, where it can be limited."""
    if not sys.platform.startswith("linux"):
        yield
        return
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 200_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def problem(folder) -> str:
    """What loading a component says, with little memory to say so."""
    pipe = blank("nowhere").get_pipe(NAME)
    with little_memory(), pytest.raises(ValueError) as error:
        pipe.from_disk(folder, exclude=["vocab"])
    assert "MemoryError" not in str(error.value) and "alloc" not in str(error.value)
    return str(error.value)


WATCHED = """
import os, sys
import spacy
import spacy_early_exit.model, safetensors.torch, tokenizers, torch
from spacy_early_exit.runtime.processors import QUOTA_V1, QUOTA_V2
from spacy_early_exit.files.network import LIMITS
folder, *texts = sys.argv[1:]
spacy.blank("en").add_pipe("early_exit_ner")
folder = os.path.realpath(folder)
seen = []
known = {"/proc/cpuinfo", "/proc/loadavg", os.path.realpath("/proc/self/cgroup")}
known |= {*map(os.path.realpath, LIMITS)}
quotas = {QUOTA_V2, *QUOTA_V1}  # of any control group
metadata = os.path.dirname(spacy_early_exit.__file__) + ".egg-info"  # of a checkout, beside it
code = tuple(os.path.realpath(place) for place in [*sys.path, metadata] if place)
kinds = ("socket", "pickle", "subprocess", "os", "ctypes", "shutil", "marshal")
def watch(event, args):
    if "torchinductor" in str(args):  # a folder that torch makes, and leaves empty
        return
    if event.split(".")[0] in kinds:
        seen.append((event, str(args[:1])))
    elif event == "open" and isinstance(args[0], str):
        path = os.path.realpath(args[0])
        if args[1] and set(args[1]) & set("wax+"):
            seen.append(("write", path))
        elif path.startswith(folder):
            print("read", os.path.relpath(path, folder))
        elif path.startswith("/sys/fs/cgroup/") and os.path.basename(path) in quotas:
            pass
        elif not path.startswith(code) and path not in known:  # of the machine
            seen.append(("read", path))
    elif event in ("exec", "compile") and folder in str(args):
        seen.append((event, str(args)))
sys.addaudithook(watch)
nlp = spacy.load(folder)
for settings in ({}, {"threshold": 0}, {"speedup": 1}):
    docs = list(nlp.pipe(texts, component_cfg={"early_exit_ner": settings}))
    assert any(doc.ents for doc in docs)
allowed = {"os.listdir", "os.scandir", "os.putenv", "marshal.loads", "os.walk"}
print("forbidden", [found for found in seen if found[0] not in allowed])
"""


@pytest.mark.takes(seconds=15)
def test_loading_and_predicting_open_no_socket_unpickle_nothing_and_read_nothing_else(saved):
    (saved / NAME / "model" / "evil.py").write_text("raise SystemExit('code ran')")
    (saved / NAME / "__init__.py").write_text("raise SystemExit('code ran')")
    script = hiding("spacy_transformers") + WATCHED
    found = subprocess.run(
        [sys.executable, "-c", script, str(saved), *TEXTS],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert found.returncode == 0, found.stderr
    *read, forbidden = found.stdout.splitlines()
    assert forbidden == "forbidden []"
    ours = {line.removeprefix("read ") for line in read if f"{NAME}/" in line}
    assert ours == {f"{NAME}/{name}" for name in ("cfg", *(f"model/{part}" for part in PARTS))}


class TestCode:
    @pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json", "network.json"])
    def test_a_pickle_in_place_of_a_file_is_an_error_and_not_unpickled(self, name, model, tmp_path):
        (model / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
        assert name in problem(model.parent)
        assert not (tmp_path / "ran").exists()

    def test_nor_is_one_in_bytes(self, nlp, tmp_path):
        data = pickle.dumps(Bomb(tmp_path / "ran"))
        files = dict.fromkeys(["network.json", "tokenizer.json", "weights.safetensors"], data)
        with pytest.raises(ValueError, match="network.json"):
            nlp.get_pipe(NAME).model.shims[0].from_bytes(srsly.msgpack_dumps(files))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("model_type", ["bert", "something-of-mine"])
    def test_an_encoder_with_code_of_its_own_is_refused(self, model_type, encoders, tmp_path):
        folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
        (folder / "mine.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = model_type
        config["auto_map"] = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="auto_map.*never run: there is no"):
            HFEncoder(str(folder)).load()
        assert not (tmp_path / "ran").exists()

    def test_nor_does_code_of_a_tokenizer_run(self, encoders, tmp_path):
        folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
        (folder / "mine.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        config["auto_map"] = {"AutoTokenizer": ["mine.Slow", "mine.Fast"]}
        path.write_text(json.dumps(config))
        HFEncoder(str(folder)).load()  # with Hugging Face's own class
        assert not (tmp_path / "ran").exists()

    def test_a_pickle_in_an_encoders_older_file_is_not_unpickled(self, encoders, tmp_path):
        folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
        (folder / "model.safetensors").unlink()
        file = {"weight": Bomb(tmp_path / "ran"), "others": torch.zeros(100_000)}
        torch.save(file, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match="weights can't be loaded"):
            HFEncoder(str(folder)).load()
        assert not (tmp_path / "ran").exists()

    def test_such_a_file_is_refused_where_torch_could_run_code_in_it(
        self, encoders, tmp_path, monkeypatch
    ):
        folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
        (folder / "model.safetensors").unlink()
        file = {"weight": Bomb(tmp_path / "ran"), "others": torch.zeros(100_000)}
        torch.save(file, folder / "pytorch_model.bin")
        monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
        with pytest.raises(ValueError, match="Install torch 2.6"):
            HFEncoder(str(folder)).load()
        assert not (tmp_path / "ran").exists()


HUGE = {
    "layers": [10**9, -1, 0, "12", 1.5, True],
    "hidden_size": [10**12, 2**16],
    "vocab_size": [10**12, 2**24],
    "intermediate_size": [10**18],
    "positions": [10**12, 0],
    "attention_heads": [0, 7],
    "token_types": [10**12],
    "global_every": [0, 2],
    "layer_norm_eps": [float("nan"), float("inf"), "x", 10**400, 1e300],
    "first_position": [48, 10**6],
    "local_reach": [5],
    "attention_bias": ["yes"],
    "family": ["t5", ["bert"]],
    "activation": ["__import__"],
    "kept_heads": [[[0]], [[0], [1], [2], [10**9]], [[]] * 4, "0123", {"0": [1]}, [0, 1, 2, 3]],
    "intermediate_sizes": [[48], [10**9] * 4, [0] * 4, ["a"] * 4, 7],
}


def calibration_of(*points, **others):
    keys = ("threshold", "saving", "score")
    found = [dict(zip(keys, point)) for point in points]
    return {"points": found, "fingerprint": {}, "words": 9, **others}


FULL, NAN = (0.0, 1.0, 0.5), float("nan")
CRAFTED = {
    "labels": [
        None,
        5,
        "abc",
        {"PER": 1},
        [1, 2, 3],
        [None],
        [["a"]],
        [""],
        ["\ud800"],
        "repeated",
    ],
    "has_weights": ["no", 1, None],
    "calibration": [
        *(5, "x", [], {}, {"points": [5], "fingerprint": {}, "words": 1}),
        *(calibration_of(FULL, words=words) for words in ("x", float("inf"), -1, True)),
        *(calibration_of(FULL, fingerprint=print_) for print_ in ({"a": 1}, "x", None)),
        *(calibration_of(FULL, (at, 2.0, None)) for at in (NAN, 7, -1, "0.5", None)),
        *(calibration_of(FULL, (0.5, saving, None)) for saving in (NAN, 0.5, "2", float("inf"))),
        *(calibration_of(FULL, (0.5, 2.0, score)) for score in (NAN, "x")),
        calibration_of(),
        calibration_of((0.5, 1.0, None), (0.1, 2.0, None)),
        calibration_of(FULL, (0.5, 2.0, None)),
    ],
    "format_version": [True, 1.0, "1", None],
}


class TestSizes:
    @pytest.mark.parametrize("name, value", [(n, value) for n in HUGE for value in HUGE[n]])
    def test_a_network_that_can_not_be_is_refused_before_it_takes_memory(self, name, value, model):
        about = json.loads((model / "network.json").read_text())
        about["encoder"][name] = value
        (model / "network.json").write_text(json.dumps(about))
        assert "network.json" in problem(model.parent)

    @pytest.mark.parametrize("tags", [0, -7, 10**12, 2**20, "7"])
    def test_so_are_tags_that_can_not_be(self, tags, model):
        about = json.loads((model / "network.json").read_text())
        (model / "network.json").write_text(json.dumps({**about, "tags": tags}))
        assert "network.json" in problem(model.parent)

    def test_so_is_what_is_neither_true_nor_false(self, model):
        about = json.loads((model / "network.json").read_text())
        (model / "network.json").write_text(json.dumps({**about, "original": "no"}))
        assert "network.json" in problem(model.parent)

    @pytest.mark.parametrize("name, value", [(n, value) for n in CRAFTED for value in CRAFTED[n]])
    def test_a_state_that_can_not_be_is_refused(self, name, value, model):
        state = json.loads((model.parent / "cfg").read_text())
        labels = state["labels"]
        value = labels[:1] * len(labels) if value == "repeated" else value
        (model.parent / "cfg").write_text(json.dumps({**state, name: value}))
        assert "cfg" in problem(model.parent)

    @pytest.mark.parametrize("where", ["vocabulary", "template"])
    def test_wordpieces_that_the_encoder_does_not_know_are_refused(self, where, model):
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        if where == "template":
            tokenizer["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [999_999]
        else:
            vocab = tokenizer["model"]["vocab"]
            tokenizer["model"]["vocab"] = {piece: vocab[piece] + 10**6 for piece in vocab}
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        assert "tokenizer.json" in problem(model.parent)

    def test_more_than_the_machine_has_is_refused(self, model):
        about = json.loads((model / "network.json").read_text())
        about["encoder"].update(layers=20, hidden_size=2**15, intermediate_size=2**20)
        (model / "network.json").write_text(json.dumps(about))
        assert "its container has" in problem(model.parent)

    def test_so_is_more_than_its_container_may_take(self, model, monkeypatch, tmp_path):
        limit = tmp_path / "memory.max"
        monkeypatch.setattr(storage, "LIMITS", (str(tmp_path / "nowhere"), str(limit)))
        pipe = blank("nowhere").get_pipe(NAME)
        limit.write_text("max\n")
        pipe.from_disk(model.parent, exclude=["vocab"])
        limit.write_text("20000\n")
        assert "its container has 20,000" in problem(model.parent)

    def test_a_state_of_very_many_things_is_refused_before_it_takes_memory(self, model):
        cfg = model.parent / "cfg"
        cfg.write_text('{"labels": ["A"], "x": [' + "{}," * 1_400_000 + "{}]}")
        assert "at most 4,194,304 are allowed" in problem(model.parent)
        with pytest.raises(ValueError, match="at most 4,194,304 are allowed"):
            parse_state(cfg.read_bytes(), "cfg in the bytes", lambda labels: None)
        labels = [str(number) for number in range(MAX_LABELS + 1)]
        cfg.write_text(json.dumps({"labels": labels, "has_weights": False}))
        assert "65,537 labels" in problem(model.parent)

    def test_nor_is_such_a_state_saved(self):
        for labels, message in (
            (map(str, range(MAX_LABELS + 1)), "65,537 labels"),
            (["A" * MAX_CFG_BYTES], "are allowed"),
        ):
            with pytest.raises(ValueError, match=f"can't be saved: .*{message}"):
                State(tuple(labels)).to_bytes()

    @pytest.mark.parametrize("name", ["cfg", *(f"model/{part}" for part in PARTS)])
    def test_a_file_that_is_too_large_is_not_read(self, name, model):
        path = model.parent / name
        with path.open("r+b") as file:
            file.truncate(2**40)  # a hole: it takes no room on the disk
        found = problem(model.parent)
        assert path.name in found and "1,099,511,627,776 bytes" in found

    def test_nor_is_one_that_nothing_else_was_read_of(self, model):
        about = {"labels": [], "has_weights": False, "network": "0"}
        (model.parent / "cfg").write_text(json.dumps(about))
        with (model / "network.json").open("r+b") as file:
            file.truncate(2**40)
        found = problem(model.parent)
        assert "network.json" in found and "1,099,511,627,776 bytes" in found

    def test_very_many_weights_without_numbers_are_refused_before_each_takes_memory(self, model):
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header = json.dumps({f"criterion.{number}": empty for number in range(60_000)}).encode()
        (model / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        found = problem(model.parent)
        assert "weights.safetensors" in found and "at most 4,194,304 are allowed" in found

    @pytest.mark.parametrize("name", ["decoder.a.b", "criterion.", "criterion.keys"])
    def test_a_weight_whose_name_can_be_none_is_refused(self, name, model):
        weights = load_file(model / "weights.safetensors")
        path = model / "weights.safetensors"
        save_file({**weights, name: torch.zeros(1)}, path)
        found = problem(model.parent)
        assert "weights.safetensors" in found and "is damaged" in found

    def test_a_part_that_network_json_lacks_is_not_a_missing_file(self, model):
        about = json.loads((model / "network.json").read_text())
        del about["encoder"]
        (model / "network.json").write_text(json.dumps(about))
        found = problem(model.parent)
        assert "network.json" in found and "'encoder'" in found and "missing" not in found

    def test_a_tokenizer_too_large_for_its_wordpieces_is_not_read(self, model):
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"] |= {str(number): 5 for number in range(400_000)}
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        found = problem(model.parent)
        assert "tokenizer.json" in found and "are allowed" in found

    def test_what_could_not_be_loaded_is_not_saved(self, nlp, tmp_path, monkeypatch):
        monkeypatch.setattr(storage, "MAX_LEARNED_BYTES", 100_000)
        network = nlp.get_pipe(NAME).model.shims[0].trained.network
        network.make_room_for({}, {"small": torch.zeros(10_000)})
        nlp.to_disk(tmp_path / "small")
        blank("nowhere").get_pipe(NAME).from_disk(tmp_path / "small" / NAME, exclude=["vocab"])
        network.make_room_for({}, {"large": torch.zeros(25_000)})
        with pytest.raises(ValueError, match="weights.safetensors can't be saved: .* are allowed"):
            nlp.to_disk(tmp_path / "large")
        monkeypatch.undo()
        monkeypatch.setattr(storage, "MAX_TOKENIZER_BYTES", 100)
        with pytest.raises(ValueError, match="tokenizer.json can't be saved: .* are allowed"):
            nlp.to_disk(tmp_path / "large")

    def test_bytes_that_unfold_are_refused(self):
        for parts in ({"cfg": [{}] * 1000}, {"cfg": {}}, {str(n): b"" for n in range(17)}, [b""]):
            with pytest.raises(ValueError, match="bytes can't be read: they are damaged"):
                blank("nowhere").get_pipe(NAME).from_bytes(srsly.msgpack_dumps(parts))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
    @pytest.mark.parametrize("name", ["cfg", *(f"model/{part}" for part in PARTS)])
    def test_nobody_waits_for_a_pipe(self, name, model):
        path = model.parent / name
        path.unlink()
        os.mkfifo(path)
        found = problem(model.parent)
        assert path.name in found and "not a regular file" in found

    def test_a_link_to_something_else_is_an_error(self, model, tmp_path):
        (tmp_path / "secret").write_text("of somebody")
        (model / "tokenizer.json").unlink()
        (model / "tokenizer.json").symlink_to(tmp_path / "secret")
        found = problem(model.parent)
        assert "tokenizer.json" in found and "of somebody" not in found

    @pytest.mark.parametrize(
        "part",
        [
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "[NONE]", "type_id": 0}}],
                    "pair": [],
                    "special_tokens": {},
                }
            },
            {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        ],
    )
    def test_a_tokenizer_that_panics_is_an_error_as_well(self, part, model):
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        (model / "tokenizer.json").write_text(json.dumps({**tokenizer, **part}))
        assert "tokenizer.json" in problem(model.parent)

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"[]",
            b'{"x": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}',
            b'{"x": {"dtype": "F32", "shape": [1000000], "data_offsets": [0, 4000000]}}',
            b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
            b'{"decoder.x": {"dtype": "F32", "shape": ' + b"[" + b"1," * 60 + b"1]"
            b', "data_offsets": [0, 4]}}',
            b'{"heads.0.weight": {"dtype": "F64", "shape": [], "data_offsets": [0, 4]}}',
        ],
    )
    @pytest.mark.parametrize("claimed", [None, 2**62, 2**40, 99_999_999])
    def test_what_a_header_claims_takes_no_memory(self, header, claimed, model):
        length = struct.pack("<Q", len(header) if claimed is None else claimed)
        (model / "weights.safetensors").write_bytes(length + header + b"\0\0\0\0")
        assert "weights.safetensors" in problem(model.parent)

    def test_weights_of_another_type_are_refused(self, model):
        weights = load_file(model / "weights.safetensors")
        halves = {name: tensor.half() for name, tensor in weights.items()}
        save_file(halves, model / "weights.safetensors")
        assert "dtype F16 instead of F32" in problem(model.parent)

    @pytest.mark.parametrize(
        "sizes",
        [
            {"num_hidden_layers": 10**9},
            {"num_hidden_layers": 500, "hidden_size": 2**14},
            {"vocab_size": 2**24},
            {"vocab_size": 10**15},
            {"max_position_embeddings": 10**15},
            {"num_hidden_layers": 10**9, "pruned_heads": {"0": [1]}},
        ],
    )
    def test_an_encoder_without_the_weights_that_it_claims_is_refused(
        self, sizes, encoders, tmp_path
    ):
        folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **sizes}))
        import transformers.models.bert.modeling_bert  # noqa: F401  (not now: it takes memory)

        wrong = pytest.raises(ValueError, match=r"whole number|describes .* parameters")
        with little_memory(), wrong:
            HFEncoder(str(folder)).load()

    def test_json_that_nests_without_end_is_an_error(self, model):
        (model.parent / "cfg").write_text("[" * 100_000)
        assert "cfg" in problem(model.parent)


class TestPaths:
    @pytest.mark.parametrize("name", ["../other", "/etc/pipe", "a/b", "a\\b", "..", "."])
    def test_a_component_whose_name_is_a_path_is_refused(self, name):
        with pytest.raises(ValueError, match="can't be a path"):
            spacy.blank("en").add_pipe(NAME, name=name)

    def test_a_pipeline_with_such_a_name_in_its_config_is_not_loaded(self, saved):
        config = spacy.util.load_config(saved / "config.cfg")
        config["components"]["/etc/pipe"] = config["components"].pop(NAME)
        config["nlp"]["pipeline"] = ["/etc/pipe"]
        config.to_disk(saved / "config.cfg")
        with pytest.raises(ValueError, match="can't be a path"):
            spacy.load(saved)

    def test_files_named_in_a_file_are_not_looked_for(self, model, tmp_path):
        (tmp_path / "outside").write_bytes(b"")
        about = json.loads((model / "network.json").read_text())
        weights = checksum((model / "weights.safetensors").read_bytes())
        about["files"] = {"../../../outside": "0" * 64, "weights.safetensors": weights}
        about["files"]["tokenizer.json"] = "0" * 64
        (model / "network.json").write_text(json.dumps(about))
        assert "tokenizer.json" in problem(model.parent)
