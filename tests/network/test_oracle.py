"""The standing oracle: full depth is Hugging Face's forward, the fast loop is the plain one."""

import random
from itertools import product

import pytest
import torch

from spacy_early_exit.criteria import SentenceExit, TokenExit, make_patience_exit
from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch, Running
from spacy_early_exit.network.layers import layer
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.products.packed import packed
from spacy_early_exit.network.reference import run_reference
from spacy_early_exit.text.windows import batches, windows_of
from tests.makers.encoders import FAMILIES, VARIANTS
from tests.makers.marks import rest_slow
from tests.makers.networks import network_of
from tests.makers.texts import TEXTS, texts_of_all_lengths

CPU = torch.device("cpu")
CRITERIA = {
    "sentence": SentenceExit(),
    "token": TokenExit(window=0),
    "token, window of 2": TokenExit(window=2),
    "patience": make_patience_exit(patience=1, window=1),
}
PREPARE = {"as it is": lambda network: network}
if torch.backends.mkldnn.is_available():
    PREPARE["packed"] = packed
TIE = 1e-5  # floating point differs with the shape of a batch: see the design's exceptions


class Networks(dict):
    """Networks by family, each made when it is first asked for: some runs want a single one."""

    def __init__(self, encoders):
        super().__init__()
        self.encoders = encoders

    def __missing__(self, family):
        self[family] = network_of(self.encoders[family])
        return self[family]


@pytest.fixture(scope="module")
def networks(encoders):
    return Networks(encoders)


def windows_for(nlp, trained, texts, shared="split"):
    docs = [nlp.make_doc(text) for text in texts]
    length = trained.network.spec.max_wordpieces
    return windows_of(docs, trained.tokenizer, length, 8, shared=shared)


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
def test_full_depth_gives_hugging_faces_own_states(family, networks, encoders, en):
    spelled_out = ["Ann <pad> met <pad><pad> Bob", "[PAD] ok [SEP] [CLS]", "<s> </s> <mask>"]
    assert_states_equal_hf(networks[family], encoders[family], en, TEXTS + spelled_out)


# Quickly some words, and a window of half the encoder's length.
FEW = [*TEXTS, " ".join(TEXTS * 3)]


