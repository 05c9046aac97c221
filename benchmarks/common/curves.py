"""F against what is saved: of a pipeline at several thresholds, and read off at a saving."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config

from spacy_early_exit.measure.evaluate import evaluate

NAME = "early_exit_ner"
KEPT = ("threshold", "ents_f", "mac_speedup")
Rows = list[dict[str, float]]
Block = dict[str, object]


def measure(
    nlp: Language,
    gold: Sequence[Doc],
    thresholds: Sequence[float],
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Rows:
    """RETURNS (Rows): Scores and saving at some thresholds.

    nlp (Language): The pipeline.
    gold (Sequence[Doc]): Annotated texts.
    thresholds (Sequence[float]): The thresholds.
    progress (Callable): Wraps what is done one by one, such as a bar.
    """
    examples = [Example(doc.copy(), doc) for doc in gold]
    ner = nlp.get_pipe(NAME)
    rows = evaluate(nlp, ner, examples, thresholds, by="threshold", rounds=0, progress=progress)
    return [{name: row[name] for name in KEPT} for row in rows]


def at(threshold: float) -> dict[str, dict[str, float]]:
    """RETURNS (dict): The component_cfg of a threshold."""
    return {NAME: {"threshold": threshold}}


def f_at(rows: Rows, saving: float) -> float:
    """RETURNS (float): The F-score at a saving, interpolated; 0 out of reach."""
    return value_at(rows, saving, "ents_f") or 0.0


def value_at(rows: Rows, saving: float, name: str) -> float | None:
    """RETURNS (float | None): A column at a saving, interpolated; None out of reach."""
    points = sorted((row["mac_speedup"], row[name]) for row in rows)
    for (low, first), (high, second) in zip(points, points[1:]):
        if low <= saving <= high:
            share = (saving - low) / (high - low) if high > low else 0.0
            return first + share * (second - first)
    return None


def criterion(name: str, **settings: object) -> Block:
    """RETURNS (Block): A block of a config for something that is registered here."""
    return {"@misc": f"spacy-early-exit.{name}", **settings}


def criterion_of(given: Sequence[str]) -> Block:
    """RETURNS (Block): The block of a criterion, from a name and settings such as ``window=1``."""
    name, *settings = given
    pairs = Config().from_str("[criterion]\n" + "\n".join(settings))["criterion"]
    return criterion(name, **pairs)
