"""Whether speed and memory stay what they are: for long streams, long texts, threads, processes.

Each measurement runs in a process of its own. Speeds are words per second of nlp.pipe, memory is
resident, as Linux tells it. Results that are in the output file already are not measured again.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.tokens import DocBin

from benchmarks.common import results
from benchmarks.common.memory import peak, resident

STREAMS = (1_000, 10_000, 100_000)  # texts
LONG = (2_000, 100_000)  # words
ROUNDS = 5


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help=".spacy")
    parser.add_argument("pipeline", type=Path, help="calibrated")
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--output", type=Path, required=True, help="the results, as JSON")
    args = parser.parse_args()
    known = results.read(args.output, {})
    where = (str(args.corpus), str(args.pipeline), args.speedup)
    todo: dict[str, Any] = {}
    for count in STREAMS:
        todo[f"stream of {count} texts"] = (stream, (*where, count))
    for words in LONG:
        todo[f"texts of {words} words"] = (long_texts, (*where, words))
    for threads in (1, 2):
        todo[f"{threads} threads"] = (with_threads, (*where, threads))
    todo["2 processes"] = (two_processes, where)
    todo["nlp.pipe(n_process=2)"] = (spacys_processes, where)
    for name, (measure, arguments) in todo.items():
        if name not in known:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                known[name] = pool.submit(measure, *arguments).result()
            results.write(args.output, known, speedup=args.speedup)
        print(name, json.dumps(known[name]), flush=True)


def load(corpus: str, pipeline: str, speedup: float) -> tuple[spacy.Language, list[str]]:
    """RETURNS (tuple): The pipeline, set and warm, and the texts of the corpus."""
    nlp = spacy.load(pipeline)
    nlp.get_pipe("early_exit_ner").speedup = speedup
    texts = [doc.text for doc in DocBin().from_disk(corpus).get_docs(nlp.vocab)]
    for _doc in nlp.pipe(texts[:200]):
        pass
    return nlp, texts


def stream(corpus: str, pipeline: str, speedup: float, count: int) -> dict[str, Any]:
    """RETURNS (dict): Speed, and memory after 2,000 texts and from there on at every tenth."""
    nlp, texts = load(corpus, pipeline, speedup)
    words, memory = 0, {}
    start = time.perf_counter()
    for number, doc in enumerate(nlp.pipe(islice(cycle(texts), count)), start=1):
        words += len(doc)
        if number == 2000 or number % max(1, count // 10) == 0:
            memory[number] = resident()
    return {
        "words_per_second": words / (time.perf_counter() - start),
        "resident_mb": memory,
    }


def long_texts(corpus: str, pipeline: str, speedup: float, length: int) -> dict[str, Any]:
    """RETURNS (dict): Speed on texts of a length, as many as make the longest, and the memory that
    they take above the loaded pipeline at most.
    """
    nlp, texts = load(corpus, pipeline, speedup)
    nlp.max_length = 10**8
    before = resident()
    counts = [len(nlp.make_doc(text)) for text in texts]

    def joined() -> Iterator[str]:
        part: list[str] = []
        so_far = 0
        for text, count in cycle(zip(texts, counts)):
            part.append(text)
            so_far += count
            if so_far >= length:
                yield "\n".join(part)
                part, so_far = [], 0

    given = list(islice(joined(), max(LONG) // length))
    speeds = []
    for _ in range(3):
        start, words = time.perf_counter(), 0
        for doc in nlp.pipe(given):
            words += len(doc)
        speeds.append(words / (time.perf_counter() - start))
    return {"words_per_second": statistics.median(speeds), "peak_mb_above": peak() - before}


def with_threads(corpus: str, pipeline: str, speedup: float, threads: int) -> dict[str, Any]:
    """RETURNS (dict): Speed with so many threads, median and all rounds."""
    torch.set_num_threads(threads)
    nlp, texts = load(corpus, pipeline, speedup)
    speeds = []
    for _ in range(ROUNDS):
        start, words = time.perf_counter(), 0
        for doc in nlp.pipe(texts * 4):
            words += len(doc)
        speeds.append(words / (time.perf_counter() - start))
    return {"words_per_second": statistics.median(speeds), "rounds": speeds}


def spacys_processes(corpus: str, pipeline: str, speedup: float) -> dict[str, Any]:
    """RETURNS (dict): Speed of two workers of nlp.pipe, which send Docs back, median and rounds."""
    nlp, texts = load(corpus, pipeline, speedup)
    speeds = []
    for _ in range(ROUNDS):
        start, words = time.perf_counter(), 0
        for doc in nlp.pipe(texts * 4, n_process=2):
            words += len(doc)
        speeds.append(words / (time.perf_counter() - start))
    return {"words_per_second": statistics.median(speeds), "rounds": speeds}


def two_processes(corpus: str, pipeline: str, speedup: float) -> dict[str, Any]:
    """RETURNS (dict): Speed of two processes of one thread each, together."""
    # Each has its own half of the texts, as two workers of a queue would.
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    arguments = (corpus, pipeline, speedup, ready, results)
    workers = [context.Process(target=_half, args=(*arguments, half)) for half in (0, 1)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    rounds = [sum(both) for both in zip(*found)]
    return {"words_per_second": statistics.median(rounds), "rounds": rounds}


def _half(corpus: str, pipeline: str, speedup: float, ready: Any, results: Any, half: int) -> None:
    torch.set_num_threads(1)
    nlp, texts = load(corpus, pipeline, speedup)
    speeds = []
    for _ in range(ROUNDS):
        ready.wait()
        start, words = time.perf_counter(), 0
        for doc in nlp.pipe(texts[half::2] * 4):
            words += len(doc)
        speeds.append(words / (time.perf_counter() - start))
    results.put(speeds)


if __name__ == "__main__":
    main()
