"""Slim encoders beside the encoder as it is, at equal savings in all.

A corpus is a folder with train.spacy, tune.spacy and dev.spacy. Both stages are trained for every
way and seed:

unslimmed: the encoder as it is.
early bird: search, draw, rewind, as `project run train-slim` does.
random 0, 1, 2: other heads and neurons, drawn by chance.
magnitude: those with the largest weights.
late: the ticket of a search as long as the first stage.
no rewind: the early bird's ticket, with the weights of the search.
fewer layers: the first layers, as many as come closest in cost.
as long: unslimmed, with as many seconds of training as the early bird took, search included.

Everything runs one after the other on one thread. Savings count from full depth of the encoder as
it is. F-scores are those of dev. Seconds are those of the processor. How alike the tickets of seeds
are, and how they changed during the search, is shown as well. Runs that are in the output file
already are not repeated.

`--rounds` measures time instead, on an otherwise idle machine: search and slim training, and
unslimmed training, in turns.

The second stage's checkpoints are compared at one saving in all (`--hold`), the same for all ways.
"""

import argparse
import itertools
import json
import math
import re
import resource
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import spacy
import torch
from safetensors.torch import load_file, save_file
from spacy.tokens import DocBin
from spacy.util import load_config
from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.curves import NAME, Rows, f_at, measure
from benchmarks.common.train import FINISHED, run
from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.model.predict import full_depth_macs
from spacy_early_exit.network.cost import full_macs
from spacy_early_exit.network.families import EncoderSpec, read_spec
from spacy_early_exit.network.slimming import distance, draw_ticket, gate_scores
from spacy_early_exit.pipe.dial import Knob

UNSLIMMED, EARLY_BIRD, LATE, AS_LONG = "unslimmed", "early bird", "late", "as long"
FEWER_LAYERS, NO_REWIND = "fewer layers", "no rewind"
# How `slim` draws: its options.
TICKETS: dict[str, list[object]] = {
    EARLY_BIRD: [],
    LATE: [],
    NO_REWIND: ["--no-rewind"],
    "magnitude": ["--importance", "magnitude"],
    **{f"random {n}": ["--importance", "random", "--seed", n] for n in range(3)},
}
# Those that need another one come after it.
WAYS = [UNSLIMMED, *TICKETS, FEWER_LAYERS, AS_LONG]
SAVINGS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
THRESHOLDS = "0,0.01,0.02,0.04,0.07,0.1,0.15,0.2,0.3,0.45,0.65"
CHECK = re.compile(r"Update (\d+): ([\d.]+)% of the heads and ([\d.]+)%")
RATE = "--training.optimizer.learn_rate.initial_rate"
Found = dict[str, Any]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("work", type=Path, help="folder for the pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--heads", type=float, default=0.67, help="share that stays")
    parser.add_argument("--neurons", type=float, default=0.6, help="share that stays")
    parser.add_argument("--epochs", type=int, default=4, help="of each stage")
    parser.add_argument("--min-steps", type=int, default=400, help="of each stage")
    parser.add_argument(
        "--rate", help="learning rate of search and first stage; default: by the encoder's size"
    )
    parser.add_argument("--rate-two", help="of the second stage")
    parser.add_argument("--hold", type=float, default=3.5, help="saving to choose checkpoints at")
    parser.add_argument("--thresholds", default=THRESHOLDS, help="to measure F at")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--rounds", type=int, default=0, help="measure time, so often")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for stage, options in (
        ("early_bird", ["--heads", args.heads, "--neurons", args.neurons]),
        ("joint", []),
        ("self_sampling", ["--evaluate-every", 1]),
    ):
        script = ["scripts/create_config.py", f"configs/{stage}.cfg", args.corpus / "train.spacy"]
        length = ["--epochs", args.epochs, "--min-steps", args.min_steps]
        how = ["--encoder", args.encoder, *options]
        run(*script, args.work / f"{stage}.cfg", *length, *how)
    results = kept.read(args.output, {})
    if args.rounds:
        clock(args, results)
        return
    ways = sorted(args.ways.split(","), key=WAYS.index)
    for seed, way in itertools.product(args.seeds.split(","), ways):
        key = f"{way}, seed {seed}"
        if key not in results:
            results[key] = examine(args, way, seed)
            kept.write(args.output, results)
        print(f"{key}: {summary(results[key])}", flush=True)
    show(results, args)


