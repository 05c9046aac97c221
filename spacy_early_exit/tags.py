"""The tags of each kind of task, as numbers, and which of them may follow which.

- ``"bio"``: spans with labels. 0 is ``O``, label ``k`` begins with ``1 + 2k`` and goes on with
  ``2 + 2k``, after its own beginning alone.
- ``"free"``: a label for each word. Label ``k`` is ``k``, after anything.
- ``"bmes"``: where words begin and end, of characters. ``B`` begins a word, ``M`` and ``E`` go on
  with it, ``E`` ends it, ``S`` is one by itself.

``-1`` stands for a missing annotation.
"""

from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from .network.arrays import Bools, Ints

OUTSIDE = 0
MISSING = -1
BMES = ("B", "M", "E", "S")


@dataclass(frozen=True)
class Grammar:
    """Which sequences of tags are valid.

    begins (Bools): Whether a text may begin with a tag. *Shape:* ``(tags,)``
    follows (Bools): ``[a, b]``: whether ``b`` may follow ``a``. *Shape:* ``(tags, tags)``
    ends (Bools): Whether a text may end with a tag. *Shape:* ``(tags,)``
    """

    begins: Bools
    follows: Bools
    ends: Bools


def _bio(tags: int) -> Grammar:
    outside_or_begin = np.arange(tags) % 2 == 1
    outside_or_begin[OUTSIDE] = True
    follows = np.tile(outside_or_begin, (tags, 1))
    for inside in range(2, tags, 2):
        follows[[inside - 1, inside], inside] = True
    return Grammar(outside_or_begin, follows, np.ones(tags, dtype=bool))


def _free(tags: int) -> Grammar:
    anything = np.ones(tags, dtype=bool)
    return Grammar(anything, np.tile(anything, (tags, 1)), anything)


def _bmes(tags: int) -> Grammar:
    new = np.array([name in "BS" for name in BMES])
    done = np.array([name in "ES" for name in BMES])
    return Grammar(new, np.where(done[:, None], new, ~new), done)


GRAMMARS: Dict[str, Callable[[int], Grammar]] = {"bio": _bio, "free": _free, "bmes": _bmes}


def grammar(scheme: str, tags: int) -> Grammar:
    """RETURNS (Grammar): Which sequences of a number of tags are valid in a scheme."""
    return GRAMMARS[scheme](tags)


def tag_count(scheme: str, labels: int) -> int:
    """RETURNS (int): Number of tags for a number of labels."""
    return 1 + 2 * labels if scheme == "bio" else labels


def fault_in(label: str) -> str:
    """Look for what would make a label get lost in data files, or be mistaken for another one.

    label (str): The label.
    RETURNS (str): What is wrong with it, and what to do; empty if nothing is.
    """
    if label != label.strip():
        return "it begins or ends with white space. Remove that, in the data as well."
    if len(label.splitlines()) > 1:
        return "it contains a line break. Replace that with '_', in the data as well."
    if label == "-":
        return (
            "it is spaCy's sign for a missing annotation. Rename the label, in the data as well. "
            "If it means that there is no annotation, leave those words unannotated."
        )
    return ""


def encode(
    biluo: Sequence[Optional[str]], label_ids: Mapping[str, int]
) -> Tuple[List[int], Set[str]]:
    """Turn spaCy's BILUO tags into numbers.

    biluo (Sequence[Optional[str]]): One for each word; None and ``-`` are missing.
    label_ids (Mapping[str, int]): Number of each label.
    RETURNS (Tuple[List[int], Set[str]]): The tags, missing if the label is unknown, and the unknown
        labels.
    """
    tags, unknown = [], set()
    for tag in biluo:
        if tag == "O":
            tags.append(OUTSIDE)
            continue
        action, _, label = (tag or "").partition("-")
        if action not in ("B", "I", "L", "U"):  # missing, or spaCy's negative "!..."
            tags.append(MISSING)
        elif label not in label_ids:
            unknown.add(label)
            tags.append(MISSING)
        else:
            tags.append((1 if action in "BU" else 2) + 2 * label_ids[label])
    return tags, unknown


def is_inside(tags: Ints) -> Bools:
    """RETURNS (Bools): Whether each BIO tag is an ``I-X``. *Shape:* as ``tags``"""
    inside: Bools = (tags > 0) & (tags % 2 == 0)
    return inside


def as_seen(scheme: str, tags: Ints, seen: Bools) -> Ints:
    """Trim entities, or words made of characters, to their first and last seen part. Tokens without
    wordpieces, such as white space or combining accents, are not seen, and the tags of the rest
    alone might not be a valid sequence.

    scheme (str): The scheme of the tags.
    tags (Ints): The tags. *Shape:* ``(words,)``
    seen (Bools): Which words are seen. *Shape:* ``(words,)``
    RETURNS (Ints): The tags. Those of words that are not seen do not change. *Shape:* ``(words,)``
    """
    if scheme == "free":
        return tags
    # Tags that continue an entity or a word.
    inside = is_inside(tags) if scheme == "bio" else (tags == 1) | (tags == 2)
    tags = tags.copy()
    done = 0
    for word in np.flatnonzero(~seen & (tags != MISSING)).tolist():
        if word < done:
            continue
        start, done = extent(inside, word)
        rows = start + np.flatnonzero(seen[start:done])
        if not len(rows) or tags[start] == MISSING:
            continue
        if scheme == "bio":
            if tags[start] != OUTSIDE:
                begin = tags[start]
                tags[rows] = begin + 1
                tags[rows[0]] = begin
        elif len(rows) == 1:
            tags[rows] = BMES.index("S")
        else:
            tags[rows] = BMES.index("M")
            tags[rows[[0, -1]]] = BMES.index("B"), BMES.index("E")
    return tags


def extent(inside: Bools, word: int) -> Tuple[int, int]:
    """Find the entity, or the word made of characters, that a token is in.

    inside (Bools): Which tokens continue what the token before is in.
    word (int): The token.
    RETURNS (Tuple[int, int]): The first token of it, and the one after its last.
    """
    start, end = word, word + 1
    while start and inside[start]:
        start -= 1
    while end < len(inside) and inside[end]:
        end += 1
    return start, end


def entities(tags: Ints) -> Iterator[Tuple[int, int, int]]:
    """Read entities from a valid tag sequence.

    tags (Ints): The tags. *Shape:* ``(words,)``
    YIELDS (Tuple[int, int, int]): First word, the word after the last, label.
    """
    starts = np.flatnonzero(tags % 2 == 1).tolist()
    if not starts:  # the usual case
        return
    inside = np.append(is_inside(tags), False)
    for start in starts:
        end = start + 1
        while inside[end]:
            end += 1
        yield start, end, int(tags[start]) // 2
