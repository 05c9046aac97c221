"""Tags as numbers: which may follow which, from spaCy's and back to entities."""

import numpy as np
import pytest

from spacy_early_exit.tags import MISSING, as_seen, encode, entities, grammar, tag_count

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


@pytest.mark.parametrize(
    "scheme, names, given, expected",
    [
        ("bmes", "BMES", "BMMe s bE BmE bmE BmMmE S", "BME S BE S BME S"),
        ("bmes", "BMES", "-mE b-E", "-E -E"),  # where annotation is missing, nothing is guessed
        ("bio", "OBI", "O bII O BI bi BiI o bI", "O BI O BI BI B"),
        ("bio", "OBI", "-iI", "-I"),
        ("free", "ab", "aB", "b"),
    ],
)
def test_what_is_seen_of_a_word_or_an_entity_is_one(scheme, names, given, expected):
    """Small letters are of words that are not seen."""
    given = given.replace(" ", "")
    names = names.upper()
    tags = np.array([MISSING if name == "-" else names.index(name.upper()) for name in given])
    seen = np.array([name == name.upper() for name in given])
    found = as_seen(scheme, tags, seen)[seen]
    said = "".join("-" if tag == MISSING else names[tag] for tag in found)
    assert said == expected.upper().replace(" ", "")


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
