"""Gates: a factor for each attention head and each feed-forward neuron, learnt to find out which
ones matter.

A gate multiplies what its unit adds to the states. That is the same as multiplying the columns of
the linear map behind it, so the layers do not know of gates.

Source: ACL 2021, "EarlyBERT: Efficient BERT Training via Early-bird Lottery Tickets".
"""

from typing import List, NamedTuple, cast

import torch
from torch import Tensor, nn

from .exit_network import ExitNetwork
from .layers.layer import Layer
from .layers.linear import Linear, linear


class Units(NamedTuple):
    """Something for each attention head and each feed-forward neuron of an encoder, by layer.
    Layers that share their weights share their units, too.

    heads (List[Tensor]): *Shapes:* ``(heads,)``
    neurons (List[Tensor]): *Shapes:* ``(neurons,)``
    """

    heads: List[Tensor]
    neurons: List[Tensor]


class GatedLinear(Linear):
    """A linear map with gates on its inputs.

    linear (nn.Linear): The map without gates. The parameters are shared.
    gates (int): How many there are, each on equally many consecutive inputs.
    """

    def __init__(self, linear: nn.Linear, gates: int):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.gate = nn.Parameter(torch.ones(gates, device=linear.weight.device))

    def forward(self, states: Tensor) -> Tensor:
        """RETURNS (Tensor): *Shape:* ``(rows, outputs)``

        states (Tensor): *Shape:* ``(rows, inputs)``
        """
        return linear(states, self.folded(), self.bias)

    def folded(self) -> Tensor:
        """RETURNS (Tensor): The weight, multiplied by the gates. *Shape:* ``(outputs, inputs)``"""
        of_gates = self.weight.view(self.out_features, len(self.gate), -1)
        folded: Tensor = of_gates * self.gate[:, None]  # (outputs, gates, inputs / gates)
        return folded.view_as(self.weight)


def weight_of(linear: nn.Linear) -> Tensor:
    """RETURNS (Tensor): The weight that a linear map works with. *Shape:* ``(outputs, inputs)``"""
    return linear.folded() if isinstance(linear, GatedLinear) else linear.weight


def add_gates(network: ExitNetwork) -> None:
    """Put a gate of 1 on each head and neuron, which changes no answer.

    network (ExitNetwork): The network, without gates.
    """
    for layer in layers_of(network):
        layer.attention_output = GatedLinear(layer.attention_output, layer.attention_heads)
        layer.output = GatedLinear(layer.output, layer.output.in_features)


def has_gates(network: ExitNetwork) -> bool:
    """RETURNS (bool): Whether there are gates."""
    return isinstance(layers_of(network)[0].output, GatedLinear)


def gates_of(network: ExitNetwork) -> Units:
    """RETURNS (Units): The gates.

    network (ExitNetwork): The network, with gates.
    """
    behind = [(layer.attention_output, layer.output) for layer in layers_of(network)]
    heads, neurons = zip(*behind)
    return Units(
        [cast(GatedLinear, linear).gate for linear in heads],
        [cast(GatedLinear, linear).gate for linear in neurons],
    )


def layers_of(network: ExitNetwork) -> List[Layer]:
    """RETURNS (List[Layer]): The layers that have weights of their own."""
    return [cast(Layer, layer) for layer in network.encoder.layers]
