"""How fast this machine could be: its products, its memory, and what texts need of them.

The floor under the time of many texts is what their operations take if each core runs them as fast
as it multiplies; of one by itself, how long the weights of its layers take to come from memory.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import spacy
import torch
import torch.nn.functional as F
from spacy.tokens import Doc, DocBin
from wasabi import table

from benchmarks.common import results
from spacy_early_exit.network.products.int8 import Int8Linear
from spacy_early_exit.network.products.packed import PackedLinear

ROWS = (32, 256, 1024)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path, help="calibrated")
    parser.add_argument("corpus", type=Path, help="docs, .spacy")
    parser.add_argument("--speedups", default="1,2,3,4")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    nlp = spacy.load(args.pipeline)
    ner = nlp.get_pipe("early_exit_ner")
    spec = ner.model.shims[0].trained.network.spec
    products = [
        {"inputs": inputs, "outputs": outputs, "rows": rows, **gflops(rows, inputs, outputs)}
        for inputs, outputs in (
            (spec.hidden_size, 2 * spec.hidden_size),
            (spec.hidden_size, spec.hidden_size),
            (spec.hidden_size, spec.intermediate_size),
            (spec.intermediate_size, spec.hidden_size),
        )
        for rows in ROWS
    ]
    ways = [name for name in products[0] if name not in ("inputs", "outputs", "rows")]
    lines = [
        [f"{p['inputs']} x {p['outputs']}", p["rows"], *(p[w] for w in ways)] for p in products
    ]
    print("GFLOP/s of one thread")
    print(table(lines, header=["weights", "rows", *ways], aligns=["l"] + ["r"] * 4))
    memory = gigabytes_per_second()
    layer = ner.model.shims[0].trained.network.encoder.layers[0]
    weights = sum(parameter.numel() for parameter in layer.parameters())
    print(
        f"memory: {memory:.1f} GB/s of one thread, so a layer's {weights / 1e6:.1f} million weights"
    )
    for name, size in (("fp32", 4), ("int8", 1)):
        print(f"  take {weights * size / memory / 1e6:.2f} ms to read in {name}")
    best = {way: max(product[way] for product in products) for way in ways}
    docs = [nlp.make_doc(d.text) for d in DocBin().from_disk(args.corpus).get_docs(nlp.vocab)]
    speedups = [float(speedup) for speedup in args.speedups.split(",")]
    floors = [floor(ner, docs, s, best) for s in speedups if s <= ner.calibration.most]
    lines = [[f"{f['speedup']:g}X", f["mflop_per_word"], *(f[w] for w in ways)] for f in floors]
    lines = [
        [line[0], *(f"{value:.1f}" if value < 100 else f"{value:.0f}" for value in line[1:])]
        for line in lines
    ]
    print("words/s of one thread if all operations ran as fast as the fastest product")
    print(table(lines, header=["", "MFLOP a word", *ways], aligns=["l"] + ["r"] * 4))
    found = {"products": products, "gb_per_second": memory, "floors": floors}
    results.write(args.output, found)


def floor(ner: Any, docs: Sequence[Doc], speedup: float, best: dict[str, float]) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): Words/s if all operations ran as fast as products, by way.

    best (dict[str, float]): GFLOP/s of each way.
    """
    ner.speedup = speedup
    flop = 2 * sum(said.exits.spent for said in ner.predict(docs))
    words = sum(map(len, docs))
    return {
        "speedup": speedup,
        "mflop_per_word": flop / words / 1e6,
        **{way: words / (flop / fastest / 1e9) for way, fastest in best.items()},
    }


def gflops(rows: int, inputs: int, outputs: int) -> dict[str, float]:
    """RETURNS (dict[str, float]): Products of these sizes, by the way they are computed."""
    states, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    packed, int8 = PackedLinear(weight), Int8Linear(weight)
    as_bytes = int8.prepared(states)
    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: F.linear(states, weight),
        "packed": lambda: packed.of(states),
        "int8": lambda: int8.of(as_bytes),
    }
    with torch.inference_mode():
        return {
            name: round(2 * rows * inputs * outputs / seconds(run) / 1e9, 1)
            for name, run in ways.items()
        }


def gigabytes_per_second() -> float:
    """RETURNS (float): How fast a thread reads what no cache holds."""
    many = torch.ones(2**28)  # 1 GiB
    return many.numel() * 4 / seconds(lambda: many.sum()) / 1e9


def seconds(run: Callable[[], object], at_least: float = 0.2) -> float:
    """RETURNS (float): Of the fastest of several calls."""
    run()
    times, end = [], time.perf_counter() + at_least
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
