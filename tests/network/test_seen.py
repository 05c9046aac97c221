"""What exit heads see of a word and of those beside it."""

import pytest
import torch

from spacy_early_exit.network.all_heads import all_logits, run_all_heads, run_all_layers
from spacy_early_exit.network.batch import Batch, Running
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.network.seen import around, logits_of_words, not_dropped
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import CPU, batch_of, network_of
from tests.makers.texts import TEXTS

STATES = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])


def test_a_word_is_seen_between_its_neighbours_and_nothing_beyond_its_window():
    seen = around(1, STATES, batch_of(3, 2))
    assert seen.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0], [0, 4, 5], [4, 5, 0]]
    assert around(2, STATES, batch_of(3, 2))[1].tolist() == [0, 1, 2, 3, 0]
    assert around(0, STATES, batch_of(3, 2)) is STATES


def test_a_text_that_overflows_is_not_seen_by_its_neighbour():
    states = torch.where(torch.arange(5)[:, None] == 3, torch.nan, STATES)
    seen = around(1, states, batch_of(3, 2))
    assert seen[:3].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0]] and seen[3:].isnan().any()


def test_words_that_were_dropped_are_not_seen_but_by_themselves():
    alive = torch.tensor([True, False, True, True, True])
    seen = around(1, STATES, batch_of(3, 2), alive)
    assert seen.tolist() == [[0, 1, 0], [1, 2, 3], [0, 3, 0], [0, 4, 5], [4, 5, 0]]


def windows_for(trained, nlp):
    docs = [nlp.make_doc(text) for text in TEXTS]
    return windows_of(docs, trained.tokenizer, trained.network.spec.max_wordpieces, 8)


@pytest.mark.parametrize("kv", ["copy", "drop"])
@pytest.mark.parametrize("reach", [0, 1, 3])
def test_those_that_go_on_see_the_same_as_if_all_were_looked_at(kv, reach, encoders, en):
    trained = network_of(encoders["bert"], head_window=reach)
    network, batch = trained.network, Batch.of(windows_for(trained, en), CPU, kv)
    encoder = network.encoder
    torch.manual_seed(0)
    running = Running.all_of(batch).after(torch.rand(batch.words) < 0.5)
    kept = torch.randn(len(batch.ids), encoder.spec.hidden_size)
    states = encoder.states(kept)[batch.piece_of_word]
    of_context = Running.all_of(batch).rows_for(running, kept)
    own = states[running.words]
    found = logits_of_words(network, 1, running.words, own, encoder, of_context, running)
    every = around(reach, states, batch, not_dropped(running))
    torch.testing.assert_close(found, network.logits(1, every)[running.words])
    if kv == "drop" and reach:
        assert not torch.equal(every, around(reach, states, batch))


def test_the_deepest_head_sees_the_word_alone(encoders, en):
    trained = network_of(encoders["bert"], head_window=2)
    network, batch = trained.network, Batch.of(windows_for(trained, en), CPU)
    width, layers = network.spec.hidden_size, network.spec.layers
    assert [head.in_features for head in network.heads.values()] == [5 * width] * (layers - 1) + [
        width
    ]
    with torch.inference_mode():
        states = [*run_all_layers(network, batch)]
        logits = run_all_heads(network, batch)
        assert torch.equal(logits[-1], network.head(layers)(states[-1]))
        assert torch.equal(all_logits(network, batch, states[-1:], first=layers)[0], logits[-1])


@pytest.mark.parametrize("neighbour", [-1, 1])
def test_a_head_learns_what_only_a_neighbour_knows(neighbour, encoders):
    """A linear map of one state can't tell what another state says."""
    spec = network_of(encoders["bert"]).network.spec
    torch.manual_seed(0)
    batch, states = batch_of(*[20] * 20), torch.randn(400, spec.hidden_size)
    asked = states[:, 0] > 0
    right = torch.roll(asked, -neighbour).long()
    inner = (torch.arange(400) % 20 > 0) & (torch.arange(400) % 20 < 19)
    accuracies = []
    for head_window in (0, 1):
        network = ExitNetwork(spec, 2, head_window)
        network.init_heads()
        optimizer = torch.optim.Adam(network.head(1).parameters(), 0.05, weight_decay=1e-2)
        seen = around(network.reach(1), states, batch)
        for _ in range(100):
            optimizer.zero_grad()
            logits = network.logits(1, seen)[inner]
            torch.nn.functional.cross_entropy(logits, right[inner]).backward()
            optimizer.step()
        best = network.logits(1, seen)[inner].argmax(1)
        accuracies.append((best == right[inner]).float().mean().item())
    assert accuracies[0] < 0.8 < 0.95 < accuracies[1]
