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
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ablation import FINISHED, Rows, f_at, run
from spacy.util import load_config
from wasabi import table

Block = dict[str, object]
SAVINGS = (1.5, 2.0, 3.0)
DIAL = "0,0.01,0.02,0.04,0.07,0.1,0.15,0.2,0.3,0.45,0.65"
CHANCES = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95,0.97,0.98,0.99,0.995,0.998,0.999"


@dataclass(frozen=True)
class Method:
    """One way to leave early, or to decode.

    trained_with (Block): The criterion that words leave by while training.
    measured_with (list[str]): ``--criterion`` of `thresholds.py`, every setting to choose from.
    dial (str): Thresholds.
    decoder (Block): The decoder.
    kv (str): Whether what left is attended to.
    training (Block): Settings of the second stage.
    """

    trained_with: Block
    measured_with: list[str]
    dial: str = DIAL
    decoder: Block | None = None
    kv: str = "copy"
    training: Block | None = None


def criterion(name: str, **settings: object) -> Block:
    """RETURNS (Block): A block of a config."""
    return {"@misc": f"spacy-early-exit.{name}.v1", **settings}


TOKENS = ["TokenExit.v1 window=0", "TokenExit.v1 window=1"]
WORDS = criterion("TokenExit", window=1)
REDUCTION = criterion("TokenReduction", layers=[1, 3])
# Patience alone is a threshold of 1: words leave so in training, but for those that stay.
ON_OFF: Block = {"max_threshold": 1.0, "aggressive_share": 0.8, "full_share": 0.2}
PATIENT = [f"PatienceExit.v1 patience={p}" for p in (1, 2, 3, 4)]
METHODS = {
    "SENTEE": Method(criterion("SentenceExit"), ["SentenceExit.v1"]),
    "TOKEE": Method(WORDS, TOKENS),
    "TOKEE, dropped": Method(WORDS, TOKENS, kv="drop"),
    "patience, words": Method(
        criterion("PatienceExit", patience=1),
        PATIENT,
        dial="0,1",
        training=ON_OFF,
    ),
    "patience and confidence": Method(
        criterion("PatienceExit", patience=1),
        [f"PatienceExit.v1 patience={p} window={w}" for p in (1, 2) for w in (0, 1)],
    ),
    "reduction, copied": Method(REDUCTION, ["TokenReduction.v1 layers=[1,3]"], CHANCES),
    "reduction, dropped": Method(REDUCTION, ["TokenReduction.v1 layers=[1,3]"], CHANCES, kv="drop"),
    "CRF": Method(WORDS, TOKENS, decoder=criterion("CRFDecoder")),
    "AIN, first order": Method(WORDS, TOKENS, decoder=criterion("AINDecoder", order=1)),
    "AIN, second order": Method(WORDS, TOKENS, decoder=criterion("AINDecoder", order=2)),
    "AIN, leaving by beliefs": Method(
        criterion("BeliefExit"),
        ["BeliefExit.v1 window=0", "BeliefExit.v1 window=1"],
        decoder=criterion("AINDecoder", order=1),
    ),
}


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
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
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
                args.output.parent.mkdir(parents=True, exist_ok=True)
                args.output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{key} is measured", flush=True)

    names = [name.strip() for name in args.methods.split(";")]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(job, names))
    show(results)


def same_training(name: str) -> str:
    """RETURNS (str): The first method that is trained as this one."""
    method = METHODS[name]
    return next(
        other
        for other, its in METHODS.items()
        if (its.trained_with, its.decoder, its.kv, its.training)
        == (method.trained_with, method.decoder, method.kv, method.training)
    )


def folder_of(work: Path, name: str, seed: str) -> Path:
    """RETURNS (Path): Where a method's pipelines are."""
    return work / f"{same_training(name).replace(',', '').replace(' ', '-')}-{seed}"


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
    """RETURNS (dict[str, Rows]): What `thresholds.py` measures, for every setting."""
    found = {}
    for number, setting in enumerate(METHODS[name].measured_with):
        output = model / f"{name.replace(' ', '-')}-{part}-{number}.json"
        script = ["benchmarks/thresholds.py", model, args.corpus / f"{part}.spacy", "--threads", 1]
        options = ["--criterion", *setting.split(), "--thresholds", METHODS[name].dial]
        run(*script, *options, "--kv", METHODS[name].kv, "--output", output)
        found[setting] = json.loads(output.read_text())
    return found


def scores(found: dict[str, dict[str, Rows]]) -> dict[float, float]:
    """RETURNS (dict): F on dev by saving, with the setting that tune prefers at each."""
    by_saving = {1.0: next(iter(found["dev"].values()))[0]["ents_f"]}
    for saving in SAVINGS:
        by_saving[saving] = f_at(found["dev"][preferred(found["tune"], saving)], saving)
    return by_saving


def is_on_or_off(found: dict[str, dict[str, Rows]]) -> bool:
    """RETURNS (bool): Whether a method has no dial, as patience alone."""
    return all(len(rows) == 2 for rows in found["dev"].values())


def preferred(on_tune: dict[str, Rows], saving: float) -> str:
    """RETURNS (str): The setting that is best at a saving."""
    return max(on_tune, key=lambda setting: f_at(on_tune[setting], saving))


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
