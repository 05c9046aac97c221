"""How good is a tagger of a few labels a class and much raw text? F at full depth, and with exits.

``WORK/CORPUS-K-SAMPLE`` gets K sentences for each label, drawn from the training part of
``DATA/CORPUS``, and all its other sentences as raw text, in the corpus's own words. With
``--held-out``, some of these take the place of dev, and are no raw text. The ways to train on it:

few: the labelled sentences alone.
plain: self-training on raw text, all words with the same weight.
heads, dropout: the same with the half of the teacher's tags that its heads, or passes with dropout,
    agree on most.
meta: MetaST, words weighted by a look one step ahead.
all: the whole training part, labelled, with another seed for each sample.
NAME: `plain` or `meta` with other settings of MetaSelfTraining.v1, which ``--way NAME JSON`` gives.

All of a sample have the same first teacher. F is that of the pipeline that was chosen, at full
depth; of `all`, that of the first stage. F after each round is kept, too, whatever was chosen.
``--exits`` adds the second stage and a calibration, and measures F at speedups. ``--cost`` measures
seconds a step instead, beside a step on labelled text. What is finished is not repeated.
"""

import argparse
import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus
from spacy.training.batchers import minibatch_by_words
from spacy.util import load_config
from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.corpora import prepare, sentences_of
from benchmarks.common.curves import NAME, value_at
from benchmarks.common.train import FINISHED, run
from spacy_early_exit.recipe import EPOCHS, MIN_STEPS

STAGES = {
    "plain": {"weights": "equal"},
    "heads": {"weights": "equal", "confidence": "heads"},
    "dropout": {"weights": "equal", "confidence": "dropout"},
    "meta": {},
}
SPEEDUPS = (2, 3)
ASKED = "1.5,2,2.5,3,3.5"  # those reached on dev are a little more or less
COLUMNS = ("1", "exits 1", "exits 2", "exits 3")
KEPT = COLUMNS[2:]
HELD_OUT = 1500  # sentences
BATCH_WORDS = 600
Scores = dict[str, float]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with folders of train.tsv and dev.tsv")
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("work", type=Path, help="folder for corpora and pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--corpora", default="snips,wnut17,uner_en_ewt")
    parser.add_argument("--per-label", default="5,10,20", help="sentences for each label")
    parser.add_argument("--samples", default="0,1,2")
    parser.add_argument("--ways", default="few,plain,heads,dropout,meta,all")
    parser.add_argument(
        "--way", nargs=2, action="append", default=[], metavar=("NAME", "JSON"), help="another"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="of each round, and with exits")
    parser.add_argument("--exits", action="store_true", help="the second stage, too")
    parser.add_argument("--held-out", action="store_true", help="leave dev alone")
    parser.add_argument("--cost", type=int, default=0, metavar="STEPS", help="only time steps")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--jobs", type=int, default=2, help="single-threaded, side by side")
    args = parser.parse_args()
    results = kept.read(args.output, {})
    lock = threading.Lock()

    def job(corpus: str, per_label: str, sample: str) -> None:
        folder = args.work / f"{corpus}-{per_label}-{sample}"
        draw(args, folder, corpus, per_label, sample)
        for way in ways_of(args):
            if way == "all" and per_label != args.per_label.split(",")[0]:
                continue  # it is the same whatever else is drawn
            key = f"{corpus}, {per_label} a label, sample {sample}, {way}"
            if key not in results:
                found = measure(args, folder, way, sample)
                with lock:
                    results[key] = found
                    kept.write(args.output, results)
            print(f"{key}: {results[key]}", flush=True)

    choices = (args.corpora.split(","), args.per_label.split(","), args.samples.split(","))
    combined = list(itertools.product(*choices))
    if args.cost:
        draw(args, args.work / "-".join(combined[0]), *combined[0])
        kept.write(args.output, time_steps(args, args.work / "-".join(combined[0])))
        return
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda choice: job(*choice), combined))
    show(results)


def ways_of(args: argparse.Namespace) -> dict[str, dict[str, Any] | None]:
    """RETURNS (dict[str, dict[str, Any] | None]): The ways to train, with the settings of
    MetaSelfTraining.v1; None: without it.
    """
    others = {name: json.loads(settings) for name, settings in args.way}
    return {**{way: STAGES.get(way) for way in args.ways.split(",") if way}, **others}


