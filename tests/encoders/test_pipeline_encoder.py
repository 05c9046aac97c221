"""The pipelines that people have lend their fine-tuned encoders."""

import json
import shutil

import numpy as np
import pytest
import spacy
import torch

from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.encoders.spacy_pipeline import PipelineEncoder
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.text.windows import windows_of
from tests.makers.encoders import FAMILIES
from tests.makers.pipelines import answers
from tests.makers.texts import EMOJI, TEXTS, examples_of
from tests.makers.tokenizers import byte_level_tokenizer, wordpiece_tokenizer

NAME = "early_exit_ner"
SOURCE = "spacy-early-exit.PipelineEncoder.v1"
CURATED = "spacy-curated-transformers."
SIZES = {
    "hidden_width": 32,
    "intermediate_width": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 140,
    "model_max_length": 130,
}
# Of each family: its architecture and its piece encoder.
CURATED_FAMILIES = {
    "bert": ("BertTransformer.v1", "BertWordpieceEncoder.v1"),
    "roberta": ("RobertaTransformer.v1", "ByteBpeEncoder.v1"),
    "xlm-roberta": ("XlmrTransformer.v1", "XlmrSentencepieceEncoder.v1"),
    "camembert": ("CamembertTransformer.v1", "CamembertSentencepieceEncoder.v1"),
}


def with_entity_recognizer(nlp, listener, steps=3):
    """A pipeline that has learnt a little: all of its encoder moves."""
    nlp.add_pipe(
        "ner",
        config={
            "model": {
                "@architectures": "spacy.TransitionBasedParser.v2",
                "state_type": "ner",
                "extra_state_tokens": False,
                "hidden_width": 16,
                "maxout_pieces": 2,
                "use_upper": False,
                "tok2vec": {**listener, "pooling": {"@layers": "reduce_mean.v1"}, "upstream": "*"},
            }
        },
    )
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 1e-2
    for _ in range(steps):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    return nlp


def spacy_transformers_pipeline(folder):
    pytest.importorskip("spacy_transformers", reason="spacy-transformers is not installed ([trf])")
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    nlp.add_pipe("transformer", config={"model": {"name": folder}})
    listener = {"@architectures": "spacy-transformers.TransformerListener.v1", "grad_factor": 1.0}
    return with_entity_recognizer(nlp, listener)


def curated_model(family, **settings):
    architecture, pieces = CURATED_FAMILIES[family]
    return {
        "@architectures": CURATED + architecture,
        "vocab_size": 400,
        "piece_encoder": {"@architectures": CURATED + pieces},
        "with_spans": {"@architectures": f"{CURATED}WithStridedSpans.v1"},
        **SIZES,
        **settings,
    }


def curated_pipeline(family, spm):
    module = pytest.importorskip(
        "spacy_curated_transformers.pipeline.transformer",
        reason="spacy-curated-transformers is not installed ([trf])",
    )
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    config = {"model": curated_model(family)}
    transformer = nlp.add_pipe("curated_transformer", "transformer", config=config)
    load_pieces(transformer.model.get_ref("piece_encoder"), spm)
    listener = {"@architectures": f"{CURATED}LastTransformerLayerListener.v1", "width": 32}
    with pytest.MonkeyPatch.context() as patch:
        # Its 0.3.1 calls float on an array of one loss: an error since numpy 2.4.
        patch.setattr(module, "float", lambda array: array.item(), raising=False)
        return with_entity_recognizer(nlp, listener)


def load_pieces(encoder, spm):
    """What its loaders would read from the files of a published encoder."""
    import curated_tokenizers

    if encoder.name == "byte_bpe_encoder":
        learnt = json.loads(byte_level_tokenizer().to_str())["model"]
        # Before tokenizers 0.20 "a b", then ["a", "b"].
        merges = [m.split(" ") if isinstance(m, str) else m for m in learnt["merges"]]
        processor = curated_tokenizers.ByteBPEProcessor(learnt["vocab"], merges)
        encoder.attrs["byte_bpe_processor"] = processor
    elif encoder.name == "wordpiece_encoder":
        learnt = wordpiece_tokenizer().get_vocab()
        processor = curated_tokenizers.WordPieceProcessor(sorted(learnt, key=learnt.get))
        encoder.attrs.update(wordpiece_processor=processor, lowercase=True, strip_accents=True)
    else:
        processor = curated_tokenizers.SentencePieceProcessor.from_file(spm)
        encoder.get_ref("encoder").attrs["sentencepiece_processor"] = processor


