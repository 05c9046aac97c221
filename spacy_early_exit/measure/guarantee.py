"""Find the fastest setting with a guarantee, on texts that were used for no other choice."""

from typing import Any, Callable, Iterable, List, NamedTuple, Sequence, Tuple

from spacy.tokens import Doc

from ..budget.guarantee import Verdict, accept_in_order, documents_needed
from ..pipe.component import EarlyExitPipe
from .docs import annotated, tasks_of

STEP = 1.05  # ratio of successive candidates' speedups


class Guarantee(NamedTuple):
    """The result.

    documents (int): Number of independent documents with words.
    candidates (List[Tuple[float, float]]): The speedup on the calibration's texts, and the
        threshold, of every setting that was tried, in order.
    verdicts (List[Verdict]): The verdict on each.
    speedup (float): The speedup, on the calibration's texts, of the fastest setting that passed; 1:
        only full depth passed.
    threshold (float): Its threshold; 0: only full depth passed.
    """

    documents: int
    candidates: List[Tuple[float, float]]
    verdicts: List[Verdict]
    speedup: float
    threshold: float


def guarantee(
    ner: EarlyExitPipe,
    texts: Sequence[Doc],
    max_disagreement: float,
    confidence: float = 0.95,
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Guarantee:
    """Find the fastest setting whose expected share of words per document that get another tag
    than at full depth is within a bound.

    If several tasks share the pass, a word counts as soon as one of its tags is another.

    The guarantee holds for documents drawn independently from the same source as ``texts``. The
    texts must not have been used for training or for any choice, such as of a checkpoint or the
    curve.

    ner (EarlyExitPipe): A calibrated component. Its curve gives the candidates and their order.
    texts (Sequence[Doc]): The documents. They need no annotation.
    max_disagreement (float): The bound, in (0, 1).
    confidence (float): Probability that the chosen setting is within the bound.
    progress (Callable): Wraps the candidates while they are tried, such as a progress bar.
    RETURNS (Guarantee): The result.
    RAISES (ValueError): If it is not calibrated, or no such guarantee can be given from so few
        documents. The message says how many are needed.
    """
    docs = [doc for doc in texts if ner.answers(doc)]
    check_documents(len(docs), max_disagreement, confidence)
    curve = ner.calibrated()
    candidates = [(1.0, 0.0)]
    while candidates[-1][0] < curve.most:
        speedup = min(candidates[-1][0] * STEP, curve.most)
        candidates.append((speedup, curve.threshold_for(speedup)))
    del candidates[0]
    if not candidates:
        raise ValueError(
            "The calibration has only full depth, which needs no guarantee. Calibrate the pipeline "
            "for larger speedups."
        )
    full = _tags(ner, docs, 0.0)

    def shares(setting: int) -> List[float]:
        early = _tags(ner, docs, candidates[setting][1])
        return [
            sum(a != b for a, b in zip(one, other)) / len(one) for one, other in zip(early, full)
        ]

    bar = iter(progress(range(len(candidates))))
    verdicts = accept_in_order(
        len(candidates), lambda _: shares(next(bar)), max_disagreement, confidence
    )
    passed = sum(verdict.passed for verdict in verdicts)
    speedup, threshold = candidates[passed - 1] if passed else (1.0, 0.0)
    return Guarantee(len(docs), candidates[: len(verdicts)], verdicts, speedup, threshold)


def check_documents(documents: int, max_disagreement: float, confidence: float) -> None:
    """Check whether there is any chance of a guarantee.

    documents (int): Number of documents.
    max_disagreement (float): The bound.
    confidence (float): The confidence.
    RAISES (ValueError): If there is no chance. The message says how many documents are needed.
    """
    for name, value in (("max_disagreement", max_disagreement), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, not {value}.")
    least = documents_needed(0.0, max_disagreement, confidence) or 1
    if documents < least:
        raise ValueError(
            f"{documents} documents are too few: even if no tag changed, a disagreement of at most "
            f"{max_disagreement:g} with confidence {confidence:g} takes {least}."
        )


def _tags(ner: EarlyExitPipe, docs: Sequence[Doc], threshold: float) -> List[List[Any]]:
    tasks = tasks_of(ner)
    return [
        list(zip(*(task.answers(doc) for task in tasks)))
        for doc in annotated(ner, docs, threshold=threshold)
    ]