def draw(args: argparse.Namespace, folder: Path, corpus: str, per_label: str, sample: str) -> None:
    """Draw the few sentences, and convert them and the raw text."""
    if (folder / FINISHED).exists():
        return
    source = args.data / corpus
    if args.held_out:
        source = folder / "source"
        hold_out(args.data / corpus, source, int(sample))
    few = folder / "drawn"
    run("scripts/few_shot.py", source, few, "--per-label", per_label, "--seed", sample)
    raw = in_its_own_words(few, source)
    run("scripts/prepare_few.py", few, raw, folder / "corpus", "--seed", sample, "--most", 10**9)
    (folder / FINISHED).touch()


def in_its_own_words(few: Path, source: Path) -> Path:
    """RETURNS (Path): The raw texts of a draw, .spacy: the words are those of the corpus, as in its
    labelled sentences and dev.
    """
    words = {}
    for sentence in sentences_of(source / "train.tsv"):
        own = [line.split("\t")[0] for line in sentence.split("\n")]
        words[" ".join(own)] = own
    vocab = spacy.blank("en").vocab
    lines = (few / "unlabelled.jsonl").read_text(encoding="utf8").splitlines()
    docs = [Doc(vocab, words=words[json.loads(line)["text"]]) for line in lines]
    DocBin(docs=docs).to_disk(few / "unlabelled.spacy")
    return few / "unlabelled.spacy"


