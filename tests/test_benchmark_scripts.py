"""The scripts in benchmarks/, as far as they need neither corpora nor other people's programs."""

import ast
import dataclasses
import importlib
import itertools
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import spacy
import torch
from spacy.tokens import DocBin

from benchmarks.common import corpora, curves, results
from benchmarks.quality import shared
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.text.windows import windows_of
from tests.makers.pipelines import trained_pipeline
from tests.makers.shared import both_of
from tests.makers.texts import TEXTS, examples_of

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("[!_]*.py")
)
SCRIPTS = [
    name for name in MODULES if "def main(" in (ROOT / f"{name.replace('.', '/')}.py").read_text()
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_takes(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0 and "--" in capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_in_the_table(script):
    assert f"`{script.removeprefix('benchmarks.')}`" in (ROOT / "benchmarks/README.md").read_text()


@pytest.mark.parametrize("module", MODULES)
def test_scripts_share_code_by_way_of_common_alone(module):
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    ours = {name for name in names if name.split(".")[0] in ("benchmarks", "scripts", "tests")}
    allowed = ("benchmarks.common", "tests.makers")
    assert all(name.startswith(allowed) for name in ours)


class TestResults:
    def test_what_is_read_is_what_was_written(self, tmp_path):
        found = {
            "a, seed 0": {"dev": [{"f": 0.5, "n": 1}, {"f": 0.25, "other": [1, 2.5]}], "tune": []},
            "seconds": [0.5, 1.5],
            "text": "as it is: [1, 2]",
        }
        results.write(tmp_path / "folder" / "found.json", found, threads=2)
        assert results.read(tmp_path / "folder" / "found.json") == found

    def test_a_row_is_a_line_and_has_five_digits(self, tmp_path):
        rows = [{"name": "one", "f": 1 / 3, "words": 1234567}, {"name": "two", "f": 12345.678}]
        results.write(tmp_path / "found.json", rows)
        lines = (tmp_path / "found.json").read_text().splitlines()
        assert '["one", 0.33333, 1234567],' in [line.strip() for line in lines]
        assert '["two", 12346.0, null]' in [line.strip() for line in lines]

    def test_a_file_says_where_it_comes_from(self, tmp_path):
        results.write(tmp_path / "found.json", [], threads=2)
        about = results.read_about(tmp_path / "found.json")
        assert about["threads"] == 2
        assert about["command"] == " ".join(["python", *sys.orig_argv[1:]])
        assert {"commit", "date", "machine"} <= set(about)

    def test_without_a_repository_the_commit_is_not_made_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
        assert results.origin()["commit"] is None

    def test_what_is_cut_off_leaves_the_earlier_file(self, tmp_path):
        results.write(tmp_path / "found.json", [1])
        with pytest.raises(TypeError):
            results.write(tmp_path / "found.json", [object()])
        assert results.read(tmp_path / "found.json") == [1]

    def test_what_there_is_not_is_what_was_asked_for_instead(self, tmp_path):
        assert results.read(tmp_path / "none.json", {}) == {}
        with pytest.raises(FileNotFoundError):
            results.read(tmp_path / "none.json")

    @pytest.mark.parametrize(
        "path", sorted((ROOT / "benchmarks/results").rglob("*.json")), ids=lambda path: path.stem
    )
    def test_kept_results_are_in_this_form(self, path):
        text = path.read_text(encoding="utf8")
        assert results.to_json(results.read_about(path), results.read(path)) == text
        assert {"commit", "date", "machine", "command"} <= set(results.read_about(path))


class TestCurves:
    ROWS = ({"mac_speedup": 1.0, "ents_f": 0.6}, {"mac_speedup": 3.0, "ents_f": 0.5})

    def test_between_two_thresholds_f_is_interpolated_and_out_of_reach_it_is_0(self):
        assert curves.f_at(self.ROWS, 2.0) == pytest.approx(0.55)
        assert curves.f_at(self.ROWS, 3.5) == 0.0 == curves.f_at(self.ROWS, 0.5)

    def test_a_criterion_is_read_as_from_a_config(self):
        block = curves.criterion_of(["PatienceExit.v1", "patience=2", "window=0"])
        assert block == {
            "@misc": "spacy-early-exit.PatienceExit.v1",
            "patience": 2,
            "window": 0,
        }

    def test_a_pipeline_saves_more_at_a_higher_threshold(self, nlp):
        gold = [example.reference for example in examples_of(nlp)]
        full, early = curves.measure(nlp, gold, [0.0, 1.0])
        assert full["mac_speedup"] == 1.0 < early["mac_speedup"]
        assert set(curves.KEPT) == set(full)

    def test_a_curve_is_that_of_another_criterion(self, nlp, tmp_path, monkeypatch):
        nlp.to_disk(tmp_path / "pipeline")
        docs = [example.reference for example in examples_of(nlp)]
        spacy.tokens.DocBin(docs=docs).to_disk(tmp_path / "dev.spacy")
        found = []
        for how in (["--sentences"], ["--criterion", "TokenExit.v1", "window=0"]):
            given = [
                tmp_path / "pipeline",
                tmp_path / "dev.spacy",
                "--thresholds",
                "0,0.01,0.03,0.1",
            ]
            given += ["--threads", 1, "--output", tmp_path / "curve.json", *how]
            monkeypatch.setattr(sys, "argv", ["curve", *map(str, given)])
            importlib.import_module("benchmarks.quality.curve").main()
            found.append([row["mac_speedup"] for row in results.read(tmp_path / "curve.json")])
        sentences, words = found
        assert sentences[0] == words[0] == 1.0 and sentences != words
        assert all(few <= many for few, many in zip(sentences, words))


def test_texts_of_a_corpus_are_its_words(tmp_path):
    (tmp_path / "dev.tsv").write_text("Ann\tB-PER\nsings\tO\n\nHi\tO\n")
    assert corpora.texts_of(tmp_path / "dev.tsv") == ["Ann sings", "Hi"]


def test_misses_of_drift_are_beside_what_was_asked_for():
    drift = importlib.import_module("benchmarks.quality.drift")
    row = {"speedup": 2.0, "adaptive": 1.9, "adaptive_all": 2.2}
    assert drift.misses(row) == pytest.approx({"miss": -0.05, "miss_all": 0.1})


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_others_get_the_network_as_it_is(family, encoders, tmp_path):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    peers = importlib.import_module("benchmarks.common.peers")
    nlp = trained_pipeline(encoders[family])
    nlp.to_disk(tmp_path / "pipeline")
    peers.export(tmp_path / "pipeline", tmp_path / "checkpoint")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "checkpoint").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    ner = nlp.get_pipe("early_exit_ner")
    trained = ner.model.shims[0].trained
    assert set(model.config.label2id) == {"O", *(f"{k}-{la}" for la in ner.labels for k in "BI")}
    for text in TEXTS[:6]:
        window = windows_of([nlp.make_doc(text)], trained.tokenizer, 64, 8, shared="keep")[0]
        batch = Batch.of([window], torch.device("cpu"))
        with torch.inference_mode():
            ours = run_with_exits(trained.network, batch, None).logits
            theirs = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert torch.allclose(ours, theirs[batch.piece_of_word], atol=1e-4)
        assert tokenizer(text)["input_ids"] == window.ids.tolist()


@pytest.mark.parametrize("spread", [False, True])
def test_a_cut_pipeline_has_the_layers_that_stay(spread, nlp, tmp_path):
    baselines = importlib.import_module("benchmarks.quality.baselines")
    nlp.to_disk(tmp_path / "pipeline")
    baselines.cut_trained(tmp_path / "pipeline", tmp_path / "cut", 2, spread)
    cut = spacy.load(tmp_path / "cut")
    whole, mine = (n.get_pipe("early_exit_ner").model.shims[0].trained for n in (nlp, cut))
    assert mine.network.spec.layers == 2
    deepest = whole.network.head(whole.network.spec.layers)
    assert torch.equal(mine.network.head(2).weight, deepest.weight)
    stay = [0, whole.network.spec.layers - 1] if spread else [0, 1]
    for mine_layer, number in zip(mine.network.encoder.layers, stay):
        layer = whole.network.encoder.layers[number]
        assert torch.equal(mine_layer.output.weight, layer.output.weight)
    assert len(list(cut.pipe(TEXTS))) == len(TEXTS)


def test_the_verdict_compares_with_the_better_full_depth(tmp_path):
    verdict = importlib.import_module("benchmarks.quality.verdict")
    kept = importlib.import_module("benchmarks.common.results")
    curve = [(1.0, 0.8, 6.0), (2.0, 0.7, 3.0), (3.5, 0.4, 2.0)]
    names = ("mac_speedup", "ents_f", "mean_exit_layer")
    kept.write(tmp_path / "tasks.json", [dict(zip(names, row)) for row in curve])
    runs = {
        "uncut, rate 1e-4, seed 0": {"tune": 0.9, "dev": 0.82},
        "uncut, rate 2e-4, seed 0": {"tune": 0.8, "dev": 0.99},
        "3 layers, rate 1e-4, seed 0": {"tune": 0.5, "dev": 0.5},
        "3 layers, rate 1e-4, seed 1": {"tune": 0.6, "dev": 0.7},
        "2 layers, distilled, spread, rate 1e-4, seed 0": {"tune": 0.5, "dev": 0.4},
    }
    kept.write(tmp_path / "baselines.json", runs)
    found = verdict.read([tmp_path / "tasks.json", tmp_path / "baselines.json"])
    assert found.full == 0.82, "the rate is chosen on tune"
    assert (found.layers, found.at(2.0), found.at(4.0)) == (6, 0.7, None)
    assert found.at(3.0) == pytest.approx(0.5)
    assert {cut[:2]: cut.f for cut in found.cuts} == {
        (3, ""): pytest.approx(0.6),
        (2, "distilled, spread"): 0.4,
    }


class TestSoak:
    GOOD = {"wrong": [], "compared": 9, "short_calls": 9, "memory_grown_mb": 3.0}

    def test_growth_is_that_of_all_the_time_after_the_start(self):
        growth = importlib.import_module("benchmarks.robustness.soak").growth
        steady = [(float(at), 100 + 20 * max(0.0, at - 300) / 3300) for at in range(0, 3600, 15)]
        assert growth(steady, 300) == pytest.approx(20, abs=0.5)
        once_more = [(at, 300.0 if at == 1500 else 100.0) for at, _ in steady]
        assert growth(once_more, 300) == 0

    @pytest.mark.parametrize(
        "what",
        [{"wrong": ["x"]}, {"compared": 0}, {"short_calls": 0}, {"memory_grown_mb": 20.0}],
        ids=str,
    )
    def test_what_fails(self, what):
        failed = importlib.import_module("benchmarks.robustness.soak").failed
        assert not failed(self.GOOD)
        assert failed({**self.GOOD, **what})

    def test_another_answer_is_found_out(self, nlp, tmp_path, monkeypatch):
        soak = importlib.import_module("benchmarks.robustness.soak")
        spacy.tokens.DocBin(docs=[nlp.make_doc(text) for text in TEXTS]).to_disk(
            tmp_path / "texts.spacy"
        )
        monkeypatch.setattr(soak, "LENGTHS", [1, 5, 20])
        monkeypatch.setattr(soak, "WATCHED", 2)
        one = soak.Soak(nlp, tmp_path / "texts.spacy", random.Random(0))
        one.settings = one.settings[:2]
        for _ in range(40):
            one.call()
        assert not one.wrong and one.counts["compared"]
        monkeypatch.setattr(soak, "answers", lambda doc: random.random())
        monkeypatch.setattr(one, "is_tie", lambda text, setting: False)
        for _ in range(20):
            one.call()
        assert any("another answer" in what for what in one.wrong)
        assert soak.failed(one.run(0.5))


class TestFuzz:
    def test_a_panic_is_a_failure_with_its_smallest_case(self, monkeypatch):
        from tests.makers.any_input import Case

        fuzz = importlib.import_module("benchmarks.robustness.fuzz")

        class Panic(BaseException):
            pass

        def check(nlp, case: Case, counts):
            if case.batch_size > 3:
                raise Panic("four")

        monkeypatch.setattr(fuzz, "check", check)
        found = fuzz.run_round({"any": None}, "any", 0, Counter())
        assert "Panic: four" in found["error"] and "batch_size=4" in found["case"]

    def test_where_all_leave_at_once_nothing_is_shown(self):
        trivial = importlib.import_module("benchmarks.robustness.fuzz").trivial
        seen = Counter({"words": 100, "docs answered": 1000, "entities": 3})
        layers = "words that left at layer "
        assert "at one layer" in trivial(seen + Counter({layers + "4": 85, layers + "1": 15}))
        spread = seen + Counter({layers + "4": 60, layers + "1": 40})
        assert not trivial(spread)
        assert "ties" in trivial(spread + Counter({"ties": 2}))
        assert "entities" in trivial(spread - Counter({"entities": 3}))


class TestMutants:
    def test_what_no_test_noticed_is_kept_with_what_was_changed(self, tmp_path, monkeypatch):
        mutants = importlib.import_module("benchmarks.robustness.mutants")
        codes = {"tags.x__mutmut_1": 0, "tags.x__mutmut_2": 1, "tags.x__mutmut_3": -11}
        meta = tmp_path / "mutants" / "package" / "tags.py.meta"
        meta.parent.mkdir(parents=True)
        meta.write_text(json.dumps({"exit_code_by_key": {**codes, "tags.x__mutmut_4": 36}}))
        diff = "# tags.x__mutmut_1: survived\n--- a\n+++ b\n@@ -1 +1 @@\n-    a > 0\n+    a >= 0\n"
        shown = SimpleNamespace(stdout=diff)
        with monkeypatch.context() as patch:
            patch.setattr(mutants.subprocess, "run", lambda *args, **kwargs: shown)
            changed = mutants.change("tags.x__mutmut_1")
        given = ["--mutants", meta.parent.parent, "--output", tmp_path / "found.json"]
        monkeypatch.setattr(sys, "argv", ["mutants", *map(str, given)])
        assert changed == {"was": "a > 0", "is": "a >= 0"}
        monkeypatch.setattr(mutants, "change", lambda name: changed)
        mutants.main()
        found = results.read(tmp_path / "found.json")
        (row,) = found["counts"]
        numbers = {"mutants": 4, "survived": 1, "killed": 2, "timed out": 1}
        assert row == {"file": "package/tags.py", **numbers}
        (survivor,) = found["survived"]
        assert survivor["mutant"] == "tags.x__mutmut_1" and survivor["is"] == "a >= 0"

    def test_the_files_and_tests_that_are_named_for_it_exist(self):
        tomllib = pytest.importorskip("tomllib")
        config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
        assert all((ROOT / file).is_file() for file in config["only_mutate"])
        for test in config["pytest_add_cli_args_test_selection"]:
            file, *names = test.split("::")
            for name in names:
                kind = "class" if name.startswith("Test") else "def"
                assert f"{kind} {name.partition('[')[0]}" in (ROOT / file).read_text()


class TestSlim:
    def test_fewer_layers_cost_as_much_as_a_slim_encoder(self, encoders):
        from spacy_early_exit.encoders.hugging_face import HFEncoder

        slim = importlib.import_module("benchmarks.quality.slim")
        spec = HFEncoder(encoders["bert"]).load().spec
        assert slim.as_many_layers(spec) == 4
        half = dataclasses.replace(
            spec, kept_heads=((0, 1),) * 4, intermediate_sizes=(24, 24, 24, 24)
        )
        assert slim.as_many_layers(half) == 2
        tiny = dataclasses.replace(spec, kept_heads=((0,),) * 4, intermediate_sizes=(1, 1, 1, 1))
        assert slim.as_many_layers(tiny) == 1

    def test_a_cut_encoder_has_the_first_layers(self, encoders, tmp_path):
        from spacy_early_exit.encoders.hugging_face import HFEncoder

        slim = importlib.import_module("benchmarks.quality.slim")
        slim.cut(Path(encoders["bert"]), tmp_path / "cut", 2)
        cut, whole = (HFEncoder(str(at)).load() for at in (tmp_path / "cut", encoders["bert"]))
        assert cut.spec.layers == 2
        assert all(torch.equal(cut.weights[name], whole.weights[name]) for name in cut.weights)

    def test_a_share_of_the_steps_has_its_own_schedule(self):
        slim = importlib.import_module("benchmarks.quality.slim")
        config = ROOT / "configs" / "joint.cfg"  # 600 steps, evaluated every 100
        rate = "--training.optimizer.learn_rate"
        for share, steps, every, warmup in ((0.5, 300, 50, 30), (1.2, 720, 120, 72)):
            options = slim.shortened(config, share)
            values = dict(zip(options[::2], options[1::2]))
            assert values["--training.max_steps"] == values[f"{rate}.total_steps"] == steps
            assert values["--training.eval_frequency"] == every
            assert values[f"{rate}.warmup_steps"] == warmup

    def test_the_early_bird_is_above_random_tickets_of_its_own_seed(self, capsys):
        slim = importlib.import_module("benchmarks.quality.slim")
        curves = {"early bird, seed 0": 0.60, "random 0, seed 0": 0.57, "random 1, seed 0": 0.55}
        curves |= {"random 0, seed 1": 0.9}  # without an early bird
        found = {
            key: {"dev": [{"mac_speedup": s, "ents_f": f} for s in (1.0, 3.5)]}
            for key, f in curves.items()
        }
        slim.show_random(found)
        printed = capsys.readouterr().out
        assert "3X: the early bird is +4.00 ± 1.4 points of F above 2 random tickets" in printed
        assert "4X" not in printed  # no way gets there

    def test_checks_are_read_from_what_a_search_prints(self):
        slim = importlib.import_module("benchmarks.quality.slim")
        printed = "Update 65: 19.4% of the heads and 24.1% of the neurons differ from an earlier"
        assert slim.CHECK.findall(printed) == [("65", "19.4", "24.1")]

    def test_full_depth_that_saves_more_than_asked_for_counts(self):
        slim = importlib.import_module("benchmarks.quality.slim")
        rows = [{"mac_speedup": 1.6, "ents_f": 0.5}, {"mac_speedup": 3.6, "ents_f": 0.3}]
        assert slim.at_least(rows, 1.5) == 0.5
        assert slim.at_least(rows, 2.6) == pytest.approx(0.4)
        assert slim.at_least(rows, 4.0) == 0.0


class TestGPU:
    """The script for GPUs, as far as a CPU can run it."""

    def run(self, monkeypatch, output, *more):
        from benchmarks.speed import gpu

        small = ("--device", "cpu", "--shapes", "tiny", "--words", "300", "--rounds", "1")
        small += ("--batch-sizes", "4,8", "--wordpieces", "400", "--no-compile")
        monkeypatch.setattr(sys, "argv", ["gpu", *small, *more, "--output", str(output)])
        with pytest.raises(SystemExit) as ended:
            gpu.main()
        assert not ended.value.code
        return results.read(output)

    @pytest.mark.takes(seconds=15)
    def test_it_measures_everything(self, tmp_path, monkeypatch):
        found = self.run(monkeypatch, tmp_path / "gpu.json", "--minutes", "2")
        assert set(found) == {"oracle", "speed", "training"}
        for row in found["oracle"]:
            if "fp32" in row["run"]:
                assert row["difference"] <= 1e-4 and row["ok"] is True
                assert not row["other_exit_layers"] and not row["other_labels_without_a_tie"]
        runs = [row["run"] for row in found["speed"]]
        ours = [f"{n}X, {precision}" for precision in ("bf16", "fp32") for n in range(1, 5)]
        assert runs[:8] == ours and len(runs) == 10
        savings = [row["mac_speedup"] for row in found["speed"][:4]]
        assert savings == sorted(savings) and savings[0] == 1.0 < savings[1]
        assert len(found["training"]) == 2
        assert all(row["words_per_second"] > 0 for row in found["speed"] + found["training"])

    def test_when_its_time_is_over_it_says_what_is_left_out(self, tmp_path, monkeypatch):
        found = self.run(monkeypatch, tmp_path / "gpu.json", "--minutes", "0")
        assert [row["what"] for row in found["left out"]] == [
            *("oracle", "speed", "beside", "training")
        ]

    def test_what_fails_does_not_end_it(self, tmp_path, monkeypatch):
        from benchmarks.speed import gpu

        def fails(*_):
            raise torch.cuda.OutOfMemoryError("too little")

        for part in ("oracle", "speed", "beside"):
            monkeypatch.setattr(gpu, part, fails)
        found = self.run(monkeypatch, tmp_path / "gpu.json", "--minutes", "1")
        assert [row["why"] for row in found["failed"]] == ["OutOfMemoryError: too little"] * 3
        assert len(found["training"]) == 2

    def test_it_fails_if_answers_are_not_those_of_the_cpu(self, tmp_path, monkeypatch):
        from benchmarks.speed import gpu

        right = gpu.run_with_exits
        calls = itertools.count()

        def wrong(*given, **more):
            found = right(*given, **more)
            moved = found.logits + (0.01 if next(calls) == 1 else 0.0)  # the first on the device
            return dataclasses.replace(found, logits=moved)

        monkeypatch.setattr(gpu, "run_with_exits", wrong)
        for part in ("speed", "beside", "training"):
            monkeypatch.setattr(gpu, part, lambda *_: None)
        with pytest.raises(AssertionError):
            self.run(monkeypatch, tmp_path / "gpu.json", "--minutes", "1")
        rows = results.read(tmp_path / "gpu.json")["oracle"]
        assert [row.get("ok") for row in rows] == [False, None, True, None]

    @pytest.mark.slow
    def test_it_ends_even_if_a_measurement_does_not(self, tmp_path):
        script = (
            "import time\n"
            "from benchmarks.speed import gpu\n"
            "gpu.GRACE, gpu.oracle = 0.0, lambda *_: time.sleep(1000)\n"
            "gpu.main()\n"
        )
        small = ("--device", "cpu", "--shapes", "tiny", "--words", "300", "--minutes", "0.05")
        command = [sys.executable, "-c", script, *small, "--output", str(tmp_path / "gpu.json")]
        ended = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True)
        assert ended.returncode == 1, ended.stderr
        assert results.read(tmp_path / "gpu.json")["left out"] == [{"what": "what came next"}]

    def test_batches_hold_so_many_wordpieces_with_their_padding(self):
        from benchmarks.speed import gpu

        windows, _ = gpu.texts(3000)
        found = list(gpu.of_padded_size(windows, 300))
        assert sorted(w.doc for part in found for w in part) == list(range(len(windows)))
        for part in found:
            assert len(part) == 1 or len(part) * max(len(w.ids) for w in part) <= 300
        assert max(len(part) for part in found) > 5

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
    def test_full_depth_can_be_compiled(self, tmp_path, monkeypatch):
        from benchmarks.speed import gpu

        for part in ("oracle", "speed", "beside", "training"):
            monkeypatch.setattr(gpu, part, lambda *_: None)
        small = ("--device", "cpu", "--shapes", "tiny", "--words", "300", "--rounds", "1")
        output = str(tmp_path / "gpu.json")
        monkeypatch.setattr(sys, "argv", ["gpu", *small, "--output", output])
        with pytest.raises(SystemExit):
            gpu.main()
        found = results.read(tmp_path / "gpu.json")
        assert [row["run"] for row in found["speed"]] == [
            "1X again, bf16",
            "1X, torch.compile, bf16",
        ]

    def test_texts_are_of_mixed_length_and_exit_where_they_were_recorded_to(self):
        from benchmarks.speed import gpu

        windows, recorded = gpu.texts(2000)
        lengths = [len(window.ids) for window in windows]
        assert max(lengths) <= gpu.POSITIONS and max(lengths) > 10 * min(lengths)
        for layers in recorded.values():
            assert [len(each) for each in layers] == [len(window.words) for window in windows]
            assert {int(layer) for each in layers for layer in each} <= set(range(1, 7))


