import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_early_exit.network.layers.attention import MAX_PADDING, attend, groups

LENGTHS = st.lists(
    st.integers(1, 300).flatmap(lambda k: st.tuples(st.integers(1, k), st.just(k))),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(LENGTHS)
def test_groups_cover_all_sequences_in_order_with_little_padding(lengths):
    queries, context = [q for q, _ in lengths], [k for _, k in lengths]
    found = list(groups(queries, context, torch.device("cpu")))
    assert [start for start, _ in found] == [0] + [end for _, end in found[:-1]]
    assert found[-1][1] == len(lengths)
    for start, end in found:
        padded = (end - start) * max(queries[start:end]) * max(context[start:end])
        needed = sum(q * k for q, k in lengths[start:end])
        assert padded <= max(needed, MAX_PADDING * needed)


@settings(deadline=None)
@given(LENGTHS.filter(lambda lengths: sum(k for _, k in lengths) < 600), st.integers(0, 3))
def test_attention_in_groups_equals_attention_one_by_one(lengths, seed):
    torch.manual_seed(seed)
    queries, context = [q for q, _ in lengths], [k for _, k in lengths]
    query = torch.randn(sum(queries), 8)
    key, value = torch.randn(2, sum(context), 8)
    mixed = attend(query, key, value, queries, context, heads=2)
    alone = torch.cat(
        [
            attend(q, k, v, [len(q)], [len(k)], heads=2)
            for q, k, v in zip(query.split(queries), key.split(context), value.split(context))
        ]
    )
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-5)
