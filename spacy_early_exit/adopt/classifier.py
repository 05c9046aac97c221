"""Hugging Face's token classifiers: an encoder, one linear map, and names of its outputs."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Literal, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from ..decoders.base import FORBIDDEN
from ..encoders.hugging_face import HFEncoder
from ..runtime.torch_state import usual_dtype, usual_torch

Task = Literal["ner", "tagger"]

UNNAMED = "ENTITY"  # the type of entities, if there is only one and it has no name
ADVICE = (
    "Rename them to BIO tags in id2label of its config.json, or use --task tagger to treat them as "
    "tags of single words"
)


@dataclass(frozen=True)
class TokenClassifier:
    """What a checkpoint adds to its encoder.

    task (Task): What its labels are: entities, or tags of single words.
    labels (List[str]): The component's labels.
    weight (Tensor): The weight of its head, with a row for each of the component's tags. *Shape:*
        ``(tags, width)``
    bias (Tensor): The bias of its head. Tags that the checkpoint does not know are forbidden.
        *Shape:* ``(tags,)``
    """

    task: Task
    labels: List[str]
    weight: Tensor
    bias: Tensor


@usual_torch()
def read_token_classifier(source: HFEncoder, task: Optional[Task] = None) -> TokenClassifier:
    """Read head and labels of a token classifier, through transformers.

    source (HFEncoder): The checkpoint.
    task (Optional[Task]): What its labels are; None: entities if there is an ``O``.
    RETURNS (TokenClassifier): What it adds to its encoder.
    RAISES (ValueError): If it is not a token classifier, if its head is more than one linear map,
        or if its labels have no names or can't be read as the task's. The message says which.
    """
    with usual_dtype():
        head, id2label = _load_head(source)
    weight = head.weight.detach().float()
    bias = torch.zeros(len(weight)) if head.bias is None else head.bias.detach().float()
    try:
        names = label_names(id2label, len(weight))
        if task is None:
            task = "ner" if "O" in names else "tagger"
            if task == "tagger":
                check_no_scheme(names)
        if task == "tagger":
            return TokenClassifier(task, names, weight, bias)
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


def _load_head(source: HFEncoder) -> Tuple[nn.Linear, Mapping[int, Any]]:
    """RETURNS (Tuple[nn.Linear, Mapping[int, Any]]): The head of a token classifier, and the name
    of each of its rows.
    """
    from transformers import AutoModelForTokenClassification

    check_not_slim(source)
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
        raise ValueError(_problem(source, "it has an encoder, but no token classification head"))
    others = [
        name
        for name, child in model.named_children()
        if name not in (model.base_model_prefix, "classifier") and list(child.parameters())
    ]
    head = getattr(model, "classifier", None)
    if others or not isinstance(head, nn.Linear):
        wrong = f"its head is not a single linear layer ({', '.join([*others, 'classifier'])})"
        raise ValueError(_problem(source, wrong))
    return head, model.config.id2label


def check_not_slim(source: HFEncoder) -> None:
    """RAISES (ValueError): If a checkpoint is a slim encoder.

    source (HFEncoder): The checkpoint.
    """
    from transformers import PretrainedConfig

    try:
        written, _ = PretrainedConfig.get_config_dict(source.place, revision=source.revision)
    except Exception:  # what is wrong is said when it is loaded
        return
    if written.get("intermediate_sizes"):
        raise ValueError(
            _problem(
                source,
                "it is a slim encoder, without a token classification head, and transformers can't "
                "run it. Train it as an encoder, or adopt the classifier and slim the pipeline",
            )
        )


def label_names(id2label: Mapping[int, Any], rows: int) -> List[str]:
    """Name the rows of a head.

    id2label (Mapping[int, Any]): The name of each row, by number.
    rows (int): Number of rows.
    RETURNS (List[str]): The names, in order.
    RAISES (ValueError): If rows have no names or share one, or if there is only one row.
    """
    if sorted(id2label) != list(range(rows)):
        raise ValueError(
            f"id2label in its config.json must number the labels from 0 to {rows - 1}, like the "
            f"rows of its head, but has {', '.join(map(str, sorted(id2label)))}"
        )
    names = [id2label[number] for number in range(rows)]
    odd = [name for name in names if not isinstance(name, str) or name.strip() != name or not name]
    if odd:
        raise ValueError(
            f"its labels must be names without white space around them, not {odd[0]!r}: correct "
            f"id2label in its config.json"
        )
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise ValueError("its labels have no names: set id2label in its config.json")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"several of its labels share a name: {', '.join(twice)}. Correct id2label in its "
            f"config.json"
        )
    if rows == 1:
        raise ValueError(f"{names[0]!r} is its only label, so there is nothing to learn")
    return names


def check_no_scheme(names: List[str]) -> None:
    """Check that labels without an ``O`` are not meant as entities.

    names (List[str]): The labels.
    RAISES (ValueError): If one looks like a tag of a scheme for spans, such as ``B_PER``.
    """
    odd = _of_a_scheme(names)
    if odd:
        raise ValueError(
            f"its labels have no 'O' for words outside entities, but {odd[0]!r} looks like a tag "
            f"of an entity. {ADVICE}"
        )


def bio_rows(names: List[str]) -> Tuple[List[str], List[Optional[int]]]:
    """Find the rows of BIO tags among the labels of a checkpoint.

    names (List[str]): Its labels: BIO; or ``O`` and bare names, which count as ``I-X``; or ``O``,
        ``B`` and ``I``, for entities of a single type, which is called ``ENTITY`` here.
    RETURNS (Tuple[List[str], List[Optional[int]]]): Labels of entities; and the rows of ``O`` and
        of each label's ``B-X`` and ``I-X``, None where there is no row.
    RAISES (ValueError): If they are none of these.
    """
    rows: Dict[str, Any] = {name: number for number, name in enumerate(names)}
    if "O" not in rows:
        raise ValueError(
            f"its labels have no 'O' for words outside entities: {', '.join(names)}. {ADVICE}"
        )
    inside = [name for name in names if name != "O"]
    prefixed = [name for name in inside if name[:2] in ("B-", "I-")]
    others = [name for name in inside if name not in prefixed]
    like_tags = _of_a_scheme(inside)
    if set(inside) <= {"B", "I"}:
        rows = {"O": rows["O"], **{f"{name}-{UNNAMED}": rows[name] for name in inside}}
    elif like_tags and others:
        odd = next((name for name in others if name in like_tags), others[0])
        beside = f"does not fit {', '.join(prefixed[:2])}" if prefixed else "is neither"
        raise ValueError(
            f"its labels must be 'O', 'B-X' and 'I-X', or 'O' and bare names: '{odd}' {beside}. "
            f"{ADVICE}"
        )
    elif others:
        rows = {"O": rows["O"], **{f"I-{name}": rows[name] for name in inside}}
    labels = sorted({name[2:] for name in rows if name != "O"})
    nameless = [name for name in rows if name in ("B-", "I-")]
    if nameless:
        raise ValueError(f"its label {nameless[0]!r} names no kind of entity. {ADVICE}")
    tags = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
    return labels, [rows.get(tag) for tag in tags]


def _of_a_scheme(names: List[str]) -> List[str]:
    """RETURNS (List[str]): The labels that look like tags of spans, such as ``B-PER``, ``b-per``,
    ``PER-B``, ``S_PER`` or ``o``; single letters only if all labels belong to such a scheme.
    """
    letter = "[BIOESLUM]"  # from BIO, BIOES, BILUO and BMES
    if all(re.fullmatch(letter, name, re.IGNORECASE) for name in names):
        return names
    pattern = rf"o|{letter}[-_].*|.+[-_]{letter}"
    return [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]


def _problem(source: HFEncoder, what: str) -> str:
    return f"Can't adopt {source.name!r}: {what}."