class TestShared:
    @pytest.mark.parametrize(
        "pos, word, expected",
        [
            ("NOUN", "cats", "Number=Plur"),
            ("NOUN", "cat", "Number=Sing"),
            ("VERB", "going", "VerbForm=Ger"),
            ("ADJ", "Best", "Degree=Sup"),
            ("DET", "the", ""),
        ],
    )
    def test_features_are_those_of_the_first_ending(self, pos, word, expected):
        assert shared.features_of(pos, word) == expected

    @pytest.mark.takes(seconds=120)
    @pytest.mark.slow
    def test_a_third_task_learns_heads_of_its_own(self, encoders, tmp_path, monkeypatch):
        """After both stages of the others, in spaCy's own training."""
        monkeypatch.chdir(ROOT)
        docs = [eg.reference for eg in both_of(spacy.blank("en"))]
        for part in ("train", "tune", "dev"):
            DocBin(docs=docs).to_disk(tmp_path / f"{part}.spacy")
        how = {"epochs": 1, "min_steps": 10, "seed": "0", "speedups": "1.2"}
        args = SimpleNamespace(encoder=encoders["bert"], work=tmp_path, **how)
        two = shared.make(args, "shared", tmp_path)
        three = spacy.load(shared.add_third(args, tmp_path, two))
        assert three.pipe_names == ["early_exit_ner", "early_exit_tagger", "features"]
        encoder = three.get_pipe("early_exit_ner").network.encoder
        doc = three(TEXTS[0])
        assert all(token.has_morph() for token in doc)
        assert three.get_pipe("features").network.encoder is encoder
        before = spacy.load(two).get_pipe("early_exit_ner").network.state_dict()
        found = three.get_pipe("early_exit_ner").network.state_dict()
        assert all(torch.equal(found[name], value) for name, value in before.items())
        labels = set(three.get_pipe("features").labels)
        assert {"Number=Sing", "_"} <= labels and labels != set(
            three.get_pipe("early_exit_tagger").labels
        )


