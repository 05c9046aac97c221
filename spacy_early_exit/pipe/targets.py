"""From annotated examples to the tags that heads should have predicted; and what a stage can start
from.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Iterable

import numpy as np
from spacy.training import Example

from ..network.arrays import Ints
from ..tags import MISSING, as_seen
from .task import Task

if TYPE_CHECKING:
    from ..network.criterion import Criterion
    from ..training.base import JointLogits, Stage


def targets(task: Task, examples: Iterable[Example], scores: "JointLogits") -> Ints:
    """Find the tags that the heads should have predicted.

    task (Task): The component.
    examples (Iterable[Example]): What it was trained on.
    scores (JointLogits): The logits of all heads for the examples' predicted Docs.
    RETURNS (Ints): The right tag of each word that was scored, ``MISSING`` where it is not known,
        or if another window's answer counts. *Shape:* ``(words,)``
    """
    gold, unknown = [np.zeros(0, dtype=np.int64)], set()
    for eg in examples:
        tags, new = task.gold_tags(eg)
        gold.append(np.array(tags, dtype=np.int64))
        unknown |= new
    if unknown:
        warnings.warn(
            f"'{task.name}' was not initialized with the label(s) "
            f"{', '.join(sorted(unknown))}: words with them count as not annotated. "
            f"Use add_label, or initialize with all labels.",
            stacklevel=2,
        )
    starts = np.cumsum([len(tags) for tags in gold])  # gold begins with an empty one
    places = starts[scores.doc] + scores.word
    every = np.concatenate(gold)
    seen = np.zeros(len(every), dtype=np.bool_)
    seen[places] = True
    target = as_seen(task.scheme, every, seen)[places]
    target[~scores.owned] = MISSING
    return target


def check_loss(name: str, loss: float, scores: "JointLogits") -> None:
    """Check that a loss is finite.

    name (str): The component's name.
    loss (float): The loss.
    scores (JointLogits): The logits of all heads.
    RAISES (ValueError): If it is NaN or infinite. The message names the layer.
    """
    if np.isfinite(loss):
        return
    heads = [bool((abs(of_layer) < np.inf).all()) for of_layer in scores.logits]
    where = "" if all(heads) else f", from layer {heads.index(False) + 1} on"
    raise ValueError(
        f"The training of '{name}' has diverged: its loss is NaN or infinite{where}. "
        f"Train again from the last checkpoint, with a smaller learn_rate."
    )


def folder_to_start_from(name: str, pipeline: Path) -> Path:
    """RETURNS (Path): The folder of a pipeline's component.

    name (str): The component's name.
    pipeline (Path): The pipeline's folder.
    RAISES (ValueError): If it does not exist.
    """
    folder = pipeline / name
    if not (folder / "cfg").is_file():
        raise ValueError(
            f"start_from of '{name}' must be the folder of a trained pipeline with a "
            f"component of that name: there is no {folder / 'cfg'}."
        )
    return folder


def check_labels_to_learn(name: str, labels: Iterable[str]) -> None:
    """RAISES (ValueError): If there are no labels.

    name (str): The component's name.
    labels (Iterable[str]): Its labels.
    """
    if not list(labels):
        raise ValueError(
            f"'{name}' has no labels to learn: there are none in the training examples. "
            f"Annotate them, give labels in [initialize.components.{name}], or call add_label "
            f"before initialize."
        )


def check_stage(name: str, stage: "Stage", from_scratch: bool) -> None:
    """RAISES (ValueError): If a stage needs a pipeline to start from and there is none.

    name (str): The component's name.
    stage (Stage): How it is to be trained.
    from_scratch (bool): Whether its heads are untrained.
    """
    if from_scratch and stage.trains_criterion:
        raise ValueError(
            f"{type(stage).__name__} teaches '{name}' which words may exit, not which tags are "
            f"right. Start from a trained pipeline: set start_from in "
            f"[initialize.components.{name}], as in configs/reduction.cfg."
        )


def check_criterion_is_taught(
    name: str, criterion: "Criterion", stage: "Stage", learns: bool
) -> None:
    """RAISES (ValueError): If a criterion has to be trained and the stage does not train it.

    name (str): The component's name.
    criterion (Criterion): Its criterion.
    stage (Stage): How it is to be trained.
    learns (bool): Whether the criterion has untrained weights.
    """
    if learns and not stage.trains_criterion:
        raise ValueError(
            f"The criterion {type(criterion).__name__} of '{name}' must learn which words may "
            f"exit, and {type(stage).__name__} does not teach that. Train with "
            f"ReductionTraining.v1 (configs/reduction.cfg), or set start_from to a pipeline "
            f"trained with it."
        )
