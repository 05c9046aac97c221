"""Cut a model down to the attention heads and feed-forward neurons that matter."""

from dataclasses import dataclass
from typing import Literal, Optional

from ..encoders.base import PretrainedEncoder
from ..files.network import Trained
from ..network.exit_network import ExitNetwork
from ..network.gates import Units, has_gates
from ..network.slimming import (
    Scope,
    check_share,
    draw_ticket,
    gate_scores,
    magnitude_scores,
    plain_weights,
    random_scores,
    slimmed,
)
from ..runtime.torch_state import usual_torch
from ..text.tokenizer import WordpieceTokenizer

Importance = Literal["gates", "magnitude", "random"]


@dataclass(frozen=True)
class Slimming:
    """What stays.

    heads (float): Share of attention heads.
    neurons (float): Share of feed-forward neurons.
    heads_scope (Scope): Whether each layer keeps this share of its heads, or all layers together.
    neurons_scope (Scope): The same for neurons.
    importance (Importance): What decides which ones stay: the size of their gates, after a search;
        the size of their weights; or chance, for comparison.
    seed (int): It determines what chance decides.
    RAISES (ValueError): If a share is not above 0 and at most 1.
    """

    heads: float
    neurons: float
    heads_scope: Scope = "layerwise"
    neurons_scope: Scope = "global"
    importance: Importance = "gates"
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("heads", self.heads)
        check_share("neurons", self.neurons)

    def ticket(self, searched: ExitNetwork, cut: ExitNetwork) -> Units:
        """RETURNS (Units): Which heads and neurons stay.

        searched (ExitNetwork): The network that has the gates.
        cut (ExitNetwork): The network that is cut.
        RAISES (ValueError): If gates are to decide, and there are none.
        """
        if self.importance == "gates":
            if not has_gates(searched):
                raise ValueError(
                    "It has no gates, which show what matters: train it with EarlyBirdSearch.v1 "
                    "first, or let magnitude decide."
                )
            scores = gate_scores(searched)
        elif self.importance == "magnitude":
            scores = magnitude_scores(cut)
        else:
            scores = random_scores(cut, self.seed)
        scopes = self.heads_scope, self.neurons_scope
        return draw_ticket(scores, self.heads, self.neurons, *scopes)


@usual_torch()
def slim(
    trained: Trained, slimming: Slimming, pretrained: Optional[PretrainedEncoder] = None
) -> Trained:
    """Make a smaller model.

    trained (Trained): The model. It stays as it is.
    slimming (Slimming): What stays.
    pretrained (Optional[PretrainedEncoder]): The encoder that it was trained from. If given,
        weights are rewound: they are cut out of this one. Otherwise they are cut out of the model.
    RETURNS (Trained): The smaller one, with the exit heads of the model.
    RAISES (ValueError): If gates are to decide, and the model has none; or if the encoder that it
        was trained from has other sizes.
    """
    network, tokenizer = trained.network, trained.tokenizer
    cut = ExitNetwork(network.spec, network.tags, network.head_window, network.exit_layers)
    weights = plain_weights(network)
    if pretrained is not None:
        if pretrained.spec != network.spec:
            raise ValueError("The pre-trained encoder is not the one that it was trained from.")
        weights, tokenizer = pretrained.weights, WordpieceTokenizer(pretrained.tokenizer)
    cut.encoder.load_state_dict(weights)
    cut.heads.load_state_dict(network.heads.state_dict())
    cut.make_room_for(dict(network.decoder.items()), dict(network.criterion.items()))
    return Trained(slimmed(cut, slimming.ticket(network, cut)), tokenizer)
