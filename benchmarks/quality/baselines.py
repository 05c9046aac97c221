"""Train what people do instead of leaving early: an encoder cut to its first layers.

Each has a single head. The cut encoders are trained by themselves, and from the uncut one
(distilled): then they start from its first layers, or from layers all over it (spread, as
DistilBERT did), and learn its distribution next to the annotation.
All are trained for the same number of epochs, which should be that of both stages of early
exit together.

A corpus is a folder with train.spacy, tune.spacy and dev.spacy. Runs that are in the output
file already are not repeated.
"""

import argparse
import dataclasses
import itertools
import json
import re
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import spacy
from safetensors.torch import load_file, save_file
from spacy.util import load_config

from benchmarks.common import results as kept
from benchmarks.common.train import FINISHED, run
from spacy_early_exit.files.network import Trained
from spacy_early_exit.network.exit_network import ExitNetwork


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("work", type=Path, help="folder for the pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--layers", default="3,2", help="depths to cut to")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--min-steps", type=int, default=0, help="with fewer, more epochs")
    parser.add_argument(
        "--rates", default="1e-4,2e-4", help="learning rates to train all of them with"
    )
    parser.add_argument(
        "--ways",
        default="uncut,distilled,plain",
        help="what to train: uncut, plain, distilled, spread",
    )
    parser.add_argument(
        "--teacher", type=Path, help="a trained pipeline, in place of an uncut encoder trained here"
    )
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--jobs", type=int, default=2, help="single-threaded, side by side")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = kept.read(args.output, {})
    depths = [int(layers) for layers in args.layers.split(",")]
    for layers in depths:
        cut(args.encoder, args.work / f"encoder-{layers}", layers)
    script = ["scripts/create_config.py", "configs/joint.cfg", args.corpus / "train.spacy"]
    length = ["--epochs", args.epochs, "--min-steps", args.min_steps]
    how = ["--lang", args.lang, "--encoder", args.encoder]
    run(*script, args.work / "joint.cfg", *length, *how)

    lock = threading.Lock()

    def job(depth: int | None, way: str, rate: str, seed: str) -> None:
        name = "uncut" if depth is None else f"{depth} layers{NAMES[way]}"
        key = f"{name}, rate {rate}, seed {seed}"
        if key not in results:
            model = train(args, name, depth, way, rate, seed)
            found = {part: score(model, args, part) for part in ("tune", "dev")}
            with lock:
                results[key] = found
                kept.write(args.output, results)
        shown = ", ".join(f"{part} {f:.4f}" for part, f in results[key].items())
        print(f"{key}: {shown}", flush=True)

    seeds, rates = args.seeds.split(","), args.rates.split(",")
    ways = args.ways.split(",")
    with ThreadPoolExecutor(args.jobs) as pool:
        if "uncut" in ways:  # the teachers
            uncut = itertools.product((None,), ("uncut",), rates, seeds)
            list(pool.map(lambda choice: job(*choice), uncut))
        others = [way for way in ways if way != "uncut"]
        rest = itertools.product(depths, others, rates, seeds)
        list(pool.map(lambda choice: job(*choice), rest))


NAMES = {"plain": "", "distilled": ", distilled", "spread": ", distilled, spread"}


