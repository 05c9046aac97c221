"""The thinc model: Docs in, exit logits out; and the shim that lets thinc train the network."""

import contextlib
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    TypeAlias,
    cast,
)

import numpy as np
import srsly
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model, Optimizer, torch2xp, xp2torch
from thinc.shims.shim import Shim
from thinc.types import FloatsXd
from thinc.util import get_torch_default_device

from . import storage
from .encoders import EncoderSource
from .network.batch import Batch
from .network.criterion import Criterion
from .network.loop import Exits, run_all_heads, run_with_exits
from .network.tagger import Tagger
from .network.window import Bools, Ints, Window
from .storage import Trained
from .training.memory import release_freed_memory
from .wordpieces import WordpieceTokenizer, batches, windows_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RunSettings:
    """How to run the model on a call.

    criterion (Optional[Criterion]): Who may leave early; None: nobody.
    threshold (float): The criterion's dial.
    window_length (Optional[int]): Wordpieces of a window, special tokens included; None: as
        many as the encoder has positions.
    window_overlap (int): Wordpieces that neighbouring windows of a doc share.
    batch_wordpieces (int): Wordpieces that are computed at once.
    """

    criterion: Optional[Criterion] = None
    threshold: float = 0.0
    window_length: Optional[int] = None
    window_overlap: int = 64
    batch_wordpieces: int = 4096


@dataclass(frozen=True)
class DocExits:
    """What the network says of a doc.

    words (Ints): The words that it has wordpieces of, as indices into the doc, ascending.
        *Shape:* ``(words,)``
    logits (Floats): From the layer at which each left. *Shape:* ``(words, tags)``
    exit_layer (Ints): That layer, counted from 1. *Shape:* ``(words,)``
    spent (int): MACs of the method.
    full (int): MACs of full depth with one head.
    padding (int): MACs that were spent on padding beside it, in proportion.
    """

    words: Ints
    logits: Floats
    exit_layer: Ints
    spent: int
    full: int


@dataclass(frozen=True)
class JointLogits:
    """What all heads say of all words of some docs, for training.

    logits (Any): *Shape:* ``(layers, words, tags)``, numpy or cupy
    doc (Ints): The doc of each word. *Shape:* ``(words,)``
    word (Ints): Its index in that doc. *Shape:* ``(words,)``
    owned (Bools): Whether it counts, or is but the context of an overlapping window.
        *Shape:* ``(words,)``
    """

    logits: Any
    doc: Ints
    word: Ints
    owned: Bools


Input = Tuple[Sequence[Doc], RunSettings]
TaggerModel: TypeAlias = "Model[Any, Any]"


def build_tagger_model(
    encoder: EncoderSource, head_lr_factor: float = 5.0, freeze_encoder: bool = False
) -> TaggerModel:
    """Build ``spacy-early-exit.EarlyExitTagger.v1``. Cheap: the encoder comes at initialize.

    Its input is a list of Docs (full depth), or a pair of Docs and RunSettings. Predicting
    gives a DocExits for each, training gives JointLogits.

    encoder (EncoderSource): Where the pre-trained encoder comes from.
    head_lr_factor (float): How many times faster the exit heads learn than the encoder, whose
        rate is the optimizer's own.
    freeze_encoder (bool): Whether to train the heads alone.
    RETURNS (TaggerModel): The model, without weights yet.
    RAISES (ValueError): If an argument makes no sense.
    """
    if not head_lr_factor > 0:
        raise ValueError(f"EarlyExitTagger: head_lr_factor must be above 0, not {head_lr_factor}.")
    shim = TaggerShim(encoder, float(head_lr_factor), bool(freeze_encoder))
    return Model(
        "early_exit_tagger",
        forward,
        init=init,
        dims={"nO": None},
        attrs={"dropout_rate": 0.0},
        shims=[shim],
    )


def forward(model: TaggerModel, X: Any, is_train: bool) -> Tuple[Any, Callable[[Any], Any]]:
    """Run the model.

    model (TaggerModel): The model.
    X (Any): Docs, or a pair of Docs and RunSettings.
    is_train (bool): Whether all heads and a gradient are wanted.
    RETURNS (Tuple[Any, Callable]): A DocExits for each Doc, or JointLogits when training; and
        the callback that takes the gradient of the latter's logits.
    """
    docs, settings = X if isinstance(X, tuple) else (X, RunSettings())
    docs = list(docs)
    trained = shim_of(model).trained
    if is_train:
        return _begin_update(trained, docs, settings, model.attrs["dropout_rate"])
    return predict(trained, docs, settings), lambda gradient: docs


