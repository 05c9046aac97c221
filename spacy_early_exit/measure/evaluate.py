"""What speedups really save and cost, on annotated texts."""

import statistics
import time
from typing import Any, Callable, Dict, Iterable, List, Sequence

from spacy.language import Language
from spacy.training import Example

from ..budget.search import saving
from ..pipe.component import EarlyExitPipe
from ..pipe.records import get_records
from .docs import annotated, count_words
from .temperature import confidence_error


def evaluate(
    nlp: Language,
    ner: EarlyExitPipe,
    examples: Sequence[Example],
    speedups: Sequence[float],
    *,
    rounds: int = 3,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> List[Dict[str, float]]:
    """Measure a pipeline at several speedups.

    nlp (Language): The pipeline.
    ner (EarlyExitPipe): Its early-exit component.
    examples (Sequence[Example]): Annotated texts.
    speedups (Sequence[float]): The speedups.
    rounds (int): How often the clock runs, all speedups in turns; 0: not at all.
    progress (Callable): Wraps what is done one by one, such as a bar.
    RETURNS (List[Dict[str, float]]): For each speedup: ``speedup``, the task's scores (``ents_p``,
        ``ents_r`` and ``ents_f`` of entities), ``mac_speedup`` (what was saved),
        ``mean_exit_layer``, ``agreement`` (share of words with the tag that full depth gives
        them), ``confidence_error`` (expected calibration error of the entities' confidences; 0
        where none are kept), and with rounds ``words_per_second``
        (median), ``words_per_second_min`` and ``words_per_second_max``, of ``nlp.pipe`` on the
        raw texts.
    RAISES (ValueError): If a speedup is not calibrated, before anything is measured; or there are
        no words.
    """
    for speedup in (1.0, *speedups):
        annotated(ner, [], speedup=speedup)
    texts = [eg.reference for eg in examples]
    count_words(texts)
    full = annotated(ner, texts, speedup=1.0)
    rows = []
    for speedup in progress(speedups):
        docs = annotated(ner, texts, speedup=speedup, store_exits=True)
        records = [get_records(doc)[ner.name] for doc in docs]
        layers = [layer for record in records for layer in record.layers or () if layer]
        scores = ner.score([Example(doc, eg.reference) for doc, eg in zip(docs, examples)])
        pairs = [
            a == b
            for doc, other in zip(docs, full)
            for a, b in zip(ner.answers(doc), ner.answers(other))
        ]
        sure = [c for doc, text in zip(docs, texts) for c in ner.confidences(doc, text)]
        rows.append(
            {
                "speedup": speedup,
                **{name: scores[name] or 0.0 for name in ner.scores},
                "mac_speedup": saving((r.spent, r.full) for r in records),
                "mean_exit_layer": statistics.fmean(layers) if layers else 0.0,
                "agreement": statistics.fmean(pairs) if pairs else 1.0,
                "confidence_error": confidence_error(sure),
            }
        )
    _clock(nlp, ner.name, [doc.text for doc in texts], rows, rounds, progress)
    return rows


def _clock(
    nlp: Language,
    name: str,
    texts: List[str],
    rows: List[Dict[str, float]],
    rounds: int,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> None:
    words = sum(len(nlp.make_doc(text)) for text in texts)
    seconds: List[List[float]] = [[] for _ in rows]
    # In turns, so that what else the machine does hits all speedups alike.
    for _ in progress(range(rounds)):
        for row, times in zip(rows, seconds):
            cfg = {name: {"speedup": row["speedup"], "adaptive": False}}
            start = time.perf_counter()
            for _doc in nlp.pipe(texts, component_cfg=cfg):
                pass
            times.append(time.perf_counter() - start)
    for row, times in zip(rows, seconds):
        if times:
            row["words_per_second"] = words / statistics.median(times)
            row["words_per_second_min"] = words / max(times)
            row["words_per_second_max"] = words / min(times)
