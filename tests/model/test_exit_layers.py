"""``exit_layers``: heads on some layers only."""

import copy

import pytest
import spacy
import torch

from spacy_early_exit.criteria import SentenceExit, TokenExit
from spacy_early_exit.files.integrity import seal, unseal
from spacy_early_exit.network.all_heads import run_all_heads, run_all_layers
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.cost import head_macs
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.reference import run_shared_reference
from spacy_early_exit.network.shared import Reader, run_shared
from spacy_early_exit.network.simulate import simulate_exits
from spacy_early_exit.text.windows import windows_of
from spacy_early_exit.training.halting import Drawn, SpeedupDraws
from spacy_early_exit.training.self_sampling import make_self_sampling
from tests.makers.networks import CPU, network_of
from tests.makers.pipelines import answers, blank, train_small
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
SECOND_STAGE = {"@misc": "spacy-early-exit.SelfSampling.v1", "max_threshold": 0.5}


def network_in(nlp):
    return nlp.get_pipe(NAME).network


def batch_for(trained, en, texts):
    docs = [en.make_doc(text) for text in texts]
    return Batch.of(
        windows_of(docs, trained.tokenizer, trained.network.spec.max_wordpieces, 8), CPU
    )


@pytest.mark.parametrize("chosen, there", [([3, 1, 1], [1, 3, 4]), ([], [4]), (None, [1, 2, 3, 4])])
def test_there_are_heads_where_they_are_wanted_and_after_the_last_layer(chosen, there, encoders):
    nlp = train_small(encoders["bert"], steps=1, model={"exit_layers": chosen})
    network = network_in(nlp)
    assert [*network.exit_layers] == there
    assert [*network.heads] == [str(layer - 1) for layer in there]
    with pytest.raises(ValueError, match=r"no exit head after layer 5.*exit_layers are .*4"):
        network.head(5)


def test_words_exit_there_alone_and_no_other_head_is_paid_for(encoders, en):
    trained = network_of(encoders["bert"], exit_layers=[2])
    network, batch = trained.network, batch_for(trained, en, texts_of_all_lengths(count=12))
    with torch.inference_mode():
        found = run_with_exits(network, batch, TokenExit(0), 0.3)
        never = run_with_exits(network, batch, TokenExit(0), 1e-9)
    assert set(found.exit_layer.tolist()) == {2, 4}
    assert (never.exit_layer == 4).all()
    # Without exits, the early head is all that it costs more than full depth.
    early = head_macs(network.spec, network.tags, batch.words_of_window, reach=1)
    assert torch.equal(never.spent - never.full, early)


def test_the_simulation_knows_where_heads_are(encoders, en):
    trained = network_of(encoders["bert"], exit_layers=[1, 3])
    network, batch = trained.network, batch_for(trained, en, texts_of_all_lengths(count=12))
    with torch.inference_mode():
        logits, states = (
            run_all_heads(network, batch),
            torch.stack([*run_all_layers(network, batch)]),
        )
        found = run_with_exits(network, batch, SentenceExit(), 0.7)
        layers, cost = simulate_exits(network, batch, logits, states, SentenceExit(), 0.7)
    assert len(layers.unique()) > 1 and torch.equal(layers, found.exit_layer)
    assert torch.equal(cost.spent, found.spent)


def test_tasks_of_a_shared_pass_have_heads_where_they_like(encoders, en):
    trained = network_of(encoders["bert"], exit_layers=[2, 3])
    mine, batch = trained.network, batch_for(trained, en, texts_of_all_lengths(count=12))
    other = network_of(encoders["bert"], tags=5, exit_layers=[1]).network
    other.encoder = mine.encoder
    readers = [Reader("a", mine, TokenExit(0), 0.3), Reader("b", other, TokenExit(0), 0.3)]
    with torch.inference_mode():
        found = run_shared(mine, batch, readers)
        plain = run_shared_reference(mine, batch, readers)
    for one, two, layers in zip(found, plain, ({2, 3, 4}, {1, 4}), strict=True):
        assert set(one.exit_layer.tolist()) == layers
        assert torch.equal(one.exit_layer, two.exit_layer)
        torch.testing.assert_close(one.logits, two.logits, rtol=1e-4, atol=1e-4)


