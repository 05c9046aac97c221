"""Early exits beside what a user would run instead, on the clock.

Each pipeline is given as NAME=FOLDER, early-exit ones run at every speedup that they are
calibrated for. --checkpoints are folders that `benchmarks.common.peers` wrote: the same networks in
Hugging Face's pipeline and in other engines. Every contender runs in a process of its own, in
alternating rounds; results that are in the output file already are not measured again. Engines
that are not installed are left out.
"""

import argparse
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import spacy
from spacy.tokens import DocBin
from tqdm import tqdm

from benchmarks.common import results as kept
from benchmarks.common.peers import make_ctranslate2, make_hf, make_onnx, make_openvino
from spacy_early_exit.cli.benchmark import show
from spacy_early_exit.measure.benchmark import Contender, Runner, benchmark
from spacy_early_exit.measure.contenders import contenders_of, make_spacy, spans_of

# Engines that compute a whole batch at once: the package, what makes it run, and what that is told
# besides folder and batch size.
ENGINES: dict[str, tuple[str, Callable[..., Runner], dict[str, str]]] = {
    "ONNX Runtime fp32": ("onnxruntime", make_onnx, {"file": "model.onnx"}),
    "ONNX Runtime int8": ("onnxruntime", make_onnx, {"file": "model-int8.onnx"}),
    "OpenVINO fp32": ("openvino", make_openvino, {"file": "openvino.xml", "precision": "f32"}),
    "OpenVINO bf16": ("openvino", make_openvino, {"file": "openvino.xml", "precision": "bf16"}),
    "OpenVINO int8": (
        "openvino",
        make_openvino,
        {"file": "openvino-int8.xml", "precision": "f32"},
    ),
    "CTranslate2 fp32": ("ctranslate2", make_ctranslate2, {"compute_type": "float32"}),
    "CTranslate2 int8": ("ctranslate2", make_ctranslate2, {"compute_type": "int8"}),
}
PACKAGES = ("onnxruntime", "openvino", "ctranslate2", "spacy-transformers")
FREE = ("commit", "command", "date")  # what may differ between results that belong together


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="annotated docs, .spacy")
    parser.add_argument("pipelines", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--speedups", default="1,2,3,4")
    parser.add_argument(
        "--checkpoints", nargs="*", default=[], metavar="NAME=FOLDER", help="what peers wrote"
    )
    parser.add_argument(
        "--engines",
        nargs="*",
        default=[],
        metavar="NAME=FOLDER",
        help="the same, but not in Hugging Face's pipeline",
    )
    parser.add_argument("--batch-sizes", default="1,32,128", help="of the others")
    parser.add_argument(
        "--stride", type=int, default=0, help="long texts: overlap of Hugging Face's windows"
    )
    parser.add_argument("--one-by-one", action="store_true", help="nlp(text), too")
    parser.add_argument("--texts", type=int, help="at most so many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="the results, as JSON")
    args = parser.parse_args()
    docs = list(DocBin().from_disk(args.corpus).get_docs(spacy.blank("xx").vocab))[: args.texts]
    contenders = all_of(args)
    about = {
        "corpus": "/".join(args.corpus.parts[-2:]),
        "texts": len(docs),
        "words": sum(map(len, docs)),
        "threads": args.threads,
        **{name: version(name) for name in PACKAGES if has(name)},
    }
    before: dict[str, Any] = kept.read(args.output, {})
    now = {**kept.origin(), **about}
    then = kept.read_about(args.output) if before else now
    if any(then.get(name) != value for name, value in now.items() if name not in FREE):
        raise SystemExit(f"{args.output} is of another corpus, machine or version.")

    def save(results: dict[str, dict[str, object]]) -> None:
        kept.write(args.output, results, **about)

    results = benchmark(
        contenders,
        [doc.text for doc in docs],
        [spans_of(doc) for doc in docs],
        sum(map(len, docs)),
        threads=args.threads,
        rounds=args.rounds,
        known=before,
        save=save,
        progress=lambda steps: tqdm(steps, leave=False),
    )
    show(results)


def all_of(args: argparse.Namespace) -> list[Contender]:
    """RETURNS (list[Contender]): All that were asked for."""
    speedups = [float(speedup) for speedup in args.speedups.split(",")]
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    contenders = []
    for given in args.pipelines:
        name, _, folder = given.partition("=")
        mine = contenders_of(folder, speedups, [size for size in sizes if size > 1], name)
        contenders += mine
        if args.one_by_one and "component_cfg" in mine[0].arguments:
            arguments = {**mine[-1].arguments, "batch_size": 0}
            last = mine[-1]
            contenders.append(
                Contender(f"{last.name}, one by one", make_spacy, arguments, last.version)
            )
    for given in args.checkpoints:
        name, _, folder = given.partition("=")
        contenders += in_transformers(name, folder, sizes, args.stride)
        if not args.stride:  # it has no windows
            contenders += in_engines(name, folder, sizes, args.threads)
    for given in args.engines:
        name, _, folder = given.partition("=")
        contenders += in_engines(name, folder, [size for size in sizes if size > 1], args.threads)
    return contenders


def has(package: str) -> bool:
    """RETURNS (bool): Whether a package is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def in_transformers(name: str, checkpoint: str, sizes: list[int], stride: int) -> list[Contender]:
    """RETURNS (list[Contender]): Hugging Face's pipeline, at some batch sizes.

    name (str): What is behind theirs.
    """
    return [
        Contender(
            f"Hugging Face pipeline{name}, batches of {size}",
            make_hf,
            {"checkpoint": checkpoint, "batch_size": size, "stride": stride},
            version_of(checkpoint, stride),
        )
        for size in sizes
    ]


def in_engines(name: str, checkpoint: str, sizes: list[int], threads: int) -> list[Contender]:
    """RETURNS (list[Contender]): Every engine that is installed, at some batch sizes.

    name (str): What is behind theirs.
    """
    return [
        Contender(
            f"{engine}{name}, batches of {size}",
            make,
            {"checkpoint": checkpoint, "batch_size": size, "threads": threads, **told},
            version_of(checkpoint),
        )
        for size in sizes
        for engine, (package, make, told) in ENGINES.items()
        if has(package) and (make is not make_ctranslate2 or knows_ctranslate2(checkpoint))
    ]


def knows_ctranslate2(checkpoint: str) -> bool:
    """RETURNS (bool): Whether the network is one that CTranslate2 knows."""
    config = json.loads((Path(checkpoint) / "config.json").read_text())
    return bool(config["model_type"] == "bert")


def version_of(checkpoint: str, *settings: int) -> str:
    """RETURNS (str): Changes when a checkpoint is written anew."""
    written = (Path(checkpoint) / "model.safetensors").stat().st_mtime_ns
    return "-".join(map(str, (written, *settings)))


if __name__ == "__main__":
    main()
