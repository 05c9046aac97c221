"""Slim encoders: cutting units out is the same as masking them, and nothing else changes."""

import json
from dataclasses import replace

import pytest
import torch

from spacy_early_exit.criteria import TokenExit
from spacy_early_exit.encoders.base import PretrainedEncoder
from spacy_early_exit.encoders.hugging_face import HFEncoder, write_encoder
from spacy_early_exit.files.network import Trained
from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.network.families import EncoderSpec, check_sizes, read_spec, write_config
from spacy_early_exit.network.gates import GatedLinear, Units, add_gates, gates_of
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.products.int8 import quantized
from spacy_early_exit.network.products.packed import packed
from spacy_early_exit.network.reference import run_reference
from spacy_early_exit.network.slimming import (
    draw_ticket,
    gate_scores,
    highest,
    magnitude_scores,
    plain_weights,
    random_scores,
    slim_spec,
    slim_weights,
    slimmed,
)
from spacy_early_exit.text.windows import windows_of
from tests.makers.encoders import FAMILIES, VARIANTS
from tests.makers.marks import rest_slow
from tests.makers.networks import network_of
from tests.makers.texts import TEXTS
from tests.network.test_cost import assert_counted

CPU = torch.device("cpu")
ALL = rest_slow(
    [(family,) for family in FAMILIES + VARIANTS],
    lambda family: family in ("bert", "mpnet", "modernbert", "deberta-v2", "albert-in-groups"),
)


def batch_for(nlp, trained, **how):
    docs = [nlp.make_doc(text) for text in TEXTS]
    length = trained.network.spec.max_wordpieces
    return Batch.of(windows_of(docs, trained.tokenizer, length, 8), CPU, **how)


def some_ticket(network, seed=0):
    """Half the heads and neurons, each layer with a number of its own."""
    scores = random_scores(network, seed)
    return draw_ticket(scores, 0.5, 0.5, "global", "global")


def mask(network, ticket):
    """Set the gates of what goes to 0."""
    add_gates(network)
    with torch.no_grad():
        for gates, stays in zip(gates_of(network), ticket):
            for gate, of_layer in zip(gates, stays):
                gate.mul_(of_layer)


def states_of(network, batch):
    with torch.inference_mode():
        return run_with_exits(network, batch, None, keep_states=True).states


@pytest.mark.parametrize("family", ALL)
def test_gates_of_one_and_tickets_that_keep_all_change_nothing(family, encoders, en):
    trained = network_of(encoders[family])
    batch = batch_for(en, trained)
    before = run_all_heads(trained.network, batch)
    everything = draw_ticket(magnitude_scores(trained.network), 1.0, 1.0, "layerwise", "global")
    same = slimmed(trained.network, everything)
    assert same.spec == trained.network.spec and not same.spec.is_slim
    assert torch.equal(run_all_heads(same, batch), before)
    add_gates(trained.network)
    assert torch.equal(run_all_heads(trained.network, batch), before)


@pytest.mark.parametrize("family", ALL)
def test_cutting_units_out_is_the_same_as_masking_them(family, encoders, en):
    trained = network_of(encoders[family])
    ticket = some_ticket(trained.network)
    slim = slimmed(trained.network, ticket)
    assert slim.spec.is_slim
    batch = batch_for(en, trained)
    whole = states_of(trained.network, batch)
    mask(trained.network, ticket)
    masked = states_of(trained.network, batch)
    scale = max(1.0, masked.abs().max().item())
    assert (states_of(slim, batch) - masked).abs().max() <= 1e-5 * scale
    assert (whole - masked).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet", "albert-in-groups"])
def test_gates_are_folded_into_what_stays(family, encoders, en):
    trained = network_of(encoders[family])
    add_gates(trained.network)
    with torch.no_grad():
        for gate in (gate for gates in gates_of(trained.network) for gate in gates):
            gate.uniform_(-1.5, 1.5)
    batch = batch_for(en, trained)
    gated = states_of(trained.network, batch)
    everything = draw_ticket(gate_scores(trained.network), 1.0, 1.0, "layerwise", "layerwise")
    scale = max(1.0, gated.abs().max().item())
    folded = states_of(slimmed(trained.network, everything), batch)
    assert (folded - gated).abs().max() <= 1e-5 * scale


