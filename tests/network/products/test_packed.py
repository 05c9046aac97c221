"""The network with packed weights."""

import copy
import pickle
from pathlib import Path

import pytest
import spacy
import torch

from spacy_early_exit.model import copies
from spacy_early_exit.network.products import packed as module
from spacy_early_exit.network.products.half import halved
from spacy_early_exit.network.products.packed import (
    PackedLinear,
    can_pack,
    is_worth_packing,
    packed,
    padded,
)
from tests.makers.networks import network_of
from tests.makers.pipelines import answers
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
has_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)
FAMILIES = ["bert", "electra", "distilbert", "albert", "modernbert", "mpnet", "deberta-v2"]


@has_onednn
@pytest.mark.parametrize("count", [1, 7, 8, 33, 64, 300, 1025])
@pytest.mark.parametrize("bias", [True, False])
def test_any_number_of_rows_is_multiplied(count, bias):
    torch.manual_seed(count)
    plain = torch.nn.Linear(96, 40, bias=bias)
    rows = torch.randn(count, 96)
    found = PackedLinear(plain.weight, plain.bias)(rows)
    assert found.shape == (count, 40)
    assert torch.allclose(found, plain(rows), atol=1e-5)


def test_products_have_few_numbers_of_rows():
    """oneDNN keeps what it compiles for each of them."""
    rows = torch.randn(2048, 2)
    several = [padded(rows[:count]) for count in range(2049)]
    assert len({len(some) for some in several}) <= 32
    assert sum(map(len, several)) < 1.05 * sum(range(2049))
    for count, some in enumerate(several):
        assert torch.equal(some[:count], rows[:count]) and not some[count:].any()


@has_onednn
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_says_the_same(encoders, family, threshold):
    from spacy_early_exit.criteria import TokenExit
    from spacy_early_exit.model.predict import predict
    from spacy_early_exit.settings import RunSettings

    trained = network_of(encoders[family])
    settings = RunSettings(criterion=TokenExit(window=1), threshold=threshold)
    docs = [spacy.blank("en")(text) for text in TEXTS]
    plain = predict(trained, docs, settings)
    network = packed(trained.network)
    assert all(isinstance(layer.output, PackedLinear) for layer in network.encoder.layers)
    fast = predict(trained._replace(network=network), docs, settings)
    for one, other in zip(plain, fast):
        assert abs(one.logits - other.logits).max() < 1e-5
        assert (one.exit_layer == other.exit_layer).all() and one.spent == other.spent


@pytest.mark.skipif(
    not can_pack(torch.bfloat16, torch.device("cpu")), reason="no bfloat16 on this processor"
)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_packed_and_says_the_same_as_plain_bfloat16(encoders, family):
    from spacy_early_exit.criteria import TokenExit
    from spacy_early_exit.model.predict import predict
    from spacy_early_exit.settings import RunSettings

    trained = network_of(encoders[family])
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    fast = halved(trained.network, "bf16")
    with torch.backends.mkldnn.flags(enabled=False):
        plain = halved(trained.network, "bf16")
    assert all(isinstance(layer.output, PackedLinear) for layer in fast.encoder.layers)
    assert not any(isinstance(layer.output, PackedLinear) for layer in plain.encoder.layers)
    assert fast.head(2).weight is trained.network.head(2).weight
    docs = [spacy.blank("en")(text) for text in TEXTS]
    settings = RunSettings(criterion=TokenExit(window=1), threshold=0.0)
    both = [predict(trained._replace(network=one), docs, settings) for one in (fast, plain)]
    for one, other in zip(*both):
        assert abs(one.logits - other.logits).max() < 0.1
    after = trained.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_only_what_is_fast_is_packed(monkeypatch, asked_anew):
    cpu = torch.device("cpu")
    assert not can_pack(torch.float16, cpu) and not can_pack(torch.float64, cpu)
    assert not can_pack(torch.float32, torch.device("cuda"))
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda: False)
    assert not can_pack(torch.bfloat16, cpu)


@has_onednn
def test_it_shares_what_is_not_packed_and_leaves_the_network_as_it_is(encoders):
    network = network_of(encoders["bert"]).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast = packed(network)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert fast.encoder.embeddings.word.weight is network.encoder.embeddings.word.weight
    assert fast.head(2).weight is network.head(2).weight


