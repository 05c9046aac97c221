"""BIO tags as numbers: 0 is ``O``, label ``k`` begins with ``1 + 2k`` and goes on with ``2 + 2k``.

``-1`` stands for a missing annotation.
"""

from typing import Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from .network.window import Ints

OUTSIDE = 0
MISSING = -1


def tag_count(labels: int) -> int:
    """RETURNS (int): Number of tags for a number of entity labels."""
    return 1 + 2 * labels


def encode(
    biluo: Sequence[Optional[str]], label_ids: Mapping[str, int]
) -> Tuple[List[int], Set[str]]:
    """Turn spaCy's BILUO tags into numbers.

    biluo (Sequence[Optional[str]]): One a word; None and ``-`` are missing.
    label_ids (Mapping[str, int]): Number of each label.
    RETURNS (Tuple[List[int], Set[str]]): The tags, missing where the label is unknown, and
        the unknown labels.
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


def entities(tags: Ints) -> Iterator[Tuple[int, int, int]]:
    """Read entities off a valid tag sequence.

    tags (Ints): *Shape:* ``(words,)``
    YIELDS (Tuple[int, int, int]): First word, the word behind the last, label.
    """
    inside = np.append((tags > 0) & (tags % 2 == 0), False)
    for start in np.flatnonzero(tags % 2 == 1).tolist():
        end = start + 1
        while inside[end]:
            end += 1
        yield start, end, int(tags[start]) // 2
