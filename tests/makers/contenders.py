"""A contender of benchmarks that takes its time, and notes its rounds."""

import os
import time
from pathlib import Path

GOLD = [[(0, 3, "PER")], [(4, 8, "LOC")]]


class Fake:
    """Finds what it is told to, or fails at a call."""

    def __init__(self, name, log, seconds=0.0, found=GOLD, fails_at=None, dies_at=None):
        self.name, self.log, self.seconds, self.found = name, Path(log), seconds, found
        self.fails_at, self.dies_at, self.calls = fails_at, dies_at, 0

    def __call__(self, texts):
        self.calls += 1
        with self.log.open("a") as file:
            file.write(f"{self.name} {len(texts)} {os.environ['OMP_NUM_THREADS']} {os.getpid()}\n")
        if self.calls == self.fails_at:
            raise RuntimeError("it is tired")
        if self.calls == self.dies_at:
            os._exit(3)
        time.sleep(self.seconds)
        return self.found

    def spans(self, found):
        return found


def make_fake(**arguments):
    return Fake(**arguments)
