"""Which encoders can be run layer by layer, as tables of parameter names.

Checkpoints pin their parameter names, forward signatures change from release to release: so
an encoder is read by name, and its arithmetic is ours (``encoder.py``). A new family of the
same post-norm shape is a new row here.
"""

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor

# What our modules call a module of the checkpoint. Several names are concatenated along the
# rows: queries, keys and values are one matrix here.
Names = Mapping[str, Tuple[str, ...]]


@dataclass(frozen=True)
class EncoderSpec:
    """The sizes of an encoder: everything that is needed to build it before its weights come.

    family (str): The ``model_type`` of the Hugging Face config.
    hidden_size (int): Width of the hidden states.
    embedding_size (int): Width of the embeddings; projected where it is not ``hidden_size``.
    intermediate_size (int): Width of the feed-forward layer.
    layers (int): Number of layers.
    attention_heads (int): Attention heads of a layer.
    activation (str): Name of the feed-forward activation, as Hugging Face spells it.
    layer_norm_eps (float): Epsilon of every layer norm.
    vocab_size (int): Rows of the wordpiece embedding.
    positions (int): Rows of the position embedding.
    first_position (int): Position of a sequence's first wordpiece (RoBERTa starts behind its
        padding index).
    token_types (int): Rows of the token type embedding, 0 if there is none.
    """

    family: str
    hidden_size: int
    embedding_size: int
    intermediate_size: int
    layers: int
    attention_heads: int
    activation: str
    layer_norm_eps: float
    vocab_size: int
    positions: int
    first_position: int
    token_types: int

    @property
    def max_wordpieces(self) -> int:
        """RETURNS (int): Longest sequence in wordpieces, special tokens included."""
        return self.positions - self.first_position


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    embeddings (Names): Our embedding modules -> theirs.
    layer (Names): Our modules of a layer -> theirs, below ``layer_prefix``.
    layer_prefix (str): Prefix of layer ``{i}``, counted from 0.
    config (Mapping[str, str]): Where the config's field has not the name that BERT gives it.
    first_position (str): ``"zero"`` or ``"after_padding"``.
    """

    embeddings: Names
    layer: Names
    layer_prefix: str
    config: Mapping[str, str]
    first_position: str = "zero"


_EMBEDDINGS: Names = {
    "word": ("embeddings.word_embeddings",),
    "position": ("embeddings.position_embeddings",),
    "norm": ("embeddings.LayerNorm",),
}
_TYPED_EMBEDDINGS: Names = {
    **_EMBEDDINGS,
    "token_type": ("embeddings.token_type_embeddings",),
}
_BERT_LAYER: Names = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "intermediate": ("intermediate.dense",),
    "output": ("output.dense",),
    "output_norm": ("output.LayerNorm",),
}
_DISTILBERT_LAYER: Names = {
    "qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention_output": ("attention.out_lin",),
    "attention_norm": ("sa_layer_norm",),
    "intermediate": ("ffn.lin1",),
    "output": ("ffn.lin2",),
    "output_norm": ("output_layer_norm",),
}
_DISTILBERT_CONFIG = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_act": "activation",
}

_BERT = Family(_TYPED_EMBEDDINGS, _BERT_LAYER, "encoder.layer.{i}.", {})
_ROBERTA = Family(
    _TYPED_EMBEDDINGS, _BERT_LAYER, "encoder.layer.{i}.", {}, first_position="after_padding"
)
_ELECTRA = Family(
    {**_TYPED_EMBEDDINGS, "project": ("embeddings_project",)},
    _BERT_LAYER,
    "encoder.layer.{i}.",
    {},
)
_DISTILBERT = Family(_EMBEDDINGS, _DISTILBERT_LAYER, "transformer.layer.{i}.", _DISTILBERT_CONFIG)

FAMILIES: Dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _ELECTRA,
    "distilbert": _DISTILBERT,
}

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")


def read_spec(config: Mapping[str, Any]) -> EncoderSpec:
    """Read the sizes of an encoder from its Hugging Face config.

    config (Mapping[str, Any]): The config as a dict, as in ``config.json``.
    RETURNS (EncoderSpec): The sizes.
    RAISES (ValueError): If the family, or an option of it, is not supported. The message says
        which would be.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise ValueError(
            f"An encoder of the family '{model_type}' can't be run layer by layer here. "
            f"Supported families (model_type in config.json): {', '.join(sorted(FAMILIES))}."
        )
    family = FAMILIES[model_type]

    def field(name: str, default: Any = None) -> Any:
        value = config.get(family.config.get(name, name), default)
        if value is None:
            raise ValueError(
                f"The encoder's config.json (family '{model_type}') has no "
                f"'{family.config.get(name, name)}'."
            )
        return value

    _refuse(config, "position_embedding_type", ("absolute", None))
    _refuse(config, "is_decoder", (False, None))
    _refuse(config, "add_cross_attention", (False, None))
    activation = str(field("hidden_act"))
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"The encoder's activation '{activation}' is not supported. "
            f"Supported: {', '.join(ACTIVATIONS)}."
        )
    hidden_size = int(field("hidden_size"))
    after_padding = family.first_position == "after_padding"
    typed = "token_type" in family.embeddings
    return EncoderSpec(
        family=model_type,
        hidden_size=hidden_size,
        embedding_size=int(field("embedding_size", hidden_size)),
        intermediate_size=int(field("intermediate_size")),
        layers=int(field("num_hidden_layers")),
        attention_heads=int(field("num_attention_heads")),
        activation=activation,
        layer_norm_eps=float(field("layer_norm_eps", 1e-12)),
        vocab_size=int(field("vocab_size")),
        positions=int(field("max_position_embeddings")),
        first_position=int(field("pad_token_id")) + 1 if after_padding else 0,
        token_types=int(field("type_vocab_size")) if typed else 0,
    )


def _refuse(config: Mapping[str, Any], name: str, supported: Tuple[Any, ...]) -> None:
    if config.get(name) not in supported:
        raise ValueError(
            f"The encoder's config.json has {name}={config[name]!r}, which is not supported: "
            f"it must be {supported[0]!r}."
        )


def read_weights(spec: EncoderSpec, checkpoint: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Translate a checkpoint's parameters into ours.

    spec (EncoderSpec): The sizes of the encoder.
    checkpoint (Mapping[str, Tensor]): Parameters by Hugging Face name.
    RETURNS (Dict[str, Tensor]): Parameters by the names of ``encoder.Encoder``.
    RAISES (ValueError): If a parameter is missing; the message names it.
    """
    family = FAMILIES[spec.family]
    modules = {f"embeddings.{ours}": theirs for ours, theirs in family.embeddings.items()}
    for i in range(spec.layers):
        prefix = family.layer_prefix.format(i=i)
        for ours, theirs in family.layer.items():
            modules[f"layers.{i}.{ours}"] = tuple(prefix + name for name in theirs)
    if spec.embedding_size == spec.hidden_size:
        modules.pop("embeddings.project", None)
    weights: Dict[str, Tensor] = {}
    for ours, theirs in modules.items():
        embedding = ours in ("embeddings.word", "embeddings.position", "embeddings.token_type")
        for kind in ("weight",) if embedding else ("weight", "bias"):
            names = [f"{name}.{kind}" for name in theirs]
            missing = [name for name in names if name not in checkpoint]
            if missing:
                raise ValueError(
                    f"The encoder's weights have no '{missing[0]}', which the family "
                    f"'{spec.family}' must have: incomplete, or of another model?"
                )
            weights[f"{ours}.{kind}"] = torch.cat([checkpoint[name] for name in names])
    return weights
