"""One pipeline at work for a long time, as in a server: does it stay right, quick and lean?

Single calls and streams, of single words to documents of 5,000 words, at thresholds and, once
calibrated, at speedups, fixed and adaptive, in any batches. Words are those of the corpus, so that
spaCy's vocabulary is full early on. Of some texts each answer is compared with the first one at the
same setting (not where the setting is adaptive: there it depends on the stream).

Ends with 1 if an answer was another one or none, if none were compared, or if memory grew by
20 MB or more after the first five minutes (of a shorter run: its first quarter). Where a system
does not tell how much there is, that is said.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from benchmarks.common import results
from benchmarks.common.memory import resident
from spacy_early_exit.pipe.records import get_records
from tests.makers.any_input import is_tie
from tests.makers.pipelines import answers

NAME = "early_exit_ner"
WARM, MAX_GROWTH = 5.0, 20.0  # minutes, MB
LENGTHS = [1, 1, 2, 5, 10, 20, 20, 40, 100, 300, 1000, 5000]  # words of texts, at most
WATCHED = 60  # texts whose answers are compared
SHORT = range(18, 23)  # words of the texts whose latency is told


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("texts", type=Path, help=".spacy")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    nlp = spacy.load(args.pipeline, config={"components": {NAME: {"store_exits": True}}})
    soak = Soak(nlp, args.texts, random.Random(args.seed))
    found = soak.run(60 * args.minutes)
    print(json.dumps({**found, "memory": f"{len(found['memory'])} samples"}, indent=1))
    if not found["memory_most_mb"]:
        print("This system does not tell how much memory a process has: growth was not measured.")
    results.write(
        args.output,
        found,
        pipeline=args.pipeline.name,
        minutes=args.minutes,
        seed=args.seed,
        threads=torch.get_num_threads(),
    )
    if failed(found):
        sys.exit(1)


def failed(found: dict[str, Any]) -> bool:
    """RETURNS (bool): Whether an answer was wrong, too few were there, or memory grew too much."""
    nothing = not (found.get("compared") and found["short_calls"])
    return bool(found["wrong"]) or nothing or found["memory_grown_mb"] >= MAX_GROWTH


def growth(samples: list[tuple[float, float]], warm: float) -> float:
    """RETURNS (float): How much more memory there is at the end than after the first seconds. A
    batch more or less is no growth: the middle of the first and of the last tenth, and as much more
    as is gone of the time that lies between their middles and the ends.

    samples (list[tuple[float, float]]): Seconds and megabytes.
    warm (float): The first seconds.
    """
    later = [mb for at, mb in samples if at >= warm]
    tenth = max(1, len(later) // 10)
    grown = statistics.median(later[-tenth:]) - statistics.median(later[:tenth])
    return grown * len(later) / max(1, len(later) - tenth)


class Soak:
    """Works a pipeline, and keeps the books.

    nlp (Language): The pipeline.
    corpus (Path): Texts, .spacy.
    draw (random.Random): Everything random comes from it, but the time that things take.
    """

    def __init__(self, nlp: Language, corpus: Path, draw: random.Random):
        self.nlp, self.draw = nlp, draw
        docs = list(DocBin().from_disk(corpus).get_docs(nlp.vocab))
        self.words = [token.text for doc in docs for token in doc if not token.is_space]
        if len(self.words) < max(LENGTHS):
            self.words *= -(-max(LENGTHS) // max(1, len(self.words)))
        self.watched = [self.new_text() for _ in range(WATCHED)]
        pipe = nlp.get_pipe(NAME)
        self.settings = [{"threshold": at} for at in (0.0, 0.05, 0.15, 0.3, 0.6, 1.0)]
        self.speedups: list[float] = []
        if pipe.calibration is not None:
            most = pipe.calibrated().most
            self.speedups = [speedup for speedup in (1.5, 2.0, 3.0) if speedup <= most]
            self.settings += [{"speedup": s, "adaptive": False} for s in (1.0, *self.speedups)]
        self.first: dict[tuple[int, str], Any] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []

    def new_text(self) -> str:
        """RETURNS (str): Running words of the corpus, from somewhere on."""
        most = self.draw.choice(LENGTHS)
        length = self.draw.randint(max(1, most // 2), most)
        start = self.draw.randrange(len(self.words) - length + 1)
        return " ".join(self.words[start : start + length])

    def some(self) -> tuple[int | None, str]:
        """RETURNS (tuple[int | None, str]): A text, and its number if it is watched."""
        if self.draw.random() < 0.3:
            number = self.draw.randrange(len(self.watched))
            return number, self.watched[number]
        return None, self.new_text()

    def run(self, seconds: float) -> dict[str, Any]:
        """RETURNS (dict[str, Any]): What happened."""
        start, samples = time.monotonic(), []
        while (now := time.monotonic() - start) < seconds:
            if not samples or now - samples[-1][0] >= seconds / 240:
                gc.collect()
                samples.append((round(now, 1), round(resident(), 2)))
            kind = self.draw.choice(["call", "call", "call", "call", "short", "pipe"])
            getattr(self, kind)()
        samples.append((round(now, 1), round(resident(), 2)))
        grown = growth(samples, min(60 * WARM, seconds / 4))
        waits = 1000 * np.array(self.seconds or [0.0])
        return {
            "seconds": round(time.monotonic() - start, 1),
            **self.counts,
            "wrong": self.wrong,
            "short_calls": len(self.seconds),
            "p50_ms": round(float(np.percentile(waits, 50)), 2),
            "p99_ms": round(float(np.percentile(waits, 99)), 2),
            "memory_grown_mb": round(grown, 2),
            "memory_most_mb": max(mb for _, mb in samples),
            "memory": samples,
        }

    def call(self) -> None:
        """One text, at a setting of its own."""
        number, text = self.some()
        setting = self.draw.choice(self.settings)
        doc = self.nlp(text, component_cfg={NAME: dict(setting)})
        self.counts["calls"] += 1
        self.account(number, text, doc, setting)

    def short(self) -> None:
        """One text of about 20 words, on the clock."""
        length = self.draw.choice(SHORT)
        start = self.draw.randrange(len(self.words) - length + 1)
        text = " ".join(self.words[start : start + length])
        setting = self.draw.choice(self.settings)
        begun = time.perf_counter()
        doc = self.nlp(text, component_cfg={NAME: dict(setting)})
        self.seconds.append(time.perf_counter() - begun)
        self.counts["calls"] += 1
        self.account(None, text, doc, setting)

    def pipe(self) -> None:
        """A stream, some of them adaptive."""
        setting = self.draw.choice(self.settings)
        if self.speedups and self.draw.random() < 0.25:
            setting = {"speedup": self.draw.choice(self.speedups), "adaptive": True}
        asked = [self.some() for _ in range(self.draw.randint(1, 60))]
        batch_size = self.draw.choice([1, 2, 7, 32, 128, 1000])
        texts: Iterator[tuple[str, tuple[int | None, str]]] = ((one[1], one) for one in asked)
        answered = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* could not hold speedup")
            cfg = {NAME: dict(setting)}
            docs = self.nlp.pipe(texts, as_tuples=True, batch_size=batch_size, component_cfg=cfg)
            for place, (doc, (number, text)) in enumerate(docs):
                if (number, text) != asked[place]:
                    self.wrong.append(f"answers in another order, at {setting}")
                self.account(number, text, doc, setting)
                answered += 1
        self.counts["streams"] += 1
        if answered != len(asked):
            self.wrong.append(f"{len(asked) - answered} texts without an answer, at {setting}")

    def account(self, number: int | None, text: str, doc: Doc, setting: dict[str, Any]) -> None:
        """Count a text, and compare its answer with the first one."""
        self.counts["texts"] += 1
        self.counts["words"] += len(doc)
        if doc.text != text or len(get_records(doc)[NAME].layers) != len(doc):
            self.wrong.append(f"another text than was asked for, at {setting}")
        if number is None or setting.get("adaptive"):
            return
        key = number, repr(setting)
        found = hash(repr(answers(doc)))
        if self.first.setdefault(key, found) == found:
            self.counts["compared"] += 1
        elif self.is_tie(text, setting):
            self.counts["ties"] += 1
        else:
            self.wrong.append(f"another answer at {setting}: {text[:200]}")

    def is_tie(self, text: str, setting: dict[str, Any]) -> bool:
        """RETURNS (bool): Whether some uncertainty is as near the threshold as floating point."""
        threshold = setting.get("threshold")
        if threshold is None:
            speedup = setting["speedup"]
            calibration = self.nlp.get_pipe(NAME).calibrated()
            threshold = calibration.threshold_for(speedup) if speedup > 1 else 0.0
        return is_tie(self.nlp, partial(self.nlp.make_doc, text), threshold)


if __name__ == "__main__":
    main()
