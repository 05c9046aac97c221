"""On a GPU: are answers those of the CPU, and how many words per second, at which speedup?

It needs neither corpora nor trained pipelines: weights are random, and words exit where those of
real texts did (``results/exit-patterns.json``, from a trained MiniLM; in deeper encoders at the
same share of the layers). Texts are joined to lengths from a tweet to a page. Hugging Face's model
has the same weights, in sorted batches padded to their longest text, at its best batch size.

It ends by itself when its minutes are over, in the middle of a measurement if need be. Results are
written as they come, what there was no time for under "left out". It fails if answers in fp32 are
not those of the CPU. On a machine with a GPU:

python -m benchmarks.speed.gpu --output gpu.json
"""

import argparse
import copy
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from wasabi import table

from benchmarks.common import results
from benchmarks.common.peers import in_transformers
from spacy_early_exit.criteria import TokenExit
from spacy_early_exit.model.predict import TIMES_ON_GPU
from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.criterion import Step
from spacy_early_exit.network.devices import fetched, is_asynchronous
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.network.families import read_spec
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.products.half import halved
from spacy_early_exit.network.window import Window
from spacy_early_exit.text.windows import batches

PATTERNS = Path(__file__).parent.parent / "results" / "exit-patterns.json"
RECORDED_LAYERS = 6
SPEEDUPS = ("2X", "3X", "4X")
# Layers, width, heads, neurons.
SHAPES = {
    "minilm": (6, 384, 12, 1536),
    "bert-base": (12, 768, 12, 3072),
    "bert-large": (24, 1024, 16, 4096),
    "tiny": (2, 32, 2, 64),
}
LABELS = ("LOC", "MISC", "ORG", "PER")
VOCABULARY, POSITIONS, FIRST_WORD = 30522, 512, 1000
JOINED = (1, 1, 2, 1, 4, 1, 8, 2, 1, 16)  # so many texts to one, in turns
TRAINING_WORDPIECES, TRAINING_STEPS = 4096, 8
NEAR = 1e-4  # what logits in fp32 may differ by
TIE = 1e-3
CPU = torch.device("cpu")
GRACE = 20.0  # seconds that the last measurement may take longer


class TimeIsUp(Exception):
    """There is no time for a measurement."""


@dataclass
class Clock:
    """Keeps to a time limit.

    end (float): When all has to be over, in seconds of ``time.monotonic``.
    """

    end: float

    def left(self) -> float:
        """RETURNS (float): Seconds that are left."""
        return self.end - time.monotonic()

    def need(self, seconds: float) -> None:
        """RAISES (TimeIsUp): If fewer seconds are left."""
        if self.left() < seconds:
            raise TimeIsUp

    def times(
        self, runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device
    ) -> dict[str, list[float]]:
        """RETURNS (dict[str, list[float]]): Seconds that each run takes, in alternating rounds: as
        many as there is time for, at least one.

        runs (dict[str, Callable]): What to run.
        rounds (int): How often.
        device (torch.device): What computes.
        RAISES (TimeIsUp): If there is no time for one round.
        """
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                known = seconds[name]
                self.need(2 * max(known, default=1.0) if number < 2 else 0.0)
                if number > 1 and self.left() < sum(map(max, seconds.values())):
                    return seconds
                start = time.perf_counter()
                run()
                synchronize(device)
                known.append(time.perf_counter() - start)
            if number == 0:  # to warm up
                seconds = {name: [] for name in runs}
        return seconds


@dataclass(frozen=True)
class Replay(TokenExit):
    """Computes what TokenExit does, and lets words exit where they are recorded to.

    layers (torch.Tensor): The layer of each word of the batch. *Shape:* ``(words,)``
    """

    layers: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def leave(self, step: Step, state: Any) -> torch.Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""
        super().leave(step, state)
        return self.layers[step.words] <= step.layer


REPLAY = Replay(window=1)


