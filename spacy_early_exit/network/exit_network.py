"""The network: an encoder with an exit head at every layer, which is dropout and one linear map of
what ``seen.py`` says that it sees; and the learnt parameters of decoder and criterion.
"""

import math
from typing import Dict, Mapping, Sequence, cast

import torch
from torch import Tensor, nn

from .encoder import Encoder
from .families import EncoderSpec
from .layers.layer import drop_out

MAX_HEAD_WINDOW = 8  # more is surely a mistake, or a damaged file


class ExitNetwork(nn.Module):
    """Encoder and exit heads. It has no ``forward``: see ``loop.py``.

    The modules' train / eval mode is ignored: dropout is an argument, so that threads may share a
    network.

    spec (EncoderSpec): The sizes of the encoder.
    tags (int): Number of tags.
    head_window (int): How many words on each side the heads see, except the deepest one, whose
        word has attended to all others.
    """

    def __init__(self, spec: EncoderSpec, tags: int, head_window: int = 0):
        super().__init__()
        self.head_window = head_window
        self.encoder = Encoder(spec)
        self.heads = _heads(spec, tags, head_window)
        self.decoder = nn.ParameterDict()
        self.criterion = nn.ParameterDict()

    @classmethod
    def over(cls, encoder: Encoder, tags: int, head_window: int = 0) -> "ExitNetwork":
        """RETURNS (ExitNetwork): New heads over an encoder that another network has, too.

        encoder (Encoder): The encoder.
        tags (int): Number of tags.
        head_window (int): How many words on each side they see.
        """
        with torch.device("meta"):  # no memory for an encoder that is replaced at once
            network = cls(encoder.spec, tags, head_window)
        network.encoder = encoder
        network.heads = _heads(encoder.spec, tags, head_window)
        return network

    @property
    def spec(self) -> EncoderSpec:
        """RETURNS (EncoderSpec): The sizes of the encoder."""
        return self.encoder.spec

    @property
    def tags(self) -> int:
        """RETURNS (int): Number of tags."""
        return self.head(1).out_features

    @property
    def device(self) -> torch.device:
        """RETURNS (torch.device): The device of the weights."""
        return self.head(1).weight.device

    def head(self, layer: int) -> nn.Linear:
        """RETURNS (nn.Linear): The exit head of a layer, counted from 1."""
        return cast(nn.Linear, self.heads[layer - 1])

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
        for layer in range(1, len(self.heads) + 1):
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

        temperatures (Sequence[float]): One for each layer's head, all above 0.
        """
        for layer, temperature in enumerate(temperatures, 1):
            for parameter in self.head(layer).parameters():
                # Not in place: the network that answers at full depth may share it.
                parameter.data = parameter.data / temperature

    def add_tags(self, tags: int) -> None:
        """Append tags to every head and to the decoder's learnt parameters. Those of the other tags
        stay.

        tags (int): The new number of tags.
        """
        for layer in range(1, len(self.heads) + 1):
            old = self.head(layer)
            new = nn.Linear(old.in_features, tags, device=old.weight.device)
            nn.init.normal_(new.weight, std=0.02)
            nn.init.zeros_(new.bias)
            with torch.no_grad():
                new.weight[: old.out_features] = old.weight
                new.bias[: old.out_features] = old.bias
            self.heads[layer - 1] = new
        for name, known in self.decoder.items():
            grown = known.new_zeros([tags] * known.dim())
            grown[tuple(slice(length) for length in known.shape)] = known.detach()
            self.decoder[name] = nn.Parameter(grown)

    def keep_tags(self, tags: int) -> None:
        """Cut every head to its first tags. The decoder's learnt parameters stay as they are.

        tags (int): How many.
        """
        for layer in range(1, len(self.heads) + 1):
            head = self.head(layer)
            head.weight = nn.Parameter(head.weight[:tags].detach(), head.weight.requires_grad)
            head.bias = nn.Parameter(head.bias[:tags].detach(), head.bias.requires_grad)
            head.out_features = len(head.weight)


def _heads(spec: EncoderSpec, tags: int, window: int) -> nn.ModuleList:
    widths = [(2 * window + 1) * spec.hidden_size] * (spec.layers - 1) + [spec.hidden_size]
    return nn.ModuleList(nn.Linear(width, tags) for width in widths)


def check_finite(network: ExitNetwork) -> None:
    """Refuse weights that can give no answer. This takes 0.01 s for 23 million of them.

    network (ExitNetwork): The network.
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
