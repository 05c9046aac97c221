"""The sizes of an encoder, and their bounds."""

from dataclasses import dataclass, fields

from .tables import FAMILIES, Family

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")

# Far above any existing encoder: anything larger is a mistake, or is meant to exhaust memory.
_LARGEST = {"layers": 512, "hidden_size": 2**16, "embedding_size": 2**16, "vocab_size": 2**24}

_LARGEST_OTHER = 2**20

_LARGEST_FLOAT = {"layer_norm_eps": 1.0}

_LARGEST_OTHER_FLOAT = 1e12

_ABOVE_0 = {
    *("hidden_size", "embedding_size", "intermediate_size", "layers", "attention_heads"),
    *("vocab_size", "positions", "global_every", "tags"),
}


@dataclass(frozen=True)
class EncoderSpec:
    """The sizes of an encoder: everything that is needed to build it before its weights come.

    family (str): The ``model_type`` of the Hugging Face config.
    hidden_size (int): Width of the hidden states.
    embedding_size (int): Width of the embeddings; projected if it is not ``hidden_size``.
    intermediate_size (int): Width of the feed-forward layer.
    layers (int): Number of layers.
    attention_heads (int): Attention heads of a layer.
    activation (str): Name of the feed-forward activation, as Hugging Face spells it.
    layer_norm_eps (float): Epsilon of every layer norm.
    vocab_size (int): Rows of the wordpiece embedding.
    positions (int): Rows of the position embedding.
    first_position (int): Position of a sequence's first wordpiece (RoBERTa starts after its
        padding index).
    token_types (int): Rows of the token type embedding, 0 if there is none.
    layer_groups (int): How many sets of weights the layers share, each set for consecutive layers;
        0: every layer has its own.
    attention_bias (bool): Whether the linear maps around attention have a bias.
    intermediate_bias (bool): Whether those of the feed-forward layer have one.
    norm_bias (bool): Whether layer norms have one.
    distance_buckets (int): Rows of the table of biases by distance, 0 if there is none.
    place_span (int): Half the rows of the table of relative positions, 0 if there is none.
    place_farthest (int): The distance from which on all distances share a row; 0: none do.
    convolution (int): How many wordpieces the convolution after the first layer sees, 0 if there
        is none.
    convolution_activation (str): Name of its activation.
    rope_theta (float): The base of the wavelengths, if queries and keys are rotated.
    local_rope_theta (float): The same, in layers that attend nearby.
    local_reach (int): How far those layers attend to either side.
    global_every (int): In each group of this many layers, the first attends everywhere, the others
        nearby.
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
    layer_groups: int = 0  # from here on: fields that older saved pipelines do not have
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
    def table(self) -> Family:
        """RETURNS (Family): The table row of its family."""
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
        """RETURNS (int): How many layers attend nearby only."""
        return sum(self.is_local(number) for number in range(1, self.layers + 1))

    @property
    def max_wordpieces(self) -> int:
        """RETURNS (int): Longest sequence in wordpieces, special tokens included."""
        return self.positions - self.first_position


def check_sizes(spec: EncoderSpec, tags: int = 1) -> None:
    """Refuse sizes that no encoder has, before anything is built from them.

    spec (EncoderSpec): The sizes, which may be untrusted.
    tags (int): Number of tags.
    RAISES (ValueError): If one is not a number, or out of bounds. The message names it.
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
