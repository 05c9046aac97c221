"""Run the commands of a training, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

FINISHED = "finished"  # a file: spaCy writes model-best from the first step on


def run(*arguments: object, log: Path | None = None) -> None:
    """Run Python with arguments on one thread; its output goes to a log, or nowhere.

    arguments (object): As on the command line.
    log (Path | None): A folder for log.txt.
    RAISES (SystemExit): If it fails, with its output.
    """
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    if log is not None:
        log.mkdir(parents=True, exist_ok=True)
        (log / "log.txt").write_text(found.stdout + found.stderr)
    if found.returncode:
        raise SystemExit(f"{' '.join(command)}\n{found.stdout}{found.stderr}")
