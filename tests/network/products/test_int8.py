"""The network in int8."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import spacy
import torch

from spacy_early_exit.measure.temperature import scale_heads
from spacy_early_exit.model import copies
from spacy_early_exit.network.products import int8 as quantize
from spacy_early_exit.network.products.int8 import ZERO, Int8Linear, quantize_rows, quantized
from tests.makers.networks import network_of
from tests.makers.pipelines import answers
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


def rows_of(count: int, width: int = 96) -> torch.Tensor:
    torch.manual_seed(0)
    rows = torch.randn(count, width)
    return rows * torch.logspace(-3, 3, count)[:, None]


def test_a_row_is_told_to_half_a_step_of_its_own():
    rows = rows_of(9)
    rows[4] = 0.0
    values, scales = quantize_rows(rows)
    back = (values.float() - ZERO) * scales
    assert (back - rows).abs().max(1).values.le(0.501 * scales[:, 0]).all()
    assert (rows.abs().amax(1) <= 127.01 * scales[:, 0]).all() and not back[4].any()


def test_a_product_is_that_of_the_bytes_exactly():
    torch.manual_seed(1)
    most = quantize.largest_weight()
    weight = torch.randn(40, 96)
    linear = Int8Linear(weight, torch.zeros(40))
    rows = rows_of(7)
    values, scales = quantize_rows(rows)
    steps = weight.abs().amax(1) / most
    whole = (weight / steps[:, None]).round()
    expected = (values.double() - ZERO) @ whole.double().T * steps.double() * scales.double()
    assert torch.allclose(linear(rows).double(), expected, rtol=1e-5, atol=1e-6)


def test_extreme_bytes_do_not_overflow():
    weight, rows = torch.ones(16, 512), torch.ones(3, 512)
    found = Int8Linear(weight, torch.zeros(16))(rows)
    assert torch.allclose(found, torch.full((3, 16), 512.0), rtol=1e-4)
    assert torch.allclose(Int8Linear(-weight, torch.ones(16))(rows), 1 - found, rtol=1e-4)


def test_a_row_does_not_depend_on_its_batch():
    linear = Int8Linear(torch.randn(40, 96), torch.randn(40))
    rows = rows_of(50)
    alone = torch.cat([linear(row[None]) for row in rows])
    assert torch.equal(linear(rows), alone)
    order = torch.randperm(50)
    assert torch.equal(linear(rows[order]), alone[order])


@pytest.mark.parametrize(
    "family", ["bert", "electra", "distilbert", "albert", "modernbert", "mpnet", "deberta-v2"]
)
def test_a_network_says_nearly_the_same(encoders, family):
    from spacy_early_exit.model.predict import predict
    from spacy_early_exit.settings import RunSettings

    trained = network_of(encoders[family])
    docs = [spacy.blank("en")(text) for text in TEXTS]
    plain = predict(trained, docs, RunSettings())
    fast = predict(trained._replace(network=quantized(trained.network)), docs, RunSettings())
    exact = torch.cat([torch.from_numpy(doc.logits) for doc in plain])
    found = torch.cat([torch.from_numpy(doc.logits) for doc in fast])
    assert not torch.equal(found, exact)
    coarser = 127 / quantize.largest_weight()  # twice as coarse where weights have a bit less
    assert (found - exact).norm() < 0.05 * coarser * exact.norm()
    assert all((a.exit_layer == b.exit_layer).all() for a, b in zip(plain, fast))
    assert [a.spent for a in plain] == [b.spent for b in fast]


def test_the_network_itself_stays_as_it_is_and_shares_what_stays(encoders):
    network = network_of(encoders["bert"]).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast = quantized(network)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert fast.encoder.embeddings.word.weight is network.encoder.embeddings.word.weight
    assert fast.head(2).weight is network.head(2).weight


class TestInAPipeline:
    @pytest.fixture
    def int8(self, trained_bytes):
        config, data = trained_bytes
        config = spacy.util.Config().from_str(config)
        config["components"][NAME]["quantize"] = "int8"
        return spacy.util.load_model_from_config(config, auto_fill=True).from_bytes(data)

    def test_words_get_nearly_the_same_tags(self, nlp, int8):
        pairs = [
            ((a.ent_iob_, a.ent_type_), (b.ent_iob_, b.ent_type_))
            for one, other in zip(nlp.pipe(TEXTS), int8.pipe(TEXTS))
            for a, b in zip(one, other)
        ]
        assert sum(a == b for a, b in pairs) > 0.9 * len(pairs)

    def test_a_text_gets_the_same_in_any_batch(self, int8):
        cfg = {NAME: {"threshold": 0}}  # no uncertainty may lie next to a threshold
        alone = [answers(int8(text, component_cfg=cfg)) for text in TEXTS]
        mixed = int8.pipe(TEXTS[::-1] * 3, batch_size=7, component_cfg=cfg)
        assert [answers(doc) for doc in mixed] == alone[::-1] * 3

    def test_fp32_is_what_is_saved(self, nlp, int8, tmp_path):
        list(int8.pipe(TEXTS))
        int8.to_disk(tmp_path)
        assert spacy.load(tmp_path).get_pipe(NAME).quantize == "int8"
        back = spacy.load(tmp_path, config={"components": {NAME: {"quantize": None}}})
        assert [answers(doc) for doc in back.pipe(TEXTS)] == [
            answers(doc) for doc in nlp.pipe(TEXTS)
        ]

    def test_it_learns_on_and_predicts_with_what_it_learnt(self, int8):
        before = int8.get_pipe(NAME).predict([int8.make_doc(TEXTS[0])])[0].exits.logits
        int8.update(examples_of(int8), sgd=int8.resume_training())
        after = int8.get_pipe(NAME).predict([int8.make_doc(TEXTS[0])])[0].exits.logits
        assert abs(before - after).max() > 1e-3

    def test_it_is_calibrated_for_itself(self, nlp, int8):
        theirs, mine = (n.get_pipe(NAME).fingerprint() for n in (nlp, int8))
        assert theirs.pop("precision") == "fp32" and mine.pop("precision") == "int8"
        assert theirs == mine

    def test_a_machine_that_cannot_is_told_before_any_text(self, int8, monkeypatch):
        def refuse():
            raise ValueError("no such products")

        monkeypatch.setattr(quantize, "largest_weight", refuse)
        met = []
        int8.set_error_handler(lambda *told: met.append(told))
        with pytest.raises(ValueError, match="no such products"):
            list(int8.pipe(TEXTS))
        with pytest.raises(ValueError, match="no such products"):
            int8.get_pipe(NAME)(int8.make_doc(TEXTS[0]))
        assert not met, "it is no fault of a text"
        int8.update(examples_of(int8), sgd=int8.resume_training())  # in fp32

    def test_it_can_be_pickled_and_copied_after_predicting(self, int8):
        expected = [answers(doc) for doc in int8.pipe(TEXTS)]
        for other in (pickle.loads(pickle.dumps(int8)), copy.deepcopy(int8)):
            assert [answers(doc) for doc in other.pipe(TEXTS)] == expected
        spawned = int8.pipe(TEXTS, n_process=2, batch_size=5)
        assert [answers(doc) for doc in spawned] == expected

    def test_threads_share_one_copy(self, int8, monkeypatch):
        made = []
        original = copies.quantized
        monkeypatch.setattr(copies, "quantized", lambda *n: made.append(1) or original(*n))
        with ThreadPoolExecutor(4) as pool:
            docs = list(pool.map(int8, TEXTS * 2))
        assert [answers(doc) for doc in docs] == [answers(int8(text)) for text in TEXTS] * 2
        assert len(made) == 1

    @pytest.mark.parametrize("change", ["update", "add_label", "scale_heads", "from_bytes"])
    def test_other_weights_need_another_copy(self, int8, change):
        ner = int8.get_pipe(NAME)
        network = ner.model.shims[0]
        before = network.prepare_for("int8")
        assert network.prepare_for("int8") is before
        {
            "update": lambda: int8.update(examples_of(int8), sgd=int8.resume_training()),
            "add_label": lambda: ner.add_label("NEW"),
            "scale_heads": lambda: scale_heads(ner, [2.0] * 4),
            "from_bytes": lambda: int8.from_bytes(int8.to_bytes()),
        }[change]()
        assert network.prepare_for("int8") is not before
        with network.use_params({}):
            assert network.prepare_for("int8") is not before

    @pytest.mark.parametrize("wrong", ["int4", True, 8])
    def test_another_precision_is_refused(self, wrong):
        with pytest.raises(ValueError, match="quantize|int8"):
            spacy.blank("en").add_pipe(NAME, config={"quantize": wrong})


@pytest.fixture
def asked_anew():
    quantize.largest_weight.cache_clear()
    yield
    quantize.largest_weight.cache_clear()


def test_a_torch_without_such_products_is_named(asked_anew, monkeypatch):
    def missing(*arguments):
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute")

    monkeypatch.setattr(quantize, "_product", missing)
    with pytest.raises(ValueError, match="that torch .*quantize = null"):
        quantize.largest_weight()
    monkeypatch.undo()
    assert quantize.largest_weight() in (127, 63)


def test_a_machine_that_overflows_gets_smaller_weights(asked_anew, monkeypatch):
    def saturating(values, packed, scales, zeros):
        # Pairs of products are added in 16 bits.
        product = exact(values, packed, scales, zeros)
        return torch.where(product.abs() > 127 * 63 * 64, product / 2, product)

    exact = quantize._product
    monkeypatch.setattr(quantize, "_product", saturating)
    assert quantize.largest_weight() == 63
    monkeypatch.setattr(quantize, "_product", lambda *arguments: exact(*arguments) + 1)
    quantize.largest_weight.cache_clear()
    with pytest.raises(ValueError, match="int8 products are wrong on this machine"):
        quantize.largest_weight()


def test_another_device_is_refused(encoders):
    network = network_of(encoders["bert"]).network.to("meta")
    with pytest.raises(ValueError, match="for CPUs.*meta"):
        quantized(network)
