"""The same seed, and as many threads, give the same weights and the same answers, bit by bit."""

import pytest
import spacy
import torch

from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import network_of
from tests.makers.pipelines import SEED, blank
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
SECOND_STAGES = {
    "SelfSampling": {},
    "ReductionTraining": {"criterion": {"@misc": "spacy-early-exit.TokenReduction.v1"}},
}


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def train(encoder, steps=3, start_from=None, **config):
    spacy.util.fix_random_seed(SEED)
    nlp = blank(encoder, store_exits=True, **config)
    examples = examples_of(nlp)
    given = {} if start_from is None else {"start_from": str(start_from)}
    nlp.config["initialize"]["components"] = {NAME: given}
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    for _ in range(steps):
        nlp.update(examples, sgd=optimizer, drop=0.1)
    return nlp


def weights_of(nlp):
    return nlp.get_pipe(NAME).model.shims[0].trained.network.state_dict()


def assert_same(one, other):
    weights = weights_of(other)
    different = [name for name, w in weights_of(one).items() if not torch.equal(w, weights[name])]
    assert different == []
    docs = [one.make_doc(text) for text in [*TEXTS, *texts_of_all_lengths()]]
    answers = [nlp.get_pipe(NAME).predict(docs) for nlp in (one, one, other)]
    for first, *again in zip(*answers):
        for found in again:
            assert found.exits.logits.tobytes() == first.exits.logits.tobytes()
            assert found.exits.exit_layer.tobytes() == first.exits.exit_layer.tobytes()
            assert found.tags.tobytes() == first.tags.tobytes()


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_all_stages_give_the_same_weights_and_answers(family, threads, encoders, tmp_path):
    first = [train(encoders[family]) for _ in range(2)]
    assert_same(*first)
    first[0].to_disk(tmp_path)
    for stage, config in SECOND_STAGES.items():
        block = {"@misc": f"spacy-early-exit.{stage}.v1"}
        again = [
            train(encoders[family], start_from=tmp_path, training=block, **config) for _ in range(2)
        ]
        assert_same(*again)


@pytest.mark.takes(seconds=12)
@pytest.mark.slow
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta-v2-with-convolution"])
def test_the_same_batch_gives_the_same_gradients(family, threads, encoders, en):
    trained = network_of(encoders[family])
    docs = [en.make_doc(text) for text in texts_of_all_lengths()]
    batch = Batch.of(windows_of(docs, trained.tokenizer, 48, 8), torch.device("cpu"))
    found = []
    for _ in range(4):
        torch.manual_seed(SEED)
        trained.network.zero_grad()
        (run_all_heads(trained.network, batch, 0.1) ** 2).mean().backward()
        gradients = {name: p.grad for name, p in trained.network.named_parameters()}
        found.append({name: grad.clone() for name, grad in gradients.items() if grad is not None})
    different = {n for again in found[1:] for n in again if not torch.equal(again[n], found[0][n])}
    assert different == set()
