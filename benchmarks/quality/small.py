"""The project's workflow on small corpora, drawn from larger ones.

Chinese has an encoder of its own, with random weights, which reads characters: `quality.tasks`
makes it of the sentences that were drawn, and ENCODER is not used.

``WORK/CORPUS-SIZE-SAMPLE`` gets a corpus: so many sentences of the training part of
``DATA/CORPUS``, and its dev part. With ``--held-out``, other sentences of the training part take
the place of dev, so that recipes can be compared without it. Each way of training is run on it:

rule: both stages as `project run train` has them, whose length follows the corpus.
fixed: the same with four epochs each, whatever the corpus.
single: one head at full depth, with as many epochs as both stages of `rule` have.
transformer: spacy-transformers with the same encoder and as many epochs; not of tags or Chinese.
NAME: `rule` with other options of `quality.tasks`, which ``--way NAME OPTIONS`` gives. If these are
  for the second stage alone, the first is that of `rule`.

Shares are of full depth's score, at speedups that were really reached on dev. What is finished is
not repeated.
"""

import argparse
import itertools
import json
import math
import random
import shlex
import statistics
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spacy.util import load_config
from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.corpora import prepare, sentences_of
from benchmarks.common.curves import value_at
from benchmarks.common.train import run
from spacy_early_exit.recipe import EPOCHS, MIN_STEPS

TASKS = {"ud_en_ewt_pos": ("tagger", "pos", "en"), "uner_zh_gsdsimp": ("ner", "tag", "zh")}
RATES = {"uner_zh_gsdsimp": "1e-3"}  # of an encoder that starts with random weights
RATE = "2e-4"
SPEEDUPS = (2, 3, 4)
ASKED = "1.5,2,2.5,3,3.5,4,4.5"  # those reached on dev are a little more or less
ASKED_OF_FOUR_LAYERS = "1.5,2,2.5,3,3.5"
HELD_OUT = 1500  # sentences


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with folders of train.tsv and dev.tsv")
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("work", type=Path, help="folder for corpora and pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--corpora", default="wnut17,snips,uner_en_ewt,ud_en_ewt_pos")
    parser.add_argument("--sizes", default="300,1000,3000")
    parser.add_argument("--samples", default="0,1,2")
    parser.add_argument("--ways", default="rule,fixed,single")
    parser.add_argument(
        "--way", nargs=2, action="append", default=[], metavar=("NAME", "OPTIONS"), help="another"
    )
    parser.add_argument("--held-out", action="store_true", help="leave dev alone")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--jobs", type=int, default=2, help="single-threaded, side by side")
    args = parser.parse_args()
    results = kept.read(args.output, {})
    lock = threading.Lock()

    def job(corpus: str, size: str, sample: str) -> None:
        folder = args.work / f"{corpus}-{size}-{sample}"
        draw(args, folder, corpus, int(size), int(sample))
        for way in (*args.ways.split(","), *dict(args.way)):
            key = f"{corpus}, {size} sentences, sample {sample}, {way}"
            if key not in results:
                found = measure(args, folder, corpus, way)
                with lock:
                    results[key] = found
                    kept.write(args.output, results)
            print(f"{key}: {results[key]}", flush=True)

    choices = (args.corpora.split(","), args.sizes.split(","), args.samples.split(","))
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda choice: job(*choice), itertools.product(*choices)))
    show(results)


def draw(args: argparse.Namespace, folder: Path, corpus: str, size: int, sample: int) -> None:
    """Draw sentences, cut tune from them, and convert all parts."""
    if (folder / "dev.spacy").exists():
        return
    parts = {part: sentences_of(args.data / corpus / f"{part}.tsv") for part in ("train", "dev")}
    order = random.Random(sample).sample(parts["train"], len(parts["train"]))
    drawn, rest = order[:size], order[size:]
    if args.held_out:
        seen = {words_of(sentence) for sentence in drawn}
        parts["dev"] = [one for one in rest if words_of(one) not in seen][:HELD_OUT]
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, texts in (("train", drawn), ("dev", parts["dev"])):
        (raw / f"{part}.tsv").write_text("\n\n".join(texts) + "\n", encoding="utf8")
    task, attribute, lang = TASKS.get(corpus, ("ner", "tag", "en"))
    prepare(raw, folder, 0, task, lang, attribute)


def words_of(sentence: str) -> tuple[str, ...]:
    """RETURNS (tuple[str, ...]): The words of a sentence."""
    return tuple(line.split("\t")[0] for line in sentence.split("\n"))


