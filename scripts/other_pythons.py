"""Check whether pip finds wheels of all dependencies for other versions of Python.

Only metadata is downloaded. Nothing is installed or run, so success does not prove that the package
works there. pip evaluates conditions such as ``python_version < "3.11"`` for the Python that runs
it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = ("spacy", "thinc", "torch", "transformers", "tokenizers", "numpy")


def resolve(version: str) -> dict[str, str]:
    """RETURNS (dict[str, str]): The releases that pip would install, by name.

    version (str): The version of Python, such as 3.12.
    """
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.json"
        dry = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--quiet"]
        target = ["--python-version", version, "--target", temporary]
        pip = [sys.executable, "-m", "pip", "install", *dry, *target, "--report", str(report)]
        subprocess.run([*pip, str(ROOT)], check=True)
        found = [package["metadata"] for package in json.loads(report.read_text())["install"]]
    return {package["name"].lower(): package["version"] for package in found}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+", help="of Python, such as 3.12")
    failed = []
    for version in parser.parse_args().versions:
        try:
            found = resolve(version)
        except subprocess.CalledProcessError:
            failed.append(version)
        else:
            print(f"Python {version}:", *(f"{name} {found[name]}" for name in SHOWN))
    if failed:
        raise SystemExit(f"pip found no fitting releases for Python {', '.join(failed)}.")


if __name__ == "__main__":
    main()