def test_a_gate_of_zero_removes_just_that_unit(encoders, en):
    trained = network_of(encoders["bert"])
    network, layer = trained.network, trained.network.encoder.layer(2)
    mixed, wide = torch.randn(2, 5, 32)[0], torch.randn(5, 48)
    plain_mixed, plain_wide = layer.attention_output(mixed), layer.output(wide)
    add_gates(network)
    heads, neurons = gates_of(network)
    with torch.no_grad():
        heads[1][3], neurons[1][7] = 0.0, 0.0
    head = mixed[:, 24:32] @ layer.attention_output.weight[:, 24:32].T
    neuron = wide[:, 7:8] @ layer.output.weight[:, 7:8].T
    torch.testing.assert_close(layer.attention_output(mixed), plain_mixed - head)
    torch.testing.assert_close(layer.output(wide), plain_wide - neuron)


@pytest.mark.parametrize("family", ALL)
def test_gates_of_zero_are_weights_of_zero(family, encoders, en):
    gated, zeroed = (network_of(encoders[family]).network for _ in range(2))
    batch = batch_for(en, network_of(encoders[family]))
    layer = zeroed.encoder.layer(1)
    with torch.no_grad():
        layer.attention_output.weight[:, 16:24] = 0.0
        layer.output.weight[:, 7] = 0.0
    add_gates(gated)
    heads, neurons = gates_of(gated)
    with torch.no_grad():
        heads[0][2], neurons[0][7] = 0.0, 0.0
    assert torch.equal(states_of(gated, batch), states_of(zeroed, batch))


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("kv", ["copy", "drop"])
def test_the_fast_loop_of_a_slim_encoder_is_the_plain_one(family, kv, encoders, en):
    trained = network_of(encoders[family])
    slim = slimmed(trained.network, some_ticket(trained.network))
    batch = batch_for(en, trained, kv=kv, halt_special=True)
    criterion = TokenExit(1)
    with torch.inference_mode():
        fast = run_with_exits(slim, batch, criterion, 0.3, keep_states=True)
        plain = run_reference(slim, batch, criterion, 0.3)
    scale = max(1.0, plain.states.abs().max().item())
    assert fast.exit_layer.tolist() == plain.exit_layer.tolist()
    assert (fast.states - plain.states).abs().max() <= 1e-5 * scale
    assert (fast.logits - plain.logits).abs().max() <= 1e-4 * scale
    assert len(set(fast.exit_layer.tolist())) > 1


@pytest.mark.parametrize(
    "family", ["bert", "albert-in-groups", "modernbert", "mpnet", "deberta-v2"]
)
def test_the_cost_of_a_slim_encoder_equals_torchs_own_count(family, encoders, en):
    trained = network_of(encoders[family], spread=0.3)
    slim = Trained(slimmed(trained.network, some_ticket(trained.network)), trained.tokenizer)
    for threshold in (0.0, 0.2):
        assert_counted(slim, en, TEXTS[:4], TokenExit(1), threshold)


@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet", "deberta-v2"])
@pytest.mark.parametrize("product, most", [(packed, 1e-5), (quantized, 0.3)])
def test_faster_products_of_slim_encoders_give_the_same_states(family, product, most, encoders, en):
    if product is packed and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    trained = network_of(encoders[family])
    slim = slimmed(trained.network, some_ticket(trained.network))
    batch = batch_for(en, trained)
    plain = states_of(slim, batch)
    apart = (states_of(product(slim), batch) - plain).norm() / plain.norm()
    assert apart <= most


@pytest.mark.parametrize("product, most", [(packed, 1e-5), (quantized, 0.3)])
def test_faster_products_of_gated_networks_have_the_gates(product, most, encoders, en):
    trained = network_of(encoders["bert"])
    mask(trained.network, some_ticket(trained.network))
    batch = batch_for(en, trained)
    plain = states_of(trained.network, batch)
    apart = (states_of(product(trained.network), batch) - plain).norm() / plain.norm()
    assert apart <= most


@pytest.mark.parametrize("family", ALL)
def test_a_slim_encoder_is_written_and_read_in_hugging_faces_format(family, encoders, tmp_path):
    trained = network_of(encoders[family])
    loaded = HFEncoder(encoders[family]).load()
    ticket = some_ticket(trained.network)
    spec = slim_spec(loaded.spec, ticket)
    weights = slim_weights(loaded.spec, loaded.weights, ticket)
    write_encoder(PretrainedEncoder(spec, weights, loaded.tokenizer), tmp_path / "slim")
    again = HFEncoder(str(tmp_path / "slim")).load()
    assert again.spec == spec and again.tokenizer == loaded.tokenizer
    assert again.weights.keys() == weights.keys()
    assert all(torch.equal(again.weights[name], weights[name]) for name in weights)