def hold_out(corpus: Path, output: Path, seed: int) -> None:
    """Put a part of train in the place of dev."""
    sentences = sentences_of(corpus / "train.tsv")
    random.Random(seed).shuffle(sentences)
    most = min(HELD_OUT, len(sentences) // 3)
    output.mkdir(parents=True, exist_ok=True)
    for part, some in (("dev", sentences[:most]), ("train", sentences[most:])):
        (output / f"{part}.tsv").write_text("\n\n".join(some) + "\n", encoding="utf8")


def measure(args: argparse.Namespace, folder: Path, way: str, sample: str) -> Scores:
    """RETURNS (Scores): F on dev at full depth, after each round, and at each speedup."""
    mixed = ["--mixed-precision"] if args.mixed_precision else []
    corpus = folder / "corpus"
    if way == "all":
        whole = folder / "all"
        if not (whole / "train.spacy").exists():
            source = folder / "source" if args.held_out else args.data / folder.name.split("-")[0]
            prepare(source, whole, 0, "ner", "en")
        script = ["-m", "benchmarks.quality.tasks", whole, args.encoder, folder / "all-labelled"]
        length = ["--epochs", EPOCHS, "--min-steps", MIN_STEPS, "--speedups", ASKED]
        run(*script, folder / f"{way}.json", *length, "--seed", sample, *mixed)
        first = f_of(folder / "all-labelled" / "joint" / "model-best", whole / "dev.spacy")
        return {"1": first, **with_exits(kept.read(folder / f"{way}.json"))}
    script = ["scripts/train_few.py", corpus, args.encoder]
    same = [*mixed, "--exit-steps", args.steps if args.exits else 0]
    if not (folder / "few-alone" / "full-depth").exists():
        alone = folder / "few-alone"
        run(*script, alone, *mixed, "--exit-steps", 0, "--rounds", 0, log=alone)
    settings = ways_of(args)[way]
    length = ["--rounds", 0 if settings is None else args.rounds, "--steps", args.steps]
    teacher = ["--teacher", folder / "few-alone" / "full-depth"]
    stage = ["--stage", json.dumps(settings or {})]
    run(*script, folder / way, *same, *length, *teacher, *stage, log=folder / f"{way}-log")
    dev, final = corpus / "dev.spacy", folder / way / "final"
    found = {"1": f_of(folder / way / "full-depth", dev)}
    for number in range(1, args.rounds + 1 if settings is not None else 1):
        tuned = folder / way / f"round-{number}" / "fine-tuned" / "model-last"
        found[f"round {number}"] = f_of(tuned, dev)
    if args.exits:
        file = folder / f"{way}.json"
        command = ["-m", "spacy", "early-exit", "calibrate", folder / way / "exits"]
        texts = ["--texts", corpus / "texts.spacy", "--speedups", ASKED]
        run(*command, corpus / "tune.spacy", "--output", final, *texts)
        asked = ["--speedups", f"1,{ASKED}", "--rounds", 0, "--output", file]
        run("-m", "spacy", "early-exit", "evaluate", final, dev, *asked)
        found.update(with_exits(json.loads(file.read_text())["speedups"]))
    return found


def f_of(pipeline: Path, dev: Path) -> float:
    """RETURNS (float): F of a pipeline at full depth."""
    file = pipeline / "dev.json"
    asked = ["--thresholds", "0", "--rounds", 0, "--output", file]
    run("-m", "spacy", "early-exit", "evaluate", pipeline, dev, *asked)
    f: float = json.loads(file.read_text())["thresholds"][0]["ents_f"]
    return f


def with_exits(rows: list[Scores]) -> Scores:
    """RETURNS (Scores): F at full depth, and at speedups that were reached on dev."""
    found = {f"exits {speedup}": value_at(rows, speedup, "ents_f") for speedup in SPEEDUPS}
    return {"exits 1": rows[0]["ents_f"], **{s: f for s, f in found.items() if f is not None}}


def time_steps(args: argparse.Namespace, folder: Path) -> Scores:
    """RETURNS (Scores): The mean seconds a step of each stage on the same batches of raw text, and
    how many times those of joint training they are. Some steps do more than others.
    """
    corpus, teacher = folder / "corpus", folder / "few-alone" / "full-depth"
    if not teacher.exists():
        script = ["scripts/train_few.py", corpus, args.encoder, folder / "few-alone"]
        run(*script, "--exit-steps", 0, "--rounds", 0)
    joint = load_config("configs/joint.cfg", interpolate=False)["components"][NAME]["training"]
    meta = {"@misc": "spacy-early-exit.MetaSelfTraining.v1"}
    stages = {"joint": joint, **{name: {**meta, **given} for name, given in STAGES.items()}}
    steps = {name: stepper(args, corpus, teacher, stage) for name, stage in stages.items()}
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(args.cost + 2):  # in turn, so that all meet the same machine
        for name, step in steps.items():
            started = time.process_time()
            step(number)
            if number >= 2:  # the first ones are slower
                seconds[name].append(time.process_time() - started)
    means = {name: statistics.fmean(some) for name, some in seconds.items()}
    rows = [(name, f"{s:.3f}", f"{s / means['joint']:.2f}") for name, s in means.items()]
    print(table(rows, header=("stage", "seconds a step", "times joint"), aligns=["l", "r", "r"]))
    return means


def stepper(
    args: argparse.Namespace, corpus: Path, teacher: Path, stage: dict[str, Any]
) -> Callable[[int], None]:
    """RETURNS (Callable[[int], None]): Takes a step of a stage, on the batch of a number."""
    nlp = spacy.blank("en")
    encoder = {"encoder": {"name": str(args.encoder)}}
    ner = nlp.add_pipe(NAME, config={"model": encoder, "training": stage})
    labelled = list(Corpus(corpus / "train.spacy")(nlp))
    given = {}
    if "MetaSelf" in stage["@misc"]:
        given = {"start_from": str(teacher), "labelled": str(corpus / "train.spacy")}
    ner.initialize(lambda: labelled, nlp=nlp, **given)
    # Without annotation, joint training computes the same, with a loss of 0.
    examples = list(Corpus(corpus / "unlabelled.spacy")(nlp))
    batches = list(minibatch_by_words(examples, BATCH_WORDS))[:-1]
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-4

    def step(number: int) -> None:
        nlp.update(batches[number % len(batches)], sgd=optimizer, drop=0.1)

    return step


def show(results: dict[str, Scores]) -> None:
    """Print means over samples, with their spread, and differences within samples."""
    cells: dict[tuple[str, str], dict[str, dict[str, Scores]]] = {}
    for key, found in results.items():
        corpus, per_label, sample, way = key.split(", ")
        cells.setdefault((corpus, per_label), {}).setdefault(way, {})[sample] = found
    rows, pairs = [], []
    for (corpus, per_label), ways in cells.items():
        for way, some in ways.items():
            columns = [[one[name] for one in some.values() if name in one] for name in COLUMNS]
            told = [one for one in some.values() if one.get("exits 1")]
            columns += [[one[s] / one["exits 1"] for one in told if s in one] for s in KEPT]
            rows.append((corpus, per_label, way, *map(mean_and_spread, columns)))
            for other in ("few", "plain") if way != "few" else ():
                if other == way or other not in ways:
                    continue
                both = some.keys() & ways[other].keys()
                gains = [some[sample]["1"] - ways[other][sample]["1"] for sample in both]
                pairs.append((corpus, per_label, f"{way} above {other}", mean_and_spread(gains)))
    header = ("corpus", "few", "way", "F", *(f"{name}X" for name in COLUMNS[1:]), "2X/1X", "3X/1X")
    print(table(rows, header=header, aligns=["l", "r", "l", *["r"] * (len(header) - 3)]))
    print(table(pairs, header=("corpus", "few", "of the same samples", "points")))


def mean_and_spread(values: list[float]) -> str:
    """RETURNS (str): In percent."""
    if not values:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