def examine(args: argparse.Namespace, way: str, seed: str) -> Found:
    """RETURNS (Found): The rows of tune and dev, the seconds of each part of training, and of a
    search how the ticket changed.
    """
    folder = folder_of(args, way, seed)
    model = train(args, way, seed)
    nlp = spacy.load(model)
    trained = nlp.get_pipe(NAME).model.shims[0].trained
    found: Found = {"sizes": [list(sizes) for sizes in trained.network.spec.own_sizes]}
    whole = spec_of(args.encoder)
    for part in ("tune", "dev"):
        gold = list(DocBin().from_disk(args.corpus / f"{part}.spacy").get_docs(nlp.vocab))
        thresholds = [float(threshold) for threshold in args.thresholds.split(",")]
        width = width_of(nlp, gold, whole)
        rows = measure(nlp, gold, thresholds)
        found[part] = [{**row, "mac_speedup": width * row["mac_speedup"]} for row in rows]
    seconds = json.loads((folder / "seconds.json").read_text())
    if way in (EARLY_BIRD, NO_REWIND):
        early = folder_of(args, EARLY_BIRD, seed)
        seconds = {**json.loads((early / "seconds.json").read_text()), **seconds}
    found["seconds"] = seconds
    if way in (EARLY_BIRD, LATE):
        log = " ".join((folder / "search" / "log.txt").read_text().split())
        names = ("update", "heads", "neurons")
        found["checks"] = [
            dict(zip(names, map(float, numbers), strict=True)) for numbers in CHECK.findall(log)
        ]
    return found


def train(args: argparse.Namespace, way: str, seed: str) -> Path:
    """RETURNS (Path): The pipeline of a way, trained unless it is there."""
    folder = folder_of(args, way, seed)
    if (folder / FINISHED).exists():
        return folder / "self_sampling" / "model-best"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seconds: dict[str, float] = {}
    encoder, share = args.encoder, 1.0
    if way in (EARLY_BIRD, LATE):
        options = [] if way == EARLY_BIRD else ["--components.early_exit_ner.training.bound", 0]
        how = [*options, "--paths.encoder", encoder, *at_rate(args.rate)]
        seconds["search"] = spacy_train(args, "early_bird", folder / "search", seed, how)
        (folder / "search" / FINISHED).touch()
    if way in TICKETS:
        searched = folder if way == LATE else folder_of(args, EARLY_BIRD, seed)
        if not (searched / "search" / FINISHED).exists():
            train(args, EARLY_BIRD, seed)
        encoder = folder / "encoder"
        script = ["-m", "spacy", "early-exit", "slim", searched / "search" / "model-last"]
        shares = ["--heads", args.heads, "--neurons", args.neurons]
        run(*script, "--output", encoder, *shares, *TICKETS[way])
    elif way == FEWER_LAYERS:
        train(args, EARLY_BIRD, seed)
        slim = HFEncoder(str(folder_of(args, EARLY_BIRD, seed) / "encoder")).load().spec
        encoder = folder / "encoder"
        cut(args.encoder, encoder, as_many_layers(slim))
    elif way == AS_LONG:
        for other in (UNSLIMMED, EARLY_BIRD):
            train(args, other, seed)
        share = total(args, EARLY_BIRD, seed) / total(args, UNSLIMMED, seed)
    for stage, rate in (("joint", args.rate), ("self_sampling", args.rate_two)):
        how = ["--paths.encoder", encoder, *shortened(args.work / f"{stage}.cfg", share)]
        how += at_rate(rate)
        if stage == "self_sampling":
            first = folder / "joint" / "model-best"
            own = args.hold / width_saving_of(args, first)
            how += ["--paths.first_stage", first, "--training.before_update.speedup", max(1.0, own)]
        seconds[stage] = spacy_train(args, stage, folder / stage, seed, how)
    (folder / "seconds.json").write_text(json.dumps(seconds))
    (folder / FINISHED).touch()
    return folder / "self_sampling" / "model-best"


def spacy_train(
    args: argparse.Namespace, stage: str, output: Path, seed: str, how: Sequence[object]
) -> float:
    """RETURNS (float): Processor seconds of a stage."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = ["--paths.train", args.corpus / "train.spacy", "--system.seed", seed]
    options += ["--paths.dev", args.corpus / "tune.spacy", "--output", output]
    mixed = str(args.mixed_precision).lower()
    options += [f"--components.{NAME}.model.mixed_precision", mixed]
    run("-m", "spacy", "train", args.work / f"{stage}.cfg", *options, *how, log=output)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def at_rate(rate: str | None) -> list[object]:
    """RETURNS (list[object]): Options for a learning rate other than the config's."""
    return [] if rate is None else [RATE, rate]


