"""Train other ways to leave early, and other decoders, and compare them at equal savings.

All go on from the same first stage with the same number of epochs. What leaves by exit heads is
trained with words leaving by its own criterion; selectors are trained alone first, then together
with the rest, half of the epochs each. Every method has settings and a dial; which settings are
best at a saving is chosen on tune, F-scores are those of dev, interpolated. Patience alone has no
dial: what each of its settings saves is shown.

A corpus is a folder with train.spacy, tune.spacy and dev.spacy. Runs that are in the output file
already are not repeated.
"""

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spacy.util import load_config
from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.curves import Rows
from benchmarks.common.relatives import (
    METHODS,
    REDUCTION,
    SAVINGS,
    folder_of,
    is_on_or_off,
    same_training,
    scores,
)
from benchmarks.common.train import FINISHED, run


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("first_stage", type=Path, help="the pipeline to go on from")
    parser.add_argument("encoder", type=Path)
    parser.add_argument("work", type=Path, help="folder for the pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--methods", default="; ".join(METHODS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--jobs", type=int, default=2, help="single-threaded, side by side")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = kept.read(args.output, {})
    for template, epochs in (
        ("self_sampling", args.epochs),
        ("reduction", max(1, args.epochs // 2)),
    ):
        script = ["scripts/create_config.py", f"configs/{template}.cfg"]
        options = ["--epochs", epochs, "--evaluate-every", 1]
        run(*script, args.corpus / "train.spacy", args.work / f"{template}.cfg", *options)
    lock, training = threading.Lock(), {name: threading.Lock() for name in METHODS}

    def job(name: str) -> None:
        key = f"{name}, seed {args.seed}"
        if key not in results:
            # Methods that are trained alike share a pipeline.
            with training[same_training(name)]:
                model = train(args, name)
            found = {part: curves(model, args, name, part) for part in ("tune", "dev")}
            with lock:
                results[key] = found
                kept.write(args.output, results)
        print(f"{key} is measured", flush=True)

    names = [name.strip() for name in args.methods.split(";")]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(job, names))
    show(results)


def train(args: argparse.Namespace, name: str) -> Path:
    """RETURNS (Path): The pipeline of a method, trained unless it is there."""
    method = METHODS[name]
    folder = folder_of(args.work, name, args.seed)
    reduces = method.trained_with is REDUCTION
    config = load_config(
        args.work / ("reduction.cfg" if reduces else "self_sampling.cfg"), interpolate=False
    )
    component = config["components"]["early_exit_ner"]
    component["criterion"] = method.trained_with
    component["kv"] = method.kv
    if method.decoder is not None:
        component["decoder"] = method.decoder
    component["training"].update(method.training or {})
    component["model"]["mixed_precision"] = args.mixed_precision
    folder.mkdir(parents=True, exist_ok=True)
    config.to_disk(folder / "config.cfg")
    steps = ({}, {"training.joint": "true"}) if reduces else ({},)
    start = args.first_stage
    for number, settings in enumerate(steps):
        output = folder / str(number)
        options = ["--output", output, "--system.seed", args.seed, "--paths.first_stage", start]
        options += ["--paths.train", args.corpus / "train.spacy"]
        options += ["--paths.dev", args.corpus / "tune.spacy", "--paths.encoder", args.encoder]
        for setting, value in settings.items():
            options += [f"--components.early_exit_ner.{setting}", value]
        if not (output / FINISHED).exists():
            run("-m", "spacy", "train", folder / "config.cfg", *options, log=output)
            (output / FINISHED).touch()
        start = output / "model-best"
    return start


def curves(model: Path, args: argparse.Namespace, name: str, part: str) -> dict[str, Rows]:
    """RETURNS (dict[str, Rows]): What `curve.py` measures, for every setting."""
    found = {}
    for number, setting in enumerate(METHODS[name].measured_with):
        output = model / f"{name.replace(' ', '-')}-{part}-{number}.json"
        script = ["-m", "benchmarks.quality.curve", model, args.corpus / f"{part}.spacy"]
        options = ["--criterion", *setting.split(), "--thresholds", METHODS[name].dial]
        run(*script, *options, "--threads", 1, "--kv", METHODS[name].kv, "--output", output)
        found[setting] = kept.read(output)
    return found


def show(results: dict[str, dict[str, dict[str, Rows]]]) -> None:
    """Print F of every method at every saving; of those that are but on or off, what they are."""
    lines = []
    for key, found in results.items():
        if is_on_or_off(found):
            for setting, (full, on) in found["dev"].items():
                shown = f"{100 * on['ents_f']:.2f} at {on['mac_speedup']:.2f}X"
                lines.append([f"{key}, {setting}", f"{100 * full['ents_f']:.2f}", shown, "", ""])
            continue
        values = scores(found).values()
        lines.append([key, *(f"{100 * f:.2f}" if f else "-" for f in values)])
    header = ["method", "full depth", *(f"{saving:g}X" for saving in SAVINGS)]
    print(table(lines, header=header, aligns=["l"] + ["r"] * (len(header) - 1)))


if __name__ == "__main__":
    main()
