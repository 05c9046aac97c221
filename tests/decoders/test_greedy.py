"""The greedy decoder reads every word by itself."""

import numpy as np
import pytest

from spacy_early_exit.decoders import Greedy

OUT, B_X, I_X, B_Y, I_Y = range(5)


def logits_of(tags) -> np.ndarray:
    return np.eye(5, dtype=np.float32)[tags]


@pytest.mark.parametrize(
    "said, read",
    [
        ([OUT, B_X, I_X, OUT], [OUT, B_X, I_X, OUT]),
        ([I_X, I_X, OUT, I_Y], [B_X, I_X, OUT, B_Y]),
        ([B_X, I_Y, I_Y, I_X], [B_X, B_Y, I_Y, B_X]),
        ([B_X, B_X, I_X], [B_X, B_X, I_X]),
        ([I_X], [B_X]),
        ([], []),
    ],
)
def test_a_stray_inside_begins_an_entity(said, read):
    (found,) = Greedy()([logits_of(np.array(said, dtype=int))], {})
    assert found.tolist() == read


def test_texts_do_not_see_one_another():
    found = Greedy()([logits_of([OUT, B_X]), logits_of([I_X])], {})
    assert [tags.tolist() for tags in found] == [[OUT, B_X], [B_X]]


def test_tags_of_single_words_are_left_as_they_are():
    (found,) = Greedy().for_scheme("free")([logits_of([2, 2, 4])], {})
    assert found.tolist() == [2, 2, 4]


def test_segmentation_is_refused():
    with pytest.raises(ValueError, match="not for BMES. Viterbi.v1 is for any"):
        Greedy().for_scheme("bmes")
