"""The encoder's weights as they were loaded: once only copies of them predict, they are dropped.
They are read again if somebody asks for them.

Copies with packed weights, in int8 or in 16 bits take the place of the originals, which would lie
in memory for nothing: 42 MB of MiniLM, 340 MB of BERT-base.
"""

from typing import Callable, Iterable, Iterator, List, Tuple

import torch
from torch import nn

from ..budget.fingerprint import fingerprint_of_weights
from ..files.network import Trained
from ..network.exit_network import ExitNetwork


class Originals:
    """Drops weights of networks, and puts them back in place.

    again (Callable): Reads the networks again.
    """

    def __init__(self, again: Callable[[], Trained]):
        self._again = again
        self._fingerprints: List[str] = []
        self._dropped = False

    def drop_linear(self, linear: nn.Module, fingerprint: str) -> None:
        """Drop the weights of a linear map, of which a copy has just been made. So they and those
        of the copy are in memory together for one map only.

        linear (Module): The linear map, of the only network. It is changed in place.
        fingerprint (str): That of the network.
        """
        self._fingerprints, self._dropped = [fingerprint], True
        for name, parameter in [*linear.named_parameters(recurse=False)]:
            _put(linear, name, torch.empty_like(parameter, device="meta"))

    def drop(self, trained: Trained, copies: Iterable[Trained], fingerprint: str) -> None:
        """Drop the weights of the encoders that copies for prediction do not share.

        trained (Trained): The networks, changed in place.
        copies (Iterable[Trained]): The copies.
        fingerprint (str): That of the first network.
        """
        used = {id(p) for copied in copies for n in copied.networks for p in n.parameters()}
        if not self._fingerprints:
            others = [fingerprint_of_weights(network) for network in trained.networks[1:]]
            self._fingerprints = [fingerprint, *others]
        self._dropped = True  # first: what follows may be interrupted
        for network in trained.networks:
            for module, name, parameter in _parameters(network):
                if id(parameter) not in used and not parameter.is_meta:
                    _put(module, name, torch.empty_like(parameter, device="meta"))

    def put_back(self, trained: Trained) -> None:
        """Read the weights again that were dropped.

        trained (Trained): The networks, changed in place.
        RAISES (ValueError): If their files are not what they were.
        """
        if not self._dropped:
            return
        try:
            again = self._again()
            found = [fingerprint_of_weights(network) for network in again.networks]
            if found != self._fingerprints:
                raise ValueError("They hold other weights now.")
        except (OSError, ValueError) as e:
            raise ValueError(
                f"The weights can't be read again from the files that they were loaded from: {e} "
                f"They had been dropped to save memory, since only a faster copy of them predicts. "
                f"Most likely something has written into the files, rather than replaced them. "
                f"Load the pipeline again."
            ) from e
        for network, fresh in zip(trained.networks, again.networks):
            known = dict(fresh.encoder.named_parameters())
            for name, parameter in [*network.encoder.named_parameters()]:
                if parameter.is_meta:
                    path, _, own = name.rpartition(".")
                    _put(network.encoder.get_submodule(path), own, known[name])
        self._dropped = False


def _parameters(network: ExitNetwork) -> Iterator[Tuple[nn.Module, str, nn.Parameter]]:
    """YIELDS (Tuple[Module, str, Parameter]): The encoder's parameters: where and what each is."""
    for module in network.encoder.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            yield module, name, parameter


def _put(module: nn.Module, name: str, weight: torch.Tensor) -> None:
    """Replace a parameter, but keep what is known of it, such as whether it is trained."""
    old = getattr(module, name)
    new = nn.Parameter(weight.detach(), old.requires_grad)
    new.__dict__.update(old.__dict__)
    setattr(module, name, new)
