"""Hugging Face's token classifiers: an encoder, one linear map, and names for what it says."""

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Literal, Optional, Tuple

import torch
from torch import Tensor, nn

from .decoders.base import FORBIDDEN
from .encoders import HFEncoder

Task = Literal["ner", "tagger"]


@dataclass(frozen=True)
class TokenClassifier:
    """What a checkpoint adds to its encoder.

    task (Task): What its labels are: entities, or tags of single words.
    labels (List[str]): Those of the component.
    weight (Tensor): Of its head, a row for each of the component's tags. *Shape:*
        ``(tags, width)``
    bias (Tensor): Likewise. A tag that it does not know is forbidden. *Shape:* ``(tags,)``
    """

    task: Task
    labels: List[str]
    weight: Tensor
    bias: Tensor


def read_token_classifier(source: HFEncoder, task: Optional[Task] = None) -> TokenClassifier:
    """Read head and labels of a token classifier, through transformers.

    source (HFEncoder): The checkpoint.
    task (Optional[Task]): What its labels are; None: entities if there is an ``O``.
    RETURNS (TokenClassifier): What it adds to its encoder.
    RAISES (ValueError): If it is no token classifier, its head is more than one linear map, or its
        labels have no names, or names that can't be read as the task's. The message tells which.
    """
    from transformers import AutoModelForTokenClassification

    try:
        model, info = AutoModelForTokenClassification.from_pretrained(
            source.place,
            revision=source.revision,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as e:
        raise ValueError(_problem(source, f"it can't be loaded ({type(e).__name__}: {e})")) from e
    if any(name.startswith("classifier.") for name in info["missing_keys"]):
        raise ValueError(_problem(source, "it has an encoder, but no head of a token classifier"))
    others = [
        name
        for name, child in model.named_children()
        if name not in (model.base_model_prefix, "classifier") and list(child.parameters())
    ]
    head = getattr(model, "classifier", None)
    if others or not isinstance(head, nn.Linear):
        wrong = f"its head is more than one linear map ({', '.join([*others, 'classifier'])})"
        raise ValueError(_problem(source, wrong))
    names = [name for _, name in sorted(model.config.id2label.items())]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        wrong = "its labels have no names: set id2label in its config.json"
        raise ValueError(_problem(source, wrong))
    weight = head.weight.detach().float()
    bias = torch.zeros(len(weight)) if head.bias is None else head.bias.detach().float()
    if task is None:
        task = "ner" if "O" in names else "tagger"
    if task == "tagger":
        return TokenClassifier(task, names, weight, bias)
    try:
        labels, rows = bio_rows(names)
    except ValueError as e:
        raise ValueError(_problem(source, str(e))) from e
    known = torch.tensor([row is not None for row in rows])
    picked = torch.tensor([row or 0 for row in rows])
    return TokenClassifier(
        task,
        labels,
        weight=weight[picked] * known[:, None],
        bias=torch.where(known, bias[picked], FORBIDDEN),
    )


def bio_rows(names: List[str]) -> Tuple[List[str], List[Optional[int]]]:
    """Find the rows of BIO tags among the labels of a checkpoint.

    names (List[str]): Its labels: BIO, or ``O`` and bare names, which count as ``I-X``.
    RETURNS (Tuple[List[str], List[Optional[int]]]): Labels of entities; and for ``O`` and each
        label's ``B-X`` and ``I-X`` the row, None where there is none.
    RAISES (ValueError): If they are neither.
    """
    rows: Dict[str, Any] = {name: number for number, name in enumerate(names)}
    if "O" not in rows:
        raise ValueError(f"its labels have no 'O' for words outside entities: {', '.join(names)}")
    inside = [name for name in names if name != "O"]
    prefixed = [name for name in inside if name[:2] in ("B-", "I-")]
    if not prefixed and not any(name[1:2] == "-" for name in inside):
        rows = {"O": rows["O"], **{f"I-{name}": rows[name] for name in inside}}
    elif len(prefixed) < len(inside):
        odd = next(name for name in inside if name not in prefixed)
        raise ValueError(
            f"its labels must be 'O', 'B-X' and 'I-X', or 'O' and bare names: '{odd}' does not go "
            f"with {', '.join(prefixed[:2]) or 'them'}"
        )
    labels = sorted({name[2:] for name in rows if name != "O"})
    tags = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
    return labels, [rows.get(tag) for tag in tags]


def _problem(source: HFEncoder, what: str) -> str:
    return f"Can't adopt {source.name!r}: {what}."
