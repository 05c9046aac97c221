"""Train what people do instead of leaving early: an encoder cut to its first layers.

Each has a single head. The cut encoders are trained by themselves, and from the uncut one
(distilled): then they start from its layers, and learn its distribution next to the annotation.
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
    parser.add_argument(
        "--rates", default="1e-4,2e-4", help="learning rates to train all of them with"
    )
    parser.add_argument("--ways", default="uncut,distilled,plain", help="what to train")
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
    run(*script, args.work / "joint.cfg", "--epochs", args.epochs, "--lang", args.lang)

    lock = threading.Lock()

    def job(depth: int | None, distilled: bool, rate: str, seed: str) -> None:
        name = "uncut" if depth is None else f"{depth} layers{', distilled' * distilled}"
        key = f"{name}, rate {rate}, seed {seed}"
        if key not in results:
            model = train(args, name, depth, distilled, rate, seed)
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
            uncut = itertools.product((None,), (False,), rates, seeds)
            list(pool.map(lambda choice: job(*choice), uncut))
        distilled = [way == "distilled" for way in ways if way != "uncut"]
        rest = itertools.product(depths, distilled, rates, seeds)
        list(pool.map(lambda choice: job(*choice), rest))


def train(
    args: argparse.Namespace,
    name: str,
    layers: int | None,
    distilled: bool,
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
    if distilled:
        stage["teacher"] = str(teacher)
        start = args.work / f"start-{layers}-{seed}-{rate}"
        cut_trained(teacher, start, layers or 0)
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
    kept = {name: tensor for name, tensor in weights.items() if stays(name, layers)}
    save_file(kept, output / "model.safetensors", metadata={"format": "pt"})


def cut_trained(pipeline: Path, output: Path, layers: int) -> None:
    """Keep the first layers of a trained pipeline; its last head goes on top of them."""
    nlp = spacy.load(pipeline)
    shim = nlp.get_pipe("early_exit_ner").model.shims[0]
    network, tokenizer = shim.trained[:2]
    weights = {name: w for name, w in network.state_dict().items() if stays(name, layers)}
    for part in ("weight", "bias"):
        last = network.state_dict()[f"heads.{network.spec.layers - 1}.{part}"]
        weights[f"heads.{layers - 1}.{part}"] = last
    spec = dataclasses.replace(network.spec, layers=layers)
    left = [layer for layer in network.exit_layers if layer < layers]
    cut_network = ExitNetwork(spec, network.tags, network.head_window, left)
    cut_network.load_state_dict(weights)
    shim.set(Trained(cut_network, tokenizer))
    shutil.rmtree(output, ignore_errors=True)
    nlp.to_disk(output)


def stays(name: str, layers: int) -> bool:
    """RETURNS (bool): Whether a weight is of none but the first layers."""
    number = re.search(r"(?:layers?|heads)\.(\d+)\.", name)
    return number is None or int(number.group(1)) < layers


if __name__ == "__main__":
    main()
