"""Small errors in the code, one at a time: keep which of them no test noticed.

Run after `mutmut run`, as `make mutants` does. What is mutated and which tests ought to notice is
said in pyproject.toml.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from wasabi import table

from benchmarks.common import results

# mutmut's exit codes; pytest's own, and those of crashes, mean that a test failed.
RESULTS = {None: "not run", 0: "survived", 5: "no test", 33: "no test", 36: "timed out"}
RESULTS |= {-24: "timed out", 24: "timed out", 152: "timed out", 255: "timed out"}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=Path, default=Path("mutants"), help="mutmut's folder")
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    counts = []
    survivors = []
    for meta in sorted(args.mutants.rglob("*.py.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        found = {name: RESULTS.get(code, "killed") for name, code in codes.items()}
        file = str(meta.relative_to(args.mutants).with_suffix(""))
        counts.append({"file": file, "mutants": len(found), **Counter(found.values())})
        names = [name for name, result in found.items() if result == "survived"]
        survivors += [{"file": file, "mutant": name, **change(name)} for name in names]
    kinds = ["mutants", *dict.fromkeys(["killed", *RESULTS.values()])]
    shown = [[row["file"], *(row.get(kind, 0) for kind in kinds)] for row in counts]
    print(table(shown, header=["", *kinds], aligns=["l"] + ["r"] * len(kinds)))
    results.write(args.output, {"counts": counts, "survived": survivors})


def change(mutant: str) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): The lines that a mutant changes, as they were and as they are."""
    command = [sys.executable, "-m", "mutmut", "show", mutant]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        "was": "\n".join(line[1:].strip() for line in shown if line[:1] == "-" != line[1:2]),
        "is": "\n".join(line[1:].strip() for line in shown if line[:1] == "+" != line[1:2]),
    }


if __name__ == "__main__":
    main()
