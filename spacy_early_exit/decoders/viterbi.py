"""Viterbi under hard constraints: the best valid sequence of tags. There is a faster one for BIO,
where every ``I-X`` follows ``B-X`` or ``I-X``.
"""

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np
from torch import Tensor

from ..network.arrays import Floats, Ints
from ..tags import grammar, is_inside
from .base import FORBIDDEN, Decoder, Learned
from .paths import best_paths


class Unlearnt:
    """A decoder that learns nothing."""

    def parameters(self, tags: int) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): It learns nothing."""
        return {}

    def loss(self, logits: Tensor, tags: Tensor, texts: Tensor, learned: Learned) -> Tensor:
        """RETURNS (Tensor): 0: there is nothing to learn. *Shape:* ``()``"""
        return logits.new_zeros(())


@dataclass(frozen=True)
class BIOViterbi(Unlearnt):
    """Viterbi for BIO: exact, and fast if the network is sure.

    A word whose best tag is not ``I-X`` may follow anything. So texts divide into runs: such a word
    and each ``I-X`` after it. Only runs that are invalid as they are get searched, all of them
    together. A search may begin with any tag. If the best one is an ``I-X``, which depends on the
    run before, the two runs are searched as one.
    """

    def for_scheme(self, scheme: str) -> "BIOViterbi":
        """RETURNS (BIOViterbi): Itself, if the tags are BIO.

        RAISES (ValueError): If the tags are not BIO.
        """
        if scheme != "bio":
            raise ValueError(
                "The decoder BIOViterbi.v1 is for entities, whose tags are BIO. Viterbi.v1 is for "
                "any tags."
            )
        return self

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): Empty.
        RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``
        """
        if not logits:
            return []
        scores = np.concatenate(logits)
        bounds = np.cumsum([len(text) for text in logits])
        first = np.zeros(len(scores) + 1, dtype=bool)  # whether a word begins a text
        first[[0, *bounds]] = True
        tags = scores.argmax(1).astype(np.int64)
        inside = is_inside(tags)
        before = np.where(first[:-1], 0, np.roll(tags, 1))
        broken = inside & (before != tags) & (before != tags - 1)
        if not broken.any():  # the usual case
            return np.split(tags, bounds[:-1])
        starts = np.flatnonzero(~inside | first[:-1])  # first words of the runs
        ends = np.append(starts[1:], len(tags))
        runs = np.unique(np.searchsorted(starts, np.flatnonzero(broken), side="right") - 1)
        segments = [(int(run), int(run)) for run in runs]  # the first and last run of each
        todo = segments
        while todo:
            solved = search(
                [scores[starts[low] : ends[high]] for low, high in todo],
                [not first[starts[low]] for low, _ in todo],
            )
            wider = []
            for (low, high), answer in zip(todo, solved):
                tags[starts[low] : ends[high]] = answer
                if is_inside(answer)[0]:
                    wider.append((low - 1, high))
            known = set(segments)
            segments = joined(segments + wider)
            todo = [segment for segment in segments if segment not in known]
        return np.split(tags, bounds[:-1])


@dataclass(frozen=True)
class Viterbi(Unlearnt):
    """The valid sequence of tags with the largest sum of logits.

    scheme (str): Which tags may follow which: see ``tags``.
    """

    scheme: str = "bio"

    def for_scheme(self, scheme: str) -> "Viterbi":
        """RETURNS (Viterbi): The same for tags of another scheme."""
        return Viterbi(scheme)

    def __call__(self, logits: Sequence[Floats], learned: Learned) -> List[Ints]:
        """Decode texts.

        logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
        learned (Learned): Empty.
        RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``
        """
        if not logits:
            return []
        if self.scheme == "bio":
            return BIOViterbi()(logits, learned)
        if self.scheme == "free":
            return [text.argmax(1).astype(np.int64) for text in logits]
        valid = grammar(self.scheme, logits[0].shape[1])
        start, transitions, end = (
            np.where(allowed, 0.0, FORBIDDEN)
            for allowed in (valid.begins, valid.follows, valid.ends)
        )
        return best_paths(logits, start, transitions, end)


def joined(segments: Sequence[Tuple[int, int]]) -> List[Tuple[int, int]]:
    """Merge segments that share a run.

    segments (Sequence[Tuple[int, int]]): The first and last run of each segment.
    RETURNS (List[Tuple[int, int]]): Segments that share none, in order.
    """
    found: List[Tuple[int, int]] = []
    for low, high in sorted(segments):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def search(logits: Sequence[Floats], free: Sequence[bool]) -> List[Ints]:
    """Find the best valid sequence of each text, step by step for all texts together.

    A step costs O(tags), since only ``I-X`` depends on the tag before.

    logits (Sequence[Floats]): The logits of each text; none is empty. *Shape:* ``(words, tags)``
    free (Sequence[bool]): Whether each text may begin with any tag, not only with ``O`` or ``B-X``.
    RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``
    """
    order = sorted(range(len(logits)), key=lambda text: -len(logits[text]))
    lengths = np.array([len(logits[text]) for text in order], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    scores = np.concatenate([logits[text] for text in order])
    words, tags = scores.shape
    best_before = np.zeros(words, dtype=np.int64)  # the best tag of the word before
    from_inside = np.zeros((words, tags // 2), dtype=bool)  # whether I-X best follows I-X
    last = np.zeros(len(order), dtype=np.int64)
    total = np.zeros((len(order), tags))
    total[~np.array(free, dtype=bool)[order], 1:] = -np.inf  # as if after an O

    for step in range(int(lengths.max())):
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
    for step in range(int(lengths.max()) - 1, -1, -1):
        running = int(np.searchsorted(-lengths, -step, side="left"))
        rows = starts[:running] + step
        now = tag[:running]
        answer[rows] = now
        inner = is_inside(now)
        stays = inner & from_inside[rows, (now - 1) // 2]  # does not matter for others
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


def make_viterbi() -> Decoder:
    """Make the decoder ``spacy-early-exit.Viterbi.v1``: the best sequence that is valid for the
    component's tags, whatever they are.

    RETURNS (Decoder): The decoder.
    """
    return Viterbi()
