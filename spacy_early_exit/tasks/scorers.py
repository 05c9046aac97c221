"""The scorers: spaCy's own scores, and what the answers cost."""

from typing import Any, Callable, Dict, Iterable

from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Token
from spacy.training import Example

from ..pipe.records import get_records

Score = Callable[..., Dict[str, Any]]


def exit_cost(examples: Iterable[Example], name: str) -> float:
    """RETURNS (float): Σ spent / Σ full for a component; 0 if all docs were empty."""
    records = [get_records(eg.predicted).get(name) for eg in examples]
    full = sum(record.full for record in records if record)
    spent = sum(record.spent for record in records if record)
    return spent / full if full else 0.0


def costs(examples: Iterable[Example], name: str) -> Dict[str, float]:
    """RETURNS (Dict[str, float]): ``exit_cost`` of a component, its reciprocal ``mac_speedup``, and
    the same under keys that end with its name. If a pipeline has several components, the last one's
    replace the others'. If all docs were empty, there is no ``mac_speedup``.
    """
    cost = exit_cost(examples, name)
    found = {"exit_cost": cost, **({"mac_speedup": 1 / cost} if cost else {})}
    return {**found, **{f"{key}_{name}": value for key, value in found.items()}}


def ner_score(
    examples: Iterable[Example], *, name: str = "early_exit_ner", **kwargs: Any
) -> Dict[str, Any]:
    """Score entities as spaCy does, and add the cost.

    examples (Iterable[Example]): Annotated examples.
    name (str): Name of the component whose cost is added.
    RETURNS (Dict[str, Any]): ``ents_p``, ``ents_r``, ``ents_f``, ``ents_per_type``, and what
        ``costs`` returns.
    """
    examples = list(examples)
    return {**get_ner_prf(examples, **kwargs), **costs(examples, name)}


def tagger_score(
    examples: Iterable[Example],
    *,
    name: str = "early_exit_tagger",
    attribute: str = "tag",
    **kwargs: Any,
) -> Dict[str, Any]:
    """Score tags as spaCy does, and add the cost.

    examples (Iterable[Example]): Annotated examples.
    name (str): Name of the component whose cost is added.
    attribute (str): ``"tag"``, ``"pos"`` or ``"morph"``.
    RETURNS (Dict[str, Any]): ``tag_acc``, ``pos_acc`` or ``morph_acc``, and what ``costs`` returns.
    """
    examples = list(examples)
    getter = _morph_key if attribute == "morph" else getattr
    scores = Scorer.score_token_attr(examples, attribute, getter=getter)
    return {**scores, **costs(examples, name)}


def _morph_key(token: Token, attribute: str) -> int:
    """RETURNS (int): A word's features as a number; 0 if they are not known."""
    key: int = token.morph.key if token.has_morph() else 0
    return key


def segmenter_score(
    examples: Iterable[Example], *, name: str = "early_exit_segmenter", **kwargs: Any
) -> Dict[str, Any]:
    """Score words as spaCy does, and add the cost.

    examples (Iterable[Example]): Annotated examples.
    name (str): Name of the component whose cost is added.
    RETURNS (Dict[str, Any]): ``token_acc``, ``token_p``, ``token_r``, ``token_f``, and what
        ``costs`` returns.
    """
    examples = list(examples)
    scores = Scorer.score_tokenization(examples)
    return {**scores, **costs(examples, name)}


def make_ner_scorer() -> Score:
    """RETURNS (Callable): The scorer ``spacy-early-exit.ner_scorer.v1``."""
    return ner_score


def make_tagger_scorer() -> Score:
    """RETURNS (Callable): The scorer ``spacy-early-exit.tagger_scorer.v1``."""
    return tagger_score


def make_segmenter_scorer() -> Score:
    """RETURNS (Callable): The scorer ``spacy-early-exit.segmenter_scorer.v1``."""
    return segmenter_score