def shortened(config: Path, share: float) -> list[object]:
    """RETURNS (list[object]): Options that give a stage a share of its steps, or more of them."""
    training = load_config(config, interpolate=False)["training"]
    steps = max(1, round(share * training["max_steps"]))
    every = max(1, round(share * training["eval_frequency"]))
    schedule = "--training.optimizer.learn_rate"
    return [
        *("--training.max_steps", steps, "--training.eval_frequency", every),
        *(f"{schedule}.total_steps", steps, f"{schedule}.warmup_steps", max(1, steps // 10)),
    ]


def total(args: argparse.Namespace, way: str, seed: str) -> float:
    """RETURNS (float): Processor seconds of all parts of a way."""
    path = folder_of(args, way, seed) / "seconds.json"
    return sum(json.loads(path.read_text()).values())


def folder_of(args: argparse.Namespace, way: str, seed: str) -> Path:
    """RETURNS (Path): Where a way is trained."""
    folder: Path = args.work / f"{way.replace(' ', '-')}-{seed}"
    return folder


def width_of(nlp: Any, gold: Sequence[Any], whole: EncoderSpec) -> float:
    """RETURNS (float): How many times the operations of a pipeline's full depth the encoder as it
    is takes at full depth.
    """
    ner = nlp.get_pipe(NAME)
    trained, settings = ner.model.shims[0].trained, ner.ready(Knob(speedup=1.0))
    docs = [ner.unannotated(doc) for doc in gold]
    own = full_depth_macs(trained, docs, settings, trained.network.spec)
    return full_depth_macs(trained, docs, settings, whole) / own


def width_saving_of(args: argparse.Namespace, pipeline: Path) -> float:
    """RETURNS (float): The same for a saved pipeline, on tune."""
    nlp = spacy.load(pipeline)
    gold = list(DocBin().from_disk(args.corpus / "tune.spacy").get_docs(nlp.vocab))
    return width_of(nlp, gold, spec_of(args.encoder))


def spec_of(encoder: Path) -> EncoderSpec:
    """RETURNS (EncoderSpec): The sizes of an encoder in Hugging Face's format."""
    return read_spec(json.loads((encoder / "config.json").read_text()))


def as_many_layers(slim: EncoderSpec, wordpieces: int = 32) -> int:
    """RETURNS (int): How many layers of the encoder as it is cost about as much as a slim one."""
    pieces, words = torch.tensor([wordpieces]), torch.tensor([0])
    whole = int(full_macs(slim.unslimmed, 1, pieces, words)) / slim.layers
    return max(1, round(int(full_macs(slim, 1, pieces, words)) / whole))


def cut(encoder: Path, output: Path, layers: int) -> None:
    """Keep the first layers of an encoder in Hugging Face's format."""
    output.mkdir(parents=True, exist_ok=True)
    for file in encoder.iterdir():
        if file.is_file() and file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, output / file.name)
    config = json.loads((encoder / "config.json").read_text())
    config["num_hidden_layers"] = layers
    (output / "config.json").write_text(json.dumps(config))
    weights = {
        name: weight
        for name, weight in load_file(encoder / "model.safetensors").items()
        if not (number := re.search(r"layer\.(\d+)\.", name)) or int(number.group(1)) < layers
    }
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})


def clock(args: argparse.Namespace, results: Found) -> None:
    """Measure seconds of search and slim training, and of unslimmed training, in turns."""
    for number in range(args.rounds):
        ways = (EARLY_BIRD, UNSLIMMED)
        for way in ways if number % 2 == 0 else reversed(ways):
            key = f"seconds, {way}, round {number}"
            if key in results:
                continue
            start = time.perf_counter()
            train_on_the_clock(args, way, number)
            results[key] = time.perf_counter() - start
            kept.write(args.output, results)
            print(f"{key}: {results[key]:.0f}", flush=True)
    pairs = [
        [results[f"seconds, {way}, round {number}"] for way in (EARLY_BIRD, UNSLIMMED)]
        for number in range(args.rounds)
    ]
    ratios = [slim / whole for slim, whole in pairs]
    print(
        f"Search and slim training take {statistics.median(ratios):.3f} of the seconds of "
        f"unslimmed training ({min(ratios):.3f} to {max(ratios):.3f})."
    )


def train_on_the_clock(args: argparse.Namespace, way: str, number: int) -> None:
    """Train with a seed of the round, in a folder of its own."""
    work = args.work / f"clock-{number}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for stage in ("early_bird", "joint", "self_sampling"):
        shutil.copy(args.work / f"{stage}.cfg", work)
    train(argparse.Namespace(**{**vars(args), "work": work}), way, str(number))
    shutil.rmtree(work)


