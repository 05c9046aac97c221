"""The shim of a component that has exit heads, but reads the states of another's encoder."""

import copy
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

import srsly
import torch

from ..budget.fingerprint import fingerprint_of_weights
from ..files import network as storage
from ..files.network import Trained, without_encoder
from ..network.devices import device_named
from ..network.exit_network import ExitNetwork, check_finite
from ..network.products.half import Precision
from ..runtime.torch_state import usual_torch
from .copies import BUILDING, Copies
from .shim import TaggerShim


class BorrowedShim(TaggerShim):
    """As ``TaggerShim``, but only the heads and what decoder and criterion learn are its own: the
    encoder is neither trained nor saved. Without its lender it can't be used.
    """

    known_lender: Optional[TaggerShim] = None  # whose encoder it reads

    @property
    def trained(self) -> Trained:
        """RETURNS (Trained): As that of its lender, which then keeps the encoder's weights, too."""
        lender, trained = self.known_lender, self.outline
        mine = trained.network.encoder
        if lender is not None and lender.is_trained and lender.outline.network.encoder is mine:
            lender.trained  # noqa: B018 (puts them back)
        return trained

    def _copies_of(self, trained: Trained) -> Copies:
        return CopiesOfHeads(trained)

    @property
    def lender(self) -> TaggerShim:
        """RETURNS (TaggerShim): The one whose encoder is read.

        RAISES (ValueError): If it is not known.
        """
        if self.known_lender is None:
            raise ValueError("The component whose encoder is shared is not known.")
        return self.known_lender

    def fits(self, lender: TaggerShim) -> bool:
        """RETURNS (bool): Whether its heads were trained over another's encoder.

        lender (TaggerShim): The other one.
        """
        if not lender.is_trained:
            return False
        network, theirs = self.outline.network, lender.outline.network
        if network.encoder is theirs.encoder:
            return True
        if network.spec != theirs.spec:
            return False
        return self._encoder_checksum() == lender.encoder_fingerprint()

    def borrow(self, name: str) -> None:
        """Read the states of the lender's encoder.

        name (str): The name of its component.
        RAISES (ValueError): If the heads were trained over another encoder.
        """
        theirs = self.lender.lend()
        if not self.is_trained or self.outline.network.encoder is theirs.network.encoder:
            return
        network = self.outline.network
        if not self.fits(self.lender):
            raise ValueError(
                f"Its heads were trained over another encoder than that of '{name}'. Load both "
                f"components from the same pipeline, or train it with this encoder."
            )
        network.encoder = theirs.network.encoder
        self.copies.outline = Trained(network, theirs.tokenizer, borrowed="")

    @usual_torch()
    def make_heads(self, tags: int) -> None:
        """Draw new heads over the lender's encoder.

        tags (int): Number of tags.
        """
        theirs = self.lender.trained
        encoder = theirs.network.encoder
        network = ExitNetwork.over(encoder, tags, self.head_window, self.exit_layers)
        network.init_heads()
        self.set(Trained(network.to(theirs.network.device), theirs.tokenizer, borrowed=""))

    def _freeze(self) -> None:
        network = self.outline.network
        network.head(network.spec.layers).requires_grad_(not self.freeze_full_depth)
        for learned in network.decoder.values():
            learned.requires_grad_(not self.freeze_full_depth)

    @property
    def teaches_encoder(self) -> bool:
        """RETURNS (bool): Whether the encoder learns from its heads, where its lender trains it."""
        return not (self.freeze_encoder or self.freeze_full_depth)

    def own_parameters(self) -> Iterator[Tuple[str, torch.nn.Parameter]]:
        """YIELDS (Tuple[str, Parameter]): Its parameters by name, without those of the encoder."""
        for name, parameter in self.trained.network.named_parameters():
            if not name.startswith("encoder."):
                yield name, parameter

    @usual_torch()
    def teacher(self) -> ExitNetwork:
        """RETURNS (ExitNetwork): A frozen copy of the heads as they were on the first call, over
        the lender's own frozen copy of the encoder.
        """
        if self._teacher is None:
            network, encoder = self.trained.network, self.lender.teacher().encoder
            self._teacher = copy.deepcopy(network, {id(network.encoder): encoder})
            self._teacher.requires_grad_(False)
            self._teacher.keep_tags(self._taught_tags)
        return self._teacher

    @usual_torch()
    def separated(self) -> TaggerShim:
        """RETURNS (TaggerShim): One that has copies of the encoder and of the heads for its own."""
        shim = TaggerShim(
            self.lender.encoder,
            self.head_lr_factor,
            self.freeze_encoder,
            self.freeze_full_depth,
            self.mixed_precision,
            self.lender.shared_wordpieces,
            head_window=self.head_window,
            exit_layers=self.exit_layers,
        )
        shim.set(Trained(copy.deepcopy(self.trained.network), self.trained.tokenizer))
        return shim

    def to_device(self, device_type: str, device_id: int) -> None:
        """Move the heads.

        device_type (str): ``"cpu"`` or ``"gpu"``.
        device_id (int): Number of the GPU.
        """
        if self.is_trained:
            device = "cpu" if device_type == "cpu" else f"cuda:{device_id}"
            storage.move_heads(self.trained.network, torch.device(device))
            self.weights_changed()

    def to_bytes(self) -> bytes:
        """RETURNS (bytes): The files of ``storage`` as bytes; empty before initialize."""
        data: bytes = srsly.msgpack_dumps(
            storage.to_files(self._to_save()) if self.is_trained else {}
        )
        return data

    def to_disk(self, path: Any) -> None:
        """Write the files of ``storage``.

        path (Path): The folder.
        """
        storage.write(self._to_save(), Path(path))

    def _to_save(self) -> Trained:
        """RETURNS (Trained): The heads, with the checksum of the encoder that they belong to."""
        return self.outline._replace(borrowed=self._encoder_checksum())

    def _encoder_checksum(self) -> str:
        """RETURNS (str): The checksum of the encoder that the heads belong to.

        RAISES (ValueError): If its weights had been dropped, and can't be read again.
        """
        if self.outline.borrowed:  # nobody has used them since they were read
            return self.outline.borrowed
        trained = self.trained
        if any(parameter.is_meta for parameter in trained.network.encoder.parameters()):
            raise ValueError(
                "The encoder that its heads were trained over is gone: its component was loaded "
                "anew after its files had been written into. Load the whole pipeline again."
            )
        return fingerprint_of_weights(trained.network.encoder)

    def __getstate__(self) -> Any:
        """RETURNS (Dict[str, Any]): What is pickled. The lender is looked up again."""
        if self.is_trained:
            self.trained  # noqa: B018 (the encoder comes along, whole)
        return {**super().__getstate__(), "known_lender": None}


