"""The network: an encoder with exit heads, which are dropout and one linear map of what ``seen.py``
says that they see; and the learnt parameters of decoder and criterion.
"""

import math
from typing import Dict, Mapping, Optional, Sequence, Tuple, cast

import torch
from torch import Tensor, nn

from .encoder import Encoder
from .families import EncoderSpec
from .layers.layer import drop_out
from .layers.linear import Linear

MAX_HEAD_WINDOW = 8  # more is surely a mistake, or a damaged file


class ExitNetwork(nn.Module):
    """Encoder and exit heads. It has no ``forward``: see ``loop.py``.

    The modules' train / eval mode is ignored: dropout is an argument, so that threads may share a
    network.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    head_window (int): How many words on each side the heads see, except the deepest one, whose
        word has attended to all others.
    exit_layers (Optional[Sequence[int]]): The layers, counted from 1, after which there is a head;
        None: all. There is always one after the last layer.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        tags: int,
        head_window: int = 0,
        exit_layers: Optional[Sequence[int]] = None,
    ):
        super().__init__()
        self.head_window = head_window
        self.exit_layers = exit_layers_of(spec, exit_layers)
        self.encoder = Encoder(spec)
        self.heads = _heads(spec, tags, head_window, self.exit_layers)
        self.decoder = nn.ParameterDict()
        self.criterion = nn.ParameterDict()

    @classmethod
    def over(
        cls,
        encoder: Encoder,
        tags: int,
        head_window: int = 0,
        exit_layers: Optional[Sequence[int]] = None,
    ) -> "ExitNetwork":
        """RETURNS (ExitNetwork): New heads over an encoder that another network has, too.

        encoder (Encoder): The encoder.
        tags (int): Number of tags.
        head_window (int): How many words on each side they see.
        exit_layers (Optional[Sequence[int]]): The layers after which there is one; None: all.
        """
        with torch.device("meta"):  # no memory for an encoder that is replaced at once
            network = cls(encoder.spec, tags, head_window, exit_layers)
        network.encoder = encoder
        network.heads = _heads(encoder.spec, tags, head_window, network.exit_layers)
        return network

    @property
    def spec(self) -> EncoderSpec:
        """RETURNS (EncoderSpec): The sizes of the encoder."""
        return self.encoder.spec

    @property
    def tags(self) -> int:
        """RETURNS (int): Number of tags."""
        return self.head(self.spec.layers).out_features

    @property
    def device(self) -> torch.device:
        """RETURNS (torch.device): The device of the weights."""
        return self.head(self.spec.layers).weight.device

    def head(self, layer: int) -> nn.Linear:
        """RETURNS (nn.Linear): The exit head of a layer, counted from 1.

        RAISES (ValueError): If there is none.
        """
        if layer not in self.exit_layers:
            raise ValueError(
                f"There is no exit head after layer {layer}, but one is needed there: the model's "
                f"exit_layers are {', '.join(map(str, self.exit_layers))}."
            )
        return cast(nn.Linear, self.heads[str(layer - 1)])

    def number_of_head(self, layer: int) -> int:
        """RETURNS (int): The number of a layer's head among all heads, counted from 1.

        layer (int): The layer, counted from 1. It has a head.
        """
        return self.exit_layers.index(layer) + 1

    def numbers_of_heads(self, layers: Tensor) -> Tensor:
        """RETURNS (Tensor): As ``number_of_head``, of many layers. *Shape:* that of ``layers``"""
        return torch.searchsorted(layers.new_tensor(self.exit_layers), layers) + 1

    def reach(self, layer: int) -> int:
        """RETURNS (int): How many words on each side the head of a layer, counted from 1, sees."""
        return self.head_window if layer < self.spec.layers else 0

    def logits(self, layer: int, states: Tensor, dropout: float = 0.0) -> Tensor:
        """Apply the exit head of a layer.

        layer (int): The layer, counted from 1.
        states (Tensor): What it sees: see ``seen.around``. *Shape:*
            ``(words, (2 * reach + 1) * hidden_size)``
        dropout (float): Dropout rate.
        RETURNS (Tensor): *Shape:* ``(words, tags)``
        """
        logits: Tensor = self.head(layer)(drop_out(states, dropout))
        return logits

    def init_heads(self) -> None:
        """Draw new weights for all heads, as BERT's own initialisation does."""
        for layer in self.exit_layers:
            nn.init.normal_(self.head(layer).weight, std=0.02)
            nn.init.zeros_(self.head(layer).bias)

    @property
    def extra_parameters(self) -> Dict[str, Tensor]:
        """RETURNS (Dict[str, Tensor]): The learnt parameters of decoder and criterion, by name."""
        return {**self.decoder, **self.criterion}

    def make_room_for(self, decoder: Mapping[str, Tensor], criterion: Mapping[str, Tensor]) -> None:
        """Make room for the learnt parameters of a decoder and a criterion, and for no others.
        Parameters that already exist under the same name stay.

        decoder (Mapping[str, Tensor]): The decoder's before training, every axis as long as there
            are tags.
        criterion (Mapping[str, Tensor]): The criterion's, of any shape.
        """
        known = self.extra_parameters
        for name, fresh in (("decoder", decoder), ("criterion", criterion)):
            kept = {key: known[key] for key in fresh if key in known}
            setattr(self, name, nn.ParameterDict({**fresh, **kept}).to(self.device))

    def scale_heads(self, temperatures: Sequence[float]) -> None:
        """Divide the logits of each head by a temperature.

        temperatures (Sequence[float]): One for each head, all above 0.
        """
        for layer, temperature in zip(self.exit_layers, temperatures, strict=True):
            for parameter in self.head(layer).parameters():
                # Not in place: the network that answers at full depth may share it.
                parameter.data = parameter.data / temperature

    def add_tags(self, tags: int) -> None:
        """Append tags to every head and to the decoder's learnt parameters. Those of the other tags
        stay.

        tags (int): The new number of tags.
        """
        for layer in self.exit_layers:
            old = self.head(layer)
            new = Linear(old.in_features, tags, device=old.weight.device)
            nn.init.normal_(new.weight, std=0.02)
            nn.init.zeros_(new.bias)
            with torch.no_grad():
                new.weight[: old.out_features] = old.weight
                new.bias[: old.out_features] = old.bias
            self.heads[str(layer - 1)] = new
        for name, known in self.decoder.items():
            grown = known.new_zeros([tags] * known.dim())
            grown[tuple(slice(length) for length in known.shape)] = known.detach()
            self.decoder[name] = nn.Parameter(grown)

    def keep_tags(self, tags: int) -> None:
        """Cut every head to its first tags. The decoder's learnt parameters stay as they are.

        tags (int): How many.
        """
        for layer in self.exit_layers:
            head = self.head(layer)
            head.weight = nn.Parameter(head.weight[:tags].detach(), head.weight.requires_grad)
            head.bias = nn.Parameter(head.bias[:tags].detach(), head.bias.requires_grad)
            head.out_features = len(head.weight)


