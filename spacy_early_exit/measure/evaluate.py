"""What speedups or thresholds really save and cost, on annotated texts."""

import statistics
import time
from typing import Any, Callable, Dict, Iterable, List, Sequence

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from ..budget.search import speedup_of
from ..pipe.component import EarlyExitPipe
from ..pipe.dial import Knob
from ..pipe.records import get_records
from .docs import annotated, count_words, fresh, tasks_of
from .temperature import confidence_error

FULL = {"speedup": 1.0, "threshold": 0.0}  # the values for full depth


def evaluate(
    nlp: Language,
    ner: EarlyExitPipe,
    examples: Sequence[Example],
    values: Sequence[float],
    *,
    by: str = "speedup",
    rounds: int = 3,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> List[Dict[str, float]]:
    """Measure a pipeline at several speedups, or at several thresholds.

    nlp (Language): The pipeline.
    ner (EarlyExitPipe): Its early-exit component.
    examples (Sequence[Example]): Annotated texts.
    values (Sequence[float]): The speedups or thresholds.
    by (str): What they are: ``"speedup"`` or ``"threshold"``.
    rounds (int): Rounds of time measurement, with all values in turn; 0: none.
    progress (Callable): Wraps what is done step by step, such as a progress bar.
    RETURNS (List[Dict[str, float]]): For each value: ``speedup`` or ``threshold``, the task's
        scores (``ents_p``, ``ents_r`` and ``ents_f`` of entities), ``mac_speedup`` (the speedup in
        MACs), for slim encoders ``unslimmed_mac_speedup`` (the speedup over full depth of the
        encoder that it was cut from), ``mean_exit_layer``, ``agreement`` (share of words with the
        tag that full depth gives them), ``confidence_error`` (expected calibration error of the
        entities' confidences; 0 if none are kept), and with rounds ``words_per_second`` (median),
        ``words_per_second_min`` and ``words_per_second_max``, of ``nlp.pipe`` on the raw texts, and
        ``wall_speedup`` (how many times as fast as full depth, the median of the rounds). If others
        share its encoder, their scores, and theirs of the rest under keys that end with ``_NAME``.
    RAISES (ValueError): If a speedup is not calibrated, before anything is measured; or if there
        are no words.
    """
    settings: List[Dict[str, Any]] = [{by: value} for value in values]
    for setting in settings:
        annotated(ner, [], **setting)
    texts = [eg.reference for eg in examples]
    count_words(texts)
    full = annotated(ner, texts, threshold=0.0)
    is_slim = ner.model.shims[0].outline.network.spec.is_slim
    width = width_saving(ner, full) if is_slim else None
    rows = []
    for setting in progress(settings):
        docs = annotated(ner, texts, **setting, store_exits=True)
        row = {**setting, **_scores(ner, examples, docs, full)}
        if width is not None:
            row["unslimmed_mac_speedup"] = width * row["mac_speedup"]
        rows.append(row)
    _clock(nlp, ner.name, [doc.text for doc in texts], rows, by, rounds, progress)
    return rows


def width_saving(ner: EarlyExitPipe, docs: Sequence[Doc]) -> float:
    """RETURNS (float): How many times the operations of full depth an encoder would take if it were
    not slim.

    ner (EarlyExitPipe): The component.
    docs (Sequence[Doc]): Docs that it has annotated.
    """
    from ..model.predict import full_depth_macs

    trained, settings = ner.model.shims[0].outline, ner.ready(Knob(speedup=1.0))
    copies = [fresh(ner, doc) for doc in docs]
    spec = trained.full_depth.spec
    slim, whole = (
        full_depth_macs(trained, copies, settings, sizes) for sizes in (spec, spec.unslimmed)
    )
    full = sum(get_records(doc)[ner.name].full for doc in docs)  # with the heads of all tasks
    return (full + whole - slim) / full


def _scores(
    ner: EarlyExitPipe, examples: Sequence[Example], docs: Sequence[Doc], full: Sequence[Doc]
) -> Dict[str, float]:
    """RETURNS (Dict[str, float]): The scores of annotated docs, and how they compare with full
    depth.
    """
    records = [get_records(doc)[ner.name] for doc in docs]
    row = {"mac_speedup": speedup_of((r.spent, r.full) for r in records)}
    for task in tasks_of(ner):
        ending = "" if task is ner else f"_{task.name}"
        of_task = _scores_of(task, [eg.reference for eg in examples], docs, full)
        # Scores keep their names, unless two tasks have the same.
        row.update(
            {
                name if name in task.scores and name not in row else f"{name}{ending}": value
                for name, value in of_task.items()
            }
        )
    return row


def _scores_of(
    task: EarlyExitPipe, texts: Sequence[Doc], docs: Sequence[Doc], full: Sequence[Doc]
) -> Dict[str, float]:
    """RETURNS (Dict[str, float]): The scores of one component."""
    records = [get_records(doc)[task.name] for doc in docs]
    layers = [layer for record in records for layer in record.layers or () if layer]
    scores = task.score([Example(doc, text) for doc, text in zip(docs, texts)])
    pairs = [
        a == b
        for doc, other in zip(docs, full)
        for a, b in zip(task.answers(doc), task.answers(other))
    ]
    sure = [c for doc, text in zip(docs, texts) for c in task.confidences(doc, text)]
    return {
        **{name: scores[name] or 0.0 for name in task.scores},
        "mean_exit_layer": statistics.fmean(layers) if layers else 0.0,
        "agreement": statistics.fmean(pairs) if pairs else 1.0,
        "confidence_error": confidence_error(sure),
    }


def _clock(
    nlp: Language,
    name: str,
    texts: List[str],
    rows: List[Dict[str, float]],
    by: str,
    rounds: int,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> None:
    """Add words per second to the rows, and how many times as fast as full depth that is."""
    words = sum(len(nlp.make_doc(text)) for text in texts)
    settings = [{by: row[by], "adaptive": False} for row in rows]
    # In turn, so that other load on the machine affects all values alike. Full depth is often among
    # them.
    full = next((at for at, setting in enumerate(settings) if setting[by] == FULL[by]), len(rows))
    settings += [{by: FULL[by], "adaptive": False}] * (full == len(rows))
    seconds: List[List[float]] = [[] for _ in settings]
    for _ in progress(range(rounds)):
        for setting, times in zip(settings, seconds):
            start = time.perf_counter()
            for _doc in nlp.pipe(texts, component_cfg={name: dict(setting)}):
                pass
            times.append(time.perf_counter() - start)
    for row, times in zip(rows, seconds):
        if times:
            row["words_per_second"] = words / statistics.median(times)
            row["words_per_second_min"] = words / max(times)
            row["words_per_second_max"] = words / min(times)
            row["wall_speedup"] = statistics.median(a / b for a, b in zip(seconds[full], times))
