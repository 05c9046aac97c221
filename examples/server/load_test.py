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
from pathlib import Path

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
    bodies = [json.dumps({"text": line, **knob}).encode() for line in lines if line.strip()]
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    latencies: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, environment in WAYS.items():
            with server(args.pipeline, environment) as port:
                load(port, bodies, args.clients, args.seconds / 5)  # until all are warm
                took = load(port, bodies, args.clients, args.seconds)
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
        [*command, "--port", str(port), "--log-level", "warning"],
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


def load(port: int, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """Ask from several clients at once. Each asks again as soon as it is answered.

    port (int): Port of the server.
    bodies (list[bytes]): What they ask, in turn.
    clients (int): How many clients.
    seconds (float): How long.
    RETURNS (list[float]): The seconds of each answer.
    """
    took: list[float] = []
    faults: list[str] = []
    turn = itertools.cycle(bodies)
    until = time.monotonic() + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"content-type": "application/json"}
        while time.monotonic() < until:
            begin = time.monotonic()
            connection.request("POST", "/entities", next(turn), headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                faults.append(f"status {answer.status}: {content[:200]!r}")
                return
            took.append(time.monotonic() - begin)

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
