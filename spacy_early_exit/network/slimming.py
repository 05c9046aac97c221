"""Slim encoders: some attention heads and feed-forward neurons are cut out.

A *ticket* says which ones stay: those with the highest scores, of each layer or of all layers
together. No layer loses all of its heads or all of its neurons.

Source: ACL 2021, "EarlyBERT: Efficient BERT Training via Early-bird Lottery Tickets". There are two
differences. So many stay as are asked for, whatever the ties, where the authors keep scores above a
quantile. And a gate counts by its size, whatever its sign: only one of 0 removes its unit.
"""

from dataclasses import replace
from typing import Dict, List, Literal, Mapping, Sequence, Tuple

import torch
from torch import Tensor

from .encoder import Encoder
from .exit_network import ExitNetwork
from .families import EncoderSpec
from .gates import GatedLinear, Units, gates_of, layers_of, weight_of

Scope = Literal["layerwise", "global"]


def draw_ticket(
    scores: Units, heads: float, neurons: float, heads_scope: Scope, neurons_scope: Scope
) -> Units:
    """Choose which units stay.

    scores (Units): How much each of them matters.
    heads (float): The share of heads that stay, above 0 and at most 1.
    neurons (float): The share of neurons.
    heads_scope (Scope): Whether each layer keeps this share of its heads, or all layers together.
    neurons_scope (Scope): The same for neurons.
    RETURNS (Units): Which ones stay, bool.
    """
    return Units(
        highest(scores.heads, heads, heads_scope),
        highest(scores.neurons, neurons, neurons_scope),
    )


def highest(scores: Sequence[Tensor], share: float, scope: Scope) -> List[Tensor]:
    """Choose a share of scores.

    scores (Sequence[Tensor]): The scores of each layer. *Shapes:* ``(units,)``
    share (float): The share, above 0 and at most 1.
    scope (Scope): Whether it is of each layer, or of all layers together.
    RETURNS (List[Tensor]): The highest, at least one in each layer; of equals the first. *Shapes:*
        ``(units,)``, bool
    """
    if scope == "layerwise":
        return [_top(of_layer, round(share * len(of_layer))) for of_layer in scores]
    best = [_top(of_layer, 1) for of_layer in scores]
    # The best of each layer come before all others.
    order = [of_layer.masked_fill(first, torch.inf) for of_layer, first in zip(scores, best)]
    together = torch.cat(order)
    stays = _top(together, max(round(share * len(together)), len(best)))
    return [*torch.split(stays, [len(of_layer) for of_layer in scores])]


def _top(scores: Tensor, count: int) -> Tensor:
    """RETURNS (Tensor): The highest so many scores, at least one. *Shape:* that of ``scores``,
    bool
    """
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[scores.argsort(descending=True, stable=True)[: max(count, 1)]] = True
    return stays


def distance(one: Units, other: Units) -> Tuple[float, float]:
    """RETURNS (Tuple[float, float]): The shares of heads and neurons that are on only one of two
    tickets.

    one (Units): A ticket.
    other (Units): Another one, for the same encoder.
    """
    heads, neurons = (
        float((torch.cat(a) != torch.cat(b)).float().mean()) for a, b in zip(one, other)
    )
    return heads, neurons


