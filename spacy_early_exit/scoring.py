"""The scorer: spaCy's own figures, and what they cost."""

from typing import Any, Callable, Dict, Iterable

from spacy.scorer import get_ner_prf
from spacy.training import Example

from .records import get_records


def ner_score(
    examples: Iterable[Example], *, name: str = "early_exit_ner", **kwargs: Any
) -> Dict[str, Any]:
    """Score entities as spaCy does, and add what they cost.

    examples (Iterable[Example]): Annotated examples.
    name (str): Name of the component whose cost is meant.
    RETURNS (Dict[str, Any]): ``ents_p``, ``ents_r``, ``ents_f``, ``ents_per_type`` and
        ``exit_cost``: Σ spent / Σ full, 0 if all docs were empty.
    """
    examples = list(examples)
    scores: Dict[str, Any] = get_ner_prf(examples, **kwargs)
    records = [get_records(eg.predicted).get(name) for eg in examples]
    full = sum(record.full for record in records if record)
    spent = sum(record.spent for record in records if record)
    scores["exit_cost"] = spent / full if full else 0.0
    return scores


def make_ner_scorer() -> Callable[..., Dict[str, Any]]:
    """RETURNS (Callable): The scorer ``spacy-early-exit.ner_scorer.v1``."""
    return ner_score
