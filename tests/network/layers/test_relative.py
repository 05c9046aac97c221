"""Distances: which of them share a bucket, and which are near."""

import inspect

import pytest
import torch

from spacy_early_exit.network.batch import Batch, Running
from spacy_early_exit.network.families import read_spec
from spacy_early_exit.network.layers.disentangled import place_counts, place_of
from spacy_early_exit.network.layers.neighbourhood import near_pairs, near_pairs_of_all
from spacy_early_exit.network.layers.relative import bucket_of
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import network_of
from tests.makers.texts import texts_of_all_lengths
from tests.network.test_families import PUBLISHED

AWAY = torch.arange(-600, 601)


def test_mpnets_buckets_are_hugging_faces_own():
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    theirs = MPNetEncoder.relative_position_bucket(-AWAY, num_buckets=32)
    assert torch.equal(bucket_of(AWAY, 32), theirs)


@pytest.mark.parametrize(
    "sizes",
    [
        {"position_buckets": 256, "max_relative_positions": -1},
        {"position_buckets": 32, "max_relative_positions": 128},
        {"position_buckets": 8, "max_position_embeddings": 48},
        {"position_buckets": -1, "max_relative_positions": 64},
    ],
    ids=str,
)
def test_debertas_buckets_are_hugging_faces_own(sizes):
    import transformers
    from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

    config = transformers.DebertaV2Config(**{**PUBLISHED["deberta-v2"], **sizes})
    spec = read_spec(config.to_dict())
    older = "query_size" in inspect.signature(build_relative_position).parameters
    rows = 600 if older else torch.zeros(1, 600, 1)
    theirs = build_relative_position(rows, rows, config.position_buckets, spec.place_farthest)[0]
    place = torch.arange(600)
    ours = place_of(spec, place[:, None] - place[None, :])
    assert torch.equal(ours, (theirs + spec.place_span).clamp(0, 2 * spec.place_span - 1))
    for length in (1, 2, 9, 48, 600):
        assert place_counts(spec, torch.tensor(length)) == len(ours[:length, :length].unique())


@pytest.mark.parametrize("kv", ["copy", "drop"])
@pytest.mark.parametrize("reach", [1, 5, 64])
def test_near_pairs_are_counted_one_by_one(reach, kv, encoders, en):
    trained = network_of(encoders["bert"])
    docs = [en.make_doc(text) for text in texts_of_all_lengths(count=12)]
    batch = Batch.of(windows_of(docs, trained.tokenizer, 48, 8), torch.device("cpu"), kv)
    everyone = Running.all_of(batch)
    torch.manual_seed(0)
    fewer = everyone.without(torch.rand(batch.words) < 0.6)
    lengths = torch.tensor(batch.lengths)
    assert torch.equal(near_pairs(everyone, reach), near_pairs_of_all(lengths, reach))
    for running in (everyone, fewer):
        parts = zip(
            running.query_offsets.split(running.query_lengths),
            running.offsets.split(running.context_lengths),
        )
        one_by_one = [((q[:, None] - k).abs() <= reach).sum() for q, k in parts]
        assert near_pairs(running, reach).tolist() == one_by_one
