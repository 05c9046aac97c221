"""The search for the best sequence of tags, where any tag may follow any other."""

from typing import List, Sequence

import numpy as np
from numpy.typing import NDArray

from ..network.arrays import Floats, Ints

Doubles = NDArray[np.float64]
IN_CACHE = 2**17  # transitions of all texts that are looked at together


def best_paths(
    logits: Sequence[Floats], start: Doubles, transitions: Doubles, end: Doubles
) -> List[Ints]:
    """Run Viterbi, step by step for many texts together.

    logits (Sequence[Floats]): The logits of each text. *Shape:* ``(words, tags)``
    start (Doubles): Scores of first words. *Shape:* ``(tags,)``
    transitions (Doubles): Scores from a tag to the next. *Shape:* ``(tags, tags)``
    end (Doubles): Scores of last words. *Shape:* ``(tags,)``
    RETURNS (List[Ints]): The best sequence of each text. *Shape:* ``(words,)``
    """
    found: List[Ints] = [np.zeros(0, dtype=np.int64)] * len(logits)
    some = [text for text in range(len(logits)) if len(logits[text])]
    if not some:
        return found
    order = sorted(some, key=lambda text: -len(logits[text]))
    size, origins = max(1, IN_CACHE // len(start) ** 2), transitions.T.copy()
    for first in range(0, len(order), size):
        block = order[first : first + size]
        texts = [logits[text] for text in block]
        for text, path in zip(block, _together(texts, start, origins, end)):
            found[text] = path
    return found


def _together(
    logits: Sequence[Floats], start: Doubles, origins: Doubles, end: Doubles
) -> List[Ints]:
    """RETURNS (List[Ints]): The best sequence of each text. *Shape:* ``(words,)``

    logits (Sequence[Floats]): The logits of each text; none is empty, and the longest comes first.
        *Shape:* ``(words, tags)``
    start (Doubles): Scores of first words. *Shape:* ``(tags,)``
    origins (Doubles): Scores to a tag from the one before. *Shape:* ``(tags, tags)``
    end (Doubles): Scores of last words. *Shape:* ``(tags,)``
    """
    lengths = np.array([len(text) for text in logits], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    scores = np.concatenate(logits).astype(np.float64)
    running = [int(np.searchsorted(-lengths, -step, side="left")) for step in range(lengths[0])]
    before = np.zeros(scores.shape, dtype=np.int64)  # the best tag of the word before
    last = np.zeros(len(logits), dtype=np.int64)
    total = start + scores[starts]
    for step, texts in enumerate(running):
        rows = starts[:texts] + step
        if step:
            steps = total[:texts, None] + origins
            before[rows] = best = steps.argmax(2)
            total = np.take_along_axis(steps, best[:, :, None], axis=2)[:, :, 0] + scores[rows]
        total -= total.max(1, keepdims=True)  # long sums stay exact
        ends = lengths[:texts] == step + 1
        last[:texts][ends] = (total[ends] + end).argmax(1)
    tag, answer = last, np.zeros(len(scores), dtype=np.int64)
    for step, texts in reversed(list(enumerate(running))):
        rows = starts[:texts] + step
        answer[rows] = tag[:texts]
        tag[:texts] = before[rows, tag[:texts]]
    return [answer[first : first + length] for first, length in zip(starts, lengths)]