def blank_with(pipeline, **config):
    """An untrained pipeline of ours, as its config asks for it."""
    nlp = spacy.blank("en")
    encoder = {"@misc": SOURCE, "pipeline": str(pipeline)}
    nlp.add_pipe(NAME, config={"model": {"encoder": encoder}, **config})
    return nlp


def trained_of(nlp):
    return nlp.get_pipe(NAME).model.shims[0].trained


def our_states(nlp, text, shared):
    """Wordpiece ids of a text, special tokens included, and what the last layer makes of them."""
    trained = trained_of(nlp)
    (window,) = windows_of([nlp.make_doc(text)], trained.tokenizer, 48, 0, shared=shared)
    batch = Batch.of([window], torch.device("cpu"))
    with torch.inference_mode():
        run = run_with_exits(trained.network, batch, None, keep_states=True)
    return window.ids.tolist(), run.states.numpy()


def initialized_with(pipeline):
    nlp = blank_with(pipeline)
    nlp.initialize(lambda: examples_of(nlp))
    return nlp


@pytest.fixture(scope="module", params=["roberta", "bert", "xlm-roberta"])
def stock(request, encoders, tmp_path_factory):
    """A pipeline of spacy-transformers, where it is saved, and the encoder that it began with."""
    folder = tmp_path_factory.mktemp(request.param)
    nlp = spacy_transformers_pipeline(encoders[request.param])
    nlp.to_disk(folder)
    return nlp, folder, encoders[request.param]


class TestSpacyTransformers:
    def test_the_states_are_those_of_the_pipeline(self, stock):
        theirs, folder, _ = stock
        nlp = initialized_with(folder)
        for text in [*TEXTS, *EMOJI]:
            ids, states = our_states(nlp, text, "keep")
            data = theirs(text)._.trf_data
            assert data.wordpieces.input_ids[0].tolist() == ids
            expected = data.model_output.last_hidden_state[0]
            np.testing.assert_allclose(states, expected, atol=2e-5)

    def test_the_encoder_is_the_fine_tuned_one(self, stock):
        _, folder, original = stock
        tuned, before = PipelineEncoder(str(folder)).load(), HFEncoder(original).load()
        assert tuned.spec == before.spec and tuned.weights.keys() == before.weights.keys()
        same = [name for name in before.weights if tuned.weights[name].equal(before.weights[name])]
        assert not same

    def test_it_is_trained_on_and_needs_the_pipeline_no_more(self, stock, tmp_path):
        assert_it_is_trained_on_and_needs_the_pipeline_no_more(stock[1], tmp_path)


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"roberta", "bert", "xlm-roberta"}))
def test_other_families_lend_theirs_too(family, encoders, tmp_path):
    theirs = spacy_transformers_pipeline(encoders[family])
    theirs.to_disk(tmp_path)
    nlp = initialized_with(tmp_path)
    for text in TEXTS:
        ids, states = our_states(nlp, text, "keep")
        data = theirs(text)._.trf_data
        assert data.wordpieces.input_ids[0].tolist() == ids
        expected = data.model_output.last_hidden_state[0]
        np.testing.assert_allclose(states, expected, atol=2e-5)


@pytest.fixture(scope="module", params=list(CURATED_FAMILIES))
def curated(request, encoders, tmp_path_factory):
    """A pipeline of spacy-curated-transformers, and where it is saved."""
    folder = tmp_path_factory.mktemp(request.param)
    nlp = curated_pipeline(request.param, encoders["xlm-roberta"] + "/spm.model")
    nlp.to_disk(folder)
    return nlp, folder


