"""spaCy pipelines as contenders of a benchmark."""

import copy
import hashlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import spacy
from spacy.cli._util import import_code
from spacy.tokens import Doc

from .benchmark import Contender, Part, Runner, Span


class SpacyRunner:
    """A spaCy pipeline.

    model (str): Folder or name of the pipeline.
    batch_size (Optional[int]): Batch size of ``nlp.pipe``; None: the pipeline's own; 0:
        ``nlp(text)``, one by one.
    component_cfg (Optional[Dict[str, Any]]): Arguments for calls of components.
    config (Optional[Dict[str, Any]]): Changes to the config.
    code (Optional[str]): A Python file to import first.
    """

    def __init__(
        self,
        model: str,
        batch_size: Optional[int] = None,
        component_cfg: Optional[Dict[str, Any]] = None,
        config: Optional[Dict[str, Any]] = None,
        code: Optional[str] = None,
    ):
        import_code(code)
        self._nlp = spacy.load(model, config=config or {})
        self._batch_size = batch_size
        self._component_cfg = copy.deepcopy(component_cfg or {})  # spaCy writes into it

    def __call__(self, texts: Sequence[str]) -> List[Doc]:
        """RETURNS (List[Doc]): The annotated texts."""
        cfg = self._component_cfg
        if self._batch_size == 0:
            return [self._nlp(text, component_cfg=cfg) for text in texts]
        return list(self._nlp.pipe(texts, batch_size=self._batch_size, component_cfg=cfg))

    def spans(self, found: List[Doc]) -> List[List[Span]]:
        """RETURNS (List[List[Span]]): The entities of each text."""
        return [spans_of(doc) for doc in found]


def spans_of(doc: Doc) -> List[Span]:
    """RETURNS (List[Span]): The entities of a Doc."""
    return [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]


def unannotated_parts(doc: Doc) -> List[Part]:
    """RETURNS (List[Part]): The words of a Doc whose annotation is missing, by their characters.
    spaCy's scorer leaves them out, too.
    """
    return [(token.idx, token.idx + len(token)) for token in doc if token.ent_iob == 0]


def make_spacy(**arguments: Any) -> Runner:
    """RETURNS (Runner): A ``SpacyRunner``."""
    return SpacyRunner(**arguments)


def contenders_of(
    model: str,
    speedups: Sequence[float],
    batch_sizes: Sequence[int],
    name: Optional[str] = None,
    code: Optional[Path] = None,
) -> List[Contender]:
    """Make the contenders of a pipeline.

    model (str): Folder or name of the pipeline.
    speedups (Sequence[float]): The speedups at which early-exit components run, if all of them are
        calibrated for it; 1 is full depth.
    batch_sizes (Sequence[int]): Batch sizes of ``nlp.pipe``, for pipelines without such a
        component.
    name (Optional[str]): Its name in tables; None: the last part of ``model``.
    code (Optional[Path]): A Python file to import first.
    RETURNS (List[Contender]): One for each setting.
    RAISES (OSError): If there is no such pipeline.
    RAISES (ValueError): If none of the speedups is within reach, or its early-exit components find
        no entities. The message says what is within reach, or what they find.
    """
    from ..pipe.component import EarlyExitPipe

    imported = {} if code is None else {"code": str(code)}
    nlp = spacy.load(model)
    version = _version_of(nlp)
    name = name or model.rstrip("/").rpartition("/")[2]
    mine = {part: pipe for part, pipe in nlp.pipeline if isinstance(pipe, EarlyExitPipe)}
    if not mine:
        return [
            Contender(
                f"{name}, batches of {size}",
                make_spacy,
                {"model": model, "batch_size": size, **imported},
                version,
            )
            for size in batch_sizes
        ]
    if all(pipe.kind != "early_exit_ner" for pipe in mine.values()):
        kinds = " and ".join(f"'{part}', of {pipe.kind}" for part, pipe in mine.items())
        raise ValueError(
            f"The benchmark scores entities, so it needs a pipeline with an early_exit_ner, not "
            f"with {kinds}. Use spacy early-exit evaluate instead."
        )
    # Those that share an encoder run in its owner's pass.
    passes = {part: pipe for part, pipe in mine.items() if pipe.lender_name is None}
    reachable = min(
        1.0 if pipe.calibration is None else pipe.calibration.most for pipe in passes.values()
    )
    within = [speedup for speedup in speedups if speedup <= reachable]
    if not within:
        raise ValueError(f"{name} is only calibrated for speedups up to {reachable:.2f}.")
    contenders = []
    for speedup in within:
        cfg = {part: {"speedup": speedup, "adaptive": False} for part in passes}
        arguments = {"model": model, "component_cfg": cfg, **imported}
        contenders.append(Contender(f"{name}, {speedup:g}X", make_spacy, arguments, version))
    return contenders


def _version_of(nlp: spacy.Language) -> str:
    """RETURNS (str): A string that changes when the pipeline is saved again or replaced."""
    files = sorted(path for path in nlp.path.rglob("*") if path.is_file()) if nlp.path else []
    about = [(str(path), path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(about).encode("utf8", "surrogateescape")).hexdigest()[:16]
