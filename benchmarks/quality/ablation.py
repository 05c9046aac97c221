"""Train the second stage in several ways and compare them at equal savings.

A corpus is a folder with train.spacy, tune.spacy and dev.spacy. The first stage is trained
once for each seed, every variant starts from it. Neighbourhood and threshold are chosen on
tune, F-scores are those of dev, interpolated at the savings asked for. Runs that are in the
output file already are not repeated.
"""

import argparse
import itertools
import statistics
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.curves import Rows, f_at
from benchmarks.common.train import FINISHED, run

FIRST: dict[str, dict[str, object]] = {
    "all heads": {"training.detach_early_heads": "false"},
    "deepest head": {},
}
PLAIN = {"training.distillation": 0.0}
VARIANTS: dict[str, dict[str, object] | None] = {
    "stage one": None,
    "on-policy": PLAIN,
    "off-policy": {**PLAIN, "training.pattern": "off_policy"},
    "random": {**PLAIN, "training.pattern": "random"},
    "on-policy, distilled": {},
    "off-policy, distilled": {"training.pattern": "off_policy"},
    "on-policy, distilled less": {"training.distillation": 1.0},
    "on-policy, sandwich": {
        **PLAIN,
        "training.aggressive_share": 0.2,
        "training.full_share": 0.4,
    },
}
SAVINGS = (1.5, 2.0, 2.5, 3.0, 4.0)
THRESHOLDS = "0,0.01,0.02,0.04,0.07,0.1,0.15,0.2,0.3,0.45,0.65"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("work", type=Path, help="folder for the pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default=",".join(VARIANTS).replace(", ", "; "))
    parser.add_argument("--criteria", default="0,1", help="neighbourhoods, or sentences")
    parser.add_argument(
        "--first", default="deepest head", choices=FIRST, help="what the encoder learns from first"
    )
    parser.add_argument("--epochs", type=int, default=4, help="of the first stage")
    parser.add_argument("--epochs-two", type=int, default=4, help="of the second stage")
    parser.add_argument("--thresholds", default=THRESHOLDS, help="to measure F at")
    parser.add_argument(
        "--mixed-precision", action="store_true", help="train the second stage in bfloat16"
    )
    parser.add_argument("--jobs", type=int, default=2, help="single-threaded, side by side")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = kept.read(args.output, {})
    names = [name.strip().replace(";", ",") for name in args.variants.split(",")]
    for stage, epochs, every in (
        ("joint", args.epochs, 0.5),
        ("self_sampling", args.epochs_two, 1),
    ):
        script = ["scripts/create_config.py", f"configs/{stage}.cfg", args.corpus / "train.spacy"]
        options = ["--epochs", epochs, "--evaluate-every", every]
        run(*script, args.work / f"{stage}.cfg", *options)

    lock = threading.Lock()

    def job(name: str, seed: str) -> None:
        key = f"{titled(args, name)}, seed {seed}"
        with lock:
            found = results.setdefault(key, {"tune": {}, "dev": {}})
        for criterion in criteria:
            if criterion in found["dev"]:
                continue
            model = train(args, name, seed)
            rows = {part: curve(model, args, part, criterion) for part in found}
            with lock:
                for part, measured in rows.items():
                    found[part][criterion] = measured
                kept.write(args.output, results)
        print(f"{key}: {scores(found, criteria)}", flush=True)

    seeds, criteria = args.seeds.split(","), args.criteria.split(",")
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: train(args, "stage one", seed), seeds))
        list(pool.map(lambda pair: job(*pair), itertools.product(names, seeds)))
    show(results, criteria)


def train(args: argparse.Namespace, name: str, seed: str) -> Path:
    """RETURNS (Path): The pipeline of a variant, trained unless it is there."""
    options = VARIANTS[name]
    first, folder = (
        args.work / f"{titled(args, which).replace(', ', '-').replace(' ', '-')}-{seed}"
        for which in ("stage one", name)
    )
    paths = [
        "--paths.train",
        args.corpus / "train.spacy",
        "--paths.dev",
        args.corpus / "tune.spacy",
    ]
    paths += ["--paths.encoder", args.encoder, "--system.seed", seed]
    config = args.work / "joint.cfg"
    if options is None:
        options = FIRST[args.first]
    else:
        config = args.work / "self_sampling.cfg"
        paths += ["--paths.first_stage", first / "model-best"]
        if args.mixed_precision:
            options = {**options, "model.mixed_precision": "true"}
    for option, value in options.items():
        paths += [f"--components.early_exit_ner.{option}", value]
    if not (folder / FINISHED).exists():
        run("-m", "spacy", "train", config, "--output", folder, *paths, log=folder)
        (folder / FINISHED).touch()
    return folder / "model-best"


def titled(args: argparse.Namespace, name: str) -> str:
    """RETURNS (str): A variant's name, with what its first stage trained unless that is usual."""
    return name if args.first == "deepest head" else f"{name}, {args.first} first"


def curve(model: Path, args: argparse.Namespace, part: str, criterion: str) -> Rows:
    """RETURNS (Rows): What `curve.py` measures."""
    output = model / f"{part}-{criterion}.json"
    script = ["-m", "benchmarks.quality.curve", model, args.corpus / f"{part}.spacy"]
    how = ["--sentences"] if criterion == "sentences" else ["--window", criterion]
    options = ["--halt-special", "--threads", 1, "--output", output]
    run(*script, *how, *options, "--thresholds", args.thresholds)
    rows: Rows = kept.read(output)
    return rows


def scores(found: dict[str, dict[str, Rows]], criteria: Sequence[str]) -> dict[float, float]:
    """RETURNS (dict): F on dev by saving, with the criterion that tune prefers at each."""
    by_saving = {1.0: found["dev"][criteria[0]][0]["ents_f"]}
    for saving in SAVINGS:
        best = max(criteria, key=lambda criterion: f_at(found["tune"][criterion], saving))
        by_saving[saving] = f_at(found["dev"][best], saving)
    return by_saving


def show(results: dict[str, dict[str, dict[str, Rows]]], criteria: Sequence[str]) -> None:
    """Print the mean over seeds of every variant, and its standard deviation."""
    by_variant: dict[str, list[dict[float, float]]] = {}
    for key, found in results.items():
        if all(criterion in found["dev"] for criterion in criteria):
            by_variant.setdefault(key.rpartition(", seed")[0], []).append(scores(found, criteria))
    lines = []
    for variant, seeds in by_variant.items():
        line = [variant, str(len(seeds))]
        for saving in (1.0, *SAVINGS):
            values = [100 * found[saving] for found in seeds]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            # Where a seed does not reach the saving there is no mean.
            line.append(f"{statistics.fmean(values):.2f}{spread}" if all(values) else "-")
        lines.append(line)
    header = ["variant", "seeds", "full depth", *(f"{saving:g}X" for saving in SAVINGS)]
    print(table(lines, header=header, aligns=["l"] + ["r"] * (len(header) - 1)))


if __name__ == "__main__":
    main()
