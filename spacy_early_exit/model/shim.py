"""The shim lets thinc train, average, move and save the torch network."""

import contextlib
import copy
import functools
import io
import warnings
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    cast,
)

import srsly
import torch
from thinc.api import Model, Optimizer, PyTorchGradScaler, torch2xp, xp2torch
from thinc.shims.shim import Shim
from thinc.types import FloatsXd
from thinc.util import get_torch_default_device
from torch import Tensor

from ..encoders.base import EncoderSource
from ..files import network as storage
from ..files.held import HeldFiles
from ..files.integrity import check_size, unpack
from ..files.network import Trained
from ..network.exit_network import ExitNetwork
from ..network.products.half import Precision
from ..runtime.torch_state import usual_torch
from ..text.windows import SharedWordpieces
from .copies import Copies

if TYPE_CHECKING:
    from ..decoders import Decoder
    from ..network.criterion import Criterion
    from .learn_shared import LearningPass

MAX_LEARN_RATE = 5e-4  # that an encoder tolerates: spaCy's default is twice that


class TaggerShim(Shim):
    """Lets thinc's optimizers, averages and serialisation reach the torch network.

    encoder (EncoderSource): Where the pre-trained encoder comes from.
    head_lr_factor (float): How many times faster the heads learn than the encoder.
    freeze_encoder (bool): Whether to train the heads alone.
    freeze_full_depth (bool): Whether to train the earlier heads alone, so that full depth stays as
        it is.
    mixed_precision (bool): Whether products are computed in 16 bits while training.
    shared_wordpieces (SharedWordpieces): Whether words that would share a wordpiece are tokenized
        one by one or do share it.
    scaler (Optional[PyTorchGradScaler]): Scales gradients, so that mixed precision can be fp16;
        None: it is bfloat16.
    head_window (int): How many words on each side the heads see, except the deepest.
    exit_layers (Optional[Sequence[int]]): The layers that have heads, besides the last; None: all.
    """

    def __init__(
        self,
        encoder: EncoderSource,
        head_lr_factor: float,
        freeze_encoder: bool,
        freeze_full_depth: bool = False,
        mixed_precision: bool = False,
        shared_wordpieces: SharedWordpieces = "split",
        scaler: Optional[PyTorchGradScaler] = None,
        head_window: int = 0,
        exit_layers: Optional[Sequence[int]] = None,
    ):
        super().__init__(None)
        self._copies: Optional[Copies] = None  # the network is among them
        self.encoder = encoder
        self.head_lr_factor = head_lr_factor
        self.freeze_encoder = freeze_encoder
        self.freeze_full_depth = freeze_full_depth
        self.mixed_precision = mixed_precision
        self.shared_wordpieces = shared_wordpieces
        self.scaler = scaler
        self.head_window = head_window
        self.exit_layers = exit_layers
        self._teacher: Optional[ExitNetwork] = None
        self._taught_tags = 0
        self._warned = False
        self._is_lent = False  # whether other components have its encoder, too
        # The last pass that several components learn from.
        self.learning_pass: Optional[LearningPass] = None
        self.warned_of_unread = False
        self.warned_of_emulation = False

    @property
    def is_trained(self) -> bool:
        """RETURNS (bool): Whether there are weights."""
        return self._copies is not None

    @property
    def trained(self) -> Trained:
        """RETURNS (Trained): Network and tokenizer.

        RAISES (ValueError): If there are none yet, or if weights that had been dropped can't be
            read again.
        """
        return self.copies.trained

    @property
    def outline(self) -> Trained:
        """RETURNS (Trained): Network and tokenizer, to ask for sizes, exit heads or wordpieces.
        Weights of the encoder may have been dropped.
        """
        return self.copies.outline

    @property
    def trained_or_none(self) -> Optional[Trained]:
        """RETURNS (Optional[Trained]): As ``outline``, if there are weights."""
        return None if self._copies is None else self._copies.outline

    @property
    def copies(self) -> Copies:
        """RETURNS (Copies): The network, and what predicts in its place.

        RAISES (ValueError): If there is none yet.
        """
        if self._copies is None:
            raise ValueError(
                "The early-exit tagger has no weights yet. Train it (nlp.initialize(...) fetches "
                "the pre-trained encoder), or load a trained pipeline with spacy.load(...)."
            )
        return self._copies

    def set(self, trained: Trained) -> None:
        """Take over a network.

        trained (Trained): Network and tokenizer.
        """
        self._keep_lent()
        self._copies = self._copies_of(trained)
        self._teacher, self._taught_tags = None, trained.network.tags
        self._freeze()

    def _copies_of(self, trained: Trained) -> Copies:
        return Copies(trained)

    def drop(self) -> None:
        """Drop the network, as before initialize."""
        self._keep_lent()
        self._copies, self._teacher = None, None

    def lend(self) -> Trained:
        """RETURNS (Trained): As ``outline``, for components that read the states of the encoder."""
        self._is_lent = True
        return self.outline

    def _keep_lent(self) -> None:
        """Before the network is replaced, put back dropped weights of an encoder that borrowers
        may still have.
        """
        if self._is_lent and self._copies is not None:
            with contextlib.suppress(ValueError):  # files were written into: who needs them is told
                self._copies.keep_originals()

    def encoder_fingerprint(self) -> str:
        """RETURNS (str): A hash of the weights of the encoder.

        RAISES (ValueError): If they had been dropped, and can't be read again.
        """
        return self.copies.encoder_fingerprint()

    def _freeze(self) -> None:
        network = self.outline.network
        frozen = self.freeze_encoder or self.freeze_full_depth
        network.encoder.requires_grad_(not frozen)
        network.head(network.spec.layers).requires_grad_(not self.freeze_full_depth)
        for learned in network.decoder.values():
            learned.requires_grad_(not self.freeze_full_depth)

    def keep_original(self, original: Optional[ExitNetwork]) -> None:
        """Let another network answer at full depth, until the weights are trained further.

        original (Optional[ExitNetwork]): A network with the same tags and wordpieces; None: this
            one answers.
        """
        self.copies.outline = self.trained._replace(original=original)
        self.weights_changed()

    @usual_torch()
    def make_room_for(self, decoder: "Decoder", criterion: "Criterion") -> List[str]:
        """Make room for the learnt parameters of a decoder and a criterion. See
        ``ExitNetwork.make_room_for``.

        decoder (Decoder): The decoder.
        criterion (Criterion): The criterion.
        RETURNS (List[str]): Names of the criterion's parameters that were not there before.
        """
        network = self.trained.network
        known = network.extra_parameters
        of_decoder, of_criterion = fresh(network, decoder, criterion, "cpu")
        network.make_room_for(of_decoder, of_criterion)
        self._freeze()
        self._teacher = None
        self.weights_changed()
        return [name for name in of_criterion if name not in known]

    def needed(self, decoder: "Decoder", criterion: "Criterion") -> Dict[str, List[str]]:
        """RETURNS (Dict[str, List[str]]): The learnt parameters that decoder and criterion need, by
        name.
        """
        of_decoder, of_criterion = fresh(self.outline.network, decoder, criterion, "meta")
        return {
            "decoder": [*of_decoder],
            "criterion": [*of_criterion, *criterion.needs_learned],
        }

    def check_learned(self, name: str, decoder: "Decoder", criterion: "Criterion") -> None:
        """Check that the parameters which decoder and criterion need are among the weights.

        name (str): The component's name.
        decoder (Decoder): The decoder.
        criterion (Criterion): The criterion.
        RAISES (ValueError): If the weights were trained with another decoder or criterion.
        """
        known = self.outline.network.extra_parameters
        blocks = {"decoder": decoder, "criterion": criterion}
        for kind, names in self.needed(decoder, criterion).items():
            missing = [needed for needed in names if needed not in known]
            if missing:
                raise ValueError(
                    f"The {kind} {type(blocks[kind]).__name__} of '{name}' needs "
                    f"{', '.join(missing)}, which its weights lack: they were trained with another "
                    f"criterion or decoder. Train it with this one. To start from this pipeline, "
                    f"set start_from in [initialize.components.{name}]."
                )

    @usual_torch()
    def add_tags(self, tags: int) -> None:
        """Append tags. See ``ExitNetwork.add_tags``.

        tags (int): The new number of tags.
        """
        self.trained.network.add_tags(tags)
        self._freeze()
        self.keep_original(None)

    @usual_torch()
    def scale_heads(self, temperatures: Sequence[float]) -> None:
        """Divide the logits of each head by a temperature. See ``ExitNetwork.scale_heads``.

        temperatures (Sequence[float]): One for each head.
        """
        for network in self.trained.networks:
            network.scale_heads(temperatures)
        self.weights_changed()

    def weights_changed(self) -> None:
        """Drop what was derived from the weights."""
        if self._copies is not None:
            self._copies.changed()

    def fingerprint(self) -> str:
        """RETURNS (str): A hash of the weights, computed once until they change."""
        return self.copies.fingerprint()

    def prepare_for(self, precision: Precision, device: Optional[str] = None) -> Trained:
        """RETURNS (Trained): What to predict with: a copy in int8 or in 16 bits, on another device,
        or in fp32 with packed weights if that is faster. It is kept until the weights change.

        precision (Precision): The precision of matrix products.
        device (Optional[str]): The device to predict on; None: where the network is.
        RAISES (ValueError): If the machine has no such precision or device, or a weight is not
            finite.
        """
        return self.copies.prepare_for(precision, device)

    def __getstate__(self) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): What is pickled. The teacher is made again if the copy is
        trained further. Workers only predict.
        """
        return {**self.__dict__, "_teacher": None, "learning_pass": None}

    @usual_torch()
    def teacher(self) -> ExitNetwork:
        """RETURNS (ExitNetwork): The network as it was on the first call: a frozen copy, kept until
        the network is replaced. It has the tags that the network came with, not those that were
        added.
        """
        if self._teacher is None:
            self._teacher = copy.deepcopy(self.trained.network).requires_grad_(False)
            self._teacher.keep_tags(self._taught_tags)
        return self._teacher

    def learn_from(self, teacher: ExitNetwork) -> None:
        """Take a teacher, until the network is replaced.

        teacher (ExitNetwork): Another network. It may know fewer tags.
        """
        self._teacher = teacher

    @property
    def has_teacher(self) -> bool:
        """RETURNS (bool): Whether it has a teacher already."""
        return self._teacher is not None

    def own_parameters(self) -> Iterator[Tuple[str, torch.nn.Parameter]]:
        """RETURNS (Iterator[Tuple[str, Parameter]]): The parameters that it trains, by name."""
        return self.trained.network.named_parameters()

    @usual_torch()
    def finish_update(self, optimizer: Optimizer) -> None:
        """Take an optimizer step; everything except the encoder takes a larger one, and so do
        parameters with an ``lr_factor`` of their own.

        optimizer (Optimizer): thinc's optimizer.
        """
        if self.learning_pass is not None:
            self.learning_pass.teach_encoder()
        if self.trained.original is not None:
            self.keep_original(None)  # full depth must use what is learnt, too
        if self._overflowed():
            return
        for name, parameter in self.own_parameters():
            if parameter.grad is None:
                continue
            factor: Optional[float] = getattr(parameter, "lr_factor", None)
            if factor is None:
                is_small = not name.startswith("encoder.")
                factor = self.head_lr_factor if is_small else 1.0
                if not is_small:
                    self._check_rate(optimizer.learn_rate)
            value, _ = optimizer(
                self._key(name, parameter),
                cast(FloatsXd, torch2xp(parameter.data)),
                cast(FloatsXd, torch2xp(parameter.grad)),
                lr_scale=factor,
            )
            parameter.data = xp2torch(value, device=parameter.device)
            parameter.grad = None
        self.weights_changed()

    def _overflowed(self) -> bool:
        """RETURNS (bool): Whether a gradient was too large for its scale. Then they are all
        dropped. Otherwise they have been unscaled.
        """
        if self.scaler is None:
            return False
        learnt = {n: p for n, p in self.own_parameters() if p.grad is not None}
        # In a shared pass, the encoder's alone are scaled.
        is_shared = self.learning_pass is not None
        scaled = [n for n in learnt if n.startswith("encoder.") or not is_shared]
        overflowed: bool = self.scaler.unscale([learnt[name].grad for name in scaled])
        self.scaler.update()
        for parameter in learnt.values() if overflowed else ():
            parameter.grad = None
        return overflowed

    def _check_rate(self, rate: float) -> None:
        if rate <= MAX_LEARN_RATE or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"The encoder is trained with a learning rate of {rate:g}. Above {MAX_LEARN_RATE:g} "
            f"transformers forget what they know, and scores jump up and down. Set "
            f"optimizer.learn_rate to 2e-4 for a small encoder, 2e-5 to 1e-4 for one of base size. "
            f"Or let a command write a suitable config: python -m spacy early-exit init-config.",
            stacklevel=2,
        )

    @contextlib.contextmanager
    def use_params(self, params: Dict[Any, Any]) -> Iterator[None]:
        """Use other weights for a while, such as an optimizer's averages.

        params (Dict[Any, Any]): Weights by the keys that ``finish_update`` gave to the optimizer.
        """
        replaced = []
        with usual_torch():
            for name, parameter in self.own_parameters() if self.is_trained else ():
                key = self._key(name, parameter)
                if key in params:
                    replaced.append((parameter, parameter.data))
                    parameter.data = xp2torch(params[key], device=parameter.device)
        self.weights_changed()
        try:
            yield
        finally:
            for parameter, data in replaced:
                parameter.data = data
            self.weights_changed()

    def _key(self, name: str, parameter: torch.nn.Parameter) -> Tuple[int, str]:
        # The key has the shape, so that heads with new tags do not get the old heads' moments.
        return (self.id, f"{name}:{'x'.join(map(str, parameter.shape))}")

    def copy(self) -> "TaggerShim":
        """RETURNS (TaggerShim): A deep copy, with its own identity for optimizers."""
        copied = type(self)(
            self.encoder,
            self.head_lr_factor,
            self.freeze_encoder,
            self.freeze_full_depth,
            self.mixed_precision,
            self.shared_wordpieces,
            copy.deepcopy(self.scaler),
            self.head_window,
            self.exit_layers,
        )
        if self.is_trained:
            copied.from_bytes(self.to_bytes())
        return copied

    @usual_torch()
    def to_device(self, device_type: str, device_id: int) -> None:
        """Move the network.

        device_type (str): ``"cpu"`` or ``"gpu"``.
        device_id (int): Number of the GPU.
        """
        if self.is_trained:
            device = "cpu" if device_type == "cpu" else f"cuda:{device_id}"
            for network in self.trained.networks:
                network.to(device)
            self.weights_changed()

    def to_bytes(self) -> bytes:
        """RETURNS (bytes): The files of ``storage`` as bytes; empty before initialize."""
        files = storage.to_files(self.trained) if self.is_trained else {}
        data: bytes = srsly.msgpack_dumps(files)
        return data

    def from_bytes(self, data: bytes) -> "TaggerShim":
        """Load what ``to_bytes`` returned.

        data (bytes): The files as bytes.
        RETURNS (TaggerShim): Itself.
        """
        trained = trained_in_bytes(data)
        if trained is not None:
            self.set(trained)
        return self

    def to_disk(self, path: Any) -> None:
        """Write the files of ``storage``.

        path (Path): The folder.
        """
        storage.write(self.trained, Path(path))

    def from_disk(self, path: Any) -> "TaggerShim":
        """Read the files of ``storage``.

        path (Path): The folder.
        RETURNS (TaggerShim): Itself.
        """
        self.set(trained_on_disk(Path(path)))
        return self


def trained_in_bytes(data: bytes) -> Optional[Trained]:
    """Read what ``TaggerShim.to_bytes`` returned.

    data (bytes): The files as bytes.
    RETURNS (Optional[Trained]): The network, if there is one.
    RAISES (ValueError): If a file is missing or damaged. The message names it.
    """
    files = unpack(data)

    def opened(name: str, most: int) -> Tuple[BinaryIO, int]:
        check_size(len(files[name]), most)
        return io.BytesIO(files[name]), len(files[name])

    if not files:
        return None
    return storage.from_files(opened, "the model's bytes", get_torch_default_device())


def trained_on_disk(folder: Path) -> Trained:
    """Read what ``TaggerShim.to_disk`` wrote.

    folder (Path): The folder.
    RETURNS (Trained): The network.
    RAISES (ValueError): If a file is missing or damaged. The message names it.
    """
    files = HeldFiles(folder)
    read = functools.partial(
        storage.from_files, files.open, str(folder), get_torch_default_device()
    )
    return read()._replace(again=read if files.stay else None)


def fresh(
    network: ExitNetwork, decoder: "Decoder", criterion: "Criterion", device: str
) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    """Make the parameters that a decoder and a criterion learn, as they are before training.

    network (ExitNetwork): The network that they are for.
    decoder (Decoder): The decoder.
    criterion (Criterion): The criterion.
    device (str): The device; on ``"meta"`` it costs nothing and draws no random numbers.
    RETURNS (Tuple[Dict[str, Tensor], Dict[str, Tensor]]): The parameters of each, by name.
    """
    with torch.device(device):
        return decoder.parameters(network.tags), criterion.parameters(network.spec)


def shim_of(model: "Model[Any, Any]") -> TaggerShim:
    """RETURNS (TaggerShim): The shim of a model that ``build_tagger_model`` built."""
    return cast(TaggerShim, model.shims[0])