def measure(args: argparse.Namespace, folder: Path, corpus: str, way: str) -> dict[str, float]:
    """RETURNS (dict[str, float]): The score at full depth and at each speedup."""
    task, attribute, lang = TASKS.get(corpus, ("ner", "tag", "en"))
    mixed = ["--mixed-precision"] if args.mixed_precision else []
    encoder = folder / "encoder" if corpus in RATES else args.encoder
    if way == "transformer" and (task != "ner" or corpus in RATES):
        return {}
    if way in ("single", "transformer"):
        words = sum(len(words_of(one)) for one in sentences_of(folder / "train.tsv"))
        epochs = sum(epochs_of(folder / "rule" / f"{stage}.cfg", words) for stage in STAGES)
        if way == "transformer":
            return transformer(folder, encoder, epochs, mixed)
        if task == "tagger":
            return single_tagger(folder, encoder, epochs, attribute, args.mixed_precision)
        script = ["-m", "benchmarks.quality.baselines", folder, encoder, folder / way]
        options = ["--ways", "uncut", "--seeds", 0, "--rates", RATES.get(corpus, RATE)]
        options += ["--epochs", epochs, "--lang", lang, *mixed, "--jobs", 1]
        run(*script, folder / f"{way}.json", *options)
        (scores,) = kept.read(folder / f"{way}.json").values()
        return {"1": scores["dev"]}
    least = 0 if way == "fixed" else MIN_STEPS
    script = ["-m", "benchmarks.quality.tasks", folder, encoder, folder / way]
    options = ["--task", task, "--attribute", attribute, "--lang", lang]
    options += ["--speedups", ASKED_OF_FOUR_LAYERS if corpus in RATES else ASKED]
    options += ["--epochs", EPOCHS, "--min-steps", least, *mixed]
    options += ["--characters", "--rate", RATES[corpus]] if corpus in RATES else []
    more = dict(args.way).get(way, "")
    if more and not {"--joint", "--min-steps", "--epochs"} & {*shlex.split(more)}:
        options += ["--first-stage", folder / "rule" / "joint" / "model-best"]
    options += shlex.split(more)
    run(*script, folder / f"{way}.json", *options)
    rows = kept.read(folder / f"{way}.json")
    score = next(name for name in ("ents_f", "tag_acc", "pos_acc") if name in rows[0])
    found = {str(s): value_at(rows, s, score) for s in SPEEDUPS}
    return {"1": rows[0][score], **{s: value for s, value in found.items() if value is not None}}


def transformer(folder: Path, encoder: Path, epochs: int, mixed: list[str]) -> dict[str, float]:
    """RETURNS (dict[str, float]): The score of spacy-transformers."""
    work = folder / "transformer"
    script = ["-m", "benchmarks.speed.spacys_own", folder, encoder, work]
    run(*script, "--ways", "transformer", "--rates", RATE, "--epochs", epochs, *mixed)
    model, found = work / f"transformer-{RATE}-0" / "model-best", work / "dev.json"
    run("-m", "spacy", "evaluate", model, folder / "dev.spacy", "--output", found)
    return {"1": json.loads(found.read_text())["ents_f"]}


def single_tagger(
    folder: Path, encoder: Path, epochs: int, attribute: str, mixed: bool
) -> dict[str, float]:
    """RETURNS (dict[str, float]): The score of one head that tags."""
    work = folder / "single"
    script = ["scripts/create_config.py", "configs/joint.cfg", folder / "train.spacy"]
    how = ["--task", "tagger", "--attribute", attribute]
    run(*script, work / "joint.cfg", "--epochs", epochs, *how)
    config = load_config(work / "joint.cfg", interpolate=False)
    tagger = config["components"]["early_exit_tagger"]
    tagger.update(training={"@misc": "benchmark.SingleHead.v1"}, threshold=0.0)
    tagger["model"]["mixed_precision"] = mixed
    config["training"]["optimizer"]["learn_rate"]["initial_rate"] = float(RATE)
    config.to_disk(work / "joint.cfg")
    code = ["--code", "benchmarks/common/single_head.py"]
    options = ["--paths.train", folder / "train.spacy", "--paths.dev", folder / "tune.spacy"]
    options += ["--paths.encoder", encoder]
    run("-m", "spacy", "train", work / "joint.cfg", "--output", work, *options, *code, log=work)
    found = work / "dev.json"
    evaluate = ["-m", "spacy", "early-exit", "evaluate", work / "model-best", folder / "dev.spacy"]
    run(*evaluate, "--thresholds", 0, "--rounds", 0, "--output", found, *code)
    return {"1": json.loads(found.read_text())["thresholds"][0][f"{attribute}_acc"]}


STAGES = ("joint", "self_sampling")


def epochs_of(config: Path, words: int) -> int:
    """RETURNS (int): The epochs that a stage's config has for a corpus of so many words."""
    training = load_config(config, interpolate=False)["training"]
    to_an_epoch = math.ceil(words / training["batcher"]["size"])
    return round(training["max_steps"] / to_an_epoch)


def show(results: dict[str, dict[str, float]]) -> None:
    """Print means over samples, with their spread."""
    cells: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for key, found in results.items():
        corpus, size, _, way = key.split(", ")
        if found:
            cells.setdefault((corpus, size, way), []).append(found)
    rows = []
    for (corpus, size, way), some in cells.items():
        shares = [[one.get(str(s), 0.0) / one["1"] for one in some] for s in SPEEDUPS]
        full = mean_and_spread([one["1"] for one in some])
        kept_shares = [mean_and_spread(s) if any(s) else "-" for s in shares]
        rows.append((corpus, size, way, full, *kept_shares))
    header = ("corpus", "size", "way", "full depth", *(f"kept at {s}X" for s in SPEEDUPS))
    print(table(rows, header=header, aligns=["l", "r", "l", "r", "r", "r", "r"]))


def mean_and_spread(values: list[float]) -> str:
    """RETURNS (str): In percent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
