"""The properties of tests/pipe/test_any_input.py for as long as there is time.

Arbitrary Unicode, cut into words anyhow, with entities set before, in any batch; small encoders of
several families with random weights, and other ways to leave and to decode.

Every other round has two threads, or as many as are asked for, so that batches run side by side.

Ends with 1 if anything failed, or if nearly all words left at one layer, so that little was shown.
What failed, made as small as it gets, is in the results.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded

from benchmarks.common import results
from tests.makers.any_input import PIPELINES, Case, Pipelines, cases, check, trivial
from tests.makers.encoders import Encoders

EXAMPLES = 100  # to a round, which is of one pipeline


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of every other round")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    start = time.monotonic()
    rounds, found = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        pipelines = Pipelines(Encoders(Path(folder)))
        while time.monotonic() - start < 60 * args.minutes:
            name = PIPELINES[rounds % len(PIPELINES)]
            torch.set_num_threads(args.threads if rounds % 2 else 1)
            failure = run_round(pipelines, name, args.seed * 1_000_000 + rounds, counts)
            if failure is not None:
                failures.append(failure)
                print(failure["error"], flush=True)
            rounds += 1
            found = {"rounds": rounds, **counts, "failures": failures}
            results.write(
                args.output,
                found,
                minutes=round((time.monotonic() - start) / 60, 1),
                seed=args.seed,
                threads=args.threads,
                pipelines=PIPELINES,
            )
    print(json.dumps({**found, "failures": len(failures)}, indent=1))
    if trivial(counts):
        print(trivial(counts))
    sys.exit(1 if failures or trivial(counts) else 0)


def run_round(
    pipelines: Pipelines, name: str, seed: int, counts: Counter[str]
) -> dict[str, Any] | None:
    """RETURNS (dict[str, Any] | None): What failed first, as small as it gets; None: nothing."""
    last: list[Case] = []

    @seeded(seed)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases())
    def run(case: Case) -> None:
        last[:] = [case]
        check(pipelines[name], case, counts)
        counts["cases"] += 1

    try:
        run()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # panics of a library in Rust are no Exceptions
        return {
            "pipeline": name,
            "seed": seed,
            "case": ascii(last[0]) if last else None,
            "error": traceback.format_exc(),
        }
    return None


if __name__ == "__main__":
    main()
