"""All contenders on one corpus: train what others would run, and measure all of it on the clock.

PIPELINE is a calibrated early-exit pipeline, such as training/final. What is there already is not
made again, so that it goes on where it was cut off; the training takes hours.

A corpus is a folder with train.spacy, tune.spacy and dev.spacy.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import spacy

from benchmarks.common.train import run


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("work", type=Path, help="folder for what is made on the way")
    parser.add_argument("output", type=Path, help="the results, as JSON; a figure beside it")
    parser.add_argument("--rate", default="2e-4", help="learning rate of the others")
    parser.add_argument("--epochs", default="8", help="of the others")
    parser.add_argument("--seed", default="0")
    parser.add_argument(
        "--teacher", type=Path, help="what cuts are distilled from; none: one is trained"
    )
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--rounds", default="5")
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    trained = ["--seed", args.seed, "--epochs", args.epochs, "--rates", args.rate]
    trained += ["--mixed-precision"] if args.mixed_precision else []
    run(
        "-m",
        "benchmarks.speed.spacys_own",
        args.corpus,
        args.encoder,
        args.work / "spacy",
        *trained,
    )
    trained[0] = "--seeds"
    cuts = args.work / "cuts"
    trained += ["--ways", "distilled", "--teacher", args.teacher] if args.teacher else []
    given = [args.corpus, args.encoder, cuts, cuts / "f.json"]
    run("-m", "benchmarks.quality.baselines", *given, *trained)
    int8 = int8_of(args)
    checkpoints = {"": args.pipeline}
    pipelines = {"early exits": args.pipeline, "early exits int8": int8}
    for layers in (3, 2):
        name = f"{layers} layers distilled"
        pipelines[name] = cuts / f"{layers}-layers-distilled-{args.rate}-{args.seed}" / "model-best"
        checkpoints[f", {name}"] = pipelines[name]
    for name, folder in (
        ("spacy-transformers", f"transformer-{args.rate}-{args.seed}"),
        ("spaCy's CNN", f"cnn-{args.seed}"),
    ):
        pipelines[name] = args.work / "spacy" / folder / "model-best"
    exported = []
    for name, pipeline in checkpoints.items():
        folder = args.work / f"checkpoint{name.replace(', ', '-').replace(' ', '-')}"
        if not (folder / "openvino-int8.xml").exists():
            run("-m", "benchmarks.common.peers", pipeline, folder)
        exported.append(f"{name}={folder}")
    rounds = ["--rounds", args.rounds, "--threads", args.threads]
    given = [f"{name}={folder}" for name, folder in pipelines.items()]
    compare(
        args.corpus / "dev.spacy",
        *given,
        "--checkpoints",
        exported[0],
        "--engines",
        *exported[1:],
        "--one-by-one",
        "--output",
        args.output,
        *rounds,
    )
    figure = args.output.with_suffix(".svg")
    run("-m", "benchmarks.speed.pareto", args.output, "--output", figure)
    long = args.work / "long.spacy"
    run("-m", "benchmarks.common.corpora", "join", args.corpus / "dev.spacy", long)
    # The engines have no windows: they would cut long texts off.
    others = ["--checkpoints", exported[0], "--stride", 64, "--batch-sizes", "1,8,32"]
    compare(long, *given, *others, "--output", args.output.with_suffix(".long.json"), *rounds)


def compare(*arguments: object) -> None:
    """Run bench.py on all threads it is told to, its output to the screen."""
    command = [sys.executable, "-m", "benchmarks.speed.bench", *map(str, arguments)]
    subprocess.run(command, check=True)


def int8_of(args: argparse.Namespace) -> Path:
    """RETURNS (Path): The pipeline in int8, calibrated for itself at the same savings."""
    plain: Path = args.work / "int8"
    calibrated: Path = args.work / "int8-calibrated"
    if not (calibrated / "config.cfg").exists():
        component = {"early_exit_ner": {"quantize": "int8"}}
        spacy.load(args.pipeline, config={"components": component}).to_disk(plain)
        known = json.loads((args.pipeline / "early_exit_ner" / "cfg").read_text())["calibration"]
        most = max(point["saving"] for point in known["points"])
        speedups = ",".join(str(s) for s in (1.5, 2, 2.5, 3, 4) if s <= most)
        calibrate = ["-m", "spacy", "early-exit", "calibrate", plain, args.corpus / "tune.spacy"]
        run(*calibrate, "--output", calibrated, "--speedups", speedups)
    return calibrated


if __name__ == "__main__":
    main()
