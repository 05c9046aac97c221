"""Viterbi under hard BIO constraints: the best sequence in which every ``I-X`` follows
``B-X`` or ``I-X``.
"""

from dataclasses import dataclass
from typing import List, Sequence

import numpy as np

from ..network.window import Ints
from .base import Decoder, Floats


@dataclass(frozen=True)
class BIOViterbi:
    """Exact and batched over texts; steps cost O(tags), since only ``I-X`` is constrained.

    Most texts need no search: where the best tag of each word makes a valid sequence, that is
    the best one.
    """

    def __call__(self, logits: Sequence[Floats]) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        RETURNS (List[Ints]): The tags of each. *Shape:* ``(words,)``
        """
        if not logits:
            return []
        lengths = np.array([len(text) for text in logits])
        best = np.concatenate(logits).argmax(1).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        before = np.concatenate([[0], best[:-1]])
        before[starts[lengths > 0]] = 0
        inside = (best > 0) & (best % 2 == 0)
        broken = inside & (before != best) & (before != best - 1)
        texts = np.repeat(np.arange(len(logits)), lengths)
        tags = np.split(best, starts[1:])
        hard = np.unique(texts[broken]).tolist()
        for number, solved in zip(hard, search([logits[number] for number in hard])):
            tags[number] = solved
        return tags


def search(logits: Sequence[Floats]) -> List[Ints]:
    """Find the best valid sequence of each text, all texts step by step together.

    logits (Sequence[Floats]): Of each text, none empty. *Shape:* ``(words, tags)``
    RETURNS (List[Ints]): The tags of each. *Shape:* ``(words,)``
    """
    order = sorted(range(len(logits)), key=lambda text: -len(logits[text]))
    lengths = np.array([len(logits[text]) for text in order], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    scores = np.concatenate([logits[text] for text in order]) if order else np.zeros((0, 1))
    words, tags = scores.shape
    best_before = np.zeros(words, dtype=np.int64)  # the best tag of the word before
    from_inside = np.zeros((words, tags // 2), dtype=bool)  # whether I-X best follows I-X
    last = np.zeros(len(order), dtype=np.int64)
    total = np.full((len(order), tags), -np.inf, dtype=np.float64)
    total[:, 0] = 0.0  # a text starts as if behind an O

    for step in range(int(lengths.max(initial=0))):
        total = total[: np.searchsorted(-lengths, -step, side="left")]  # texts longer than step
        rows = starts[: len(total)] + step
        begin, inside = total[:, 1::2], total[:, 2::2]
        best = total.argmax(1)
        top = total[np.arange(len(total)), best][:, None]
        best_before[rows] = best
        from_inside[rows] = inside > begin
        moved = np.zeros_like(total)
        moved[:, 2::2] = np.maximum(begin, inside) - top  # relative: long sums stay exact
        total = moved + scores[rows]
        ends = lengths[: len(total)] == step + 1
        last[: len(total)][ends] = total[ends].argmax(1)

    tag = last
    answer = np.zeros(words, dtype=np.int64)
    for step in range(int(lengths.max(initial=0)) - 1, -1, -1):
        running = int(np.searchsorted(-lengths, -step, side="left"))
        rows = starts[:running] + step
        now = tag[:running]
        answer[rows] = now
        inner = (now > 0) & (now % 2 == 0)
        label = np.maximum(now - 1, 0) // 2
        stays = inner & from_inside[rows, np.minimum(label, max(tags // 2 - 1, 0))]
        tag[:running] = np.where(inner, np.where(stays, now, now - 1), best_before[rows])
    found: List[Ints] = [np.zeros(0, dtype=np.int64)] * len(order)
    for text, start, length in zip(order, starts, lengths):
        found[text] = answer[start : start + length]
    return found


def make_bio_viterbi() -> Decoder:
    """Make the decoder ``spacy-early-exit.BIOViterbi.v1``.

    RETURNS (Decoder): The decoder.
    """
    return BIOViterbi()