class TestFewShot:
    def test_raw_text_has_the_words_of_the_corpus(self, tmp_path):
        few_shot = importlib.import_module("benchmarks.quality.few_shot")
        (tmp_path / "train.tsv").write_text("do\tO\nn't\tO\n\nu.s.a\tB-LOC\n", encoding="utf8")
        (tmp_path / "unlabelled.jsonl").write_text('{"text": "u.s.a"}\n{"text": "do n\'t"}\n')
        file = few_shot.in_its_own_words(tmp_path, tmp_path)
        docs = list(DocBin().from_disk(file).get_docs(spacy.blank("en").vocab))
        assert [[t.text for t in doc] for doc in docs] == [["u.s.a"], ["do", "n't"]]
        assert not any(doc.ents for doc in docs)

    def test_ways_are_compared_within_samples(self, capsys):
        few_shot = importlib.import_module("benchmarks.quality.few_shot")
        scores = {"few": (0.50, 0.60), "meta": (0.53, 0.65)}
        few_shot.show(
            {
                f"snips, 10 a label, sample {sample}, {way}": {
                    "1": f,
                    "exits 1": f,
                    "exits 2": f / 2,
                }
                for way, both in scores.items()
                for sample, f in enumerate(both)
            }
        )
        printed = capsys.readouterr().out
        assert "59.0 ± 8.5" in printed and "50.0 ± 0.0" in printed
        assert "meta above few" in printed and "4.0 ± 1.4" in printed