def test_a_task_that_holds_no_word_back_changes_nothing(encoders, en):
    trained = network_of(encoders["bert"], exit_layers=[2, 3])
    mine, batch = trained.network, batch_for(trained, en, texts_of_all_lengths(count=12))
    sure = network_of(encoders["bert"], exit_layers=[1]).network
    sure.encoder = mine.encoder
    torch.nn.init.zeros_(sure.head(1).weight)
    sure.head(1).bias.data[0] = 100.0
    readers = [Reader("a", mine, TokenExit(0), 0.3), Reader("b", sure, TokenExit(0), 0.3)]
    with torch.inference_mode():
        found, first = run_shared(mine, batch, readers)
        alone = run_with_exits(mine, batch, TokenExit(0), 0.3)
    assert (first.exit_layer == 1).all() and len(alone.exit_layer.unique()) == 3
    assert torch.equal(found.exit_layer, alone.exit_layer)
    assert torch.equal(found.logits, alone.logits)


@pytest.mark.parametrize("pattern", ["on_policy", "off_policy", "random"])
def test_in_the_second_stage_words_exit_there_alone(pattern, encoders, en):
    trained = network_of(encoders["bert"], exit_layers=[2, 3])
    batch = batch_for(trained, en, texts_of_all_lengths(count=12))
    stage = make_self_sampling(pattern, max_threshold=0.8, full_share=0.1)
    teacher = copy.deepcopy(trained.network)
    torch.manual_seed(0)
    found = stage.run(trained.network, batch, 0.0, TokenExit(0), teacher)
    assert len(found.logits) == 3
    assert set(found.exit_head.tolist()) == {1, 2, 3}
    tags = torch.zeros(batch.words, dtype=torch.int64)
    assert stage.loss(found, tags).isfinite()


