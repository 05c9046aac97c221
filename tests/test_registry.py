"""What setup.cfg registers is what the code has."""

import re
from importlib.metadata import entry_points

import pytest
from spacy import registry
from spacy.language import Language

GROUPS = ("spacy_factories", "spacy_architectures", "spacy_misc", "spacy_scorers")
OURS = [
    (point.group, point.name)
    for group in GROUPS
    for point in entry_points(group=group)
    if point.value.startswith("spacy_early_exit.")
]


def test_there_are_entry_points_of_every_kind():
    assert {group for group, _ in OURS} == set(GROUPS)


@pytest.mark.parametrize("group,name", OURS)
def test_every_entry_point_is_found_by_spacy(group, name):
    if group == "spacy_factories":
        Language.get_factory_meta(name)
    else:
        found = registry.get(group.removeprefix("spacy_"), name)
        assert callable(found) and found.__doc__
        assert name.startswith("spacy-early-exit.") and re.search(r"\.v\d+$", name)
