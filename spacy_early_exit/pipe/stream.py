"""A stream of Docs is annotated in groups, with bad texts on their own. With ``adaptive``, it holds
a speedup.
"""

import warnings
from functools import partial
from typing import TYPE_CHECKING, Iterable, Iterator, List, Optional

from spacy.tokens import Doc

from ..budget.controller import Controller
from ..runtime.attempts import Attempt, Stopped, attempt, stop_asked
from ..settings import RunSettings
from .records import get_records

if TYPE_CHECKING:
    from .component import EarlyExitPipe
    from .task import Prediction

MAX_WORDS = 50_000  # to collect from a stream; more would not be faster
CHANGED = ValueError("The words of the Doc have changed since it was predicted.")


def annotate_stream(
    pipe: "EarlyExitPipe",
    stream: Iterable[Doc],
    batch_size: int,
    run: RunSettings,
    controller: Optional[Controller],
) -> Iterator[Doc]:
    """Annotate a stream.

    pipe (EarlyExitPipe): The component.
    stream (Iterable[Doc]): The Docs, changed in place.
    batch_size (int): Maximum number of Docs to collect.
    run (RunSettings): How to run the model.
    controller (Optional[Controller]): Moves the threshold as the cost of Docs becomes known; None:
        the threshold stays as it is.
    YIELDS (Doc): The Docs, in order, without those that failed.
    """
    try:
        for docs in groups(stream, batch_size):
            if controller is None:
                yield from annotate(pipe, docs, run)
            else:
                yield from _annotate_following(pipe, docs, run, controller)
    finally:
        failure = None if controller is None else controller.failure()
        if failure:
            warnings.warn(f"'{pipe.name}' {failure}", stacklevel=3)


def annotate(pipe: "EarlyExitPipe", docs: List[Doc], run: RunSettings) -> Iterator[Doc]:
    """Annotate some Docs. If a batch fails, its Docs are tried one by one, so that only bad ones
    reach the error handler.

    pipe (EarlyExitPipe): The component.
    docs (List[Doc]): The Docs, changed in place.
    run (RunSettings): How to run the model.
    YIELDS (Doc): The Docs, in order, without those that failed.
    """
    lengths = [len(doc) for doc in docs]
    predicted = attempt(lambda: pipe._predict(docs, run))
    if predicted.error is not None:
        if len(docs) == 1:
            pipe.get_error_handler()(pipe.name, pipe, docs, predicted.error)
            return
        for doc in docs:
            yield from annotate(pipe, [doc], run)
        return
    written = attempt(lambda: _write(pipe, docs, lengths, predicted.result))
    if written.error is not None:
        raise written.error
    for doc, outcome in zip(docs, written.result):
        if outcome is CHANGED:
            yield from annotate(pipe, [doc], run)
        elif outcome is None:
            yield doc
        else:
            pipe.get_error_handler()(pipe.name, pipe, [doc], outcome)


def _write(
    pipe: "EarlyExitPipe", docs: List[Doc], lengths: List[int], predictions: List["Prediction"]
) -> List[Optional[Exception]]:
    """Write answers into Docs.

    pipe (EarlyExitPipe): The component.
    docs (List[Doc]): The Docs, changed in place.
    lengths (List[int]): How many words each Doc had when it was predicted.
    predictions (List[Prediction]): The answers.
    RETURNS (List[Optional[Exception]]): For each Doc, what kept its answer from being written;
        None: nothing did. It is CHANGED if a Doc occurs a second time and its characters have
        already become words.
    """
    stopped = stop_asked()
    outcomes: List[Optional[Exception]] = []
    for doc, length, prediction in zip(docs, lengths, predictions):
        if stopped():
            raise Stopped
        if len(doc) != length:
            outcomes.append(CHANGED)
            continue
        outcomes.append(Attempt(partial(pipe.set_annotations, [doc], [prediction])).error)
    return outcomes


def _annotate_following(
    pipe: "EarlyExitPipe", docs: List[Doc], run: RunSettings, controller: Controller
) -> Iterator[Doc]:
    """YIELDS (Doc): The docs, annotated at thresholds that follow what the docs cost."""
    for part in controller.chunks((len(doc), doc) for doc in docs):
        at = pipe.at_threshold(run, controller.threshold)
        lengths = {id(doc): len(doc) for doc in part}  # before any words are merged
        for doc in annotate(pipe, part, at):
            record = get_records(doc)[pipe.name]
            controller.account(lengths[id(doc)], record.spent, record.full)
            yield doc


def groups(stream: Iterable[Doc], size: int) -> Iterator[List[Doc]]:
    """Collect Docs into groups. Intermediate results are in memory for a whole group at once.

    stream (Iterable[Doc]): The Docs.
    size (int): Maximum number of Docs in a group.
    YIELDS (List[Doc]): Groups of this size, or smaller ones that reach ``MAX_WORDS``.
    """
    group: List[Doc] = []
    words = 0
    for doc in stream:
        group.append(doc)
        words += len(doc)
        if len(group) >= size or words >= MAX_WORDS:
            yield group
            group, words = [], 0
    if group:
        yield group
