"""Docs to run on, and running on them."""

from typing import List, Optional, Sequence

from spacy.tokens import Doc
from spacy.util import raise_error

from ..component import EarlyExitPipe


def annotated(
    ner: EarlyExitPipe,
    docs: Sequence[Doc],
    *,
    threshold: Optional[float] = None,
    speedup: Optional[float] = None,
    store_exits: bool = False,
) -> List[Doc]:
    """Let a component annotate the words of some docs, whatever else is annotated on them.

    ner (EarlyExitPipe): The component.
    docs (Sequence[Doc]): The docs, which stay as they are.
    threshold (Optional[float]): At this threshold,
    speedup (Optional[float]): or at this speedup; without either at what the component is set to.
    store_exits (bool): Whether to keep the exit layer of every word.
    RETURNS (List[Doc]): New docs, one for each: a measurement that left one out would be wrong, so
        errors are raised here.
    """
    kept, handler = ner.store_exits, ner.get_error_handler()
    ner.store_exits = store_exits
    ner.set_error_handler(raise_error)
    try:
        copies = [ner.unannotated(doc) for doc in docs]
        return list(
            ner.pipe(copies, threshold=threshold, speedup=speedup, adaptive=False, batch_size=1000)
        )
    finally:
        ner.store_exits = kept
        ner.set_error_handler(handler)
