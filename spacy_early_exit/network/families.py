"""Which encoders can be run layer by layer, as tables of parameter names.

Checkpoints pin their parameter names, forward signatures change from release to release: so
an encoder is read by name, and its arithmetic is ours (``encoder.py``). A new family of a known
shape is a new row here.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Dict, Literal, Mapping, Optional, Tuple

import torch
from torch import Tensor

# What our modules call a module of the checkpoint. Several names are concatenated along the
# rows: queries, keys and values are one matrix here.
Names = Mapping[str, Tuple[str, ...]]
# How layers know of positions: from the embeddings alone; by what is added to the scores; by
# turning queries and keys; by scores of relative positions.
Attention = Literal["absolute", "biased", "rotary", "disentangled"]


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
    layer_groups (int): How many sets of weights the layers share, each in a row of layers that
        follow one another; 0: every layer has its own.
    attention_bias (bool): Whether the linear maps around attention have a bias.
    intermediate_bias (bool): Whether those of the feed-forward layer have one.
    norm_bias (bool): Whether layer norms have one.
    distance_buckets (int): Rows of the table of biases by distance, 0 if there is none.
    place_span (int): Half the rows of the table of relative positions, 0 if there is none.
    place_farthest (int): The distance from which on all share a row; 0: none do.
    convolution (int): How many wordpieces the convolution behind the first layer sees, 0 if there
        is none.
    convolution_activation (str): Name of its activation.
    rope_theta (float): Where queries and keys are turned, the base of the wave lengths.
    local_rope_theta (float): The same, in layers that attend nearby.
    local_reach (int): How far to either side those attend.
    global_every (int): Of so many layers the first attends everywhere, the others nearby.
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
    layer_groups: int = 0  # from here on: what pipelines that were saved before do not have
    attention_bias: bool = True
    intermediate_bias: bool = True
    norm_bias: bool = True
    distance_buckets: int = 0
    place_span: int = 0
    place_farthest: int = 0
    convolution: int = 0
    convolution_activation: str = ""
    rope_theta: float = 0.0
    local_rope_theta: float = 0.0
    local_reach: int = 0
    global_every: int = 1

    @property
    def table(self) -> "Family":
        """RETURNS (Family): The row of its family."""
        return FAMILIES[self.family]

    @property
    def distinct_layers(self) -> int:
        """RETURNS (int): How many layers have weights of their own."""
        return self.layer_groups or self.layers

    @property
    def projects(self) -> bool:
        """RETURNS (bool): Whether a linear map brings embeddings to the hidden width."""
        return self.embedding_size != self.hidden_size or self.table.always_projects

    def is_local(self, layer: int) -> bool:
        """RETURNS (bool): Whether a layer, counted from 1, attends nearby only."""
        return (layer - 1) % self.global_every > 0

    @property
    def local_layers(self) -> int:
        """RETURNS (int): How many layers do."""
        return sum(self.is_local(number) for number in range(1, self.layers + 1))

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
    whole (Names): Our modules that all layers share -> theirs.
    convolution (Names): Our modules of the convolution -> theirs, where there is one.
    absent (Tuple[str, ...]): Our modules that have no weights, though others of their kind have.
    attention (Attention): How layers know of positions.
    gated (bool): Whether the feed-forward layer multiplies half of its wide states by the others.
    always_projects (bool): Whether embeddings are projected even where they are as wide as the
        hidden states.
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
    # Hugging Face's forward takes these two for granted.
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
    # What DeBERTa-v2 and v3 were published with.
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

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def read_spec(config: Mapping[str, Any]) -> EncoderSpec:
    """Read the sizes of an encoder from its Hugging Face config.

    config (Mapping[str, Any]): The config as a dict, as in ``config.json``.
    RETURNS (EncoderSpec): The sizes.
    RAISES (ValueError): If the family, or an option of it, is not supported, or a size is none.
        The message says which would be.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise ValueError(
            f"An encoder of the family '{model_type}' can't be run layer by layer here. "
            f"Supported families (model_type in config.json): {', '.join(sorted(FAMILIES))}."
        )
    family = FAMILIES[model_type]

    def read(name: str, default: Any = None) -> Any:
        value = config.get(family.config.get(name, name), default)
        if value is None:
            raise ValueError(
                f"The encoder's config.json (family '{model_type}') has no "
                f"'{family.config.get(name, name)}'."
            )
        if name != "hidden_act" and not _is_number(value):
            raise ValueError(
                f"The encoder's config.json has {family.config.get(name, name)}={value!r}, which "
                f"is no number."
            )
        return value

    _refuse(config, "position_embedding_type", ("absolute", None))
    _refuse(config, "is_decoder", (False, None))
    _refuse(config, "add_cross_attention", (False, None))
    for option, supported in family.required.items():
        _refuse(config, option, supported)
    activation = str(read("hidden_act"))
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"The encoder's activation '{activation}' is not supported. "
            f"Supported: {', '.join(ACTIVATIONS)}."
        )
    # The default is Hugging Face's.
    convolution = int(config.get("conv_kernel_size") or 0) if family.convolution else 0
    convolution_activation = str(config.get("conv_act", "tanh")) if convolution else ""
    if convolution and convolution_activation not in ACTIVATIONS:
        raise ValueError(
            f"The encoder's config.json has conv_act={convolution_activation!r}, which is not "
            f"supported. Supported: {', '.join(ACTIVATIONS)}."
        )
    hidden_size = int(read("hidden_size"))
    after_padding = family.first_position == "after_padding"
    typed = "token_type" in family.embeddings
    rope_theta = float(read("rope_theta", 0))
    place_span, place_farthest = _places(config, family)
    embedding_size = int(read("embedding_size", hidden_size))
    if embedding_size != hidden_size and "project" not in family.embeddings:
        raise ValueError(
            f"The encoder's config.json has embedding_size={embedding_size}, which is not "
            f"supported in the family '{model_type}': it must be the hidden_size, {hidden_size}."
        )
    spec = EncoderSpec(
        family=model_type,
        hidden_size=hidden_size,
        embedding_size=embedding_size,
        intermediate_size=int(read("intermediate_size")),
        layers=int(read("num_hidden_layers")),
        attention_heads=int(read("num_attention_heads")),
        activation=activation,
        layer_norm_eps=float(read("layer_norm_eps", 1e-12)),
        vocab_size=int(read("vocab_size")),
        positions=int(read("max_position_embeddings")),
        first_position=int(read("pad_token_id")) + 1 if after_padding else 0,
        token_types=int(read("type_vocab_size")) if typed else 0,
        layer_groups=int(read("layer_groups", 0)),
        attention_bias=bool(read("attention_bias", True)),
        intermediate_bias=bool(read("intermediate_bias", True)),
        norm_bias=bool(read("norm_bias", True)),
        distance_buckets=int(read("distance_buckets", 0)),
        place_span=place_span,
        place_farthest=place_farthest,
        convolution=convolution,
        convolution_activation=convolution_activation,
        rope_theta=rope_theta,
        local_rope_theta=float(config.get("local_rope_theta") or rope_theta),
        local_reach=int(read("local_attention", 0)) // 2,
        global_every=int(read("global_every", 1)),
    )
    check_sizes(spec)
    return spec


