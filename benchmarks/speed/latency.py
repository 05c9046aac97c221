"""One text at a time, as in a web server: how long a caller waits.

Texts of 18 to 22 words from a corpus, one call after another, in turns: the pipeline at full depth
and at speedups, and Hugging Face's pipeline with the same network (a folder that
`benchmarks.common.peers` wrote).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.tokens import Doc, DocBin
from tqdm import tqdm
from wasabi import table

from benchmarks.common import results
from benchmarks.common.peers import HFRunner
from spacy_early_exit.pipe.records import get_records


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help=".spacy")
    parser.add_argument("pipeline", type=Path, help="calibrated")
    parser.add_argument("checkpoint", type=Path, help="what peers wrote")
    parser.add_argument("--speedups", default="1,2,3,4")
    parser.add_argument("--calls", type=int, default=500, help="of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nlp = spacy.load(args.pipeline)
    docs = DocBin().from_disk(args.corpus).get_docs(nlp.vocab)
    texts = [doc.text for doc in docs if 18 <= len(doc) <= 22]
    runner = HFRunner(str(args.checkpoint), batch_size=1)

    def at(speedup: float) -> Callable[[str], Any]:
        cfg = {"early_exit_ner": {"speedup": speedup, "adaptive": False}}
        # spaCy writes into what it is given.
        return lambda text: nlp(text, component_cfg={name: {**s} for name, s in cfg.items()})

    contenders: dict[str, Callable[[str], Any]] = {
        f"early exits, {speedup}X": at(float(speedup)) for speedup in args.speedups.split(",")
    }
    contenders["Hugging Face pipeline"] = lambda text: runner([text])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[Any]] = {name: [] for name in contenders}
    for number in tqdm(range(-20, args.calls), leave=False):  # the first are to warm up
        for name, call in contenders.items():
            start = time.perf_counter()
            found = call(texts[number % len(texts)])
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
                if isinstance(found, Doc):
                    costs[name].append(get_records(found)["early_exit_ner"])
    rows = {}
    for name, times in seconds.items():
        cuts = statistics.quantiles(times, n=100)
        full, spent = (sum(getattr(c, part) for c in costs[name]) for part in ("full", "spent"))
        saved = full / spent if spent else 1.0
        rows[name] = {"p50_ms": 1000 * cuts[49], "p99_ms": 1000 * cuts[98], "mac_speedup": saved}
    shown = [(name, *(f"{value:.2f}" for value in row.values())) for name, row in rows.items()]
    header = ("", "p50 ms", "p99 ms", "MACs saved")
    print(table(shown, header=header, aligns=["l", "r", "r", "r"]))
    results.write(args.output, rows, calls=args.calls, threads=args.threads, texts=len(texts))


if __name__ == "__main__":
    main()
