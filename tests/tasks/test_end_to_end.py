"""From two files to a calibrated pipeline, by the commands of the project."""

import pytest
import spacy
import srsly

from tests.makers.commands import run
from tests.makers.texts import TEXTS
from tests.tasks.conftest import SENTENCES
from tests.tasks.test_tagger import pos_of


def write_tags(folder):
    nlp = spacy.blank("en")
    for part, count in (("train", 40), ("dev", 10)):
        sentences = [
            "\n".join(f"{t.text}\t{pos_of(t)}" for t in nlp(TEXTS[i % len(TEXTS)])) + f"\n{i}\tNUM"
            for i in range(count)
        ]
        (folder / f"{part}.tsv").write_text("\n\n".join(sentences) + "\n", encoding="utf8")


def write_words(folder):
    letters = sorted({c for words in SENTENCES for word in words for c in word})
    for part, start, count in (("train", 0, 40), ("dev", 40, 10)):
        sentences = []
        for i in range(start, start + count):
            words = [*SENTENCES[i % len(SENTENCES)], *letters[i % 20 : i % 20 + 1 + i // 20]]
            tags = ["S" if len(word) == 1 else "B" + "M" * (len(word) - 2) + "E" for word in words]
            pairs = zip("".join(words), "".join(tags))
            sentences.append("\n".join(f"{c}\t{tag}" for c, tag in pairs))
        (folder / f"{part}.tsv").write_text("\n\n".join(sentences) + "\n", encoding="utf8")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tagger", "segmenter"])
def test_two_stages_and_a_calibration(task, encoders, characters, tmp_path):
    corpus, made = tmp_path / "corpus", tmp_path / "made"
    corpus.mkdir()
    if task == "tagger":
        write_tags(corpus)
        encoder, lang, score = encoders["bert"], "en", "tag_acc"
    else:
        write_words(corpus)
        encoder, lang, score = characters, "zh", "token_f"
    how = ["--task", task]
    run("scripts/cut_tune.py", corpus, made, *how)
    for part in ("train", "tune", "dev"):
        file = made / f"{part}.tsv"
        run("scripts/convert.py", file, made / f"{part}.spacy", "--lang", lang, *how)
    paths = ["--paths.train", made / "train.spacy", "--paths.dev", made / "tune.spacy"]
    paths += ["--paths.encoder", encoder, "--training.optimizer.learn_rate.initial_rate", "5e-3"]
    first = ["--paths.first_stage", made / "joint" / "model-best"]
    for stage, more in (("joint", []), ("self_sampling", first)):
        config = made / f"{stage}.cfg"
        epochs = ["--epochs", 80, "--evaluate-every", 40]  # of one step
        template = f"configs/{stage}.cfg"
        run(
            "scripts/create_config.py", template, made / "train.spacy", config,
            "--lang", lang, *how, *epochs,
        )  # fmt: skip
        run("-m", "spacy", "train", config, "--output", made / stage, *paths, *more)
    two = made / "self_sampling" / "model-best"
    command = ["-m", "spacy", "early-exit"]
    output = run(
        *command, "calibrate", two, made / "tune.spacy", "--output", made / "final",
        "--speedups", "1.2,1.5",
    )  # fmt: skip
    assert score.upper() in output
    metrics = made / "metrics.json"
    rounds = ["--rounds", 0]
    run(*command, "evaluate", made / "final", made / "dev.spacy", "--output", metrics, *rounds)
    rows = srsly.read_json(metrics)["speedups"]
    assert rows[0][score] > 0.5 and rows[-1]["mac_speedup"] > 1.1
    run(
        *command, "report", made / "final", made / "dev.spacy", "--output", made / "report.html",
        *rounds,
    )  # fmt: skip
    page = (made / "report.html").read_text(encoding="utf8")
    assert score.upper() in page and "At which layer words exit" in page
