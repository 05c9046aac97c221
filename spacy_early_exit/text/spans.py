"""Which stretches of a Doc the encoder sees separately: the span getters of spacy-transformers."""

import re
from typing import Callable, List, Optional, Pattern, Sequence, Tuple

import numpy as np
from spacy.tokens import Doc, Span

from ..network.arrays import Bools, Ints

SpanGetter = Callable[[List[Doc]], List[List[Span]]]

BREAKS = r"\n\v\f\x1c-\x1e\x85\u2028\u2029"  # where str.splitlines cuts, except \r
A_BREAK = rf"(?:\r\n|\r(?!\n)|[{BREAKS}])"
LINE_BREAK = re.compile(A_BREAK)
PARAGRAPH_BREAK = re.compile(rf"{A_BREAK}(?:[^\S\r{BREAKS}]*{A_BREAK})+|\u2029")


def make_sent_spans() -> SpanGetter:
    """Make the span getter ``spacy-early-exit.sent_spans.v1``: sentences, as a ``senter``, a
    ``sentencizer`` or a parser before the component has set them.

    RETURNS (SpanGetter): The span getter.
    """
    return sent_spans


def sent_spans(docs: List[Doc]) -> List[List[Span]]:
    """Get the sentences of Docs.

    docs (List[Doc]): The Docs.
    RETURNS (List[List[Span]]): The sentences of each Doc.
    RAISES (ValueError): If a Doc has no sentence boundaries.
    """
    for doc in docs:
        if not doc.has_annotation("SENT_START"):
            raise ValueError(
                f"sent_spans cuts at sentence boundaries, and this text has none: "
                f"{doc.text[:50]!r}. Put a sentencizer, senter or parser before the early-exit "
                f"component. For training, name it in [training] annotating_components, too."
            )
    return [list(doc.sents) for doc in docs]


def make_line_spans() -> SpanGetter:
    """Make the span getter ``spacy-early-exit.line_spans.v1``: lines, as ``str.splitlines`` cuts
    them.

    RETURNS (SpanGetter): The span getter.
    """
    return line_spans


def line_spans(docs: List[Doc]) -> List[List[Span]]:
    """Get the lines of Docs. A line break belongs to the line that it ends.

    docs (List[Doc]): The Docs.
    RETURNS (List[List[Span]]): The lines of each Doc.
    """
    return [_between(doc, LINE_BREAK) for doc in docs]


def make_paragraph_spans() -> SpanGetter:
    """Make the span getter ``spacy-early-exit.paragraph_spans.v1``: what is between empty lines.

    RETURNS (SpanGetter): The span getter.
    """
    return paragraph_spans


def paragraph_spans(docs: List[Doc]) -> List[List[Span]]:
    """Get the paragraphs of Docs. Lines with only white space are empty.

    docs (List[Doc]): The Docs.
    RETURNS (List[List[Span]]): The paragraphs of each Doc.
    """
    return [_between(doc, PARAGRAPH_BREAK) for doc in docs]


def _between(doc: Doc, pattern: Pattern[str]) -> List[Span]:
    """RETURNS (List[Span]): The stretches between matches. Every token of the Doc is in one."""
    starts, _ = _offsets(doc)
    passed = np.searchsorted(_ends(doc, pattern), starts)
    bounds = [0, *(np.flatnonzero(np.diff(passed)) + 1).tolist(), len(doc)]
    return [doc[start:end] for start, end in zip(bounds, bounds[1:]) if start < end]


def after_line_break(doc: Doc, words: Ints) -> Bools:
    """Find the words that can't continue anything, since a line ends before them.

    doc (Doc): The Doc.
    words (Ints): Indices of words in it, ascending. Words between them are ignored. *Shape:*
        ``(words,)``
    RETURNS (Bools): Whether there is a line break between a word and the one before it, or in them.
        *Shape:* ``(words,)``
    """
    found = np.zeros(len(words), dtype=np.bool_)
    breaks = _ends(doc, LINE_BREAK)
    if breaks and len(words):
        starts, ends = _offsets(doc)
        before = np.searchsorted(breaks, starts[words[:-1]])
        found[1:] = np.searchsorted(breaks, ends[words[1:]]) > before
    return found


def _ends(doc: Doc, pattern: Pattern[str]) -> List[int]:
    """RETURNS (List[int]): The last character of each match in a Doc's text."""
    return [match.end() - 1 for match in pattern.finditer(doc.text)]


def _offsets(doc: Doc) -> Tuple[Ints, Ints]:
    """RETURNS (Tuple[Ints, Ints]): The first character of each token, and the one after its last.
    *Shapes:* ``(tokens,)``
    """
    starts, lengths = doc.to_array(["IDX", "LENGTH"]).astype(np.int64).T
    return starts, starts + lengths


def word_ranges(
    docs: Sequence[Doc], get_spans: Optional[SpanGetter]
) -> List[List[Tuple[int, int]]]:
    """Find the words that the encoder is to see together.

    docs (Sequence[Doc]): The docs.
    get_spans (Optional[SpanGetter]): Gets their spans, which may overlap; None: whole docs.
    RETURNS (List[List[Tuple[int, int]]]): For each doc, the first word of each stretch and the one
        after its last, in order. Words between spans form stretches of their own, so that every
        word is in one.
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
    inside = np.zeros(len(doc) + 2, dtype=bool)  # with a word before and one after
    inside[[0, -1]] = True
    for start, end in ranges:
        inside[start + 1 : end + 1] = True
    bounds = np.flatnonzero(np.diff(inside)).tolist()
    return sorted([*ranges, *zip(bounds[::2], bounds[1::2])])