@pytest.fixture
def asked_anew():
    cached = (module._is_faster_here, module._has_products)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize(
    ("said", "mkl", "expected"),
    [
        ("vendor_id\t: AuthenticAMD", True, True),
        ("vendor_id\t: GenuineIntel", True, False),
        ("CPU implementer\t: 0x41", True, False),
        ("vendor_id\t: AuthenticAMD", False, False),
    ],
)
@has_onednn
def test_it_is_for_processors_that_mkl_is_slow_on(
    asked_anew, encoders, monkeypatch, said, mkl, expected
):
    network = network_of(encoders["bert"]).network
    monkeypatch.setattr(Path, "read_text", lambda path, **how: said)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert is_worth_packing(network) is expected


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ("AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD", True),
        ("Intel64 Family 6 Model 158 Stepping 10, GenuineIntel", False),
    ],
)
@has_onednn
def test_without_that_file_the_platform_is_asked(
    asked_anew, encoders, monkeypatch, processor, expected
):
    def missing(path, **how):
        raise FileNotFoundError(path)

    network = network_of(encoders["bert"]).network
    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr("platform.processor", lambda: processor)
    assert is_worth_packing(network) is expected


@has_onednn
def test_other_numbers_and_who_declines_get_none(encoders, monkeypatch):
    monkeypatch.setattr(module, "_is_faster_here", lambda: True)
    network = network_of(encoders["bert"]).network
    assert is_worth_packing(network)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not is_worth_packing(network)
    assert not is_worth_packing(network.double())


@has_onednn
def test_a_torch_without_such_products_does_without(asked_anew, encoders, monkeypatch):
    def missing(weight):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")

    network = network_of(encoders["bert"]).network
    monkeypatch.setattr(Path, "read_text", lambda path, **how: "AuthenticAMD")
    monkeypatch.setattr(module, "PackedLinear", missing)
    assert not is_worth_packing(network)


@has_onednn
class TestInAPipeline:
    @pytest.fixture(params=[True, False])
    def packs(self, request, monkeypatch):
        monkeypatch.setattr(copies, "is_worth_packing", lambda network: request.param)
        return request.param

    def test_it_is_made_once_where_it_is_faster(self, nlp, packs):
        network = nlp.get_pipe(NAME).model.shims[0]
        network.weights_changed()
        at = network.prepare_for("fp32")
        assert (at is not network.trained) is packs
        assert network.prepare_for("fp32") is at

    def test_texts_get_the_same_either_way(self, nlp, monkeypatch):
        found = []
        for packs in (True, False):
            monkeypatch.setattr(copies, "is_worth_packing", lambda network, packs=packs: packs)
            nlp.get_pipe(NAME).model.shims[0].weights_changed()
            found.append([answers(doc) for doc in nlp.pipe(TEXTS)])
        assert found[0] == found[1]

    def test_it_follows_the_weights(self, trained_bytes, packs):
        from spacy_early_exit.model.predict import predict
        from spacy_early_exit.settings import RunSettings

        config, data = trained_bytes
        nlp = spacy.util.load_model_from_config(
            spacy.util.Config().from_str(config), auto_fill=True
        ).from_bytes(data)
        ner, doc = nlp.get_pipe(NAME), nlp.make_doc(TEXTS[0])
        network = ner.model.shims[0]
        before = predict(network.prepare_for("fp32"), [doc], RunSettings())[0].logits
        nlp.update(examples_of(nlp), sgd=nlp.resume_training())
        after = predict(network.prepare_for("fp32"), [doc], RunSettings())[0].logits
        plain = predict(network.trained, [doc], RunSettings())[0].logits
        assert abs(after - plain).max() < 1e-5 < 1e-3 < abs(before - after).max()

    def test_the_network_of_full_depth_is_packed_too(self, nlp, monkeypatch):
        monkeypatch.setattr(copies, "is_worth_packing", lambda network: True)
        network = nlp.get_pipe(NAME).model.shims[0]
        network.keep_original(copy.deepcopy(network.trained.network))
        original = network.prepare_for("fp32").full_depth
        assert original is not network.trained.original
        assert isinstance(original.encoder.layers[0].output, PackedLinear)
        network.keep_original(None)

    def test_what_is_made_of_older_weights_is_not_kept(self, nlp, monkeypatch):
        network = nlp.get_pipe(NAME).model.shims[0]
        network.weights_changed()
        monkeypatch.setattr(copies, "is_worth_packing", lambda network: True)

        def meanwhile(*original):
            network.weights_changed()
            return packed(*original)

        monkeypatch.setattr(copies, "packed", meanwhile)
        old = network.prepare_for("fp32")
        monkeypatch.setattr(copies, "packed", packed)
        assert network.prepare_for("fp32") is not old

    def test_it_can_be_pickled_and_copied_after_predicting(self, nlp, packs):
        nlp.get_pipe(NAME).model.shims[0].weights_changed()
        expected = [answers(doc) for doc in nlp.pipe(TEXTS)]
        for other in (pickle.loads(pickle.dumps(nlp)), copy.deepcopy(nlp)):
            assert [answers(doc) for doc in other.pipe(TEXTS)] == expected
