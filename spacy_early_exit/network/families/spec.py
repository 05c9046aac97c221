"""The sizes of an encoder, and their bounds."""

from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Dict, Mapping, NamedTuple, Tuple

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


class LayerSizes(NamedTuple):
    """The sizes of a layer. All layers have the same, except those of slim encoders.

    heads (int): Attention heads.
    neurons (int): Width of the feed-forward layer.
    """

    heads: int
    neurons: int


@dataclass(frozen=True)
class EncoderSpec:
    """The sizes of an encoder: everything that is needed to build it before its weights come.

    A slim encoder has fewer attention heads and feed-forward neurons in its layers than
    ``attention_heads`` and ``intermediate_size``, which are those of the encoder it was cut from.

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
    kept_heads (Tuple[Tuple[int, ...], ...]): The attention heads that each layer with weights of
        its own has kept, counted from 0; empty: all.
    intermediate_sizes (Tuple[int, ...]): The width of its feed-forward layer; empty: as
        ``intermediate_size``.
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
    kept_heads: Tuple[Tuple[int, ...], ...] = ()
    intermediate_sizes: Tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> "EncoderSpec":
        """RETURNS (EncoderSpec): The sizes that ``to_dict`` returned, maybe by way of JSON. They
        are not checked.

        sizes (Mapping[str, Any]): The sizes by name.
        """
        slim = {name: _as_tuples(sizes[name]) for name in _SLIM if name in sizes}
        return cls(**{**sizes, **slim})

    def to_dict(self) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): The sizes by name, without those of slim encoders if it is
        none: earlier versions did not know them.
        """
        return {name: value for name, value in asdict(self).items() if value or name not in _SLIM}

    @property
    def is_slim(self) -> bool:
        """RETURNS (bool): Whether heads or neurons are missing."""
        return bool(self.kept_heads or self.intermediate_sizes)

    @property
    def unslimmed(self) -> "EncoderSpec":
        """RETURNS (EncoderSpec): The sizes of the encoder that a slim one was cut from."""
        return replace(self, kept_heads=(), intermediate_sizes=())

    @property
    def head_width(self) -> int:
        """RETURNS (int): Width of an attention head."""
        return self.hidden_size // self.attention_heads

    @cached_property
    def own_sizes(self) -> Tuple[LayerSizes, ...]:
        """RETURNS (Tuple[LayerSizes, ...]): The sizes of each layer with weights of its own."""
        layers = range(self.distinct_layers)
        heads = [len(kept) for kept in self.kept_heads] or [self.attention_heads for _ in layers]
        neurons = self.intermediate_sizes or [self.intermediate_size for _ in layers]
        return tuple(LayerSizes(*sizes) for sizes in zip(heads, neurons))

    def own_layer(self, layer: int) -> int:
        """RETURNS (int): Which weights a layer, counted from 1, has: their number, from 0."""
        return (layer - 1) * self.distinct_layers // self.layers

    @cached_property
    def layer_sizes(self) -> Tuple[LayerSizes, ...]:
        """RETURNS (Tuple[LayerSizes, ...]): The sizes of each layer."""
        numbers = range(1, self.layers + 1)
        return tuple(self.own_sizes[self.own_layer(number)] for number in numbers)

    @cached_property
    def layer_kinds(self) -> Dict[Tuple[LayerSizes, bool], int]:
        """RETURNS (Dict[Tuple[LayerSizes, bool], int]): How many layers there are of each kind: by
        their sizes, and by whether they attend nearby only.
        """
        local = (self.is_local(number) for number in range(1, self.layers + 1))
        return dict(Counter(zip(self.layer_sizes, local)))

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


_SLIM = ("kept_heads", "intermediate_sizes")


def _as_tuples(value: Any) -> Any:
    """RETURNS (Any): Lists, as JSON has them, as tuples, with what is in them."""
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


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
    _check_slim(spec)


def _check_slim(spec: EncoderSpec) -> None:
    """RAISES (ValueError): If the sizes of layers are not those of a slim encoder."""
    for name in _SLIM:
        of_layers = getattr(spec, name)
        if type(of_layers) is not tuple or len(of_layers) not in (0, spec.distinct_layers):
            raise ValueError(
                f"{name} must be a list with an entry for each of the {spec.distinct_layers} "
                f"layers, or empty"
            )
    heads, most = spec.attention_heads, spec.intermediate_size
    for number, kept in enumerate(spec.kept_heads, start=1):
        whole = type(kept) is tuple and kept and all(type(head) is int for head in kept)
        if not (whole and all(a < b for a, b in zip((-1, *kept), (*kept, heads)))):
            raise ValueError(
                f"kept_heads of layer {number} must be at least one of the numbers from 0 to "
                f"{heads - 1}, ascending, not {kept!r}"
            )
    for number, neurons in enumerate(spec.intermediate_sizes, start=1):
        if type(neurons) is not int or not 1 <= neurons <= most:
            raise ValueError(
                f"intermediate_sizes of layer {number} must be a whole number from 1 to {most}, "
                f"not {neurons!r}"
            )
