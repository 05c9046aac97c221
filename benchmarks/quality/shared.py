"""Names and parts of speech from one encoder, beside two pipelines with an encoder each.

The corpus is two folders with train.tsv and dev.tsv, one with names and one with parts of speech,
of the same sentences. Sentences that only one of them has are left out. All pipelines are trained
on the same sentences, in both stages, with the same number of steps, and calibrated on the same
tune part. What is finished is not repeated.

For each pipeline and speedup, the results have F of the names, accuracy of the tags, words per
second, and the peak memory of a process that does nothing but tag dev. ``together`` are the two
separate components in one pipeline, which is what the shared one replaces. ``--features`` adds a
third task, with heads that learn it over the frozen encoder in both stages: features of words, such
as number and tense. The corpus has none of the treebank's, so they are told from part of speech and
ending. That is enough to find out what a third task costs; its accuracy says nothing about real
features.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.util import load_config
from thinc.api import Config

from benchmarks.common import results
from benchmarks.common.corpora import sentences_of
from benchmarks.common.memory import peak
from benchmarks.common.train import FINISHED, run
from spacy_early_exit.pipe.records import get_records

NER, TAGGER, THIRD = "early_exit_ner", "early_exit_tagger", "features"
STAGES = {"shared": ("shared", "shared_sampling")}
TASKS = {"names": "ner", "tags": "tagger", "shared": "ner"}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", type=Path, help="folder with names, BIO")
    parser.add_argument("tags", type=Path, help="folder with parts of speech")
    parser.add_argument("encoder", type=Path)
    parser.add_argument("work", type=Path, help="folder for corpora and pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--epochs", type=int, default=4, help="of either stage")
    parser.add_argument("--min-steps", type=int, default=400)
    parser.add_argument("--most", type=int, default=0, help="training sentences, drawn; 0: all")
    parser.add_argument("--speedups", default="2,3")
    parser.add_argument("--rounds", type=int, default=5, help="of time measurement, in turn")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--features", action="store_true", help="a third task")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    args = parser.parse_args()
    corpus = args.work / "corpus"
    if not (corpus / FINISHED).exists():
        prepare(args.names, args.tags, corpus, args.most)
        (corpus / FINISHED).touch()
    pipelines = {name: make(args, name, corpus) for name in TASKS}
    pipelines["together"] = join(args.work, pipelines["names"], pipelines["tags"])
    dev = corpus / "dev.spacy"
    if args.features:
        dev = with_features(dev)
        pipelines["three"] = add_third(args, corpus, pipelines["shared"])
    speedups = [1.0, *map(float, args.speedups.split(","))]
    rows: list[dict[str, Any]] = []
    for speedup in speedups:
        timed = clock(pipelines, dev, speedup, args.rounds)
        for name, folder in pipelines.items():
            row = {"pipeline": name, "speedup": speedup, **timed[name]}
            row.update(in_a_process(folder, dev, speedup))
            rows.append(row)
            print(row)
    results.write(args.output, rows, seed=args.seed)


def lines_of(path: Path) -> list[list[list[str]]]:
    """RETURNS (list[list[list[str]]]): Sentences of lines of token and tag."""
    return [[line.split("\t") for line in one.split("\n")] for one in sentences_of(path)]


def prepare(names: Path, tags: Path, output: Path, most: int) -> None:
    """Cut tune from the names, and give their sentences the parts of speech."""
    run("scripts/cut_tune.py", names, output, "--most", most, "--task", "ner")
    known = {
        tuple(token for token, _ in sentence): [tag for _, tag in sentence]
        for part in ("train", "dev")
        for sentence in lines_of(tags / f"{part}.tsv")
    }
    vocab = spacy.blank("en").vocab
    for part in ("train", "tune", "dev"):
        found, sentences = DocBin(), lines_of(output / f"{part}.tsv")
        for sentence in sentences:
            words = [token for token, _ in sentence]
            if tuple(words) not in known:
                continue
            pos = [tag if tag != "_" else "" for tag in known[tuple(words)]]
            iob = [tag for _, tag in sentence]
            found.add(Doc(vocab, words=words, pos=pos, ents=iob))
        found.to_disk(output / f"{part}.spacy")
        print(f"{part}: {len(found)} of {len(sentences)} sentences have both")


def make(args: argparse.Namespace, name: str, corpus: Path) -> Path:
    """RETURNS (Path): A pipeline, trained in both stages and calibrated."""
    first, second = STAGES.get(name, ("joint", "self_sampling"))
    task, folder = TASKS[name], args.work / name
    start = train(args, corpus, folder, first, task, 0.5, [])
    best = train(args, corpus, folder, second, task, 1, ["--paths.first_stage", start])
    return calibrated(args, corpus / "tune.spacy", best, folder / "final")


def calibrated(args: argparse.Namespace, tune: Path, pipeline: Path, output: Path) -> Path:
    """RETURNS (Path): The pipeline, calibrated on tune."""
    command = ["-m", "spacy", "early-exit", "calibrate", pipeline, tune]
    if not output.exists():
        run(*command, "--output", output, "--speedups", args.speedups)
    return output


def train(
    args: argparse.Namespace,
    corpus: Path,
    folder: Path,
    stage: str,
    task: str,
    every: float,
    start: list[object],
) -> Path:
    """RETURNS (Path): The best checkpoint of a stage."""
    config, output = folder / f"{stage}.cfg", folder / stage
    how = ["--task", task, "--attribute", "pos", "--evaluate-every", every]
    length = ["--epochs", args.epochs, "--min-steps", args.min_steps]
    template, texts = f"configs/{stage}.cfg", corpus / "train.spacy"
    run("scripts/create_config.py", template, texts, config, *how, *length)
    options = ["--paths.train", texts, "--paths.dev", corpus / "tune.spacy"]
    options += ["--paths.encoder", args.encoder, "--system.seed", args.seed]
    if args.mixed_precision:
        for component in load_config(config, interpolate=False)["components"]:
            options += [f"--components.{component}.model.mixed_precision", "true"]
    if not (output / FINISHED).exists():
        run("-m", "spacy", "train", config, "--output", output, *options, *start, log=output)
        (output / FINISHED).touch()
    return output / "model-best"


def join(work: Path, names: Path, tags: Path) -> Path:
    """RETURNS (Path): A pipeline with both separate components."""
    nlp = spacy.load(names)
    nlp.add_pipe(TAGGER, source=spacy.load(tags))
    nlp.to_disk(work / "together")
    return work / "together"


def add_third(args: argparse.Namespace, corpus: Path, shared: Path) -> Path:
    """RETURNS (Path): The shared pipeline with a third task, trained in both stages. The encoder
    and the heads of the others stay as they are.
    """
    folder = args.work / "three"
    folder.mkdir(exist_ok=True)
    texts, tune = (with_features(corpus / f"{part}.spacy") for part in ("train", "tune"))
    third = third_alone(args.work / "shared" / "shared.cfg", shared)
    last = folder / "three" / "model-last"
    second = third_alone(args.work / "shared" / "shared_sampling.cfg", shared)
    second["initialize"]["components"] = {THIRD: {"start_from": str(last)}}
    # With distillation it scored lower than after the first stage: benchmarks/notes/method.md.
    second["components"][THIRD]["training"]["distillation"] = 0.0
    for name, config in (("three", third), ("three_sampling", second)):
        config.to_disk(folder / f"{name}.cfg")
        options = ["--paths.train", texts, "--paths.dev", tune, "--system.seed", args.seed]
        options += ["--paths.encoder", args.encoder, "--output", folder / name]
        if not (folder / name / FINISHED).exists():
            run("-m", "spacy", "train", folder / f"{name}.cfg", *options, log=folder / name)
            (folder / name / FINISHED).touch()
    return calibrated(args, tune, folder / "three_sampling" / "model-last", folder / "final")


def third_alone(path: Path, shared: Path) -> Config:
    """RETURNS (Config): A stage of the shared pipeline that trains a third task alone.

    path (Path): The stage's config for two tasks.
    shared (Path): The finished pipeline.
    """
    config = load_config(path, interpolate=False)
    third = copy.deepcopy(config["components"][TAGGER])
    third["attribute"] = "morph"
    third["model"]["freeze_encoder"] = True
    sourced = {known: {"source": str(shared)} for known in (NER, TAGGER)}
    config["components"] = {**sourced, THIRD: third}
    config["nlp"]["pipeline"] = [NER, TAGGER, THIRD]
    weights = dict.fromkeys(config["training"]["score_weights"])
    config["training"].update(
        frozen_components=[NER, TAGGER],
        score_weights={**weights, "morph_acc": 1.0},
        before_update=None,  # it would set thresholds of the others
    )
    config["initialize"]["components"] = {}
    return config


# Features by part of speech: those of the first ending that a word has.
FEATURES = {
    **dict.fromkeys(("NOUN", "PROPN"), (("s", "Number=Plur"), ("", "Number=Sing"))),
    **dict.fromkeys(
        ("ADJ", "ADV"), (("est", "Degree=Sup"), ("er", "Degree=Cmp"), ("", "Degree=Pos"))
    ),
    "VERB": (
        ("ing", "VerbForm=Ger"),
        ("ed", "Tense=Past|VerbForm=Fin"),
        ("s", "Number=Sing|Person=3|VerbForm=Fin"),
        ("", "VerbForm=Inf"),
    ),
    "PRON": (("self", "Reflex=Yes"), ("selves", "Reflex=Yes"), ("", "PronType=Prs")),
}


def features_of(pos: str, word: str) -> str:
    """RETURNS (str): The features of a word; empty if it has none."""
    return next((of for end, of in FEATURES.get(pos, ()) if word.lower().endswith(end)), "")


def with_features(path: Path) -> Path:
    """RETURNS (Path): The texts of a file, with features."""
    output = path.with_name(f"{path.stem}-features.spacy")
    docs = texts_of(path, spacy.blank("en"))
    for token in (token for doc in docs for token in doc if token.pos_):
        token.set_morph(features_of(token.pos_, token.text))
    DocBin(docs=docs).to_disk(output)
    return output


def at(nlp: Language, speedup: float) -> dict[str, dict[str, float]]:
    """RETURNS (dict[str, dict[str, float]]): How to call each component that has an encoder."""
    owners = [name for name, pipe in nlp.pipeline if not getattr(pipe, "lender_name", None)]
    return {name: {"speedup": speedup} for name in owners}


def texts_of(path: Path, nlp: Language) -> list[Doc]:
    """RETURNS (list[Doc]): The annotated texts of a file."""
    return list(DocBin().from_disk(path).get_docs(nlp.vocab))


def clock(
    pipelines: dict[str, Path], dev: Path, speedup: float, rounds: int
) -> dict[str, dict[str, float]]:
    """RETURNS (dict[str, dict[str, float]]): Words per second of each pipeline, in rounds in which
    all take their turn.
    """
    loaded = {name: spacy.load(folder) for name, folder in pipelines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    words = 0
    for number in range(rounds + 1):  # the first is not counted
        for name, nlp in loaded.items():
            docs = texts_of(dev, nlp)
            copies = [Doc(nlp.vocab, words=[token.text for token in doc]) for doc in docs]
            words = sum(map(len, copies))
            start = time.perf_counter()
            for _ in nlp.pipe(copies, batch_size=1000, component_cfg=at(nlp, speedup)):
                pass
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "words_per_second": words / statistics.median(times),
            "words_per_second_min": words / max(times),
            "words_per_second_max": words / min(times),
        }
        for name, times in seconds.items()
    }


def in_a_process(folder: Path, dev: Path, speedup: float) -> dict[str, float]:
    """RETURNS (dict[str, float]): Scores, and the peak memory of a process that finds them out."""
    command = [sys.executable, "-m", __spec__.name, "--alone", folder, dev, speedup]
    found = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(found.stderr)
    measured: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return measured


def alone(folder: str, dev: str, speedup: str) -> None:
    """Print the scores of a pipeline, the cost, and the memory of this process, in MB."""
    nlp = spacy.load(folder)
    docs = texts_of(Path(dev), nlp)
    copies = [Doc(nlp.vocab, words=[token.text for token in doc]) for doc in docs]
    cfg = at(nlp, float(speedup))
    found = list(nlp.pipe(copies, batch_size=1000, component_cfg=cfg))
    memory = peak()
    examples = [spacy.training.Example(doc, gold) for doc, gold in zip(found, docs)]
    scores: dict[str, float] = {"memory": memory}
    for name, pipe in nlp.pipeline:
        of_pipe = pipe.score(examples)
        scores.update({score: of_pipe[score] for score in pipe.scores})
        records = [get_records(doc)[name] for doc in found]
        spent = sum(record.spent for record in records)
        scores[f"saved_{name}"] = sum(record.full for record in records) / spent
    print(json.dumps(scores))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(*sys.argv[2:])
    else:
        main()