def predict(trained: Trained, docs: List[Doc], settings: RunSettings) -> List[DocExits]:
    """Tag docs, leaving early. Touches nothing that another thread could see.

    trained (Trained): Network and tokenizer.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run.
    RETURNS (List[DocExits]): One for each doc.
    """
    _one_thread_after_fork()
    network = trained.network
    windows = _windows(trained, docs, settings)
    of_doc: List[List[Tuple[Window, Exits, int, slice]]] = [[] for _ in docs]
    with torch.inference_mode():
        for batch in batches(windows, settings.batch_wordpieces):
            exits = run_with_exits(
                network,
                Batch.of(batch, network.device),
                settings.criterion,
                settings.threshold,
            )
            exits = Exits(
                exits.logits.cpu(),
                exits.exit_layer.cpu(),
                exits.spent.cpu(),
                exits.full.cpu(),
                exits.padding,
            )
            start = 0
            for number, window in enumerate(batch):
                words = slice(start, start + len(window.words))
                of_doc[window.doc].append((window, exits, number, words))
                start = words.stop
    return [_gather(parts, network.tags) for parts in of_doc]


def _gather(parts: List[Tuple[Window, Exits, int, slice]], tags: int) -> DocExits:
    """RETURNS (DocExits): A doc put together from its windows, which come in any order."""
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return DocExits(nothing, np.zeros((0, tags), dtype=np.float32), nothing, 0, 0)
    parts = sorted(parts, key=lambda part: int(part[0].words[0]))
    return DocExits(
        words=np.concatenate([window.words[window.owned] for window, *_ in parts]),
        logits=np.concatenate([e.logits[words].numpy()[w.owned] for w, e, _, words in parts]),
        exit_layer=np.concatenate(
            [e.exit_layer[words].numpy()[w.owned] for w, e, _, words in parts]
        ),
        spent=sum(int(exits.spent[number]) for _, exits, number, _ in parts),
        full=sum(int(exits.full[number]) for _, exits, number, _ in parts),
    )


def _begin_update(
    trained: Trained, docs: List[Doc], settings: RunSettings, dropout: float
) -> Tuple[JointLogits, Callable[[Any], List[Doc]]]:
    network = trained.network
    windows, outputs = [], []
    for batch in batches(_windows(trained, docs, settings), settings.batch_wordpieces):
        windows.extend(batch)
        outputs.append(run_all_heads(network, Batch.of(batch, network.device), dropout))
    nothing = network.head(1).weight.new_zeros(network.spec.layers, 0, network.tags)
    logits = torch2xp(torch.cat([nothing] + [output.detach() for output in outputs], dim=1))

    def backprop(d_logits: Any) -> List[Doc]:
        gradient = xp2torch(d_logits, device=network.device)
        parts = gradient.split([output.shape[1] for output in outputs], dim=1)
        torch.autograd.backward(outputs, list(parts))
        release_freed_memory()
        return docs

    return (
        JointLogits(
            logits=logits,
            doc=_join([np.full(len(window.words), window.doc) for window in windows], np.int64),
            word=_join([window.words for window in windows], np.int64),
            owned=_join([window.owned for window in windows], np.bool_),
        ),
        backprop,
    )


def _join(arrays: Sequence["NDArray[Any]"], dtype: Any) -> "NDArray[Any]":
    return np.concatenate([np.zeros(0, dtype=dtype), *arrays]).astype(dtype)