@dataclass
class Report:
    """What has been measured, written down after every row.

    output (Path | None): The file.
    about (dict): What else results depend on.
    rows (dict): The results, by part.
    """

    output: Path | None
    about: dict[str, Any]
    rows: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, part: str, **row: Any) -> None:
        """Add a row, show it, and write the file."""
        self.rows.setdefault(part, []).append(row)
        print(part, *(f"{name}={_short(value)}" for name, value in row.items()), flush=True)
        results.write(self.output, self.rows, **self.about)

    def give_up(self, what: str) -> None:
        """End the process: there is no time left, and a measurement does not return."""
        self.add("left out", what=what)
        os._exit(1)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", default="minilm,bert-base,bert-large")
    parser.add_argument("--words", type=int, default=100_000, help="of the texts")
    parser.add_argument("--wordpieces", type=int, default=2048 * TIMES_ON_GPU, help="of a batch")
    parser.add_argument("--batch-sizes", default="32,128,512", help="to try with Hugging Face")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    parser.add_argument("--record", nargs=2, metavar=("PIPELINE", "DOCS"), help="new patterns")
    args = parser.parse_args()
    if args.record:
        record(*map(Path, args.record))
        return
    clock = Clock(time.monotonic() + 60 * args.minutes)
    device = torch.device(args.device)
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    report = Report(args.output, {"device": name_of(device), "words": args.words})
    # Compiling, for one thing, looks at no clock.
    timer = threading.Timer(60 * args.minutes + GRACE, report.give_up, ["what came next"])
    timer.daemon = True
    timer.start()
    windows, recorded = texts(args.words)
    for shape in args.shapes.split(","):
        network = network_of(shape)
        cut = list(batches(windows, args.wordpieces))
        parts: dict[str, Callable[[], None]] = {
            "oracle": partial(oracle, report, shape, network, windows, device),
            "speed": partial(speed, report, clock, shape, network, cut, recorded, device, args),
            "compiled": partial(compiled, report, clock, shape, network, cut, device, args),
            "beside": partial(beside, report, clock, shape, network, windows, sizes, device, args),
            "training": partial(training, report, clock, shape, network, windows, device, args),
        }
        for part, run in parts.items():
            if part == "compiled" and args.no_compile:
                continue
            try:
                clock.need(5.0 if is_asynchronous(device) else 0.5)
                run()
            except TimeIsUp:
                report.add("left out", what=part, shape=shape)
            except (torch.cuda.OutOfMemoryError, ImportError, RuntimeError, ValueError) as e:
                why = f"{type(e).__name__}: {e}"[:300]
                report.add("failed", what=part, shape=shape, why=why)
    timer.cancel()
    show(report.rows.get("speed", []))
    sys.exit(not all(row["ok"] for row in report.rows.get("oracle", ()) if row["ok"] is not None))


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print words per second as a table."""
    names = ("shape", "run", "words_per_second", "mac_speedup", "wall_speedup", "realised", "mb")
    shown = [[_short(row.get(name, "")) for name in names] for row in rows]
    print(table(shown, header=names))


def name_of(device: torch.device) -> str:
    """RETURNS (str): The name of a device, as its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def synchronize(device: torch.device) -> None:
    """Wait until a device has computed everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def texts(words: int) -> tuple[list[Window], dict[str, list[np.ndarray]]]:
    """Join recorded texts to texts of mixed length.

    words (int): Until there are so many words.
    RETURNS (tuple): The texts, with random wordpieces; and by speedup the layer at which each
        word of each text exits, of as many as were recorded.
    """
    kept = results.read(PATTERNS)
    draw = np.random.default_rng(0)
    windows: list[Window] = []
    layers: dict[str, list[np.ndarray]] = {speedup: [] for speedup in SPEEDUPS}
    used = counted = 0
    while counted < words:
        some = [kept[(used + i) % len(kept)] for i in range(JOINED[len(windows) % len(JOINED)])]
        used += len(some)
        pieces = np.array([int(digit) for row in some for digit in row["pieces"]])
        count = int(np.searchsorted(pieces.cumsum(), POSITIONS - 2, side="right"))
        pieces = pieces[:count]
        number = np.arange(count)
        unit_of_piece = np.repeat(number, pieces)
        ids = draw.integers(FIRST_WORD, VOCABULARY, len(unit_of_piece))
        windows.append(
            Window(
                doc=len(windows),
                ids=np.concatenate([[101], ids, [102]]),
                unit_of_piece=np.concatenate([[-1], unit_of_piece, [-1]]),
                units=count,
                words=number,
                piece_of_word=1 + pieces.cumsum() - pieces,
                unit_of_word=number,
                owned=np.ones(count, dtype=np.bool_),
            )
        )
        for speedup in SPEEDUPS:
            digits = "".join(row[speedup] for row in some)[:count]
            layers[speedup].append(np.array([int(digit) for digit in digits]))
        counted += count
    return windows, layers


def network_of(shape: str) -> ExitNetwork:
    """RETURNS (ExitNetwork): A BERT with random weights."""
    layers, width, heads, neurons = SHAPES[shape]
    spec = read_spec(
        {
            "model_type": "bert",
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": neurons,
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        }
    )
    torch.manual_seed(0)
    network = ExitNetwork(spec, 2 * len(LABELS) + 1, head_window=1)
    for layer in range(1, layers + 1):
        head = network.head(layer)
        torch.nn.init.normal_(head.weight, std=2.0 * head.in_features**-0.5)
    return network.requires_grad_(False)


def oracle(
    report: Report,
    shape: str,
    network: ExitNetwork,
    windows: Sequence[Window],
    device: torch.device,
) -> None:
    """Compare some texts with the CPU: fp32 must be near, with the same labels except for ties."""
    some = windows[:30]
    there = copy.deepcopy(network).to(device)
    for name, criterion in (("1X", None), ("exits", TokenExit(window=1))):
        with torch.inference_mode():
            right = run_with_exits(network, Batch.of(some, CPU), criterion, 0.6)
            for precision in ("fp32", "bf16"):
                other = there if precision == "fp32" else halved(there, "bf16")
                ours = fetched(run_with_exits(other, Batch.of(some, device), criterion, 0.6))
                same = ours.exit_layer == right.exit_layer
                first, second = right.logits.topk(2).values.unbind(1)
                labels = ours.logits.argmax(1) == right.logits.argmax(1)
                difference = float((ours.logits - right.logits)[same].abs().max())
                no_ties = int((~labels & same & (first - second > TIE)).sum())
                report.add(
                    "oracle",
                    shape=shape,
                    run=f"{name}, {precision}",
                    words=len(same),
                    ok=difference <= NEAR and not no_ties if precision == "fp32" else None,
                    difference=difference,
                    other_exit_layers=int((~same).sum()),
                    other_labels=int((~labels).sum()),
                    other_labels_without_a_tie=no_ties,
                )


def speed(
    report: Report,
    clock: Clock,
    shape: str,
    network: ExitNetwork,
    cut: Sequence[list[Window]],
    recorded: dict[str, list[np.ndarray]],
    device: torch.device,
    args: argparse.Namespace,
) -> None:
    """Words per second from token ids to labels, by precision and speedup."""
    stretch = network.spec.layers / RECORDED_LAYERS
    words = sum(len(window.words) for batch in cut for window in batch)
    there = copy.deepcopy(network).to(device)
    for precision in ("bf16", "fp32"):
        runs: dict[str, Callable[[], float]] = {}
        ours = halved(there, "bf16") if precision == "bf16" else there
        for speedup in ("1X", *SPEEDUPS):
            layers = None
            if speedup != "1X":
                layers = [np.ceil(each * stretch).astype(np.int64) for each in recorded[speedup]]
            runs[speedup] = runner(ours, cut, layers, device)
        savings = {}
        for name, run in runs.items():
            clock.need(2.0 if is_asynchronous(device) else 0.2)
            savings[name] = run()
        seconds = clock.times(runs, args.rounds, device)
        for name, times in seconds.items():
            wall = statistics.median(seconds["1X"]) / statistics.median(times)
            report.add(
                "speed",
                shape=shape,
                run=f"{name}, {precision}",
                words_per_second=words / statistics.median(times),
                rounds=len(times),
                mac_speedup=savings[name],
                wall_speedup=wall,
                realised=wall / savings[name],
                mb=memory_of(runs[name], device, ours),
            )


def compiled(
    report: Report,
    clock: Clock,
    shape: str,
    network: ExitNetwork,
    cut: Sequence[list[Window]],
    device: torch.device,
    args: argparse.Namespace,
) -> None:
    """Words per second at full depth of our layers as they are, and through torch.compile."""
    clock.need(60.0 if is_asynchronous(device) else 0.2)
    words = sum(len(window.words) for batch in cut for window in batch)
    plain, quick = (halved(copy.deepcopy(network).to(device), "bf16") for _ in range(2))
    for layer in quick.encoder.layers:
        layer.compile(dynamic=True)
    networks = {"1X again, bf16": plain, "1X, torch.compile, bf16": quick}
    runs = {name: runner(each, cut, None, device) for name, each in networks.items()}
    for name, times in clock.times(runs, args.rounds, device).items():
        report.add(
            "speed",
            shape=shape,
            run=name,
            words_per_second=words / statistics.median(times),
            rounds=len(times),
            mb=memory_of(runs[name], device, networks[name]),
        )


def runner(
    network: ExitNetwork,
    cut: Sequence[list[Window]],
    recorded: list[np.ndarray] | None,
    device: torch.device,
) -> Callable[[], float]:
    """RETURNS (Callable): Runs all batches, and says what was saved."""

    def run() -> float:
        spent = full = 0
        with torch.inference_mode():
            for batch in cut:
                criterion = None
                if recorded is not None:
                    layers = np.concatenate([recorded[window.doc] for window in batch])
                    criterion = replace(REPLAY, layers=torch.from_numpy(layers).to(device))
                ragged = Batch.of(batch, device, halt_special=True)
                exits = fetched(run_with_exits(network, ragged, criterion, 0.1))
                exits.logits.argmax(1)
                spent, full = spent + int(exits.spent.sum()), full + int(exits.full.sum())
        return full / spent

    return run


def memory_of(
    run: Callable[[], Any],
    device: torch.device,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> float | None:
    """RETURNS (float | None): The most megabytes that torch has on the device during a run, without
    those of other models; None: it does not count them.
    """
    if device.type != "cuda":
        return None
    own = [*model.parameters(), *model.buffers()]
    for state in () if optimizer is None else optimizer.state.values():
        own += [value for value in state.values() if isinstance(value, torch.Tensor)]
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    there = sum(each.nbytes for each in own if each.device.type == "cuda")
    return (torch.cuda.max_memory_allocated(device) - before + there) / 1e6


def padded(windows: Sequence[Window], size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """YIELDS (tuple[Tensor, Tensor]): Ids and mask of batches, the longest texts first."""
    order = sorted(windows, key=lambda window: -len(window.ids))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        ids = torch.zeros(len(batch), len(batch[0].ids), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(batch):
            ids[row, : len(window.ids)] = torch.from_numpy(window.ids)
            mask[row, : len(window.ids)] = 1
        yield ids, mask


def beside(
    report: Report,
    clock: Clock,
    shape: str,
    network: ExitNetwork,
    windows: Sequence[Window],
    sizes: Sequence[int],
    device: torch.device,
    args: argparse.Namespace,
) -> None:
    """Words per second of the same network in transformers, in bf16."""
    model = in_transformers(network, LABELS).to(device, torch.bfloat16)
    words = sum(len(window.words) for window in windows)

    def run_all(called: Any, size: int) -> None:
        with torch.inference_mode():
            for ids, mask in padded(windows, size):
                called(ids.to(device), attention_mask=mask.to(device)).logits.argmax(-1).cpu()

    def measure(name: str, called: Any, size: int) -> float:
        run: Callable[[], None] = lambda: run_all(called, size)  # noqa: E731
        times = clock.times({name: run}, args.rounds, device)[name]
        found = words / statistics.median(times)
        report.add(
            "speed",
            shape=shape,
            run=f"Hugging Face, {name}, bf16, batches of {size}",
            words_per_second=found,
            rounds=len(times),
            mb=memory_of(run, device, model),
        )
        return found

    best = max(sizes, key=lambda size: measure("padded", model, size))
    if not args.no_compile:
        clock.need(60.0)  # it compiles for each kind of shape
        measure("torch.compile", torch.compile(model, dynamic=True), best)


def training(
    report: Report,
    clock: Clock,
    shape: str,
    network: ExitNetwork,
    windows: Sequence[Window],
    device: torch.device,
    args: argparse.Namespace,
) -> None:
    """Words per second of training: all exit heads on ragged batches in bfloat16; and one head on
    padded batches in fp16 with scaled gradients, as spacy-transformers trains: texts of similar
    length together, as many as fill a batch with their padding.
    """
    shuffled = [windows[i] for i in np.random.default_rng(1).permutation(len(windows))]
    some: list[Window] = []
    while shuffled and sum(len(w.ids) for w in some) < TRAINING_STEPS * TRAINING_WORDPIECES:
        some.append(shuffled.pop())
    words = sum(len(window.words) for window in some)
    draw = np.random.default_rng(0)
    gold = {id(w): torch.from_numpy(draw.integers(network.tags, size=len(w.words))) for w in some}

    ours = copy.deepcopy(network).to(device).requires_grad_(True)
    our_optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-5)

    def our_epoch() -> None:
        for part in batches(some, TRAINING_WORDPIECES):
            wanted = torch.cat([gold[id(window)] for window in part]).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                batch = Batch.of(part, device)
                logits = run_all_heads(ours, batch, dropout=0.1, detach_early_heads=True)
            all_wanted = wanted.expand(len(logits), -1)
            F.cross_entropy(logits.float().flatten(0, 1), all_wanted.flatten()).backward()
            our_optimizer.step()
            our_optimizer.zero_grad()

    theirs = in_transformers(network, LABELS).to(device).train()
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-5)
    is_gpu = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=is_gpu)

    def their_epoch() -> None:
        for part in of_padded_size(some, TRAINING_WORDPIECES):
            ((ids, mask),) = padded(part, len(part))
            wanted = torch.full(ids.shape, -100)
            for row, window in zip(wanted, part):
                row[torch.from_numpy(window.piece_of_word)] = gold[id(window)]
            with torch.autocast(device.type, torch.float16 if is_gpu else torch.bfloat16):
                logits = theirs(ids.to(device), attention_mask=mask.to(device)).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), wanted.to(device).flatten())
            scaler.scale(loss).backward()
            scaler.step(their_optimizer)
            scaler.update()
            their_optimizer.zero_grad()

    runs: dict[str, Callable[[], None]] = {
        "ours, all heads, bfloat16": our_epoch,
        "padded, as spacy-transformers": their_epoch,
    }
    trained = ((ours, our_optimizer), (theirs, their_optimizer))
    models = dict(zip(runs, trained, strict=True))
    for name, times in clock.times(runs, args.rounds, device).items():
        report.add(
            "training",
            shape=shape,
            run=name,
            words_per_second=words / statistics.median(times),
            rounds=len(times),
            mb=memory_of(runs[name], device, *models[name]),
        )


def of_padded_size(windows: Sequence[Window], most: int) -> Iterator[list[Window]]:
    """YIELDS (list[Window]): Batches of at most so many wordpieces with their padding, the longest
    texts first; longer texts alone.
    """
    batch: list[Window] = []
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        if batch and (len(batch) + 1) * len(batch[0].ids) > most:
            yield batch
            batch = []
        batch.append(window)
    yield batch


def record(pipeline: Path, corpus: Path, most: int = 400) -> None:
    """Record where the words of real texts exit, at the thresholds that save what is asked for.

    pipeline (Path): A trained pipeline of six layers.
    corpus (Path): Texts, .spacy.
    most (int): How many texts.
    """
    import spacy
    from spacy.tokens import DocBin

    from spacy_early_exit.text.windows import windows_of

    nlp = spacy.load(pipeline)
    trained = nlp.get_pipe("early_exit_ner").model.shims[0].trained
    docs = [nlp.make_doc(doc.text) for doc in DocBin().from_disk(corpus).get_docs(nlp.vocab)]
    windows = windows_of(docs[:most], trained.tokenizer, trained.network.spec.max_wordpieces, 64)
    cut = list(batches(windows, 2048))
    rows: list[dict[str, Any]] = [{} for _ in windows]
    numbers = {id(window): number for number, window in enumerate(windows)}
    for speedup in SPEEDUPS:
        low, high = 1e-6, 1.0
        for _ in range(12):
            threshold = math.sqrt(low * high)
            spent = full = 0
            with torch.inference_mode():
                for batch in cut:
                    ragged = Batch.of(batch, CPU, halt_special=True)
                    exits = run_with_exits(trained.network, ragged, TokenExit(1), threshold)
                    spent, full = spent + int(exits.spent.sum()), full + int(exits.full.sum())
                    counts = [len(window.words) for window in batch]
                    for window, found in zip(batch, exits.exit_layer.split(counts)):
                        rows[numbers[id(window)]][speedup] = "".join(map(str, found.tolist()))
            if full / spent < float(speedup[:-1]):
                low = threshold
            else:
                high = threshold
        print(speedup, f"threshold {threshold:.2g}, {full / spent:.2f}")
    for row, window in zip(rows, windows):
        units = window.unit_of_piece[window.unit_of_piece >= 0]
        counts_of_units = np.bincount(units, minlength=window.units)
        row["pieces"] = "".join(str(min(int(n), 9)) for n in counts_of_units[window.unit_of_word])
    results.write(PATTERNS, rows, layers=trained.network.spec.layers)


if __name__ == "__main__":
    main()
