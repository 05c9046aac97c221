"""Tags as numbers: which may follow which, from spaCy's and back to entities."""

import numpy as np
import pytest

from spacy_early_exit.tags import (
    MISSING,
    begun_where_seen,
    encode,
    entities,
    grammar,
    tag_count,
)

# Spelled out: what follows from rules elsewhere would follow them in their errors, too.
BIO = {
    "": "O B-X B-Y",
    "O": "O B-X B-Y",
    "B-X": "O B-X I-X B-Y",
    "I-X": "O B-X I-X B-Y",
    "B-Y": "O B-X B-Y I-Y",
    "I-Y": "O B-X B-Y I-Y",
}
BMES = {"": "B S", "B": "M E", "M": "M E", "E": "B S", "S": "B S"}
FREE = {"": "a b", "a": "a b", "b": "a b"}


@pytest.mark.parametrize(
    "scheme, table, ends",
    [
        ("bio", BIO, ["O", "B-X", "I-X", "B-Y", "I-Y"]),
        ("bmes", BMES, ["E", "S"]),
        ("free", FREE, ["a", "b"]),
    ],
)
def test_which_tags_may_follow_which(scheme, table, ends):
    names = [name for name in table if name]
    found = grammar(scheme, len(names))

    def said(flags):
        return [name for name, flag in zip(names, flags, strict=True) if flag]

    assert said(found.begins) == table[""].split()
    assert [said(row) for row in found.follows] == [table[name].split() for name in names]
    assert said(found.ends) == ends


def test_entities_have_two_tags_a_label_and_one_for_outside():
    assert [tag_count(scheme, 4) for scheme in ("bio", "bmes", "free")] == [9, 4, 4]


def test_spacys_tags_become_numbers_and_unknown_labels_are_told():
    biluo = ["O", "B-X", "I-X", "L-X", "U-Y", "B-Y", "L-Y", None, "-", "!U-X", "U-NEW", "I-OLD"]
    tags, unknown = encode(biluo, {"X": 0, "Y": 1})
    assert tags == [0, 1, 2, 2, 3, 3, 4, *[MISSING] * 5]
    assert unknown == {"NEW", "OLD"}


def test_an_entity_begins_with_its_first_word_that_is_seen():
    tags = np.array([0, 1, 2, 2, 1, 2, 3, 1, 4, 3, MISSING, 3])
    seen = np.array([1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0], dtype=bool)
    found = begun_where_seen(tags, seen)
    assert found.tolist() == [0, 1, 2, 1, 1, 2, 3, 1, 4, 3, MISSING, 3]
    assert tags[3] == 2, "what was given stays as it is"


@pytest.mark.parametrize(
    "tags, found",
    [
        ([], []),
        ([0, 0], []),
        ([1], [(0, 1, 0)]),
        ([1, 2, 2], [(0, 3, 0)]),
        ([0, 3, 4, 0, 1, 1, 2], [(1, 3, 1), (4, 5, 0), (5, 7, 0)]),
        ([3, 1, 0], [(0, 1, 1), (1, 2, 0)]),
        ([5, 6], [(0, 2, 2)]),
    ],
)
def test_entities_are_read_off_tags(tags, found):
    assert list(entities(np.array(tags, dtype=np.int64))) == found
