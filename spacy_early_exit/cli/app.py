"""The command group, and what its commands share."""

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterable, List, Optional, Tuple

import typer
from spacy.cli._util import app, import_code
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import load_model
from wasabi import msg

from .. import corpora
from ..pipe.component import EarlyExitPipe
from ..pipe.docs import same_words
from .refusals import Commands, Refused, refusing

DEFAULT = "1,1.5,2,3,4"
ANNOTATED = (
    "Annotated texts: .spacy, .conllu, or with entities .jsonl (Prodigy, doccano), .json (Label "
    "Studio) or .conll"
)

early_exit = typer.Typer(
    name="early-exit",
    cls=Commands,
    help="Train, calibrate and measure pipelines with early exits.",
    no_args_is_help=True,
)
app.add_typer(early_exit)


# Arguments that several commands have.
CODE = typer.Option(
    None, "--code", help="Python file with criteria or decoders of your own, imported first"
)


def load_pipeline(model: str, code: Optional[Path] = None) -> Language:
    """Load a pipeline.

    model (str): Folder or name of the pipeline.
    code (Optional[Path]): A Python file that registers what the pipeline's config names.
    RETURNS (Language): The pipeline.
    RAISES (Refused): If it can't be loaded.
    """
    import_code(code)
    title = f"Can't load the pipeline {model!r}."
    with refusing(OSError, ValueError, ImportError, title=title, others_errors=True):
        return load_model(model)


def load(
    model: str, component: Optional[str], code: Optional[Path] = None
) -> Tuple[Language, EarlyExitPipe]:
    """Load a pipeline with an early-exit component.

    model (str): Folder or name of the pipeline.
    component (Optional[str]): Name of its early-exit component; None: the only one that has an
        encoder.
    code (Optional[Path]): A Python file that registers what the pipeline's config names.
    RETURNS (Tuple[Language, EarlyExitPipe]): Pipeline and component. It neither refuses
        speedups nor warns of them: what they lose is what the commands find out.
    RAISES (Refused): If it can't be loaded, or has no such component.
    """
    nlp = load_pipeline(model, code)
    mine = {name: pipe for name, pipe in nlp.pipeline if isinstance(pipe, EarlyExitPipe)}
    if not mine:
        raise Refused(
            f"{model} has no early-exit component.",
            f"It has: {', '.join(nlp.pipe_names) or 'none'}.",
        )
    owners = [name for name, pipe in mine.items() if pipe.lender_name is None]
    if component is None and len(owners) == 1:
        component = owners[0]
    pipe = mine.get(component or "")
    if pipe is None:
        wrong = f"'{component}' is not an early-exit component of {model}."
        if component is None:
            wrong = f"{model} has {len(mine)} early-exit components."
        raise Refused(wrong, f"It has: {', '.join(mine)}. Choose one with --component.")
    if pipe.lender_name is not None:
        raise Refused(
            f"'{component}' runs in the pass of '{pipe.lender_name}'.",
            "Choose that one: it is measured with all tasks of the pass.",
        )
    pipe.settings = replace(pipe.settings, strict=False)
    warnings.filterwarnings("ignore", "speedup = .* loses more than")
    return nlp, pipe


def progress(steps: Iterable[Any]) -> Iterable[Any]:
    """RETURNS (Iterable[Any]): The steps, with a progress bar while they are done."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(steps, leave=False)
    return bar


def read_annotated(nlp: Language, path: Path) -> List[Doc]:
    """Read annotated texts, and report which annotation can't be used.

    nlp (Language): The pipeline.
    path (Path): The file. Its suffix says what it is: see ``corpora.read_annotated``.
    RETURNS (List[Doc]): The texts, with their annotation.
    RAISES (CorpusError): If they can't be read.
    """
    docs, remarks = corpora.read_annotated(path, nlp)
    for remark in remarks:
        msg.warn(f"{path}: {remark}")
    return docs


def read_corpus(nlp: Language, pipe: EarlyExitPipe, path: Path) -> List[Example]:
    """Read annotated texts for a component.

    nlp (Language): The pipeline.
    pipe (EarlyExitPipe): Its early-exit component.
    path (Path): A ``.spacy`` or ``.conllu`` file, or for entities one of several others.
    RETURNS (List[Example]): The texts, not yet predicted, with their annotation.
    RAISES (CorpusError): If they can't be read.
    RAISES (Refused): If they can't have the kind of annotation that the component learns.
    """
    if path.suffix in corpora.ENTITIES_ONLY and pipe.scheme != "bio":
        raise Refused(
            f"{path} has entities, but '{pipe.name}' finds none: it is of {pipe.kind}.",
            "Annotate texts for it in a .spacy or .conllu file.",
        )
    return [Example(same_words(doc), doc) for doc in read_annotated(nlp, path)]


def read_texts(nlp: Language, path: Path) -> List[Example]:
    """Read texts, regardless of annotation.

    nlp (Language): The pipeline, for its tokenizer.
    path (Path): A ``.spacy`` file; a ``.jsonl`` file with one ``{"text": ...}`` per line; or a file
        with one text per line.
    RETURNS (List[Example]): The texts.
    RAISES (CorpusError): If they can't be read.
    """
    return [Example(same_words(doc), doc) for doc in corpora.read_texts(path, nlp)]


def check_output(path: Path, folder: bool) -> None:
    """Check, before hours of work, that the results can be written.

    path (Path): Where they are to go.
    folder (bool): Whether they go to a folder rather than a file.
    RAISES (Refused): If they can't.
    """
    if os.path.exists(path) and os.path.isdir(path) != folder:
        kinds = ("folder", "file") if folder else ("file", "folder")
        raise Refused(f"--output must be a {kinds[0]}, but {path} is a {kinds[1]}.")
    near = next(one for one in (path, *path.absolute().parents) if os.path.exists(one))
    if near != path and not near.is_dir():
        raise Refused(f"--output can't be {path}: {near} is a file.")
    with refusing(OSError, title=f"{path} can't be written."):
        if near == path and not folder:
            near.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=near).close()


def asked_or_reachable(ner: EarlyExitPipe, speedups: Optional[str]) -> List[float]:
    """RETURNS (List[float]): The speedups that were asked for, or usual ones within reach.

    ner (EarlyExitPipe): The component.
    speedups (Optional[str]): A comma-separated list; None: not given.
    """
    asked = read_speedups(DEFAULT if speedups is None else speedups)
    if speedups is None and ner.calibration is not None:
        return [speedup for speedup in asked if speedup <= ner.calibration.most]
    return asked


def read_speedups(speedups: str) -> List[float]:
    """RETURNS (List[float]): The speedups of a comma-separated list, ascending."""
    try:
        found = sorted({float(speedup) for speedup in speedups.split(",")})
    except ValueError:
        found = []
    if not found or not 1.0 <= found[0] <= found[-1] < float("inf"):
        raise Refused(
            f"--speedups must be numbers of at least 1, such as 1.5,2,3, not {speedups!r}."
        )
    return found