def check_share(name: str, share: float) -> None:
    """RAISES (ValueError): If a share is not above 0 and at most 1.

    name (str): What it is called.
    share (float): The share.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{name} must be above 0 and at most 1, not {share}.")


def gate_scores(network: ExitNetwork) -> Units:
    """RETURNS (Units): The sizes of the gates.

    network (ExitNetwork): The network, with gates.
    """
    return Units(*([gate.detach().abs() for gate in gates] for gates in gates_of(network)))


def magnitude_scores(network: ExitNetwork) -> Units:
    """RETURNS (Units): The root of the sum of squares of each unit's weights.

    network (ExitNetwork): The network.
    """
    heads, neurons, spec = [], [], network.spec
    for layer in layers_of(network):
        count, width = layer.attention_heads, spec.hidden_size
        qkv = layer.qkv.weight.detach().view(3, count, spec.head_width, width)
        out = weight_of(layer.attention_output).detach().view(width, count, spec.head_width)
        heads.append((qkv.square().sum((0, 2, 3)) + out.square().sum((0, 2))).sqrt())
        behind = weight_of(layer.output).detach()  # (width, neurons)
        before = layer.intermediate.weight.detach().view(-1, behind.shape[1], width)
        neurons.append((before.square().sum((0, 2)) + behind.square().sum(0)).sqrt())
    return Units(heads, neurons)


def random_scores(network: ExitNetwork, seed: int) -> Units:
    """RETURNS (Units): Numbers drawn at random, for comparison.

    network (ExitNetwork): The network.
    seed (int): It determines them.
    """
    draw = torch.Generator().manual_seed(seed)
    sizes = network.spec.own_sizes
    return Units(
        [torch.rand(size.heads, generator=draw) for size in sizes],
        [torch.rand(size.neurons, generator=draw) for size in sizes],
    )


def slim_spec(spec: EncoderSpec, ticket: Units) -> EncoderSpec:
    """RETURNS (EncoderSpec): The sizes of what is left of an encoder. If all of it is, they are the
    same.

    spec (EncoderSpec): Its sizes. It may be slim already.
    ticket (Units): Which units stay.
    """
    before = spec.kept_heads or [range(spec.attention_heads)] * spec.distinct_layers
    of_layers = zip(before, ticket.heads)
    heads = tuple(tuple(kept[i] for i in _rows(stays)) for kept, stays in of_layers)
    neurons = tuple(int(stays.sum()) for stays in ticket.neurons)
    all_heads = all(len(kept) == spec.attention_heads for kept in heads)
    all_neurons = all(count == spec.intermediate_size for count in neurons)
    return replace(
        spec,
        kept_heads=() if all_heads else heads,
        intermediate_sizes=() if all_neurons else neurons,
    )


def slim_weights(
    spec: EncoderSpec, weights: Mapping[str, Tensor], ticket: Units
) -> Dict[str, Tensor]:
    """Cut rows and columns out of an encoder's weights.

    spec (EncoderSpec): Its sizes, before.
    weights (Mapping[str, Tensor]): Its parameters, without gates.
    ticket (Units): Which units stay.
    RETURNS (Dict[str, Tensor]): What is left, by the same names.
    """
    slim = dict(weights)
    for number, (heads, neurons) in enumerate(zip(*ticket)):
        of_heads = heads.repeat_interleave(spec.head_width)
        rows = {
            "qkv": of_heads.repeat(3),
            "intermediate": neurons.repeat(2 if spec.table.gated else 1),
        }
        columns = {"attention_output": of_heads, "output": neurons}
        for module, stays in rows.items():
            for name in (f"layers.{number}.{module}.{kind}" for kind in ("weight", "bias")):
                if name in weights:
                    slim[name] = weights[name][stays]
        for module, stays in columns.items():
            name = f"layers.{number}.{module}.weight"
            slim[name] = weights[name][:, stays]
    return slim


def plain_weights(network: ExitNetwork) -> Dict[str, Tensor]:
    """RETURNS (Dict[str, Tensor]): The encoder's parameters, with its gates multiplied into them.

    network (ExitNetwork): The network.
    """
    encoder = network.encoder
    weights = {name: value.detach() for name, value in encoder.state_dict().items()}
    for name, module in encoder.named_modules():
        if isinstance(module, GatedLinear):
            weights[f"{name}.weight"] = module.folded().detach()
            del weights[f"{name}.gate"]
    return weights


def slimmed(network: ExitNetwork, ticket: Units) -> ExitNetwork:
    """Make a smaller network: what is left of the encoder, with the same heads.

    network (ExitNetwork): The network, with or without gates.
    ticket (Units): Which units stay.
    RETURNS (ExitNetwork): A network without gates.
    """
    spec = slim_spec(network.spec, ticket)
    slim = ExitNetwork(spec, network.tags, network.head_window, network.exit_layers)
    slim.encoder.load_state_dict(slim_weights(network.spec, plain_weights(network), ticket))
    slim.heads.load_state_dict(network.heads.state_dict())
    slim.make_room_for(dict(network.decoder.items()), dict(network.criterion.items()))
    return slim.to(network.device)


def check_shapes(spec: EncoderSpec, weights: Mapping[str, Tensor]) -> None:
    """Check that weights are those of an encoder.

    spec (EncoderSpec): Its sizes.
    weights (Mapping[str, Tensor]): Its parameters.
    RAISES (ValueError): If one has another shape. The message names it.
    """
    with torch.device("meta"):
        wanted = Encoder(spec).state_dict()
    for name, parameter in wanted.items():
        found = weights[name].shape
        if found != parameter.shape:
            raise ValueError(
                f"its weights do not match its config.json: '{name}' has shape {tuple(found)} "
                f"instead of {tuple(parameter.shape)}"
            )


def _rows(stays: Tensor) -> List[int]:
    rows: List[int] = stays.nonzero().squeeze(1).tolist()
    return rows
