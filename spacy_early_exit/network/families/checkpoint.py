"""A checkpoint of Hugging Face: its config as sizes, and its parameters under our names.

In the config of a slim encoder, ``pruned_heads`` has the heads that layers lack, as in Hugging
Face's own configs, and ``intermediate_sizes``, which Hugging Face does not know, the width of each
feed-forward layer. All other sizes are those of the encoder that it was cut from.
"""

from dataclasses import replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

from .spec import ACTIVATIONS, EncoderSpec, check_sizes
from .tables import FAMILIES, Family

MAX_HEADS = 2**16  # of all layers of a slim encoder together: far above any existing one


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
    RAISES (ValueError): If the family, or an option of it, is not supported, or a size is invalid.
        The message says what is supported.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise ValueError(
            f"Encoders of the family '{model_type}' are not supported. "
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
                f"is not a number."
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
    pruned, sizes = config.get("pruned_heads"), config.get("intermediate_sizes")
    return _slim(spec, pruned or {}, sizes or ()) if pruned or sizes else spec


def _slim(spec: EncoderSpec, pruned: Any, sizes: Any) -> EncoderSpec:
    """RETURNS (EncoderSpec): The sizes of a slim encoder.

    spec (EncoderSpec): Those of the encoder that it was cut from.
    pruned (Any): The heads that layers lack, by layer: ``pruned_heads`` of a config.
    sizes (Any): ``intermediate_sizes`` of a config.
    RAISES (ValueError): If they make no sense. The message names them.
    """
    layers, heads = range(spec.distinct_layers), range(spec.attention_heads)
    try:
        lacks = {int(layer): {int(head) for head in lost} for layer, lost in pruned.items()}
        wrong = [layer for layer in lacks if layer not in layers]
        wrong += [head for lost in lacks.values() for head in lost if head not in heads]
        if wrong or len(layers) * len(heads) > MAX_HEADS:
            raise ValueError("there are no such layers or heads")
        if not isinstance(sizes, (list, tuple)):
            raise ValueError("intermediate_sizes are not a list")
    except (AttributeError, OverflowError, TypeError, ValueError) as e:
        raise ValueError(
            f"The encoder's config.json has invalid pruned_heads or intermediate_sizes: {e}."
        ) from e
    kept = (tuple(head for head in heads if head not in lacks.get(i, ())) for i in layers)
    slim = replace(
        spec,
        kept_heads=tuple(kept) if any(lacks.values()) else (),
        intermediate_sizes=tuple(sizes),
    )
    check_sizes(slim)
    return slim


def write_config(spec: EncoderSpec) -> Dict[str, Any]:
    """Describe an encoder as Hugging Face does. ``read_spec`` reads it.

    spec (EncoderSpec): The sizes.
    RETURNS (Dict[str, Any]): The content of ``config.json``.
    """
    family = spec.table
    sizes: Dict[str, Any] = {
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.attention_heads,
        "hidden_act": spec.activation,
        "max_position_embeddings": spec.positions,
        "pad_token_id": max(spec.first_position - 1, 0),
    }
    same = ("hidden_size", "intermediate_size", "layer_norm_eps", "vocab_size")
    sizes |= {name: getattr(spec, name) for name in same}
    if "project" in family.embeddings:
        sizes["embedding_size"] = spec.embedding_size
    if "token_type" in family.embeddings:
        sizes["type_vocab_size"] = spec.token_types
    # Whatever else the family's configs have under a name of their own.
    sizes |= {name: getattr(spec, name) for name in family.config if hasattr(spec, name)}
    if family.attention == "rotary":
        own = ("attention_bias", "norm_bias", "local_rope_theta")
        sizes |= {name: getattr(spec, name) for name in own}
        sizes["local_attention"] = 2 * spec.local_reach
    if family.attention == "disentangled":
        buckets = spec.place_span if spec.place_farthest else -1
        farthest = spec.place_farthest or spec.place_span
        sizes |= {"position_buckets": buckets, "max_relative_positions": farthest}
    if spec.convolution:
        sizes["conv_act"] = spec.convolution_activation
    config = {name: supported[0] for name, supported in family.required.items()}
    config |= {family.config.get(name, name): value for name, value in sizes.items()}
    if family.convolution:
        config["conv_kernel_size"] = spec.convolution
    config["model_type"] = spec.family
    if spec.kept_heads:
        heads = range(spec.attention_heads)
        config["pruned_heads"] = {
            str(layer): [head for head in heads if head not in kept]
            for layer, kept in enumerate(spec.kept_heads)
        }
    if spec.intermediate_sizes:
        config["intermediate_sizes"] = [*spec.intermediate_sizes]
    return config


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
    layout (Optional[Family]): The naming of the parameters; None: Hugging Face's.
    RETURNS (Dict[str, Tensor]): Parameters by the names of ``encoder.Encoder``.
    RAISES (ValueError): If a parameter is missing; the message names it.
    """
    weights: Dict[str, Tensor] = {}
    for ours, theirs in _parameters(spec, layout or FAMILIES[spec.family]):
        missing = [name for name in theirs if name not in checkpoint]
        if missing:
            raise ValueError(
                f"The encoder's weights have no '{missing[0]}', which the family "
                f"'{spec.family}' must have: they are incomplete, or of another model."
            )
        weights[ours] = torch.cat([checkpoint[name] for name in theirs])
    return weights


def write_weights(spec: EncoderSpec, weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Translate our parameters into those of Hugging Face's checkpoints. ``read_weights`` reads
    them.

    spec (EncoderSpec): The sizes of the encoder.
    weights (Mapping[str, Tensor]): Parameters by the names of ``encoder.Encoder``.
    RETURNS (Dict[str, Tensor]): Parameters by name.
    """
    checkpoint: Dict[str, Tensor] = {}
    for ours, theirs in _parameters(spec, spec.table):
        parts = weights[ours].chunk(len(theirs))  # all equally long: queries, keys and values
        checkpoint.update((name, part.contiguous()) for name, part in zip(theirs, parts))
    return checkpoint


def _parameters(spec: EncoderSpec, family: Family) -> Iterator[Tuple[str, List[str]]]:
    """YIELDS (Tuple[str, List[str]]): Our name of each parameter, and the checkpoint's."""
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
    for ours, theirs in modules.items():
        for kind in ("weight", "bias") if _has_bias(spec, ours) else ("weight",):
            yield f"{ours}.{kind}", [f"{name}.{kind}" for name in theirs]


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