class CopiesOfHeads(Copies):
    """Of heads over another component's encoder, whose weights that one keeps. Heads are always
    computed in fp32, so there are only copies on other devices.

    trained (Trained): The heads.
    """

    def __init__(self, trained: Trained):
        super().__init__(trained._replace(again=None))  # no weights that copies replace

    def fingerprint(self) -> str:
        """RETURNS (str): A hash of the heads' own weights, computed once until they change."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of_weights(without_encoder(self.outline.network))
        return self._fingerprint

    def prepare_for(self, precision: Precision, device: Optional[str] = None) -> Trained:
        """RETURNS (Trained): What to predict with: see ``TaggerShim.prepare_for``.

        precision (Precision): Ignored.
        device (Optional[str]): The device to predict on; None: where the heads are.
        RAISES (ValueError): If the machine has no such device, or a weight is not finite.
        """
        if not self._checked:
            check_finite(without_encoder(self.outline.network))  # its lender checks the encoder
            self._checked = True
        elsewhere, trained = self._faster, self.outline
        there = trained.network.device if device is None else device_named(device)
        if there == trained.network.device:
            return trained
        with BUILDING, usual_torch():
            if ("fp32", there) not in elsewhere:
                # The encoder that is used there is its owner's.
                known = {id(trained.network.encoder): trained.network.encoder}
                network = copy.deepcopy(trained.network, known)
                storage.move_heads(network, there)
                elsewhere["fp32", there] = trained._replace(network=network)
        return elsewhere["fp32", there]
