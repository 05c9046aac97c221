"""Which stretches of a Doc the encoder sees by themselves: spacy-transformers' span getters."""

from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
from spacy.tokens import Doc, Span

SpanGetter = Callable[[List[Doc]], List[List[Span]]]


def make_sent_spans() -> SpanGetter:
    """Make the span getter ``spacy-early-exit.sent_spans.v1``: sentences, as a ``senter``, a
    ``sentencizer`` or a parser before the component has set them.

    RETURNS (SpanGetter): The span getter.
    """
    return sent_spans


def sent_spans(docs: List[Doc]) -> List[List[Span]]:
    """Get the sentences of Docs.

    docs (List[Doc]): The Docs.
    RETURNS (List[List[Span]]): Of each Doc, its sentences.
    RAISES (ValueError): If a Doc has no sentence boundaries.
    """
    for doc in docs:
        if not doc.has_annotation("SENT_START"):
            raise ValueError(
                f"sent_spans cuts at sentence boundaries, and this text has none: "
                f"{doc.text[:50]!r}. Put a sentencizer, senter or parser before the early-exit "
                f"component; and when training, in [training] annotating_components as well."
            )
    return [list(doc.sents) for doc in docs]


def word_ranges(
    docs: Sequence[Doc], get_spans: Optional[SpanGetter]
) -> List[List[Tuple[int, int]]]:
    """Say which words the encoder is to see together.

    docs (Sequence[Doc]): The docs.
    get_spans (Optional[SpanGetter]): Gets their spans, which may overlap; None: whole docs.
    RETURNS (List[List[Tuple[int, int]]]): Of each doc, first word of a stretch and the one behind
        its last, in order. Words between spans are stretches of their own: all words are in one.
    RAISES (ValueError): If there are not as many lists of spans as docs.
    """
    if get_spans is None:
        return [[(0, len(doc))] if len(doc) else [] for doc in docs]
    found = get_spans(list(docs))
    if len(found) != len(docs):
        raise ValueError(
            f"get_spans must return a list of spans for each of the {len(docs)} docs that it is "
            f"given, not {len(found)} lists."
        )
    return [_without_gaps(doc, spans) for doc, spans in zip(docs, found)]


def _without_gaps(doc: Doc, spans: Sequence[Span]) -> List[Tuple[int, int]]:
    ranges = [(span.start, span.end) for span in spans if len(span)]
    inside = np.zeros(len(doc) + 2, dtype=bool)  # with a word before the first, one behind the last
    inside[[0, -1]] = True
    for start, end in ranges:
        inside[start + 1 : end + 1] = True
    bounds = np.flatnonzero(np.diff(inside)).tolist()
    return sorted([*ranges, *zip(bounds[::2], bounds[1::2])])