@pytest.mark.parametrize("family", ALL)
def test_the_config_of_an_encoder_can_be_written(family, encoders):
    spec = HFEncoder(encoders[family]).load().spec
    assert read_spec(json.loads(json.dumps(write_config(spec)))) == spec


def test_rewound_weights_are_slices_of_the_pre_trained_ones_bit_for_bit(encoders):
    loaded = HFEncoder(encoders["bert"]).load()
    stays = torch.tensor([False, True, False, True])
    neurons = torch.arange(48) % 3 == 0
    ticket = Units([stays] * 4, [neurons] * 4)
    slim = slim_weights(loaded.spec, loaded.weights, ticket)
    of_heads = torch.cat([torch.arange(8, 16), torch.arange(24, 32)])
    of_all = torch.cat([of_heads, 32 + of_heads, 64 + of_heads])
    for i in range(4):
        for name, rows in (("qkv.weight", of_all), ("qkv.bias", of_all)):
            assert torch.equal(
                slim[f"layers.{i}.{name}"], loaded.weights[f"layers.{i}.{name}"][rows]
            )
        out = loaded.weights[f"layers.{i}.attention_output.weight"]
        assert torch.equal(slim[f"layers.{i}.attention_output.weight"], out[:, of_heads])
        wide = loaded.weights[f"layers.{i}.intermediate.weight"]
        assert torch.equal(slim[f"layers.{i}.intermediate.weight"], wide[::3])
        assert torch.equal(
            slim[f"layers.{i}.output.weight"], loaded.weights[f"layers.{i}.output.weight"][:, ::3]
        )
    cut = ("qkv", "attention_output.weight", "intermediate", "output.weight")
    others = [name for name in slim if not any(part in name for part in cut)]
    assert "embeddings.word.weight" in others
    assert all(torch.equal(slim[name], loaded.weights[name]) for name in others)