def test_a_threshold_is_known_by_the_layers_that_it_saves(encoders, en):
    trained = network_of(encoders["bert"], exit_layers=[2])
    batch = batch_for(trained, en, TEXTS)
    draws = SpeedupDraws(4.0)
    logits = torch.zeros(2, batch.words, trained.network.tags)
    logits[0, : batch.words // 2, 0] = 100.0  # half are sure
    words = torch.arange(batch.words)
    draws.see(logits, words, batch, TokenExit(0), {}, trained.network.exit_layers)
    half = batch.words // 2
    layers = (2 * half + 4 * (batch.words - half)) / batch.words
    assert draws.speedups[0].item() == pytest.approx(4 / layers)


def test_speedups_are_drawn_that_the_heads_can_give(encoders, en):
    trained = network_of(encoders["bert"], exit_layers=[3])
    batch = batch_for(trained, en, TEXTS)
    draws = SpeedupDraws(4.0)
    logits, words = torch.zeros(2, batch.words, 7), torch.arange(batch.words)
    draws.see(logits, words, batch, TokenExit(0), {}, trained.network.exit_layers)
    draws.speedups = torch.linspace(1.0, 4 / 3, len(SpeedupDraws.THRESHOLDS))
    torch.manual_seed(0)
    drawn = draws.draw(400, 0.0, Drawn([draws]))
    assert len(drawn.unique()) > 20
    places = torch.searchsorted(SpeedupDraws.THRESHOLDS, drawn).float()
    assert places.mean().item() == pytest.approx(14, abs=2)


def test_a_loss_that_is_not_finite_names_the_layer(encoders):
    nlp = train_small(encoders["bert"], steps=1, model={"exit_layers": [3]})
    with torch.no_grad():
        network_in(nlp).head(3).bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite, from layer 3 on"):
        nlp.update(examples_of(nlp))


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_such_a_pipeline_trains_predicts_and_is_saved(quantize, encoders, tmp_path):
    first = train_small(encoders["bert"], steps=20, model={"exit_layers": [2, 3]})
    first.to_disk(tmp_path / "first")
    second = blank("nowhere/at-all", model={"exit_layers": [2, 3]}, training=SECOND_STAGE)
    second.config["initialize"]["components"] = {NAME: {"start_from": str(tmp_path / "first")}}
    optimizer = second.initialize(lambda: examples_of(second))
    for _ in range(5):
        second.update(examples_of(second), sgd=optimizer, drop=0.0)
    for nlp in (first, second):
        ner = nlp.get_pipe(NAME)
        ner.store_exits, ner.threshold, ner.quantize = True, 0.3, quantize
        docs = [*nlp.pipe(TEXTS)]
        layers = {layer for doc in docs for layer in doc._.early_exit[NAME].layers}
        assert layers - {0} <= {2, 3, 4} and len(layers - {0}) > 1
        nlp.to_disk(tmp_path / "saved")
        for again in (spacy.load(tmp_path / "saved"), nlp):
            loaded = again.get_pipe(NAME)
            loaded.store_exits, loaded.threshold, loaded.quantize = True, 0.3, quantize
            assert [*loaded.network.exit_layers] == [2, 3, 4]
            if quantize is None:  # which may scale over the batch
                alone = [answers(again(text)) for text in TEXTS]
                assert alone == [answers(doc) for doc in docs]


def test_labels_are_added_to_heads_that_are_there(encoders):
    nlp = train_small(encoders["bert"], steps=1, model={"exit_layers": [2]})
    ner = nlp.get_pipe(NAME)
    tags = ner.network.tags
    ner.add_label("NEW")
    assert {head.out_features for head in ner.network.heads.values()} == {tags + 2}
    ner.model.shims[0].scale_heads([2.0, 3.0])
    assert len([*nlp.pipe(TEXTS)]) == len(TEXTS)


def test_weights_with_heads_elsewhere_are_refused_and_nothing_changes(encoders, tmp_path):
    train_small(encoders["bert"], steps=1).to_disk(tmp_path)
    nlp = train_small(encoders["bert"], steps=20, model={"exit_layers": [1]})
    before = [answers(nlp(text)) for text in TEXTS]
    said = (
        rf"'{NAME}' is to have exit heads after layers \[1, 4\], .* after layers \[1, 2, 3, 4\].*"
        r"v3 with exit_layers = null"
    )
    with pytest.raises(ValueError, match=said):
        nlp.get_pipe(NAME).from_disk(tmp_path / NAME)
    assert [answers(nlp(text)) for text in TEXTS] == before
    nlp.to_disk(tmp_path)
    said = r"after all layers, .* after layers \[1, 4\].*exit_layers = \[1, 4\]"
    with pytest.raises(ValueError, match=said):
        train_small(encoders["bert"], steps=1).get_pipe(NAME).from_disk(tmp_path / NAME)


def test_a_layer_that_the_weights_lack_is_refused_by_name(encoders, tmp_path):
    train_small(encoders["bert"], steps=1).to_disk(tmp_path)
    config = {"components": {NAME: {"model": {"exit_layers": [6]}}}}
    said = rf"'{NAME}' is to have exit heads after layers \[4, 6\], .* exit_layers = null"
    with pytest.raises(ValueError, match=said):
        spacy.load(tmp_path, config=config)


@pytest.mark.parametrize("exit_layers", [[0], [-1], ["2"], [True], [1.5], 2, "all"])
def test_nonsense_is_refused(exit_layers, encoders):
    with pytest.raises(ValueError, match="exit_layers"):
        blank(encoders["bert"], model={"exit_layers": exit_layers})


def test_a_layer_that_the_encoder_lacks_is_refused(encoders):
    nlp = blank(encoders["bert"], model={"exit_layers": [2, 5]})
    with pytest.raises(ValueError, match="exit_layers are 2, 5, but the encoder has layers 1 to 4"):
        nlp.initialize(lambda: examples_of(nlp))


@pytest.mark.parametrize("exit_layers", [[5], [0], ["1"], [True], 3, "all", {}])
def test_nonsense_in_a_file_is_refused(exit_layers, encoders, tmp_path):
    train_small(encoders["bert"], steps=1).to_disk(tmp_path)
    file = tmp_path / NAME / "model" / "network.json"
    file.write_bytes(seal({**unseal(file.read_bytes()), "exit_layers": exit_layers}))
    with pytest.raises(ValueError, match=r"network.json .*exit_layers"):
        spacy.load(tmp_path)


def test_a_selector_without_a_head_is_refused(encoders, tmp_path):
    train_small(encoders["bert"], steps=1, model={"exit_layers": [3]}).to_disk(tmp_path)
    nlp = blank(
        "nowhere/at-all",
        model={"exit_layers": [3]},
        criterion={"@misc": "spacy-early-exit.TokenReduction.v1", "layers": [1]},
        training={"@misc": "spacy-early-exit.ReductionTraining.v1"},
    )
    nlp.config["initialize"]["components"] = {NAME: {"start_from": str(tmp_path)}}
    optimizer = nlp.initialize(lambda: examples_of(nlp))
    with pytest.raises(ValueError, match="no exit head after layer 1"):
        nlp.update(examples_of(nlp), sgd=optimizer)
