"""Commands as a user types them, in forks of a process that has imported what is slow to import.

The imports of spaCy, torch and transformers take longer than nearly all that tests ask of a
command. Arguments, folder, environment, output and what is left at the end are as in a process of
its own; what Python reads of its environment when it starts, and that imports work, is not tried.
"""

import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.makers.project import ROOT

_server: subprocess.Popen | None = None
_seconds = 0.0


def seconds_in_forks() -> float:
    """RETURNS (float): Processor seconds of all that ran in forks."""
    return _seconds


def run(*arguments, ok=True, cwd=ROOT, python=None, seconds=None, fresh=False) -> str:
    """RETURNS (str): What a command prints.

    *arguments (Any): What Python is told: "-m" and a module, or a script, and their arguments.
    ok (bool): Whether it must succeed, or fail.
    cwd (Path): The folder that it runs in.
    python (Optional[Path]): Another Python than this one.
    seconds (Optional[float]): How long it may take.
    fresh (bool): In a process in which nothing is imported. So is whatever is not of spaCy or a
        script, what has a limit, and all where there are no forks.
    """
    known = arguments[0] != "-c" and (arguments[0] != "-m" or arguments[1] == "spacy")
    if fresh or python or seconds or not known or not hasattr(os, "fork"):
        command = [str(python or sys.executable), *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=seconds)
        status, printed = found.returncode, found.stdout + found.stderr
    else:
        status, printed = run_in_fork([*map(str, arguments)], str(cwd))
    assert (status == 0) == ok, printed
    return printed


def run_in_fork(arguments: list[str], cwd: str) -> tuple[int, str]:
    """RETURNS (tuple[int, str]): How it ended, and what it printed."""
    global _seconds, _server
    if _server is None:
        command = [sys.executable, "-m", __name__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        _server = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/out", f"{folder}/err"]
        task = {"arguments": arguments, "cwd": cwd, "files": files, "environment": {**os.environ}}
        assert Path(cwd).is_dir(), f"no folder {cwd}"
        server, _server = _server, None  # one that is interrupted is not asked again
        print(json.dumps(task), file=server.stdin, flush=True)
        status, seconds = server.stdout.readline().split()
        _seconds += float(seconds)
        _server = server
        return int(status), "".join(Path(file).read_text(encoding="utf8") for file in files)


def serve() -> dict:
    """Fork for every line that is read, and print how the child ended, and what it took.

    RETURNS (dict): What to run, in a child. The server itself ends here, with its input.
    """
    for line in sys.stdin:
        if not (child := os.fork()):
            return json.loads(line)
        _, status, used = os.wait4(child, 0)
        print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
    sys.exit()


def become(task: dict) -> None:
    """Run what is asked for as if Python had been started with it."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(task["files"], start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["environment"])
    first, *rest = task["arguments"]
    if first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    import spacy.cli  # noqa: F401
    import transformers.models.auto.modeling_auto
    import transformers.models.bert.modeling_bert  # noqa: F401

    import spacy_early_exit.cli
    import spacy_early_exit.model.model
    import spacy_early_exit.pipe.component  # noqa: F401

    gc.collect()
    gc.freeze()  # else the garbage collection of every child, at its end at the latest, copies it
    become(serve())
