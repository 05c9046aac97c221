"""Docs to measure on, and runs on them."""

from dataclasses import replace
from typing import List, Optional, Sequence

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import raise_error

from ..pipe.component import EarlyExitPipe
from ..pipe.docs import copy_sentences, is_space


def count_words(docs: Sequence[Doc]) -> int:
    """RETURNS (int): The number of words in docs.

    docs (Sequence[Doc]): The docs.
    RAISES (ValueError): If there is only white space: nothing can be measured on that.
    """
    if not any(not is_space(token) for doc in docs for token in doc):
        raise ValueError("There is nothing to measure on: the texts have no words.")
    return sum(len(doc) for doc in docs)


def tasks_of(ner: EarlyExitPipe) -> List[EarlyExitPipe]:
    """RETURNS (List[EarlyExitPipe]): The components that a component's pass answers for, itself
    first.

    ner (EarlyExitPipe): The component.
    """
    return [ner, *(pipe for pipe in ner.borrowers() if pipe.model.shims[0].is_trained)]


def run_upstream(nlp: Language, ner: EarlyExitPipe, docs: List[Doc]) -> List[Doc]:
    """Run the components before the early-exit component, if it cuts texts into spans, which they
    may set.

    nlp (Language): The pipeline.
    ner (EarlyExitPipe): Its early-exit component.
    docs (List[Doc]): The docs, changed in place.
    RETURNS (List[Doc]): The docs, as input to the component.
    """
    if ner.settings.get_spans is None:
        return docs
    before = nlp.pipe_names[: nlp.pipe_names.index(ner.name)]
    with nlp.select_pipes(enable=before):
        return list(nlp.pipe(docs))


def set_sentences(nlp: Language, ner: EarlyExitPipe, examples: Sequence[Example]) -> None:
    """Set the sentences of annotated texts as the component will see them, if it cuts texts.

    nlp (Language): The pipeline.
    ner (EarlyExitPipe): Its early-exit component.
    examples (Sequence[Example]): The texts, whose references are changed in place.
    """
    if ner.settings.get_spans is not None:
        met = run_upstream(nlp, ner, [ner.unannotated(eg.reference) for eg in examples])
        for doc, eg in zip(met, examples):
            copy_sentences(doc, eg.reference)


def fresh(ner: EarlyExitPipe, doc: Doc) -> Doc:
    """RETURNS (Doc): A Doc's text as input to a component, with the Doc's sentences if the
    component cuts texts.
    """
    copy = ner.unannotated(doc)
    if ner.settings.get_spans is not None:
        copy_sentences(doc, copy)
    return copy


def annotated(
    ner: EarlyExitPipe,
    docs: Sequence[Doc],
    *,
    threshold: Optional[float] = None,
    speedup: Optional[float] = None,
    store_exits: bool = False,
) -> List[Doc]:
    """Let a component, and those that share its encoder, annotate the words of docs, ignoring
    existing annotation.

    ner (EarlyExitPipe): The component.
    docs (Sequence[Doc]): The docs, which stay as they are.
    threshold (Optional[float]): The threshold to run at,
    speedup (Optional[float]): or the speedup. Without either, the component's own setting is used.
    store_exits (bool): Whether to keep the exit layer of every word.
    RETURNS (List[Doc]): A new doc for each. Errors are raised: a measurement that left out a doc
        would be wrong.
    """
    tasks = tasks_of(ner)
    kept = [(task.settings, task.get_error_handler()) for task in tasks]
    for task in tasks:
        task.settings = replace(task.settings, store_exits=store_exits)
        task.set_error_handler(raise_error)
    try:
        copies = [fresh(ner, doc) for doc in docs]
        found = list(
            ner.pipe(copies, threshold=threshold, speedup=speedup, adaptive=False, batch_size=1000)
        )
        for task in tasks[1:]:
            found = list(task.pipe(found, batch_size=1000))
        return found
    finally:
        for task, (settings, handler) in zip(tasks, kept):
            task.settings = settings
            task.set_error_handler(handler)
