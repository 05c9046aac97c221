"""The families, as tables of parameter names.

Checkpoints pin their parameter names, while forward signatures change from release to release. So
an encoder is read by name, and its arithmetic is ours (``encoder.py``). A new family of a known
shape is a new row here.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Literal, Mapping, Tuple

# From our names of modules to the checkpoint's. Several names are concatenated along the rows:
# queries, keys and values are one matrix here.
Names = Mapping[str, Tuple[str, ...]]

# How layers know of positions: from the embeddings alone; by what is added to the scores; by
# rotating queries and keys; or by scores of relative positions.
Attention = Literal["absolute", "biased", "rotary", "disentangled"]


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    embeddings (Names): Our embedding modules -> theirs.
    layer (Names): Our modules of a layer -> theirs, below ``layer_prefix``.
    layer_prefix (str): Prefix of layer ``{i}``, counted from 0.
    config (Mapping[str, str]): The names of config fields that BERT names differently.
    first_position (str): ``"zero"`` or ``"after_padding"``.
    whole (Names): Our modules that all layers share -> theirs.
    convolution (Names): Our modules of the convolution -> theirs, if there is one.
    absent (Tuple[str, ...]): Our modules that have no weights here, though they do in other
        families.
    attention (Attention): How layers know of positions.
    gated (bool): Whether the feed-forward layer multiplies half of its wide states by the other
        half.
    always_projects (bool): Whether embeddings are projected even if they are as wide as the hidden
        states.
    required (Mapping[str, Tuple]): Options of the config -> the values that are supported.
    """

    embeddings: Names
    layer: Names
    layer_prefix: str
    config: Mapping[str, str]
    first_position: str = "zero"
    whole: Names = field(default_factory=dict)
    convolution: Names = field(default_factory=dict)
    absent: Tuple[str, ...] = ()
    attention: Attention = "absolute"
    gated: bool = False
    always_projects: bool = False
    required: Mapping[str, Tuple[Any, ...]] = field(default_factory=dict)


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

_ALBERT_LAYER: Names = {
    "qkv": ("attention.query", "attention.key", "attention.value"),
    "attention_output": ("attention.dense",),
    "attention_norm": ("attention.LayerNorm",),
    "intermediate": ("ffn",),
    "output": ("ffn_output",),
    "output_norm": ("full_layer_layer_norm",),
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

_ALBERT = Family(
    {**_TYPED_EMBEDDINGS, "project": ("encoder.embedding_hidden_mapping_in",)},
    _ALBERT_LAYER,
    "encoder.albert_layer_groups.{i}.albert_layers.0.",
    {"layer_groups": "num_hidden_groups"},
    always_projects=True,
    required={"inner_group_num": (1,)},
)

_MODERNBERT = Family(
    {"word": ("embeddings.tok_embeddings",), "norm": ("embeddings.norm",)},
    {
        "attention_norm": ("attn_norm",),
        "qkv": ("attn.Wqkv",),
        "attention_output": ("attn.Wo",),
        "intermediate_norm": ("mlp_norm",),
        "intermediate": ("mlp.Wi",),
        "output": ("mlp.Wo",),
    },
    "layers.{i}.",
    {
        "hidden_act": "hidden_activation",
        "layer_norm_eps": "norm_eps",
        "intermediate_bias": "mlp_bias",
        "rope_theta": "global_rope_theta",
        "global_every": "global_attn_every_n_layers",
    },
    whole={"final_norm": ("final_norm",)},
    absent=("layers.0.attention_norm",),
    attention="rotary",
    gated=True,
    required={"rope_scaling": (None,)},
)

_MPNET = Family(
    _EMBEDDINGS,
    {
        **_BERT_LAYER,
        "qkv": ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        "attention_output": ("attention.attn.o",),
        "attention_norm": ("attention.LayerNorm",),
    },
    "encoder.layer.{i}.",
    {"distance_buckets": "relative_attention_num_buckets"},
    first_position="after_padding",
    whole={"shared.table": ("encoder.relative_attention_bias",)},
    attention="biased",
    # Hugging Face's forward assumes these two.
    required={"pad_token_id": (1,), "relative_attention_num_buckets": (32,)},
)

_DEBERTA = Family(
    {"word": _EMBEDDINGS["word"], "norm": _EMBEDDINGS["norm"]},
    {
        **_BERT_LAYER,
        "qkv": tuple(f"attention.self.{name}_proj" for name in ("query", "key", "value")),
    },
    "encoder.layer.{i}.",
    {},
    whole={"shared.table": ("encoder.rel_embeddings",), "shared.norm": ("encoder.LayerNorm",)},
    convolution={
        "layers.0.inner_norm": ("encoder.layer.0.output.LayerNorm",),
        "layers.0.convolution": ("encoder.conv.conv",),
        "layers.0.output_norm": ("encoder.conv.LayerNorm",),
    },
    attention="disentangled",
    # These are the options of the published DeBERTa-v2 and v3.
    required={
        "relative_attention": (True,),
        "share_att_key": (True,),
        "pos_att_type": (["p2c", "c2p"], ["c2p", "p2c"]),
        "norm_rel_ebd": ("layer_norm",),
        "position_biased_input": (False,),
        "type_vocab_size": (0,),
        "conv_kernel_size": (None, 0, 3, 5),
        "conv_groups": (1, None),
    },
)

FAMILIES: Dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _ELECTRA,
    "distilbert": _DISTILBERT,
    "albert": _ALBERT,
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "deberta-v2": _DEBERTA,
}

# curated-transformers keeps RoBERTa's embeddings one module deeper than BERT's.
CURATED: Dict[str, Family] = {
    family: Family(
        {
            "word": (f"{embeddings}.word_embeddings",),
            "position": (f"{embeddings}.position_embeddings",),
            "token_type": (f"{embeddings}.token_type_embeddings",),
            "norm": (f"{embeddings}.layer_norm",),
        },
        {
            "qkv": ("mha.input",),
            "attention_output": ("mha.output",),
            "attention_norm": ("attn_output_layernorm",),
            "intermediate": ("ffn.intermediate",),
            "output": ("ffn.output",),
            "output_norm": ("ffn_output_layernorm",),
        },
        "curated_encoder.layers.{i}.",
        {},
    )
    for family, embeddings in (
        ("bert", "curated_encoder.embeddings"),
        ("roberta", "curated_encoder.embeddings.inner"),
    )
}