# Far above any encoder that there is: what is larger is a mistake, or meant to exhaust memory.
_LARGEST = {"layers": 512, "hidden_size": 2**16, "embedding_size": 2**16, "vocab_size": 2**24}
_LARGEST_OTHER = 2**20
_LARGEST_FLOAT = {"layer_norm_eps": 1.0}
_LARGEST_OTHER_FLOAT = 1e12
_ABOVE_0 = {
    *("hidden_size", "embedding_size", "intermediate_size", "layers", "attention_heads"),
    *("vocab_size", "positions", "global_every", "tags"),
}


def check_sizes(spec: EncoderSpec, tags: int = 1) -> None:
    """Refuse sizes that no encoder has, before anything is built from them.

    spec (EncoderSpec): The sizes, as somebody wrote them down.
    tags (int): Number of tags.
    RAISES (ValueError): If one is no number, or out of bounds. The message names it.
    """
    for name, value, known in (
        ("family", spec.family, tuple(FAMILIES)),
        ("activation", spec.activation, ACTIVATIONS),
        ("convolution_activation", spec.convolution_activation, ("", *ACTIVATIONS)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    counts = {size.name: getattr(spec, size.name) for size in fields(spec) if size.type is int}
    for name, value in {**counts, "tags": tags}.items():
        least, most = int(name in _ABOVE_0), _LARGEST.get(name, _LARGEST_OTHER)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    for size in fields(spec):
        value = getattr(spec, size.name)
        bound = _LARGEST_FLOAT.get(size.name, _LARGEST_OTHER_FLOAT)
        if size.type is float and not (isinstance(value, (int, float)) and 0 <= value <= bound):
            raise ValueError(f"{size.name} must be a number from 0 to {bound:g}")
        if size.type is bool and type(value) is not bool:
            raise ValueError(f"{size.name} must be true or false, not {value!r}")
    if spec.first_position >= spec.positions:
        raise ValueError(f"first_position must be below positions, which is {spec.positions}")
    local = (spec.global_every, spec.local_reach) != (1, 0)
    if local and FAMILIES[spec.family].attention != "rotary":
        raise ValueError(
            f"layers of the family {spec.family!r} attend to everything: global_every "
            f"must be 1 and local_reach 0"
        )
    if spec.hidden_size % spec.attention_heads:
        raise ValueError(
            f"hidden_size must be a multiple of attention_heads, {spec.attention_heads}, not "
            f"{spec.hidden_size}"
        )


def _places(config: Mapping[str, Any], family: Family) -> Tuple[int, int]:
    """RETURNS (Tuple[int, int]): ``place_span`` and ``place_farthest`` of a spec."""
    if family.attention != "disentangled":
        return 0, 0
    farthest = int(config.get("max_relative_positions") or 0)
    farthest = farthest if farthest > 0 else int(config["max_position_embeddings"])
    buckets = int(config.get("position_buckets") or 0)
    return (buckets, farthest) if buckets > 0 else (farthest, 0)


def _refuse(config: Mapping[str, Any], name: str, supported: Tuple[Any, ...]) -> None:
    if config.get(name) not in supported:
        raise ValueError(
            f"The encoder's config.json has {name}={config.get(name)!r}, which is not supported: "
            f"it must be {supported[0]!r}."
        )


def read_weights(
    spec: EncoderSpec, checkpoint: Mapping[str, Tensor], layout: Optional[Family] = None
) -> Dict[str, Tensor]:
    """Translate a checkpoint's parameters into ours.

    spec (EncoderSpec): The sizes of the encoder.
    checkpoint (Mapping[str, Tensor]): Parameters by name.
    layout (Optional[Family]): What they are called; None: as Hugging Face does.
    RETURNS (Dict[str, Tensor]): Parameters by the names of ``encoder.Encoder``.
    RAISES (ValueError): If a parameter is missing; the message names it.
    """
    family = layout or FAMILIES[spec.family]
    modules = {f"embeddings.{ours}": theirs for ours, theirs in family.embeddings.items()}
    modules.update(family.whole)
    for i in range(spec.distinct_layers):
        prefix = family.layer_prefix.format(i=i)
        for ours, theirs in family.layer.items():
            modules[f"layers.{i}.{ours}"] = tuple(prefix + name for name in theirs)
    if not spec.projects:
        modules.pop("embeddings.project", None)
    if spec.convolution:
        modules.update(family.convolution)
    for ours in family.absent:
        del modules[ours]
    weights: Dict[str, Tensor] = {}
    for ours, theirs in modules.items():
        for kind in ("weight", "bias") if _has_bias(spec, ours) else ("weight",):
            names = [f"{name}.{kind}" for name in theirs]
            missing = [name for name in names if name not in checkpoint]
            if missing:
                raise ValueError(
                    f"The encoder's weights have no '{missing[0]}', which the family "
                    f"'{spec.family}' must have: incomplete, or of another model?"
                )
            weights[f"{ours}.{kind}"] = torch.cat([checkpoint[name] for name in names])
    return weights


_TABLES = ("embeddings.word", "embeddings.position", "embeddings.token_type", "shared.table")
_BIAS = {
    "qkv": "attention_bias",
    "attention_output": "attention_bias",
    "intermediate": "intermediate_bias",
    "output": "intermediate_bias",
    "project": None,
    "convolution": None,
}


def _has_bias(spec: EncoderSpec, module: str) -> bool:
    if module in _TABLES:
        return False
    option = _BIAS.get(module.rsplit(".", 1)[-1], "norm_bias")
    return option is None or bool(getattr(spec, option))