def _windows(trained: Trained, docs: List[Doc], settings: RunSettings) -> List[Window]:
    spec, tokenizer = trained.network.spec, trained.tokenizer
    length = settings.window_length or spec.max_wordpieces
    specials = len(tokenizer.prefix) + len(tokenizer.suffix)
    if not specials < length <= spec.max_wordpieces:
        raise ValueError(
            f"window_length must be {specials + 1} to {spec.max_wordpieces} wordpieces for this "
            f"encoder, not {length}."
        )
    overlap = min(settings.window_overlap, (length - specials) // 2)
    return windows_of(docs, tokenizer, length, overlap)


def init(model: TaggerModel, X: Any = None, Y: Any = None) -> None:
    """Fetch the encoder and draw the heads. The number of tags is the model's ``nO``."""
    shim = shim_of(model)
    loaded = shim.encoder.load()
    network = Tagger(loaded.spec, model.get_dim("nO"))
    network.encoder.load_state_dict(loaded.weights)
    network.init_heads()
    shim.set(Trained(network.to(get_torch_default_device()), WordpieceTokenizer(loaded.tokenizer)))


def shim_of(model: TaggerModel) -> "TaggerShim":
    """RETURNS (TaggerShim): The shim of a model that ``build_tagger_model`` built."""
    return cast(TaggerShim, model.shims[0])


class TaggerShim(Shim):
    """Lets thinc's optimizers, averages and serialisation reach the torch network.

    encoder (EncoderSource): Where the pre-trained encoder comes from.
    head_lr_factor (float): How many times faster the heads learn.
    freeze_encoder (bool): Whether to train the heads alone.
    """

    def __init__(self, encoder: EncoderSource, head_lr_factor: float, freeze_encoder: bool):
        super().__init__(None)
        self.encoder = encoder
        self.head_lr_factor = head_lr_factor
        self.freeze_encoder = freeze_encoder

    @property
    def is_trained(self) -> bool:
        """RETURNS (bool): Whether there are weights."""
        return self._model is not None

    @property
    def trained(self) -> Trained:
        """RETURNS (Trained): Network and tokenizer."""
        if self._model is None:
            raise ValueError(
                "The early-exit tagger has no weights yet. Train it: nlp.initialize(...) fetches "
                "the pre-trained encoder; or load a trained pipeline with spacy.load(...)."
            )
        trained: Trained = self._model
        return trained

    def set(self, trained: Trained) -> None:
        """Take over a network.

        trained (Trained): Network and tokenizer.
        """
        trained.network.encoder.requires_grad_(not self.freeze_encoder)
        self._model = trained

    def finish_update(self, optimizer: Optimizer) -> None:
        """Take an optimizer step; the heads take a larger one.

        optimizer (Optimizer): thinc's optimizer.
        """
        for name, parameter in self.trained.network.named_parameters():
            if parameter.grad is None:
                continue
            is_head = name.startswith("heads.")
            value, _ = optimizer(
                self._key(name, parameter),
                cast(FloatsXd, torch2xp(parameter.data)),
                cast(FloatsXd, torch2xp(parameter.grad)),
                lr_scale=self.head_lr_factor if is_head else 1.0,
            )
            parameter.data = xp2torch(value, device=parameter.device)
            parameter.grad = None

    @contextlib.contextmanager
    def use_params(self, params: Dict[Any, Any]) -> Iterator[None]:
        """Put other weights, such as an optimizer's averages, in place for a while.

        params (Dict[Any, Any]): Weights by the keys that ``finish_update`` gave the optimizer.
        """
        replaced = []
        for name, parameter in self.trained.network.named_parameters() if self._model else ():
            key = self._key(name, parameter)
            if key in params:
                replaced.append((parameter, parameter.data))
                parameter.data = xp2torch(params[key], device=parameter.device)
        try:
            yield
        finally:
            for parameter, data in replaced:
                parameter.data = data

    def _key(self, name: str, parameter: torch.nn.Parameter) -> Tuple[int, str]:
        # With the shape: heads that got new tags must not meet the moments of the old ones.
        return (self.id, f"{name}:{'x'.join(map(str, parameter.shape))}")

    def copy(self) -> "TaggerShim":
        """RETURNS (TaggerShim): A deep copy, with an identity of its own for optimizers."""
        copied = TaggerShim(self.encoder, self.head_lr_factor, self.freeze_encoder)
        if self._model is not None:
            copied.from_bytes(self.to_bytes())
        return copied

    def to_device(self, device_type: str, device_id: int) -> None:
        """Move the network.

        device_type (str): ``"cpu"`` or ``"gpu"``.
        device_id (int): Number of the GPU.
        """
        if self._model is not None:
            device = "cpu" if device_type == "cpu" else f"cuda:{device_id}"
            self.trained.network.to(device)

    def to_bytes(self) -> bytes:
        """RETURNS (bytes): The files of ``storage``, in one; empty before initialize."""
        files = storage.to_files(self.trained) if self._model is not None else {}
        data: bytes = srsly.msgpack_dumps(files)
        return data

    def from_bytes(self, data: bytes) -> "TaggerShim":
        """Load what ``to_bytes`` gave.

        data (bytes): The files in one.
        RETURNS (TaggerShim): Itself.
        """
        files = srsly.msgpack_loads(data)
        if files:
            device = get_torch_default_device()
            self.set(storage.from_files(files.__getitem__, "the model's bytes", device))
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
        folder = Path(path)

        def read(name: str) -> bytes:
            return (folder / name).read_bytes()

        self.set(storage.from_files(read, str(folder), get_torch_default_device()))
        return self


_thread_limited_pid: Optional[int] = None


def _one_thread_after_fork() -> None:
    """Limit torch to one thread in a worker process, once.

    A forked child that inherits an OpenMP pool hangs at its first parallel region; and
    workers are what the user parallelises by.
    """
    global _thread_limited_pid
    if _thread_limited_pid != os.getpid() and multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    _thread_limited_pid = os.getpid()
