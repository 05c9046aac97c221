"""The command group, and what its commands share."""

from pathlib import Path
from typing import Any, Iterable, List, Optional, Tuple

import typer
from spacy.cli._util import app
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.util import load_model
from wasabi import msg

from ..annotations import same_words
from ..component import EarlyExitPipe

DEFAULT = "1,1.5,2,3,4"

early_exit = typer.Typer(
    name="early-exit",
    help="Calibrate and measure pipelines that leave early.",
    no_args_is_help=True,
)
app.add_typer(early_exit)


def load(model: str, component: Optional[str]) -> Tuple[Language, EarlyExitPipe]:
    """Load a pipeline, or say what is wrong and end.

    model (str): Folder or name of the pipeline.
    component (Optional[str]): Name of its early-exit component; None: the only one.
    RETURNS (Tuple[Language, EarlyExitPipe]): Pipeline and component.
    """
    try:
        nlp = load_model(model)
    except OSError as e:
        msg.fail(f"There is no pipeline {model!r} that can be loaded.", str(e), exits=1)
        raise SystemExit(1) from e
    mine = {name: pipe for name, pipe in nlp.pipeline if isinstance(pipe, EarlyExitPipe)}
    if component is None and len(mine) == 1:
        component = next(iter(mine))
    pipe = mine.get(component or "")
    if pipe is None:
        wrong = f"'{component}' is no early-exit component of {model}."
        if component is None:
            wrong = f"{model} has not one early-exit component, but {len(mine)}."
        msg.fail(
            wrong,
            f"It has: {', '.join(mine) or 'none'}. Choose one with --component.",
            exits=1,
        )
        raise SystemExit(1)
    return nlp, pipe


def progress(steps: Iterable[Any]) -> Iterable[Any]:
    """RETURNS (Iterable[Any]): The steps, with a bar while they are done."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(steps, leave=False)
    return bar


def read_corpus(nlp: Language, path: Path) -> List[Example]:
    """Read annotated texts, or say what is wrong and end.

    nlp (Language): The pipeline.
    path (Path): A ``.spacy`` file.
    RETURNS (List[Example]): The texts, not yet predicted, with their annotation.
    """
    if not path.is_file():
        msg.fail(f"There is no file {path}.", exits=1)
    try:
        docs = list(DocBin().from_disk(path).get_docs(nlp.vocab))
    except Exception as e:
        msg.fail(f"{path} can't be read as a .spacy file.", f"{type(e).__name__}: {e}", exits=1)
    return [Example(same_words(doc), doc) for doc in docs]


def check_output(path: Path, folder: bool) -> None:
    """Find out before hours of work that the results can't be written, say so and end.

    path (Path): Where they are to go.
    folder (bool): Whether that is to be a folder, or a file.
    """
    if path.exists() and path.is_dir() != folder:
        kinds = ("folder", "file") if folder else ("file", "folder")
        msg.fail(f"--output must be a {kinds[0]}, and {path} is a {kinds[1]}.", exits=1)
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        msg.fail(f"--output can't be {path}: {above} is a file.", exits=1)


def asked_or_reachable(ner: EarlyExitPipe, speedups: Optional[str]) -> List[float]:
    """RETURNS (List[float]): The speedups that were asked for, or usual ones within reach.

    ner (EarlyExitPipe): The component.
    speedups (Optional[str]): A comma-separated list; None: not said.
    """
    asked = read_speedups(DEFAULT if speedups is None else speedups)
    if speedups is None and ner.calibration is not None:
        return [speedup for speedup in asked if speedup <= ner.calibration.most]
    return asked


def read_speedups(speedups: str) -> List[float]:
    """RETURNS (List[float]): The savings of a comma-separated list, ascending."""
    try:
        found = sorted({float(speedup) for speedup in speedups.split(",")})
    except ValueError:
        found = []
    if not found or not 1.0 <= found[0] <= found[-1] < float("inf"):
        msg.fail(f"--speedups must be numbers of at least 1, such as 1.5,2,3, not {speedups!r}.")
        raise SystemExit(1)
    return found
