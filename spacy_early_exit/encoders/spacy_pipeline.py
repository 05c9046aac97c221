"""The encoder of an existing spaCy pipeline: fine-tuned, with its tokenizer."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

import spacy
from spacy.language import Language

from ..network.families import CURATED, read_spec, read_weights
from ..text.tokenizer import WordpieceTokenizer
from .base import EncoderSource, PretrainedEncoder

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class PipelineEncoder:
    """The encoder of a pipeline with a ``transformer`` (spacy-transformers) or a
    ``curated_transformer`` (spacy-curated-transformers).

    pipeline (str): What ``spacy.load`` takes: a package's name, or a folder.
    component (str): Name of the component whose encoder is copied.
    """

    pipeline: str
    component: str = "transformer"

    def load(self) -> PretrainedEncoder:
        """Load the pipeline and copy its encoder.

        RETURNS (PretrainedEncoder): The encoder.
        RAISES (ValueError): If the pipeline can't be loaded, has no such component, or its encoder
            is of an unsupported kind. The message says which.
        """
        try:
            nlp = spacy.load(self.pipeline)
        except Exception as e:
            raise ValueError(self._problem("the pipeline can't be loaded", e)) from e
        if self.component not in nlp.component_names:
            there = ", ".join(nlp.component_names)
            raise ValueError(self._problem(f"the pipeline has only the components {there}"))
        factory = nlp.get_pipe_meta(self.component).factory
        if factory not in _LENDERS:
            raise ValueError(
                self._problem(
                    f"a '{factory}' has no encoder to copy, unlike {' and '.join(_LENDERS)}"
                )
            )
        try:
            lent = _LENDERS[factory](nlp, self.component)
            WordpieceTokenizer(lent.tokenizer).check_fits(lent.spec.vocab_size)
        except ValueError as e:
            raise ValueError(self._problem("it is not supported", e)) from e
        return lent

    def _problem(self, what: str, cause: Optional[Exception] = None) -> str:
        because = f" ({type(cause).__name__}: {cause})" if cause is not None else ""
        return (
            f"Can't copy the encoder of the component '{self.component}' of {self.pipeline!r}: "
            f"{what}{because}. In [components.NAME.model.encoder], pipeline must be a pipeline "
            f"that spacy.load takes, and component its transformer component. The package of that "
            f"component, spacy-transformers or spacy-curated-transformers, must be installed."
        )


def make_pipeline_encoder(pipeline: str, component: str = "transformer") -> EncoderSource:
    """Make the source ``spacy-early-exit.PipelineEncoder.v1``. Nothing is loaded yet.

    pipeline (str): What ``spacy.load`` takes: a package's name, or a folder.
    component (str): Name of the component whose encoder is copied.
    RETURNS (EncoderSource): The source.
    """
    return PipelineEncoder(pipeline, component)


def _of_spacy_transformers(nlp: Language, component: str) -> PretrainedEncoder:
    model: Any = nlp.get_pipe(component).model
    if not model.tokenizer.is_fast:
        raise ValueError("it has no fast tokenizer")
    config = model.transformer.config.to_dict()
    # spacy-transformers saves BERT's 1e-12 as 0.0, since its JSON has ten decimals.
    config["layer_norm_eps"] = config.get("layer_norm_eps") or 1e-12
    spec = read_spec(config)
    weights = read_weights(spec, model.transformer.float().state_dict())
    return PretrainedEncoder(spec, weights, model.tokenizer.backend_tokenizer.to_str())


# ------------------------------------------------------- spacy-curated-transformers

_PREFIX = "spacy-curated-transformers."
_FAMILIES = {
    f"{_PREFIX}BertTransformer.v1": "bert",
    f"{_PREFIX}CamembertTransformer.v1": "camembert",
    f"{_PREFIX}RobertaTransformer.v1": "roberta",
    f"{_PREFIX}XlmrTransformer.v1": "xlm-roberta",
}
# Its settings that have the same name in Hugging Face, and those that have another.
_SETTINGS = {
    "hidden_size": "hidden_width",
    "intermediate_size": "intermediate_width",
    "pad_token_id": "padding_idx",
    **{
        name: name
        for name in (
            "hidden_act",
            "layer_norm_eps",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
            "type_vocab_size",
            "vocab_size",
        )
    },
}


def _of_curated_transformers(nlp: Language, component: str) -> PretrainedEncoder:
    settings = nlp.get_pipe_config(component)["model"]
    family = _pick(_FAMILIES, settings, "its encoder")
    make_tokenizer = _pick(_TOKENIZERS, settings["piece_encoder"], "its piece encoder")
    model: Any = nlp.get_pipe(component).model
    config = {theirs: settings[name] for theirs, name in _SETTINGS.items()}
    spec = read_spec({"model_type": family, **config})
    state = model.get_ref("transformer").shims[0]._model.float().state_dict()
    layout = CURATED["bert" if family == "bert" else "roberta"]
    tokenizer = make_tokenizer(model.get_ref("piece_encoder"))
    return PretrainedEncoder(spec, read_weights(spec, state, layout), tokenizer)


def _pick(known: Dict[str, Any], block: Dict[str, Any], what: str) -> Any:
    name = block["@architectures"]
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, not '{name}'")
    return known[name]


def _byte_level(encoder: Any) -> str:
    """RETURNS (str): RoBERTa's tokenizer of the same pieces, as JSON."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces, attrs = encoder.attrs["byte_bpe_processor"], encoder.attrs
    merges = [tuple(merge) for merge in pieces.merges]
    tokenizer = Tokenizer(models.BPE(vocab=pieces.vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bos, eos = ((attrs[name], pieces.piece_id(attrs[name])) for name in ("bos_piece", "eos_piece"))
    tokenizer.post_processor = processors.RobertaProcessing(eos, bos, add_prefix_space=False)
    return _serialized(tokenizer)


def _wordpiece(encoder: Any) -> str:
    """RETURNS (str): BERT's tokenizer of the same pieces, as JSON."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    attrs = encoder.attrs
    vocab = {piece: n for n, piece in enumerate(attrs["wordpiece_processor"].to_list())}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=attrs["unk_piece"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=attrs["lowercase"], strip_accents=attrs["strip_accents"]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    eos, bos = ((attrs[name], vocab[attrs[name]]) for name in ("eos_piece", "bos_piece"))
    tokenizer.post_processor = processors.BertProcessing(eos, bos)
    return _serialized(tokenizer)


def _sentencepiece(tokenizer_class: str, encoder: Any) -> str:
    """RETURNS (str): Hugging Face's tokenizer made from the same sentencepiece model, as JSON."""
    import transformers

    model = encoder.get_ref("encoder").attrs["sentencepiece_processor"].to_protobuf()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sentencepiece.model"
        file.write_bytes(model)
        try:
            made = getattr(transformers, tokenizer_class)(vocab_file=str(file))
        except ImportError as e:
            raise ValueError(f"reading its pieces needs sentencepiece and protobuf: {e}") from e
    return _serialized(made.backend_tokenizer)


def _serialized(tokenizer: "tokenizers.Tokenizer") -> str:
    serialized: str = tokenizer.to_str()
    return serialized


def _camembert(encoder: Any) -> str:
    return _sentencepiece("CamembertTokenizerFast", encoder)


def _xlmr(encoder: Any) -> str:
    return _sentencepiece("XLMRobertaTokenizerFast", encoder)


_TOKENIZERS: Dict[str, Callable[[Any], str]] = {
    f"{_PREFIX}BertWordpieceEncoder.v1": _wordpiece,
    f"{_PREFIX}ByteBpeEncoder.v1": _byte_level,
    f"{_PREFIX}CamembertSentencepieceEncoder.v1": _camembert,
    f"{_PREFIX}XlmrSentencepieceEncoder.v1": _xlmr,
}
_LENDERS: Dict[str, Callable[[Language, str], PretrainedEncoder]] = {
    "transformer": _of_spacy_transformers,
    "curated_transformer": _of_curated_transformers,
}
