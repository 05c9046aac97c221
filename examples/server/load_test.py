"""Requests per second of the server on this machine, batched and one by one, in turn.

python -m examples.server.load_test training/final my-texts.txt --speedup 3

It fails if an answer does, or if batches do not give --at-least times the requests per second.
"""

import argparse
import http.client
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

WAYS = {"one by one": {"MAX_BATCH": "1", "MAX_WAIT_MS": "0"}, "batched": {}}
START = 120  # seconds that a server may take to start


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("texts", type=Path, help="one per line")
    parser.add_argument("--speedup", type=float)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-least", type=float, default=2.0)
    args = parser.parse_args()
    lines = args.texts.read_text(encoding="utf8").splitlines()
    knob = {} if args.speedup is None else {"speedup": args.speedup}
    requests = [make_request({"text": line, **knob}) for line in lines if line.strip()]
    used = {name: "" if find_spec(name) else "not " for name in ("uvloop", "httptools")}
    print("The server runs " + ", ".join(f"{no}with {name}" for name, no in used.items()))
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    latencies: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, environment in WAYS.items():
            with server(args.pipeline, environment) as port:
                load(port, requests, args.clients, args.seconds / 5)  # until all are warm
                took = load(port, requests, args.clients, args.seconds)
            found[way].append(len(took) / args.seconds)
            latencies[way] += took
    for way, rates in found.items():
        cuts = statistics.quantiles(latencies[way], n=100)
        print(
            f"{way}: {statistics.median(rates):.0f} requests/s "
            f"({min(rates):.0f} to {max(rates):.0f}), {1000 * cuts[49]:.1f} ms (median), "
            f"{1000 * cuts[94]:.1f} ms (95 %), {args.clients} clients"
        )
    one, other = (found[way] for way in WAYS)
    times = statistics.median(b / a for a, b in zip(one, other, strict=True))
    print(f"batched / one by one: {times:.2f}")
    sys.exit(times < args.at_least)


@contextmanager
def server(pipeline: Path, environment: dict[str, str]) -> Iterator[int]:
    """Start a server, and stop it afterwards.

    pipeline (Path): Folder of the pipeline.
    environment (dict[str, str]): Its limits.
    YIELDS (int): Its port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "examples.server.app:create_app"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning", "--no-access-log"],
        env={**os.environ, "PIPELINE": str(pipeline), **environment},
    )
    try:
        wait_for(port, process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a server is ready.

    port (int): Its port.
    process (subprocess.Popen): Its process.
    """
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("The server did not start.")


def make_request(query: dict[str, Any]) -> bytes:
    """RETURNS (bytes): All of a request, so that clients take little of the processor.

    query (dict[str, Any]): What is asked.
    """
    body = json.dumps(query).encode()
    head = "POST /entities HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_answer(file: BinaryIO) -> tuple[int, bytes]:
    """RETURNS (tuple[int, bytes]): The status and the content of the next answer.

    file (BinaryIO): What a server sends.
    RAISES (OSError): If it has closed the connection.
    """
    first, length = file.readline(), 0
    if not first:
        raise OSError("the connection was closed")
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return int(first.split()[1]), file.read(length)


def load(port: int, requests: list[bytes], clients: int, seconds: float) -> list[float]:
    """Ask from several clients at once. Each asks again as soon as it is answered.

    port (int): Port of the server.
    requests (list[bytes]): What they send, in turn.
    clients (int): How many clients.
    seconds (float): How long.
    RETURNS (list[float]): The seconds of each answer.
    """
    took: list[float] = []
    faults: list[str] = []
    turn = itertools.cycle(requests)
    until = time.monotonic() + seconds

    def ask() -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                answers = connection.makefile("rb")
                while time.monotonic() < until:
                    begin = time.monotonic()
                    connection.sendall(next(turn))
                    status, content = read_answer(answers)
                    if status != 200:
                        faults.append(f"status {status}: {content[:200]!r}")
                        return
                    took.append(time.monotonic() - begin)
        except OSError as error:
            faults.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise SystemExit(f"{len(faults)} clients met an error, such as {faults[0]}")
    return took


if __name__ == "__main__":
    main()