@pytest.mark.parametrize("family", ALL)
def test_rewound_weights_of_every_family_are_slices_in_order(family, encoders):
    network, loaded = network_of(encoders[family]).network, HFEncoder(encoders[family]).load()
    slim = slim_weights(loaded.spec, loaded.weights, some_ticket(network))
    cut = 0
    for name, small in slim.items():
        whole = loaded.weights[name]
        (at,) = [at for at, n in enumerate(whole.shape) if n != small.shape[at]] or [None]
        if at is None:
            assert torch.equal(small, whole)
            continue
        cut += 1
        rest = iter(whole.unbind(at))
        for one in small.unbind(at):
            assert any(torch.equal(one, other) for other in rest), name
    assert cut


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_heads_that_hugging_face_pruned_are_read(family, encoders, tmp_path, en):
    """Its own forward after its own pruning is the oracle."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(encoders[family], attn_implementation="eager").eval()
    model.prune_heads({0: [1], 2: [0, 3]})
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoders[family]).save_pretrained(tmp_path)
    trained = network_of(str(tmp_path))
    assert trained.network.spec.kept_heads == ((0, 2, 3), (0, 1, 2, 3), (1, 2), (0, 1, 2, 3))
    docs = [en.make_doc(TEXTS[0])]
    (window,) = windows_of(docs, trained.tokenizer, trained.network.spec.max_wordpieces, 8)
    with torch.inference_mode():
        theirs = model(torch.from_numpy(window.ids)[None]).last_hidden_state[0]
    ours = states_of(trained.network, Batch.of([window], CPU))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_share_of_each_layer_or_of_all_together_stays():
    scores = [torch.tensor([0.1, 0.9, 0.8, 0.7]), torch.tensor([0.2, 0.3, 0.4, 0.05])]
    of_each = highest(scores, 0.5, "layerwise")
    assert [stays.tolist() for stays in of_each] == [
        [False, True, True, False],
        [False, True, True, False],
    ]
    together = highest(scores, 0.5, "global")
    assert [stays.tolist() for stays in together] == [
        [False, True, True, True],
        [False, False, True, False],
    ]


@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.67, 1.0])
def test_ties_and_small_shares_empty_no_layer(scope, share):
    scores = [torch.ones(12) for _ in range(6)]
    stays = highest(scores, share, scope)
    assert all(of_layer.any() for of_layer in stays)
    kept = sum(int(of_layer.sum()) for of_layer in stays)
    assert kept == (
        6 * max(1, round(12 * share)) if scope == "layerwise" else max(6, round(72 * share))
    )
    low = highest([torch.zeros(12), torch.ones(12)], 0.5, "global")
    assert [int(of_layer.sum()) for of_layer in low] == [1, 11]


def test_a_slim_encoder_can_be_made_slimmer(encoders, en):
    trained = network_of(encoders["mpnet"])
    first = some_ticket(trained.network)
    once = slimmed(trained.network, first)
    second = draw_ticket(random_scores(once, 1), 0.5, 0.5, "layerwise", "layerwise")
    twice = slimmed(once, second)
    check_sizes(twice.spec)
    together = Units(
        *([a.masked_scatter(a, b) for a, b in zip(*kinds)] for kinds in zip(first, second))
    )
    assert twice.spec == slim_spec(trained.network.spec, together)
    batch = batch_for(en, trained)
    assert torch.equal(
        states_of(twice, batch), states_of(slimmed(trained.network, together), batch)
    )


@pytest.mark.parametrize(
    "sizes, what",
    [
        ({"kept_heads": ((0,),)}, "kept_heads must be a list with an entry for each of the 4"),
        ({"kept_heads": ((0,), (), (1,), (1,))}, "kept_heads of layer 2 must be at least one"),
        ({"kept_heads": ((0,), (4,), (1,), (1,))}, "from 0 to 3"),
        ({"kept_heads": ((0,), (2, 1), (1,), (1,))}, "ascending"),
        ({"kept_heads": ((0,), (1, 1), (1,), (1,))}, "ascending"),
        ({"kept_heads": ((0,), (True,), (1,), (1,))}, "kept_heads of layer 2"),
        ({"kept_heads": 7}, "kept_heads must be a list"),
        ({"intermediate_sizes": (1, 2, 3)}, "intermediate_sizes must be a list"),
        ({"intermediate_sizes": (1, 2, 0, 3)}, "layer 3 must be a whole number from 1 to 48"),
        ({"intermediate_sizes": (1, 2, 49, 3)}, "layer 3 must be a whole number from 1 to 48"),
        ({"intermediate_sizes": (1, 2, "a", 3)}, "layer 3 must be a whole number"),
    ],
    ids=str,
)
def test_sizes_that_no_slim_encoder_has_are_refused(sizes, what, encoders):
    spec = HFEncoder(encoders["bert"]).load().spec
    with pytest.raises(ValueError, match=what):
        check_sizes(replace(spec, **sizes))


def test_weights_of_other_sizes_are_refused_by_name(encoders, tmp_path):
    trained = network_of(encoders["bert"])
    loaded = HFEncoder(encoders["bert"]).load()
    ticket = some_ticket(trained.network)
    spec = slim_spec(loaded.spec, ticket)
    weights = slim_weights(loaded.spec, loaded.weights, ticket)
    write_encoder(PretrainedEncoder(spec, weights, loaded.tokenizer), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf8"))
    config["intermediate_sizes"][1] += 1
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf8")
    with pytest.raises(ValueError, match=r"'layers\.1\.intermediate\.weight' has shape"):
        HFEncoder(str(tmp_path)).load()


def test_sizes_of_other_encoders_are_written_as_ever(encoders):
    spec = HFEncoder(encoders["bert"]).load().spec
    assert "kept_heads" not in spec.to_dict() and "intermediate_sizes" not in spec.to_dict()
    slim = replace(spec, intermediate_sizes=(3, 4, 5, 6))
    assert EncoderSpec.from_dict(json.loads(json.dumps(slim.to_dict()))) == slim
    assert slim.unslimmed == spec


def test_plain_weights_are_those_of_a_network_without_gates(encoders):
    network = network_of(encoders["bert"]).network
    names = network.encoder.state_dict().keys()
    add_gates(network)
    weights = plain_weights(network)
    assert weights.keys() == names
    fresh = ExitNetwork(network.spec, network.tags)
    fresh.encoder.load_state_dict(weights)
    assert not any(isinstance(module, GatedLinear) for module in fresh.modules())


@pytest.mark.parametrize(
    "options",
    [
        {"pruned_heads": {"4": [0]}},
        {"pruned_heads": {"0": [4]}},
        {"pruned_heads": {"0": 1}},
        {"pruned_heads": {"x": [1]}},
        {"pruned_heads": [1]},
        {"pruned_heads": {"0": [0, 1, 2, 3]}},
        {"intermediate_sizes": 7},
        {"intermediate_sizes": [48]},
        {"intermediate_sizes": [48, 48, 48, 49]},
    ],
    ids=str,
)
def test_configs_of_no_slim_encoder_are_refused(options, encoders):
    config = write_config(HFEncoder(encoders["bert"]).load().spec)
    with pytest.raises(ValueError, match="pruned_heads|intermediate_sizes|kept_heads"):
        read_spec({**config, **options})