def exit_layers_of(spec: EncoderSpec, chosen: Optional[Sequence[int]]) -> Tuple[int, ...]:
    """RETURNS (Tuple[int, ...]): The layers of an encoder that have exit heads, ascending.

    spec (EncoderSpec): The sizes of the encoder.
    chosen (Optional[Sequence[int]]): The layers, counted from 1; None: all. The last is always one.
    RAISES (ValueError): If the encoder has no such layer.
    """
    if chosen is None:
        return tuple(range(1, spec.layers + 1))
    if max(chosen, default=1) > spec.layers or min(chosen, default=1) < 1:
        raise ValueError(
            f"exit_layers are {', '.join(map(str, chosen))}, but the encoder has layers 1 to "
            f"{spec.layers}."
        )
    return tuple(sorted({*chosen, spec.layers}))


def _heads(spec: EncoderSpec, tags: int, window: int, exit_layers: Sequence[int]) -> nn.ModuleDict:
    # Named by the layer, from 0.
    heads = nn.ModuleDict()
    for layer in exit_layers:
        reach = window if layer < spec.layers else 0
        heads[str(layer - 1)] = Linear((2 * reach + 1) * spec.hidden_size, tags)
    return heads


def check_finite(network: nn.Module) -> None:
    """Refuse weights that can give no answer. This takes 0.01 s for 23 million of them.

    network (Module): The network, or a part of it.
    RAISES (ValueError): If there is a NaN or an infinity among them. The message names the
        parameter.
    """
    for name, parameter in network.named_parameters():
        # A sum is finite only if all its terms are, and it is faster than a look at each.
        if not parameter.detach().sum().isfinite() and not parameter.isfinite().all():
            raise ValueError(
                f"The network's weights are damaged, or its training diverged: '{name}'"
                f"{_layer_of(name)} holds NaN or infinity. Load an earlier checkpoint, or train "
                f"again with a smaller learn_rate."
            )


def _layer_of(parameter: str) -> str:
    """RETURNS (str): The layer of a parameter, counted from 1, if it belongs to one."""
    number = next((part for part in parameter.split(".") if part.isdigit()), None)
    return "" if number is None else f", in layer {int(number) + 1},"


def uncertainty(logits: Tensor) -> Tensor:
    """Entropy of the softmax, divided by that of the uniform distribution.

    Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".

    logits (Tensor): *Shape:* ``(words, tags)``
    RETURNS (Tensor): Uncertainties in [0, 1]; 0 if there is only one tag. *Shape:* ``(words,)``
    """
    tags = logits.shape[1]
    if tags == 1:
        return logits.new_zeros(len(logits))
    log_p = logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    return (entropy / math.log(tags)).clamp(0.0, 1.0)
