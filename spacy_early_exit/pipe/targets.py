"""From annotated examples to the tags that heads should have predicted; and what a stage can start
from.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence

import numpy as np
from spacy.training import Example
from spacy.vocab import Vocab

from ..corpora import read_docs
from ..network.arrays import Ints
from ..tags import MISSING, as_seen
from .docs import same_words
from .task import Task

if TYPE_CHECKING:
    from ..files.network import Trained
    from ..network.criterion import Criterion
    from ..settings import RunSettings
    from ..text.tokenizer import WordpieceTokenizer
    from ..training.base import JointLogits, Places, SelfTraining, Stage


def targets(task: Task, examples: Iterable[Example], places: "Places") -> Ints:
    """Find the tags that the heads should have predicted.

    task (Task): The component.
    examples (Iterable[Example]): What it was trained on.
    places (Places): The words of the examples' predicted Docs that are asked for.
    RETURNS (Ints): The right tag of each of these words, ``MISSING`` where it is not known,
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
    indices = starts[places.doc] + places.word
    every = np.concatenate(gold)
    seen = np.zeros(len(every), dtype=np.bool_)
    seen[indices] = True
    target = as_seen(task.scheme, every, seen)[indices]
    target[~places.owned] = MISSING
    return target


def read_labelled(path: Path, vocab: Vocab) -> List[Example]:
    """RETURNS (List[Example]): The texts of a file, with their annotation.

    path (Path): A ``.spacy`` file.
    vocab (Vocab): The vocabulary.
    RAISES (ValueError): If it can't be read.
    """
    return [Example(same_words(doc), doc) for doc in read_docs(path, vocab)]


def show_labelled(
    student: "SelfTraining",
    task: Task,
    trained: "Trained",
    examples: List[Example],
    run: "RunSettings",
) -> None:
    """Give labelled texts to a stage of self-training, as windows.

    student (SelfTraining): The stage. It gets the windows that have annotated words, with the right
        tags.
    task (Task): The component.
    trained (Trained): Network and tokenizer.
    examples (List[Example]): The texts.
    run (RunSettings): How to run the model.
    RAISES (ValueError): If there are texts, but none is annotated.
    """
    from ..model.predict import windows_for
    from ..training.base import Labelled, Places

    annotated = []
    if examples:
        windows = windows_for(trained, [eg.predicted for eg in examples], run)
        gold = targets(task, examples, Places.of(windows))
        sizes = np.cumsum([len(window.words) for window in windows])
        found = [Labelled(*one) for one in zip(windows, np.split(gold, sizes[:-1]))]
        annotated = [one for one in found if (one.tags != MISSING).any()]
        if not annotated:
            raise ValueError(f"The labelled texts of '{task.name}' have no annotated words.")
    student.learn_by(annotated, run.batch_wordpieces)


def check_wordpieces(
    name: str, teacher: "WordpieceTokenizer", student: "WordpieceTokenizer"
) -> None:
    """Check that a teacher and its student read the same wordpieces.

    name (str): The component's name.
    teacher (WordpieceTokenizer): The teacher's tokenizer.
    student (WordpieceTokenizer): The student's.
    RAISES (ValueError): If they do not.
    """
    if _reading(teacher) != _reading(student):
        raise ValueError(
            f"The teacher of '{name}', start_from in [initialize.components.{name}], has another "
            f"tokenizer than the encoder: a student reads the wordpieces that its teacher reads. "
            f"Train a teacher with this encoder, or name the teacher's encoder in "
            f"[components.{name}.model.encoder]."
        )


def _reading(tokenizer: "WordpieceTokenizer") -> Dict[str, Any]:
    """RETURNS (Dict[str, Any]): All of a tokenizer that decides how text is read."""
    described: Dict[str, Any] = json.loads(tokenizer.to_str())
    others = ("decoder", "padding", "truncation", "version")
    return {name: value for name, value in described.items() if name not in others}


def check_loss(name: str, loss: float, scores: "JointLogits", exit_layers: Sequence[int]) -> None:
    """Check that a loss is finite.

    name (str): The component's name.
    loss (float): The loss.
    scores (JointLogits): The logits of all heads.
    exit_layers (Sequence[int]): Their layers.
    RAISES (ValueError): If it is NaN or infinite. The message names the layer.
    """
    if np.isfinite(loss):
        return
    heads = [bool((abs(of_head) < np.inf).all()) for of_head in scores.logits]
    where = "" if all(heads) else f", from layer {exit_layers[heads.index(False)]} on"
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


def as_student(
    name: str, stage: "Stage", start_from: Any, labelled: Any
) -> "Optional[SelfTraining]":
    """Check that there is a teacher for a stage that needs one, and no labelled texts for others.

    name (str): The component's name.
    stage (Stage): How it is to be trained.
    start_from (Optional[str]): Folder of the teacher.
    labelled (Optional[str]): The file of labelled texts.
    RETURNS (Optional[SelfTraining]): The stage, if it is one of self-training.
    RAISES (ValueError): If something is missing or too much.
    """
    from ..training.base import SelfTraining

    section, kind = f"[initialize.components.{name}]", type(stage).__name__
    if isinstance(stage, SelfTraining):
        if start_from is None:
            raise ValueError(f"{kind} needs a teacher: set start_from in {section} to a pipeline.")
        return stage
    if labelled is not None:
        raise ValueError(
            f"{kind} learns from the training corpus alone: remove labelled from {section}."
        )
    return None


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