def at_least(rows: Rows, saving: float) -> float:
    """RETURNS (float): F at a saving; that of full depth if it saves more; 0 out of reach."""
    first = rows[0]
    return first["ents_f"] if first["mac_speedup"] >= saving else f_at(rows, saving)


def summary(found: Found) -> str:
    """RETURNS (str): F on dev by saving."""
    scores = [f"{saving:g}X {100 * at_least(found['dev'], saving):.2f}" for saving in SAVINGS]
    full = f"full depth {100 * found['dev'][0]['ents_f']:.2f}"
    return f"{full}, {', '.join(scores)}, {sum(found['seconds'].values()):.0f} s"


def show(results: dict[str, Found], args: argparse.Namespace) -> None:
    """Print means over seeds, how alike tickets are, and when they were stable."""
    lines = []
    for way in WAYS:
        found = [results[key] for key in results if key.startswith(f"{way}, seed ")]
        if not found:
            continue
        curves: list[Rows] = [one["dev"] for one in found]
        cells = [mean([curve[0]["ents_f"] for curve in curves])]
        cells += [mean([at_least(curve, saving) for curve in curves]) for saving in SAVINGS]
        saved = statistics.fmean(curve[0]["mac_speedup"] for curve in curves)
        seconds = statistics.fmean(sum(one["seconds"].values()) for one in found)
        lines.append([way, str(len(found)), f"{saved:.2f}X", *cells, f"{seconds:.0f}"])
    header = ["way", "seeds", "saved by width", "full depth"]
    header += [f"{saving:g}X" for saving in SAVINGS] + ["seconds"]
    print(table(lines, header=header, aligns=["l"] + ["r"] * (len(header) - 1)))
    show_random(results)
    for key, one in results.items():
        if key.startswith((EARLY_BIRD, LATE)):
            changes = [f"{c['update']:.0f}: {c['heads']}, {c['neurons']}" for c in one["checks"]]
            print(f"{key}, % of heads and neurons that differ: {'; '.join(changes)}")
    searched = [
        folder_of(args, EARLY_BIRD, seed) / "search" / FINISHED for seed in args.seeds.split(",")
    ]
    seeds = [s for s, at in zip(args.seeds.split(","), searched, strict=True) if at.exists()]
    tickets = {seed: ticket_of(args, seed) for seed in seeds}
    for one, other in itertools.combinations(seeds, 2):
        heads, neurons = distance(tickets[one], tickets[other])
        print(
            f"Tickets of seeds {one} and {other} differ in {heads:.1%} of the heads and "
            f"{neurons:.1%} of the neurons (by chance, {by_chance(args.heads):.1%} and "
            f"{by_chance(args.neurons):.1%})"
        )


def show_random(results: dict[str, Found]) -> None:
    """Print how far the early bird is above random tickets, over all tickets and seeds."""
    pairs = [
        (results[f"{EARLY_BIRD}, {key.partition(', ')[2]}"]["dev"], one["dev"])
        for key, one in results.items()
        if key.startswith("random ") and f"{EARLY_BIRD}, {key.partition(', ')[2]}" in results
    ]
    for saving in SAVINGS if pairs else ():
        reached = [(at_least(early, saving), at_least(other, saving)) for early, other in pairs]
        above = [100 * (early - other) for early, other in reached if early and other]
        if above:
            spread = f" ± {statistics.stdev(above):.1f}" if len(above) > 1 else ""
            told = f"{statistics.fmean(above):+.2f}{spread} points of F"
            print(f"{saving:g}X: the early bird is {told} above {len(above)} random tickets")


def ticket_of(args: argparse.Namespace, seed: str) -> Any:
    """RETURNS (Units): The early-bird ticket of a seed."""
    searched = spacy.load(folder_of(args, EARLY_BIRD, seed) / "search" / "model-last")
    scores = gate_scores(searched.get_pipe(NAME).network)
    return draw_ticket(scores, args.heads, args.neurons, "layerwise", "global")


def by_chance(share: float) -> float:
    """RETURNS (float): The share of units on only one of two random tickets."""
    return 2 * share * (1 - share)


def mean(values: Sequence[float]) -> str:
    """RETURNS (str): The mean in percent, with its spread; "-" if a seed does not get there."""
    if not all(values):
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    found = 100 * statistics.fmean(values)
    return f"{found:.2f}{spread}" if math.isfinite(found) else "-"


if __name__ == "__main__":
    main()
