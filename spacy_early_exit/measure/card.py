"""A model card: what a pipeline can do, what its speedups save and cost, and what it was made of.

It begins with the metadata that model hubs read, in YAML.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import srsly
from jinja2 import Environment, FileSystemLoader
from spacy.language import Language
from spacy.training import Example

from ..pipe.component import EarlyExitPipe
from .docs import annotated, count_words, tasks_of
from .evaluate import evaluate
from .machine import machine

METRICS = {"p": "precision", "r": "recall", "f": "f1", "acc": "accuracy"}  # as hubs call them


@dataclass(frozen=True)
class About:
    """What only its author knows of a pipeline.

    training_data (str): What it was trained on.
    license (str): Its licence, such as ``"mit"``.
    data (str): What the texts are called that it is scored on.
    command (str): The command that scores it so.
    limits (Sequence[str]): What it is not good for.
    """

    training_data: str
    license: str
    data: str
    command: str
    limits: Sequence[str] = ()


@dataclass(frozen=True)
class Card:
    """The content of a card.

    name (str): The pipeline.
    meta (Dict[str, Any]): Its ``nlp.meta``.
    component (EarlyExitPipe): Its early-exit component.
    scores (List[str]): Names of the scores, including those of tasks that share its encoder.
    base_model (Optional[str]): The pre-trained encoder, if it has a name on the hub.
    about (About): What its author says.
    rows (List[Dict[str, float]]): What ``evaluate`` returns, for each speedup.
    setting (str): The pipeline's own setting,
    by_label (List[Tuple[str, Dict[str, float]]]): and precision, recall and F-score of each label
        there: ``p``, ``r`` and ``f``. Empty if the task has no such scores.
    texts (int): The number of texts.
    words (int): The number of words.
    machine (Dict[str, str]): Where they ran,
    threads (int): and with how many threads at most.
    """

    name: str
    meta: Dict[str, Any]
    component: EarlyExitPipe
    scores: List[str]
    base_model: Optional[str]
    about: About
    rows: List[Dict[str, float]]
    setting: str
    by_label: List[Tuple[str, Dict[str, float]]]
    texts: int
    words: int
    machine: Dict[str, str]
    threads: int

    @property
    def example(self) -> float:
        """RETURNS (float): The largest speedup shown that keeps as much of the score as it must."""
        found = self.component.calibration
        asked = [row["speedup"] for row in self.rows]
        return max(s for s in asked if s == 1 or not (found and found.check_kept(s, "")))


def collect(
    nlp: Language,
    ner: EarlyExitPipe,
    examples: Sequence[Example],
    speedups: Sequence[float],
    about: About,
    *,
    rounds: int = 3,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Card:
    """Run a pipeline for a card.

    nlp (Language): The pipeline.
    ner (EarlyExitPipe): Its early-exit component.
    examples (Sequence[Example]): Annotated texts.
    speedups (Sequence[float]): Speedups to show beside full depth.
    about (About): What its author says.
    rounds (int): Rounds of time measurement; 0: none.
    progress (Callable): Wraps what is done step by step, such as a progress bar.
    RETURNS (Card): The content of the card.
    RAISES (ValueError): If there are no words, or a speedup is not calibrated.
    """
    import torch

    speedups = sorted({1.0, *speedups})
    rows = evaluate(nlp, ner, examples, speedups, rounds=rounds, progress=progress)
    texts = [eg.reference for eg in examples]
    docs = annotated(ner, texts)
    scores = ner.score([Example(doc, text) for doc, text in zip(docs, texts)])
    by_label = next((s for name, s in scores.items() if name.endswith("_per_type")), None) or {}
    knob = "speedup" if ner.speedup is not None else "threshold"
    others = [task for task in tasks_of(ner)[1:] if task.main_score in rows[0]]
    return Card(
        name=f"{nlp.lang}_{nlp.meta.get('name') or 'pipeline'}",
        meta=nlp.meta,
        component=ner,
        scores=[*ner.scores, *(name for task in others for name in task.scores)],
        base_model=_base_model(nlp, ner.name),
        about=about,
        rows=rows,
        setting=f"{knob} = {getattr(ner, knob):.4g}",
        by_label=sorted(by_label.items()),
        texts=len(texts),
        words=count_words(texts),
        machine=machine(),
        threads=torch.get_num_threads(),
    )


def to_markdown(card: Card) -> str:
    """Write a card.

    card (Card): Its content.
    RETURNS (str): Markdown that begins with the metadata.
    """
    found = card.component.calibration
    loses = found is not None and found.min_kept is not None and found.keeps_up_to < found.most
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    text = environment.get_template("card.md.jinja").render(
        card=card, calibration=found if loses else None, scores=card.scores
    )
    return f"---\n{srsly.yaml_dumps(metadata(card))}---\n\n{text}"


def metadata(card: Card) -> Dict[str, Any]:
    """RETURNS (Dict[str, Any]): What model hubs read.

    card (Card): The content of a card.
    """
    # Hubs compare pipelines by these: so each speedup is a result of its own.
    metrics = [
        {
            "name": f"{name}, speedup = {row['speedup']:g}",
            "type": METRICS[name.rpartition("_")[2]],
            "value": round(row[name], 4),
        }
        for row in card.rows
        for name in card.scores
    ]
    result = {
        "task": {"name": card.component.kind, "type": "token-classification"},
        "dataset": {"name": card.about.data, "type": re.sub(r"\W+", "-", card.about.data.lower())},
        "metrics": metrics,
    }
    lang = card.meta["lang"]
    return {
        "language": ["multilingual" if lang == "xx" else lang],
        "license": card.about.license,
        "library_name": "spacy",
        "pipeline_tag": "token-classification",
        "tags": ["spacy", "token-classification", "early-exit"],
        **({} if card.base_model is None else {"base_model": card.base_model}),
        "model-index": [{"name": card.name, "results": [result]}],
    }


def _base_model(nlp: Language, name: str) -> Optional[str]:
    """RETURNS (Optional[str]): The encoder that the config names, if it is not a folder's name."""
    encoder = nlp.get_pipe_config(name).get("model", {}).get("encoder", {}).get("name")
    is_id = isinstance(encoder, str) and encoder.count("/") == 1 and not Path(encoder).exists()
    return encoder if is_id and not encoder.startswith((".", "/")) else None


def _cell(text: str) -> str:
    """RETURNS (str): A text as it is in a cell of a table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
