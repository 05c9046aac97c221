"""A network as it was loaded or trained last, and the faster copies of it that predict."""

import copy
import functools
from typing import Any, Dict, Optional, Tuple

import torch

from ..budget.fingerprint import fingerprint_of_weights
from ..files.network import Trained
from ..network.devices import device_named
from ..network.exit_network import ExitNetwork, check_finite
from ..network.products.half import HALVES, Precision, halved
from ..network.products.int8 import check_for_int8, quantized
from ..network.products.packed import Done, is_worth_packing, keep, packed
from ..runtime.forks import Lock, ready_for_torch
from ..runtime.torch_state import usual_torch
from .originals import Originals

BUILDING = Lock()

How = Tuple[Precision, torch.device]


class Copies:
    """Makes the copies of a network that predict, and keeps them until its weights change. Weights
    that lie in memory beside them are dropped, for as long as nobody asks for them.

    trained (Trained): Network and tokenizer.
    """

    def __init__(self, trained: Trained):
        # To ask for sizes, exit heads or wordpieces: weights of the encoder may have been dropped.
        self.outline = trained._replace(again=None)
        self._originals = None if trained.again is None else Originals(trained.again)
        self._fingerprint: Optional[str] = None
        self._faster: Dict[How, Trained] = {}
        self._checked = False

    @property
    def trained(self) -> Trained:
        """RETURNS (Trained): Network and tokenizer, with all weights.

        RAISES (ValueError): If weights that had been dropped can't be read again.
        """
        self.keep_originals()
        return self.outline

    def keep_originals(self) -> None:
        """Put back dropped weights, for good: whoever gets them may change them.

        RAISES (ValueError): If they can't be read again.
        """
        if self._originals is None:
            return
        with BUILDING:
            if self._originals is not None:
                self._originals.put_back(self.outline)
                self._originals = None

    def changed(self) -> None:
        """Drop what was derived from the weights."""
        self.keep_originals()
        self._fingerprint = None
        self._faster = {}
        self._checked = False

    def fingerprint(self) -> str:
        """RETURNS (str): A hash of the weights, computed once until they change."""
        known = self._fingerprint
        if known is None:
            with BUILDING:  # weights that it reads must not be dropped meanwhile
                known = self._fingerprint or fingerprint_of_weights(self.outline.network)
                self._fingerprint = known
        return known

    def encoder_fingerprint(self) -> str:
        """RETURNS (str): A hash of the weights of the encoder.

        RAISES (ValueError): If they had been dropped, and can't be read again.
        """
        with BUILDING:
            if self._originals is not None:
                self._originals.put_back(self.outline)
            return fingerprint_of_weights(self.outline.network.encoder)

    def prepare_for(self, precision: Precision, device: Optional[str] = None) -> Trained:
        """RETURNS (Trained): What to predict with: see ``TaggerShim.prepare_for``."""
        ready_for_torch()  # what follows runs in parallel
        if not self._checked:
            with BUILDING:  # as in fingerprint
                for network in () if self._checked else self.outline.networks:
                    check_finite(network)
                self._checked = True
        # In this order: a later caller must not find what was made from older weights.
        faster, trained = self._faster, self.outline
        there = trained.network.device if device is None else device_named(device)
        stays = there == trained.network.device
        if precision == "fp32" and stays and not is_worth_packing(trained.network):
            return self.trained
        how = precision, there
        if how not in faster:
            with BUILDING, usual_torch():  # for threads that start together, it is built once
                if how not in faster:
                    self._build(faster, how)
        return faster[how]

    def _build(self, faster: Dict[How, Trained], how: How) -> None:
        trained, originals = self.outline, self._originals
        if originals is not None:
            originals.put_back(trained)
        fingerprint = "" if originals is None else self.fingerprint()

        def may_drop() -> bool:
            return originals is self._originals  # nobody has asked since

        def done(linear: torch.nn.Module) -> None:
            if originals and may_drop() and trained.original is None:  # which may share them
                originals.drop_linear(linear, fingerprint)

        make = functools.partial(_prepared, precision=how[0], device=how[1], done=done)
        try:
            first = None if trained.original is None else make(trained.original)
            faster[how] = Trained(make(trained.network), trained.tokenizer, first)
        finally:  # earlier copies may still predict
            if originals and may_drop() and faster:
                originals.drop(trained, faster.values(), fingerprint)

    def __getstate__(self) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): What is pickled: all weights. Packed ones are made again."""
        self.keep_originals()
        return {**self.__dict__, "_faster": {}}


def _prepared(
    network: ExitNetwork, precision: Precision, device: torch.device, done: Done
) -> ExitNetwork:
    """RETURNS (ExitNetwork): A network to predict with: see ``TaggerShim.prepare_for``."""
    if precision == "int8":
        check_for_int8(device)
    if device != network.device:
        network, done = copy.deepcopy(network).to(device), keep
    if precision in HALVES:
        return halved(network, precision)
    if precision == "int8":
        return quantized(network, done)
    return packed(network, done) if is_worth_packing(network) else network
