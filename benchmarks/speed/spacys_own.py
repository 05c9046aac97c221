"""Train what spaCy offers for the same task: spacy-transformers with the same encoder, and a CNN.

The configs are those of ``spacy init config``. The transformer is trained for the same steps, in
the same batches and at the same rates as a single head is in baselines.py; the CNN as spaCy trains
it, until it gets no better. Checkpoints are chosen on tune. Pipelines that are there already are
not trained again.

A corpus is a folder with train.spacy, tune.spacy and dev.spacy.
"""

import argparse
from pathlib import Path

from spacy.cli.init_config import init_config
from spacy.util import load_config
from thinc.api import Config

from benchmarks.common.train import FINISHED, run


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("work", type=Path, help="folder for the pipelines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rates", default="1e-4,2e-4", help="of the transformer")
    parser.add_argument("--ways", default="transformer,cnn", help="what to train")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    script = ["scripts/create_config.py", "configs/joint.cfg", args.corpus / "train.spacy"]
    run(*script, args.work / "joint.cfg", "--epochs", args.epochs)
    if "cnn" in args.ways.split(","):
        train(args, "cnn", init_config(lang="en", pipeline=["ner"], optimize="efficiency"))
    for rate in args.rates.split(",") if "transformer" in args.ways.split(",") else ():
        train(args, f"transformer-{rate}", transformer(args, float(rate)))


def transformer(args: argparse.Namespace, rate: float) -> Config:
    """RETURNS (Config): spaCy's for a transformer, trained in the steps of a single head's."""
    config = init_config(lang="en", pipeline=["ner"], optimize="efficiency", gpu=True)
    like = load_config(args.work / "joint.cfg", interpolate=False)["training"]
    for setting in ("batcher", "optimizer", "max_steps", "eval_frequency", "accumulate_gradient"):
        config["training"][setting] = like[setting]
    config["training"]["optimizer"]["learn_rate"]["initial_rate"] = rate
    config["training"]["patience"] = 0
    config["components"]["transformer"]["model"]["name"] = str(args.encoder.resolve())
    return config


def train(args: argparse.Namespace, name: str, config: Config) -> None:
    """Train a pipeline, unless it is there, and say where."""
    folder = args.work / f"{name}-{args.seed}"
    paths = [
        "--paths.train",
        args.corpus / "train.spacy",
        "--paths.dev",
        args.corpus / "tune.spacy",
        "--system.seed",
        args.seed,
    ]
    if not (folder / FINISHED).exists():
        folder.mkdir(parents=True, exist_ok=True)
        config.to_disk(folder / "config.cfg")
        if args.mixed_precision and "transformer" in config["components"]:
            paths += ["--code", "benchmarks/common/bfloat16.py"]
        run("-m", "spacy", "train", folder / "config.cfg", "--output", folder, *paths, log=folder)
        (folder / FINISHED).touch()
    print(f"{folder / 'model-best'}", flush=True)


if __name__ == "__main__":
    main()