class TestCuratedTransformers:
    def test_the_states_are_those_of_the_pipeline(self, curated):
        theirs, folder = curated
        nlp = initialized_with(folder)
        # White space between all words: there both cut the text into the same pieces.
        for text in ["Ann Lee lives in New York", "ok", "Bob sent naïve Jordan 3 boxes ."]:
            assert_states_equal(theirs, nlp, text)

    @pytest.mark.parametrize("curated", ["roberta"], indirect=True)
    def test_with_byte_level_pieces_contractions_are_cut_as_there_unless_words_share_them(
        self, curated
    ):
        theirs, folder = curated
        nlp = initialized_with(folder)
        for text in [*TEXTS, *EMOJI]:
            assert_states_equal(theirs, nlp, text)
        for text in TEXTS:
            shares = "don't" in text
            assert (pieces_of(theirs, text) != our_states(nlp, text, "keep")[0]) == shares

    def test_it_is_trained_on_and_needs_the_pipeline_no_more(self, curated, tmp_path):
        assert_it_is_trained_on_and_needs_the_pipeline_no_more(curated[1], tmp_path)


def assert_states_equal(theirs, nlp, text):
    ids, states = our_states(nlp, text, "split")
    assert pieces_of(theirs, text) == ids
    # They keep none of special tokens.
    expected = theirs(text)._.trf_data.last_hidden_layer_state.dataXd
    np.testing.assert_allclose(states[1:-1], expected, atol=2e-5)


def pieces_of(nlp, text):
    encoder = nlp.get_pipe("transformer").model.get_ref("piece_encoder")
    return encoder.predict([nlp.make_doc(text)])[0].dataXd.tolist()


def assert_it_is_trained_on_and_needs_the_pipeline_no_more(pipeline, tmp_path):
    lent = shutil.copytree(pipeline, tmp_path / "lent")
    nlp = blank_with(lent, store_exits=True)
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    losses = [nlp.update(examples, sgd=optimizer, drop=0.0)[NAME] for _ in range(20)]
    assert losses[-1] < losses[0] / 2
    nlp.to_disk(tmp_path / "ours")
    expected = [answers(nlp(text)) for text in TEXTS]
    shutil.rmtree(lent)
    again = spacy.load(tmp_path / "ours")
    assert [answers(doc) for doc in again.pipe(TEXTS)] == expected
    block = again.config["components"][NAME]["model"]["encoder"]
    assert block == {"@misc": SOURCE, "pipeline": str(lent), "component": "transformer"}


class TestRefused:
    def test_a_pipeline_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="of 'no_such_pipeline': the pipeline can't") as error:
            PipelineEncoder("no_such_pipeline").load()
        assert "[components.NAME.model.encoder]" in str(error.value)

    def test_a_pipeline_without_a_transformer(self, tmp_path):
        nlp = spacy.blank("en")
        nlp.add_pipe("sentencizer")
        nlp.to_disk(tmp_path)
        with pytest.raises(ValueError, match="has only the components sentencizer"):
            PipelineEncoder(str(tmp_path)).load()
        with pytest.raises(ValueError, match="a 'sentencizer' has no encoder to copy, unlike tran"):
            PipelineEncoder(str(tmp_path), "sentencizer").load()

    @pytest.mark.parametrize(
        "settings, message",
        [
            (
                {"@architectures": CURATED + "AlbertTransformer.v1"},
                "its encoder must be one of .*RobertaTransf.* not .*AlbertTransformer.v1",
            ),
            (
                {"piece_encoder": {"@architectures": CURATED + "CharEncoder.v1"}},
                "its piece encoder must be one of .*ByteBpeEncoder.* not .*CharEncoder.v1",
            ),
        ],
    )
    def test_curated_encoders_that_are_not_known(self, settings, message, tmp_path):
        pytest.importorskip("spacy_curated_transformers", reason="it is not installed ([trf])")
        nlp = spacy.blank("en")
        config = {"model": curated_model("bert", **settings)}
        nlp.add_pipe("curated_transformer", "transformer", config=config)
        nlp.to_disk(tmp_path)
        with pytest.raises(ValueError, match=message):
            PipelineEncoder(str(tmp_path)).load()
