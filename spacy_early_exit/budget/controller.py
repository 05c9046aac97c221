"""Follows what a stream of texts really costs, and moves along the calibrated curve."""

import multiprocessing
from typing import Iterable, Iterator, List, Tuple, TypeVar

from .curve import Calibration

EVERY = 500  # words between updates
HORIZON = 2000  # words over which a debt is paid back
MEMORY = 0.8  # weight of the past at each update
TOLERANCE = 0.05

Item = TypeVar("Item")


class Controller:
    """Keeps the saving over a stream at what was asked for.

    Texts unlike those that were calibrated on are less certain, or more so: at the threshold of
    "3X" they save 2X. After every 500 words, in the order of the stream, this compares what they
    cost with what the curve said, and moves along it: such that the next words cost what the
    asked saving allows, less what the words before them have overdrawn. It does not depend on
    the size of batches.

    calibration (Calibration): The curve. It is never left.
    speedup (float): The saving to hold, above 1.
    """

    def __init__(self, calibration: Calibration, speedup: float):
        self.speedup = speedup
        self.words = 0
        self.spent = self.full = 0
        self._calibration = calibration
        self._position = min(speedup, calibration.most)
        self._chunk: List[int] = [0, 0, 0]  # words, spent, full
        self._cost = self._foretold = 0.0  # of the recent past

    @property
    def threshold(self) -> float:
        """RETURNS (float): The threshold in force."""
        return self._calibration.threshold_for(self._position)

    @property
    def saving(self) -> float:
        """RETURNS (float): What was saved so far, full-depth cost / spent cost."""
        return self.full / self.spent if self.spent else 1.0

    @property
    def most(self) -> float:
        """RETURNS (float): The largest saving of the curve."""
        return self._calibration.most

    @property
    def has_failed(self) -> bool:
        """RETURNS (bool): Whether the texts save less than was asked for, though all that the
        curve has to give was taken. Only known after some words.
        """
        return self.words >= HORIZON and self.saving < self.speedup * (1 - TOLERANCE)

    def chunks(self, docs: Iterable[Tuple[int, Item]]) -> Iterator[List[Item]]:
        """Cut a batch where the threshold may change. After each part, ``account`` for it.

        docs (Iterable[Tuple[int, Item]]): Words of each doc, and the doc.
        YIELDS (List[Item]): Docs that share a threshold.
        """
        part: List[Item] = []
        words = self._chunk[0]
        for length, doc in docs:
            part.append(doc)
            words += length
            if words >= EVERY:
                yield part
                part, words = [], 0
        if part:
            yield part

    def account(self, words: int, spent: int, full: int) -> None:
        """Say what a part has cost.

        words (int): Its words.
        spent (int): Its cost, in MACs.
        full (int): Its cost at full depth.
        """
        self.words += words
        self.spent += spent
        self.full += full
        self._chunk = [a + b for a, b in zip(self._chunk, (words, spent, full))]
        if self._chunk[0] >= EVERY:
            self._move()
            self._chunk = [0, 0, 0]

    def _move(self) -> None:
        _, spent, full = self._chunk
        if not full:
            return
        self._cost = MEMORY * self._cost + spent
        self._foretold = MEMORY * self._foretold + full / self._position
        dearer = self._cost / self._foretold  # than the curve says
        allowed = 1 / self.speedup
        overdrawn = (self.spent - allowed * self.full) / (self.full / self.words * HORIZON)
        wanted = max(allowed - overdrawn, 0.0) / dearer
        most = self._calibration.most
        self._position = most if wanted * most <= 1 else max(1.0, 1 / wanted)


def in_spacy_worker() -> bool:
    """RETURNS (bool): Whether this is a process of ``nlp.pipe(n_process=...)``."""
    target = getattr(multiprocessing.current_process(), "_target", None)
    return getattr(target, "__module__", None) == "spacy.language"