REAL = ["minilm", pytest.param("mpnet", marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    "texts", [FEW, pytest.param(None, marks=pytest.mark.slow)], ids=["few", "long"]
)
@pytest.mark.parametrize("prepare", PREPARE)
@pytest.mark.parametrize("real", REAL)
def test_full_depth_gives_hugging_faces_own_states_on_the_real_encoder(
    real, prepare, texts, request, en
):
    folder = request.getfixturevalue(real)
    trained = network_of(folder)
    trained = trained._replace(network=PREPARE[prepare](trained.network))
    assert_states_equal_hf(trained, folder, en, texts or texts_of_all_lengths() + TEXTS)


def assert_states_equal_hf(trained, folder, nlp, texts):
    """Compare the states behind every layer, and the last as it is handed out."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    encoder = trained.network.encoder
    largest = 0.0
    with torch.inference_mode():
        for batch in batches(windows_for(nlp, trained, texts), 600):
            ragged, lengths = Batch.of(batch, CPU), [len(window.ids) for window in batch]
            theirs = [
                model(torch.from_numpy(window.ids)[None], output_hidden_states=True)
                for window in batch
            ]
            running, kept = Running.all_of(ragged), encoder.embeddings(ragged.ids, ragged.offsets)
            for number in range(1, encoder.spec.layers + 1):
                kept = encoder.run_layer(number, kept, running)
                # Some of Hugging Face's normalise the last one.
                states = kept if number < encoder.spec.layers else encoder.states(kept)
                for ours, their in zip(states.split(lengths), theirs):
                    is_last = number == encoder.spec.layers
                    other = their.last_hidden_state if is_last else their.hidden_states[number]
                    # Sums that no layer normalises grow beyond 1.
                    scale = max(1.0, other.abs().max().item())
                    largest = max(largest, (ours - other[0]).abs().max().item() / scale)
            run = run_with_exits(trained.network, ragged, None, keep_states=True)
            torch.testing.assert_close(run.states, states, rtol=0, atol=1e-6)
    print(f"largest difference {largest:.1e}")
    assert largest <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_wordpieces_are_hugging_faces_own_where_words_share_them(family, networks, encoders, en):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoders[family])
    for window, text in zip(windows_for(en, networks[family], TEXTS, "keep"), TEXTS):
        assert window.ids.tolist() == tokenizer(text, truncation=False)["input_ids"]


# A criterion sees logits, a family makes states: quickly each with one of the other.
@pytest.mark.parametrize(
    "family, threshold, criterion",
    rest_slow(
        product(FAMILIES, [0.0, 0.05, 0.2, 1.0], CRITERIA),
        lambda family, threshold, criterion: (
            family == "bert" or (threshold, criterion) == (0.2, "token, window of 2")
        ),
    ),
)
@pytest.mark.takes(seconds=20)
def test_fast_loop_equals_reference(family, threshold, criterion, networks, en):
    windows = windows_for(en, networks[family], texts_of_all_lengths(count=24))
    exits = compare(networks[family].network, windows, CRITERIA[criterion], threshold)
    if threshold == 0.2 and criterion.startswith("token"):
        assert len(exits) > 1, "the test must see words leave at several layers"


HOW = {"drop": {"kv": "drop"}, "halt special": {"halt_special": True}}
HOW["both"] = {**HOW["drop"], **HOW["halt special"]}


@pytest.mark.parametrize(
    "family, how, criterion",
    rest_slow(
        product(FAMILIES, HOW, ["sentence", "token", "token, window of 2", "patience"]),
        lambda family, how, criterion: family == "bert" or (how, criterion) == ("both", "token"),
    ),
)
def test_fast_loop_equals_reference_whatever_becomes_of_what_left(
    family, how, criterion, networks, en
):
    network, how = networks[family].network, HOW[how]
    windows = windows_for(en, networks[family], texts_of_all_lengths(count=24))
    exits = compare(network, windows, CRITERIA[criterion], 0.2, **how)
    found, plain = (
        exits_of(network, windows, CRITERIA[criterion], 0.2, **some) for some in (how, {})
    )
    if criterion == "token":
        assert len(exits) > 1, "the test must see words leave at several layers"
        assert (found - plain).abs().max() > 1e-4
    if criterion == "sentence":  # nobody attends to a window that left
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "family, threshold",
    rest_slow(product(VARIANTS, [0.05, 0.2]), lambda family, threshold: threshold == 0.2),
)
@pytest.mark.takes(seconds=20)
def test_fast_loop_equals_reference_whatever_the_options(family, threshold, networks, en):
    windows = windows_for(en, networks[family], texts_of_all_lengths(count=24))
    compare(networks[family].network, windows, CRITERIA["token"], threshold)


@pytest.mark.parametrize("how", ["copy", "both"])
@pytest.mark.parametrize("head_window", [0, 2, 5])
def test_fast_loop_equals_reference_however_far_heads_see(head_window, how, encoders, en):
    trained = network_of(encoders["bert"], head_window=head_window)
    windows = windows_for(en, trained, texts_of_all_lengths(count=24))
    exits = compare(trained.network, windows, CRITERIA["token"], 0.2, **HOW.get(how, {}))
    assert len(exits) > 1, "the test must see words leave at several layers"


@pytest.mark.parametrize("criterion", ["sentence", "token", "token, window of 2", "patience"])
@pytest.mark.parametrize("exit_layers", [[2], [1, 3], [4]], ids=str)
def test_fast_loop_equals_reference_wherever_heads_are(exit_layers, criterion, encoders, en):
    trained = network_of(encoders["bert"], exit_layers=exit_layers)
    windows = windows_for(en, trained, texts_of_all_lengths(count=24))
    exits = compare(trained.network, windows, CRITERIA[criterion], 0.2)
    assert exits <= {*exit_layers, 4}
    if criterion == "token":
        assert exits == {*exit_layers, 4}


def exits_of(network, windows, criterion, threshold, **how):
    with torch.inference_mode():
        return run_with_exits(network, Batch.of(windows, CPU, **how), criterion, threshold).logits


@pytest.mark.takes(seconds=15)
@pytest.mark.parametrize(
    "criterion, threshold, long",
    rest_slow(
        [
            ("token, window of 2", 0.2, False),
            (None, 0.0, True),
            *product(["sentence", "token, window of 2"], [0.05, 0.2, 1.0], [True]),
        ],
        lambda criterion, threshold, long: not long,
    ),
)
@pytest.mark.parametrize("real", REAL)
def test_fast_loop_equals_reference_on_the_real_encoder(
    real, criterion, threshold, long, request, en
):
    trained = network_of(request.getfixturevalue(real), spread=0.3)
    texts = FEW
    if long:  # more than 512 wordpieces
        texts = [" ".join(TEXTS * 9), *texts_of_all_lengths(count=12)]
    windows = windows_for(en, trained, texts)
    prepared = [prepare(trained.network) for prepare in PREPARE.values()]
    compare(trained.network, windows, CRITERIA.get(criterion), threshold, prepared)


def compare(network, windows, criterion, threshold, prepared=None, **how) -> set:
    """Compare the fast loop with the reference in several cuts of shuffled windows.

    prepared (Optional[List[ExitNetwork]]): What the fast loop runs, if it is other networks.
    RETURNS (set): The layers at which words left.
    """
    shuffled = random.Random(3).sample(windows, len(windows))
    cuts = [
        Batch.of(shuffled[start : start + size], CPU, **how)
        for size in (1, 2, 7, 64)
        for start in range(0, len(shuffled), size)
    ]
    with torch.inference_mode():
        right = [(batch, run_reference(network, batch, criterion, threshold)) for batch in cuts]
        layers = [
            compare_one(fast, network, right, criterion, threshold)
            for fast in prepared or [network]
        ]
    return set.union(*layers)


def compare_one(fast_network, network, right, criterion, threshold) -> set:
    """RETURNS (set): The layers at which words left, where they do as the reference says."""
    layers, ties, words, tied_labels = set(), 0, 0, 0
    for batch, plain in right:
        fast = run_with_exits(fast_network, batch, criterion, threshold, keep_states=True)
        if not torch.equal(fast.exit_layer, plain.exit_layer):
            ties += 1
            assert is_tie(network, batch, criterion, threshold), "not a tie"
            continue
        torch.testing.assert_close(fast.states, plain.states, rtol=0, atol=2e-5)
        torch.testing.assert_close(fast.logits, plain.logits, rtol=1e-4, atol=1e-4)
        first, second = plain.logits.topk(2).values.unbind(1)
        other = fast.logits.argmax(1) != plain.logits.argmax(1)
        assert (first - second)[other].le(1e-4).all(), "another label, and no tie"
        tied_labels += int(other.sum())
        layers |= set(fast.exit_layer.tolist())
        words += batch.words
    print(
        f"{words} words compared, {tied_labels} with tied labels, {ties} batches left out for a tie"
    )
    assert ties <= 2 and tied_labels <= 4  # a word is compared four times
    return layers


def is_tie(network, batch, criterion, threshold) -> bool:
    """Whether a hair's breadth of threshold moves the reference's exits, too."""
    exits = [
        run_reference(network, batch, criterion, threshold + hair).exit_layer
        for hair in (-TIE, TIE)
    ]
    return not torch.equal(*exits)


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
def test_gradients_of_the_ragged_batch_equal_those_of_the_padded_one(family, networks, en):
    network = networks[family].network
    batch = Batch.of(windows_for(en, networks[family], TEXTS), CPU)
    found = []
    for run in (run_all_heads_last, run_reference_last):
        network.zero_grad()
        (run(network, batch) ** 2).mean().backward()
        found.append(
            {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        )
    network.zero_grad()
    assert found[0].keys() >= found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def run_all_heads_last(network, batch):
    return run_all_heads(network, batch)[-1]


def run_reference_last(network, batch):
    return run_reference(network, batch, None).logits


def test_dropout_reaches_every_part_and_is_off_without_it(networks, en, monkeypatch):
    network = networks["bert"].network
    batch = Batch.of(windows_for(en, networks["bert"], TEXTS), CPU)
    network.train()  # must make no difference: the rate is an argument
    assert torch.equal(run_all_heads(network, batch), run_all_heads(network, batch))
    torch.manual_seed(0)
    dropped = run_all_heads(network, batch, dropout=0.2)
    assert not torch.allclose(dropped, run_all_heads(network, batch), atol=1e-2)
    hits = []
    kept, sdpa = layer._kept, torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(layer, "_kept", lambda x, p: hits.append(p) or kept(x, p))
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *a, **k: hits.append(k["dropout_p"]) or sdpa(*a, **k),
    )
    run_all_heads(network, batch, dropout=0.2)
    # embeddings; in each layer attention weights (in some groups), attention, feed-forward, head
    assert set(hits) == {0.2} and len(hits) >= 1 + 4 * network.spec.layers


@pytest.mark.parametrize("rate", [1.0, 1 - 2**-18])
def test_all_may_be_dropped(rate):
    assert not layer.drop_out(torch.ones(1000, 1000, dtype=torch.float16), rate).isnan().any()
    assert layer.drop_out(torch.ones(100, 10), 1.0).count_nonzero() == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        layer.drop_out(torch.ones(3), 1.5)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean_and_no_value_depends_on_another(rate, dtype):
    torch.manual_seed(0)
    states = torch.ones(999, 1001, dtype=dtype, requires_grad=True)
    dropped = layer.drop_out(states, rate)
    zero = dropped == 0
    assert dropped.dtype == dtype and set(zero.unique().tolist()) == {False, True}
    error = (rate * (1 - rate) / states.numel()) ** 0.5
    assert abs(zero.double().mean() - rate) < 4 * error + 2**-17
    kept = torch.tensor(1 / (1 - rate), dtype=dtype)
    torch.testing.assert_close(dropped[~zero], kept.expand(int((~zero).sum())), rtol=0.02, atol=0)
    # Four values are drawn at once: neighbours, and those four apart, agree as often as others.
    alike = rate**2 + (1 - rate) ** 2
    flat = zero.flatten()
    for apart in (1, 2, 3, 4, 1001):
        assert abs((flat[apart:] == flat[:-apart]).double().mean() - alike) < 0.003
    dropped.sum().backward()
    torch.testing.assert_close(states.grad, dropped.detach())
    torch.manual_seed(0)
    assert torch.equal(layer.drop_out(states, rate), dropped)
    assert not torch.equal(layer.drop_out(states, rate), dropped)
