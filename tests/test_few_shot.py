"""From a few labels and a folder of text to a pipeline."""

import json
import shutil
import sys

import pytest
import spacy
import srsly
from spacy.tokens import DocBin

from spacy_early_exit.budget.curve import Point
from spacy_early_exit.measure.calibrate import Run
from tests.makers.commands import run
from tests.makers.project import ROOT
from tests.makers.texts import SENTENCES, write_corpus

sys.path.insert(0, str(ROOT / "scripts"))

import cut_tune
import few_shot
import prepare_few
import train_few


def sentence(*labels, number=0):
    """A sentence with entities of some labels."""
    lines = [f"x{number}\tO", *(f"Ann\tB-{label}" for label in labels)]
    return "\n".join(lines)


class TestDrawing:
    TEXTS = [
        *(sentence("A", number=i) for i in range(20)),
        *(sentence("A", "B", number=i) for i in range(20, 26)),
        *(sentence(number=i) for i in range(30, 40)),
        sentence("C", number=50),
    ]

    def test_there_are_so_many_sentences_for_each_label(self):
        few, rest, missed = few_shot.draw(self.TEXTS, ".tsv", 3, seed=0)
        assert len(few) == 3 + 3 + 1 and missed == {"C": 1}
        assert sorted([*few, *rest]) == sorted(self.TEXTS)
        assert sum("B-B" in text for text in few) >= 3 and sum("B-C" in text for text in few) == 1

    def test_the_seed_decides_which(self):
        drawn = [few_shot.draw(self.TEXTS, ".tsv", 3, seed)[0] for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]

    @pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
    def test_the_rest_is_raw_text(self, suffix, tmp_path):
        corpus = tmp_path / "corpus"
        if suffix == ".tsv":
            write_corpus(corpus, train=20)
        else:
            corpus.mkdir()
            for part in ("train", "dev"):
                lines = [json.dumps({"text": text, "label": ents}) for text, ents in SENTENCES]
                (corpus / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf8")
        run("scripts/few_shot.py", corpus, tmp_path / "few", "--per-label", 1)
        few = cut_tune.read_texts(tmp_path / "few" / f"train{suffix}")
        labels = [cut_tune.labels_of(text, suffix) for text in few]
        assert len(few) == 3 and set().union(*labels) == {"LOC", "ORG", "PER"}
        raw = srsly.read_jsonl(tmp_path / "few" / "unlabelled.jsonl")
        texts = [set(line) == {"text"} and line["text"] for line in raw]
        everything = cut_tune.read_texts(corpus / f"train{suffix}")
        assert len(texts) == len(everything) - 3 and all(texts)


class TestPreparing:
    def prepare(self, tmp_path, unlabelled, ok=True, **parts):
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        for name, texts in parts.items():
            (corpus / f"{name}.tsv").write_text("\n\n".join(texts) + "\n", encoding="utf8")
        if isinstance(unlabelled, str):
            (tmp_path / "texts.txt").write_text(unlabelled, encoding="utf8")
            unlabelled = tmp_path / "texts.txt"
        printed = run("scripts/prepare_few.py", corpus, unlabelled, tmp_path / "out", ok=ok)
        vocab = spacy.blank("en").vocab
        files = (tmp_path / "out").glob("*.spacy")
        docs = {file.stem: list(DocBin().from_disk(file).get_docs(vocab)) for file in files}
        return printed, docs

    def test_what_texts_are_left_out_is_said(self, tmp_path):
        few = [sentence("A", number=i) for i in range(10)]
        lines = ["A new one.", "", "  ", "A new one.", "x1 Ann", "x99Ann", "Nothing here.", "\t "]
        printed, docs = self.prepare(
            tmp_path, "\n".join(lines), train=few, dev=[sentence("A", number=99)]
        )
        texts = {doc.text for part in ("texts", "unlabelled") for doc in docs[part]}
        assert texts == {"A new one.", "Nothing here."}
        assert "Warning: unlabelled texts that are also in dev: 1." in printed
        for what in ("1 repeated", "1 also in t", "1 also in dev"):
            assert what in printed
        assert len(docs["train"]) == 8 and len(docs["tune"]) == 2 and len(docs["dev"]) == 1
        assert not any(doc.ents for doc in docs["unlabelled"])
        assert "Pipelines are compared on 2 of the 10 labelled sentences" in printed

    def test_a_folder_is_all_its_files_of_any_kind(self, tmp_path):
        folder = tmp_path / "folder"
        (folder / "deeper").mkdir(parents=True)
        (folder / "one.txt").write_text("First.\nSecond.", encoding="utf8")
        (folder / "deeper" / "two.jsonl").write_text('{"text": "Third\\none."}', encoding="utf8")
        nlp = spacy.blank("en")
        DocBin(docs=[nlp("Fourth.")]).to_disk(folder / "three.spacy")
        (folder / "read.me").write_text("Not this.")
        _, docs = self.prepare(tmp_path, folder, train=[sentence("A"), sentence("A", number=1)])
        texts = {doc.text for part in ("texts", "unlabelled") for doc in docs[part]}
        assert texts == {"First.", "Second.", "Third\none.", "Fourth."}

    def test_a_tune_of_ones_own_is_used(self, tmp_path):
        few, own = [sentence("A"), sentence("A", number=1)], [sentence("A", number=2)]
        _, docs = self.prepare(tmp_path, "One.\nTwo.", train=few, tune=own)
        assert len(docs["train"]) == 2 and [doc.text for doc in docs["tune"]] == ["x2 Ann "]

    def test_without_texts_it_ends(self, tmp_path):
        few = [sentence("A"), sentence("A", number=1)]
        printed, _ = self.prepare(tmp_path, "x1 Ann\n\n", ok=False, train=few)
        assert "There are no texts without annotation" in printed

    def test_no_label_is_lost_to_tune(self):
        train = [sentence("A", "B"), *(sentence("A", number=i) for i in range(1, 9))]
        for seed in range(10):
            rest, tune = prepare_few.cut(train, ".tsv", 0.5, seed)
            assert len(tune) == 4 and train[0] in rest and sorted(rest + tune) == sorted(train)

    def test_tune_has_a_label_and_nothing_of_dev(self):
        labelled = [sentence("A", number=i) for i in range(3)]
        train = [*labelled, *(sentence(number=i) for i in range(10, 22))]
        for seed in range(30):
            rest, tune = prepare_few.cut(train, ".tsv", 0.2, seed, dev=[train[0], train[10]])
            assert len(tune) == 3 and set(labelled) & set(tune)
            assert {train[0], train[10]} <= set(rest)

    def test_a_tune_without_labels_is_told(self, capsys):
        train = [sentence("A"), *(sentence(number=i) for i in range(1, 9))]
        assert prepare_few.cut(train, ".tsv", 0.5, 0)[0].count(train[0]) == 1
        assert "No sentence with a label can be spared" in capsys.readouterr().out

    def test_repeated_sentences_stay_together(self):
        train = [sentence("A"), sentence("A"), sentence("A", number=1), sentence("A", number=2)]
        for seed in range(5):
            assert prepare_few.cut(train, ".tsv", 0.5, seed)[0][:2] == train[:2]

    def test_where_nothing_can_be_spared_tune_is_train(self, capsys):
        train = [sentence("A"), sentence("B")]
        assert prepare_few.cut(train, ".tsv", 0.5, 0) == (train, train)
        assert "tells next to nothing" in capsys.readouterr().out


def run_of(score, *without):
    return Run(Point(0.0, 1.0, score), {"early_exit_ner": without} if without else {})


class TestChoosing:
    def test_a_difference_is_judged_text_by_text(self):
        best = run_of(0.50, 0.40, 0.50, 0.60)
        better = run_of(0.52, 0.42, 0.52, 0.63)
        found = train_few.compared("new", better, best)
        assert found.chosen and found.gain == pytest.approx(0.02)
        # 2.92 standard errors with two degrees of freedom; of the jackknife, (n - 1) / n of a sum.
        sums = 2 * (1 / 300) ** 2 + (2 / 300) ** 2
        assert found.gain_doubt == pytest.approx(2.92 * (2 / 3 * sums) ** 0.5)
        assert found.ents_f_doubt > 10 * found.gain_doubt

    def test_equally_good_ones_are_chosen_and_worse_ones_are_not(self, capsys):
        best = run_of(0.5, 0.5, 0.6)
        assert train_few.compared("new", best, best).chosen
        for without, told in (((0.4, 0.62), ", which may be chance"), ((0.42, 0.525), "")):
            worse = train_few.compared("new", run_of(0.42, *without), best)
            assert not worse.chosen
            train_few.tell(worse)
            assert f"the best before it{told}. The teacher stays." in capsys.readouterr().out

    def test_what_few_texts_can_not_tell_is_said(self, capsys):
        for without in ((), (0.5, 0.5)):  # one text, or two that tell the same
            one = run_of(0.5, *without)
            found = train_few.compared("new", one, one)
            assert found.ents_f_doubt is found.gain_doubt is None
            train_few.tell(found)
            printed = capsys.readouterr().out
            assert "which may be chance" in printed
            assert "These texts can't tell how sure that is." in printed


STEPS = ("--steps", 6, "--few-steps", 8, "--fine-tune-steps", 4, "--exit-steps", 6)


@pytest.mark.takes(seconds=15)
def test_from_a_few_labels_to_a_pipeline_and_on_where_it_stopped(tmp_path, encoders):
    corpus = write_corpus(tmp_path / "data", train=40)
    run("scripts/few_shot.py", corpus, tmp_path / "few", "--per-label", 3)
    raw = tmp_path / "few" / "unlabelled.jsonl"
    run("scripts/prepare_few.py", tmp_path / "few", raw, tmp_path / "corpus")
    command = ["scripts/train_few.py", tmp_path / "corpus", encoders["bert"], tmp_path / "out"]
    printed = run(*command, "--rounds", 1, *STEPS)
    assert "PSEUDO_WEI" in printed and "beside the best before it" in printed
    out = tmp_path / "out"
    rounds = srsly.read_json(out / "rounds.json")
    assert [one["name"] for one in rounds] == ["teacher", "round-1"]

    tuned = out / "round-1" / "fine-tuned"
    before = {path: path.read_bytes() for path in tuned.rglob("*.safetensors")}
    teacher = (out / "teacher" / "finished.txt").stat().st_mtime_ns
    (tuned / "finished.txt").unlink()  # as if that had been interrupted
    printed = run(*command, "--rounds", 1, *STEPS)
    assert printed.count("finished before") == 3  # teacher, student, second stage
    assert (out / "teacher" / "finished.txt").stat().st_mtime_ns == teacher
    assert before and all(path.read_bytes() == content for path, content in before.items())

    stage = json.dumps({"weights": "equal", "confidence": "heads"})
    printed = run(*command, "--rounds", 1, *STEPS, "--stage", stage)
    assert printed.count("finished before") == 1  # the teacher

    final = tmp_path / "final"
    texts = ["--texts", tmp_path / "corpus" / "texts.spacy"]
    tune = tmp_path / "corpus" / "tune.spacy"
    calibrate = ["-m", "spacy", "early-exit", "calibrate", out / "exits", tune, "-o", final]
    run(*calibrate, *texts, "-s", "1.2")
    nlp = spacy.load(final)
    ner = nlp.get_pipe("early_exit_ner")
    assert set(ner.labels) == {"LOC", "ORG", "PER"} and ner.calibration is not None


@pytest.mark.slow
def test_the_workflow_of_the_project(tmp_path, encoders):
    for name in ("scripts", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "project.yml", tmp_path)
    shutil.copytree(encoders["bert"], tmp_path / "encoder")
    corpus = write_corpus(tmp_path / "data", train=40)
    run("scripts/few_shot.py", corpus, tmp_path / "few", "--per-label", 3)
    few = tmp_path / "few"
    values = {"corpus": few, "unlabelled": few / "unlabelled.jsonl", "encoder": "encoder"}
    values |= {"rounds": 1, "steps": 6, "min_steps": 8, "speedups": "1.2"}
    variables = [word for name, value in values.items() for word in (f"--vars.{name}", value)]
    for workflow in ("train-few", "evaluate"):
        run("-m", "spacy", "project", "run", workflow, tmp_path, *variables, cwd=tmp_path)
    assert spacy.load(tmp_path / "training" / "final").get_pipe("early_exit_ner").calibration
    assert "ents_f" in srsly.read_json(tmp_path / "metrics" / "dev.json")
