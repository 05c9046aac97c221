"""What words at the borders of windows get, beside what the whole context gives them."""

import random

import numpy as np
import pytest
import torch

from spacy_early_exit.network.all_heads import run_all_layers
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.text.windows import batches, windows_of
from tests.makers.networks import network_of
from tests.makers.pipelines import train_small
from tests.makers.texts import TEXTS

NAME = "early_exit_ner"
CPU = torch.device("cpu")
LONG = " ".join(random.Random(0).choices(TEXTS, k=34))  # nearly what 512 positions take


def last_states(trained, doc, length, overlap):
    """The last layer's state of each word, where it is owned. *Shape:* ``(words, width)``"""
    states = torch.zeros(len(doc), trained.network.spec.hidden_size)
    windows = windows_of([doc], trained.tokenizer, length, overlap, shared="keep")
    with torch.inference_mode():
        for batch in batches(windows, 4096):
            *_, last = run_all_layers(trained.network, Batch.of(batch, CPU))
            words = np.concatenate([window.words for window in batch])
            owned = np.concatenate([window.owned for window in batch])
            states[words[owned]] = last[owned]
    return states


def wordpieces_to_a_cut(trained, doc, length):
    """Of each word, where windows do not overlap. *Shape:* ``(words,)``"""
    apart = torch.zeros(len(doc))
    for window in windows_of([doc], trained.tokenizer, length, 0, shared="keep"):
        place = torch.from_numpy(window.piece_of_word)
        before = place.float() if window.words[0] else torch.inf
        behind = len(window.ids) - place if window.words[-1] < len(doc) - 1 else torch.inf
        before, behind = torch.as_tensor(before), torch.as_tensor(behind)
        apart[window.words] = torch.minimum(before.expand(len(place)), behind.expand(len(place)))
    return apart


def test_with_overlap_words_at_borders_are_as_near_the_whole_context_as_others(minilm, en):
    trained, doc = network_of(minilm), en.make_doc(LONG)
    whole = last_states(trained, doc, 512, 0)
    apart = wordpieces_to_a_cut(trained, doc, 128)
    at_border, inside = apart <= 4, apart > 32
    assert at_border.sum() > 10 and inside.sum() > 100

    def nearness(overlap):
        cosine = torch.cosine_similarity(last_states(trained, doc, 128, overlap), whole, dim=1)
        return cosine[at_border].mean().item(), cosine[inside].mean().item()

    cut, overlapping = nearness(0), nearness(32)
    print(f"border and inside: {cut} without overlap, {overlapping} with 32 wordpieces")
    assert cut[0] < cut[1] - 0.03, "without overlap, a border is seen"
    assert overlapping[0] > overlapping[1] - 0.02
    assert overlapping[0] > cut[0] + 0.03


@pytest.mark.slow
def test_a_real_encoder_labels_windows_as_the_whole_context(minilm):
    nlp = train_small(minilm, model={"freeze_encoder": True})
    ner = nlp.get_pipe(NAME)

    def labels(length, overlap):
        ner.window_length, ner.window_overlap = length, overlap
        doc = nlp(LONG, component_cfg={NAME: {"threshold": 0}})
        return np.array([f"{token.ent_iob_}-{token.ent_type_}" for token in doc])

    whole = labels(512, 0)
    assert (whole != "O-").sum() > 30
    same = (labels(128, 32) == whole).mean()
    print(f"{same:.3f} of the labels are the same")
    assert same > 0.9
