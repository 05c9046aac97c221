"""Latency and throughput beside other processes that want the processors, and on a quiet machine.

python -m benchmarks.speed.busy PIPELINE TEXTS.spacy --output busy.json

For 0, 1 and 2 busy processes, in turns: torch limited to one thread, to two, and what the component
chooses by itself (`threads = null`).
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin

from benchmarks.common import results

NAME = "early_exit_ner"
# How many threads torch has, and the setting.
WAYS = {"one thread": (1, 1), "two threads": (2, 2), "automatic": (2, None)}


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--words", type=int, nargs="*", default=[3, 20, 100])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    nlp = spacy.load(args.pipeline)
    docs = list(DocBin().from_disk(args.texts).get_docs(nlp.vocab))
    docs = [doc for doc in docs if len(doc) < 200][:500]
    rows = []
    for busy in (0, 1, 2):
        processes = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)
        ]
        try:
            time.sleep(0.5)
            rows += measure(nlp, docs, args, busy)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    results.write(args.output, rows, speedup=args.speedup, rounds=args.rounds)


def measure(nlp, docs, args, busy: int) -> list:
    """RETURNS (list): A row for each way of choosing threads."""
    words = sum(map(len, docs))
    texts = [doc.text for doc in docs]
    single = {
        count: [
            " ".join(" ".join(texts).split()[i : i + count]) for i in range(0, 40 * count, count)
        ]
        for count in args.words
    }
    found = {way: {"words_per_second": [], **{count: [] for count in args.words}} for way in WAYS}
    for turn in range(args.rounds + 1):
        for way, (of_torch, setting) in WAYS.items():
            torch.set_num_threads(of_torch)
            nlp.get_pipe(NAME).threads = setting
            cfg = {NAME: {"speedup": args.speedup, "adaptive": False}}
            start = time.perf_counter()
            for _ in nlp.pipe(texts, component_cfg=cfg, batch_size=128):
                pass
            seconds = {"words_per_second": [words / (time.perf_counter() - start)]}
            for count, short in single.items():
                seconds[count] = []
                for text in short:
                    start = time.perf_counter()
                    nlp(text, component_cfg={NAME: {"speedup": args.speedup, "adaptive": False}})
                    seconds[count].append(1000 * (time.perf_counter() - start))
            if turn:  # the first is to warm up
                for name, values in seconds.items():
                    found[way][name] += values
    rows = []
    for way, values in found.items():
        row = {"busy": busy, "way": way}
        for name, numbers in values.items():
            row["words_per_second" if name == "words_per_second" else f"p50_ms_{name}_words"] = (
                statistics.median(numbers)
            )
        print(row, flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