def train(
    args: argparse.Namespace,
    name: str,
    layers: int | None,
    way: str,
    rate: str,
    seed: str,
) -> Path:
    """RETURNS (Path): The trained pipeline, unless it is there already."""
    folder = args.work / f"{name.replace(', ', '-').replace(' ', '-')}-{rate}-{seed}"
    model: Path = folder / "model-best"
    if (folder / FINISHED).exists():
        return model
    shutil.rmtree(folder, ignore_errors=True)
    teacher = args.teacher or args.work / f"uncut-{rate}-{seed}" / "model-best"
    stage = {"@misc": "benchmark.SingleHead.v1", "teacher": None, "distillation": 1.0}
    encoder = args.encoder if layers is None else args.work / f"encoder-{layers}"
    config = load_config(args.work / "joint.cfg", interpolate=False)
    if layers is not None and way in ("distilled", "spread"):
        stage["teacher"] = str(teacher)
        start = args.work / f"start-{way}-{layers}-{seed}-{rate}"
        cut_trained(teacher, start, layers, spread=way == "spread")
        config["initialize"]["components"] = {"early_exit_ner": {"start_from": str(start)}}
    config["components"]["early_exit_ner"]["training"] = stage
    config["components"]["early_exit_ner"]["threshold"] = 0.0
    folder.mkdir(parents=True, exist_ok=True)
    config.to_disk(folder / "config.cfg")
    options = ["--code", "benchmarks/common/single_head.py", "--output", folder]
    options += ["--paths.train", args.corpus / "train.spacy"]
    options += ["--paths.dev", args.corpus / "tune.spacy", "--paths.encoder", encoder]
    options += ["--system.seed", seed]
    options += ["--training.optimizer.learn_rate.initial_rate", rate]
    if args.mixed_precision:
        options += ["--components.early_exit_ner.model.mixed_precision", "true"]
    run("-m", "spacy", "train", folder / "config.cfg", *options, log=folder)
    replace_stage(model)
    shutil.rmtree(folder / "model-last")
    (folder / FINISHED).touch()
    return model


def replace_stage(model: Path) -> None:
    """Let the pipeline be loaded without this folder's code."""
    config = load_config(model / "config.cfg", interpolate=False)
    config["components"]["early_exit_ner"]["training"] = {
        "@misc": "spacy-early-exit.JointTraining.v1",
        "distillation": 0.0,
    }
    config.to_disk(model / "config.cfg")


def score(model: Path, args: argparse.Namespace, part: str) -> float:
    """RETURNS (float): F at full depth."""
    output = model / f"{part}.json"
    script = ["-m", "benchmarks.quality.curve", model, args.corpus / f"{part}.spacy"]
    run(*script, "--threads", 1, "--thresholds", "0", "--output", output)
    f: float = kept.read(output)[0]["ents_f"]
    return f


def cut(encoder: Path, output: Path, layers: int) -> None:
    """Keep the first layers of a BERT in Hugging Face's format."""
    output.mkdir(parents=True, exist_ok=True)
    for file in encoder.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, output / file.name)
    config = json.loads((encoder / "config.json").read_text())
    config["num_hidden_layers"] = layers
    (output / "config.json").write_text(json.dumps(config))
    weights = load_file(encoder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if place(name, range(layers))}
    save_file(kept, output / "model.safetensors", metadata={"format": "pt"})


def cut_trained(pipeline: Path, output: Path, layers: int, spread: bool = False) -> None:
    """Keep some layers of a trained pipeline; its last head goes on top of them.

    pipeline (Path): The pipeline.
    output (Path): Where to save the new one.
    layers (int): How many to keep.
    spread (bool): Whether they are taken all over it, the first and the last among them, or are the
        first ones.
    """
    nlp = spacy.load(pipeline)
    shim = nlp.get_pipe("early_exit_ner").model.shims[0]
    network, tokenizer = shim.trained[:2]
    last = network.spec.layers - 1
    stay = [round(i * last / (layers - 1)) if spread else i for i in range(layers)]
    weights = {place(name, stay): weight for name, weight in network.state_dict().items()}
    for part in ("weight", "bias"):
        weights[f"heads.{layers - 1}.{part}"] = network.state_dict()[f"heads.{last}.{part}"]
    weights.pop("", None)
    spec = dataclasses.replace(network.spec, layers=layers)
    left = [layer for layer in network.exit_layers if layer < layers]
    cut_network = ExitNetwork(spec, network.tags, network.head_window, left)
    cut_network.load_state_dict(weights)
    shim.set(Trained(cut_network, tokenizer))
    shutil.rmtree(output, ignore_errors=True)
    nlp.to_disk(output)


def place(name: str, stay: Sequence[int]) -> str:
    """RETURNS (str): The name of a weight where only some layers stay; empty if its layer goes.

    name (str): Its name now.
    stay (Sequence[int]): The numbers of these layers, ascending.
    """
    number = re.search(r"(?<=layer\.)\d+|(?<=layers\.)\d+|(?<=heads\.)\d+", name)
    if number is None:
        return name
    if int(number[0]) not in stay:
        return ""
    return f"{name[: number.start()]}{stay.index(int(number[0]))}{name[number.end() :]}"


if __name__ == "__main__":
    main()
