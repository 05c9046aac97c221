"""The clock, in alternating rounds, so that what else the machine does hits all alike."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from spacy.language import Language
from tqdm import tqdm


def timed(
    ways: Sequence[tuple[Language, dict[str, Any]]], texts: Sequence[str], words: int, rounds: int
) -> list[dict[str, float]]:
    """RETURNS (list[dict[str, float]]): Words per second of each way: the median, least and most.

    ways (Sequence): Pipelines, each with a component_cfg.
    texts (Sequence[str]): The texts.
    words (int): How many words they have.
    rounds (int): How often each way runs.
    """
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for (nlp, cfg), times in zip(ways, seconds):
            start = time.perf_counter()
            # spaCy writes into what it is given.
            for _doc in nlp.pipe(texts, component_cfg={name: {**s} for name, s in cfg.items()}):
                pass
            times.append(time.perf_counter() - start)
    return [speeds_of(times, words) for times in seconds]


def speeds_of(seconds: Sequence[float], words: int) -> dict[str, float]:
    """RETURNS (dict[str, float]): Words per second: the median of some rounds, least and most."""
    return {
        "words_per_second": words / statistics.median(seconds),
        "words_per_second_min": words / max(seconds),
        "words_per_second_max": words / min(seconds),
    }
