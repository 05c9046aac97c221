"""What ``adaptive`` runs: follow what a stream of texts really costs, and move along the calibrated
curve. ``pipe/dial.py`` makes the controller, ``pipe/stream.py`` asks it.
"""

from typing import Iterable, Iterator, List, Optional, Tuple, TypeVar

from .curve import Calibration

START = 2000  # words by which the threshold should have settled
# Words of a part, after which the threshold moves. It is a share of the stream so far, so that what
# one part misses is a small share of the whole, however long the stream is. Large parts are
# computed faster.
MIN_WORDS, SHARE, MAX_WORDS = 150, 1 / 50, 1000
HORIZON = 2  # parts over which a debt is paid back
MEMORY = 0.5  # weight of the past at each update
TOLERANCE = 0.05

Item = TypeVar("Item")


class Controller:
    """Keeps the speedup over a stream at what was asked for.

    Texts unlike those of the calibration are less certain, or more: at the threshold of "3X" they
    may save 2X. In the order of the stream, after every 150 words at the start and every 1000 in
    the end, the controller compares what the texts cost with what the curve predicted. It then
    moves along the curve, so that the next words cost what the speedup allows, minus what earlier
    words have overspent. It does not depend on the size of batches. Docs that fail count as words
    on the way to the next update, but not as cost.

    calibration (Calibration): The curve. The threshold always stays on it.
    speedup (float): The speedup to hold, above 1.
    """

    def __init__(self, calibration: Calibration, speedup: float):
        self.speedup = speedup
        self.words = 0
        self.spent = self.full = 0
        self._calibration = calibration
        self._position = speedup
        self._has_given_all = False
        self._has_reported = False
        self._tried = self._tried_at_move = 0  # words, including those of docs that failed
        self._chunk = (0, 0.0)  # cost since the last update, and what the curve predicted
        self._cost = self._foretold = 0.0  # over the recent past

    @property
    def threshold(self) -> float:
        """RETURNS (float): The threshold in force."""
        return self._calibration.threshold_for(self._position)

    @property
    def achieved(self) -> float:
        """RETURNS (float): The speedup so far, full-depth cost / spent cost."""
        return self.full / self.spent if self.spent else 1.0

    def failure(self) -> Optional[str]:
        """RETURNS (Optional[str]): What went wrong, returned once: the texts save less than was
        asked for, even at the end of the curve. None if nothing is wrong.
        """
        enough = self.achieved >= self.speedup * (1 - TOLERANCE)
        if enough or self.words < START or not self._has_given_all or self._has_reported:
            return None
        self._has_reported = True
        return (
            f"could not hold speedup = {self.speedup:g}: over {self.words} words it saved "
            f"{self.achieved:.2f}X, even with the largest threshold of its calibration "
            f"({self._calibration.most:.2f}X). Calibrate it on texts like these, or for larger "
            f"speedups."
        )

    def chunks(self, docs: Iterable[Tuple[int, Item]]) -> Iterator[List[Item]]:
        """Cut a batch where the threshold may change. Call ``account`` for the docs of a part
        before taking the next part.

        docs (Iterable[Tuple[int, Item]]): The number of words of each doc, and the doc.
        YIELDS (List[Item]): Docs that share a threshold.
        """
        part: List[Item] = []
        for length, doc in docs:
            part.append(doc)
            self._tried += length
            if self._tried - self._tried_at_move >= self._every():
                yield part
                part = []
                self._move()
        if part:
            yield part

    def account(self, words: int, spent: int, full: int, position: Optional[float] = None) -> None:
        """Record what a doc has cost. Docs that failed are left out: their cost is not known.

        words (int): Its number of words.
        spent (int): Its cost, in MACs.
        full (int): Its cost at full depth.
        position (Optional[float]): The point of the curve that it was computed at, as a speedup;
            None: the one in force.
        """
        self.words += words
        self.spent += spent
        self.full += full
        foretold = full / (self._position if position is None else position)
        self._chunk = (self._chunk[0] + spent, self._chunk[1] + foretold)

    def _every(self) -> float:
        """RETURNS (float): Words from the last update to the next."""
        return min(max(MIN_WORDS, SHARE * self._tried), MAX_WORDS)

    def _move(self) -> None:
        spent, foretold = self._chunk
        self._tried_at_move, self._chunk = self._tried, (0, 0.0)
        if not foretold:
            return
        most = self._calibration.most
        self._has_given_all |= self._position == most
        self._cost = MEMORY * self._cost + spent
        self._foretold = MEMORY * self._foretold + foretold
        dearer = self._cost / self._foretold  # than the curve predicts
        allowed = 1 / self.speedup
        ahead = self.full / self.words * self._every() * HORIZON
        overdrawn = (self.spent - allowed * self.full) / ahead
        wanted = max(allowed - overdrawn, 0.0) / dearer
        self._position = most if wanted * most <= 1 else max(1.0, 1 / wanted)


class SharedController(Controller):
    """Keeps the speedup of one job that several workers share. Each of them asks for a threshold,
    tags some texts at it, and tells what they cost when it asks again. The threshold moves once
    every worker has told as much, on average: until then, what it changed can't be seen.

    calibration (Calibration): The curve. The threshold always stays on it.
    speedup (float): The speedup to hold, above 1.
    so_far (Tuple[int, int, int]): Words, cost and full cost of what an interrupted job has done:
        the speedup is held over both.
    workers (int): How many workers ask.
    position (Optional[float]): Where on the curve to begin, as a speedup; None: at ``speedup``.
    """

    def __init__(
        self,
        calibration: Calibration,
        speedup: float,
        so_far: Tuple[int, int, int] = (0, 0, 0),
        workers: int = 1,
        position: Optional[float] = None,
    ):
        super().__init__(calibration, speedup)
        self.words, self.spent, self.full = so_far
        self._tried = self._tried_at_move = self.words
        self._workers = workers
        self._told = self._words_told = 0
        if position is not None:
            self._position = position

    def exchange(
        self, position: Optional[float] = None, words: int = 0, spent: int = 0, full: int = 0
    ) -> Tuple[float, float]:
        """Tell what some texts cost, and ask for a threshold.

        position (Optional[float]): The position that they were computed at, as returned by an
            earlier call; None: there are none yet.
        words (int): Their number of words.
        spent (int): Their cost, in MACs.
        full (int): Their cost at full depth.
        RETURNS (Tuple[float, float]): The position, a speedup on the curve, and its threshold.
        """
        if position is not None:
            self._told += 1
            self._words_told += words
            self._tried += words
            self.account(words, spent, full, position)
            if self._tried - self._tried_at_move >= self._every():
                self._move()
        return self._position, self.threshold

    def _every(self) -> float:
        # Not all batches are as long as their mean.
        at_work = 0.75 * self._workers * self._words_told / self._told if self._told else 0.0
        return max(super()._every(), at_work)
