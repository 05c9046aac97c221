"""The thinc model: Docs in, exit logits out."""

import functools
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    List,
    Sequence,
    Tuple,
    TypeAlias,
    cast,
)

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model, torch2xp, xp2torch
from thinc.util import get_torch_default_device

from ..criteria.entropy import TokenExit
from ..decoders import Decoder
from ..encoders.hugging_face import EncoderSource
from ..files.network import Trained
from ..network.arrays import Floats, Ints
from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import Tagger
from ..network.families import EncoderSpec
from ..network.loop import Exits, run_all_layers, run_with_exits
from ..network.simulate import simulated_speedup
from ..network.window import Window
from ..retired import reads_retired
from ..runtime.forks import ready_for_torch
from ..runtime.memory import release_freed_memory, release_freed_memory_now_and_then
from ..runtime.threads import batches_at_once, run_side_by_side, thread_count
from ..runtime.torch_state import usual_dtype, usual_torch
from ..settings import RunSettings
from ..text.tokenizer import WordpieceTokenizer
from ..text.windows import SharedWordpieces, batches, windows_of
from ..training.stages import Answers, Gradient, JointLogits, JointTraining
from .shim import TaggerShim

LEAST_WORDPIECES = 256  # of a batch that is made small only so that every worker has one


@dataclass(frozen=True)
class DocExits:
    """What the network says of a doc.

    words (Ints): The words that it has wordpieces of, as indices into the doc, ascending.
        *Shape:* ``(words,)``
    logits (Floats): From the layer at which each left. *Shape:* ``(words, tags)``
    exit_layer (Ints): That layer, counted from 1. *Shape:* ``(words,)``
    spent (int): MACs of the method.
    full (int): MACs of full depth with one head.
    waste (float): MACs that the run spent on padding beside it: its share of its batches'.
    """

    words: Ints
    logits: Floats
    exit_layer: Ints
    spent: int
    full: int
    waste: float


Input = Tuple[Sequence[Doc], RunSettings]
TaggerModel: TypeAlias = "Model[Any, Any]"


@reads_retired("EarlyExitTagger")
def build_tagger_model(
    encoder: EncoderSource,
    head_lr_factor: float = 5.0,
    freeze_encoder: bool = False,
    freeze_full_depth: bool = False,
    mixed_precision: bool = False,
    shared_wordpieces: SharedWordpieces = "split",
) -> TaggerModel:
    """Build ``spacy-early-exit.EarlyExitTagger.v2``. Cheap: the encoder comes at initialize.

    Its input is a list of Docs (full depth), or a pair of Docs and RunSettings. Predicting
    gives a DocExits for each, training gives JointLogits.

    encoder (EncoderSource): Where the pre-trained encoder comes from.
    head_lr_factor (float): How many times faster the exit heads learn than the encoder, whose
        rate is the optimizer's own.
    freeze_encoder (bool): Whether to train the heads alone.
    freeze_full_depth (bool): Whether to train the earlier heads alone: encoder and deepest head
        stay as they are.
    mixed_precision (bool): Whether products are computed in bfloat16 while training. Weights, and
        all of prediction, stay in fp32.
    shared_wordpieces (SharedWordpieces): What becomes of words that would share a wordpiece: they
        are tokenized one by one (``"split"``); or they share it, and are told the same
        (``"keep"``).
    RETURNS (TaggerModel): The model, without weights yet.
    RAISES (ValueError): If an argument makes no sense.
    """
    if not head_lr_factor > 0:
        raise ValueError(f"EarlyExitTagger: head_lr_factor must be above 0, not {head_lr_factor}.")
    if shared_wordpieces not in ("split", "keep"):
        raise ValueError(
            f"EarlyExitTagger: shared_wordpieces must be 'split' or 'keep', not "
            f"{shared_wordpieces!r}."
        )
    shim = TaggerShim(
        encoder,
        float(head_lr_factor),
        bool(freeze_encoder),
        bool(freeze_full_depth),
        bool(mixed_precision),
        shared_wordpieces,
    )
    return Model(
        "early_exit_tagger",
        forward,
        init=init,
        dims={"nO": None},
        attrs={"dropout_rate": 0.0},
        shims=[shim],
    )


@reads_retired("EarlyExitTagger")
def build_tagger_model_v1(
    encoder: EncoderSource,
    head_lr_factor: float = 5.0,
    freeze_encoder: bool = False,
    freeze_full_depth: bool = False,
    mixed_precision: bool = False,
    shared_wordpieces: SharedWordpieces = "keep",
) -> TaggerModel:
    """Build ``spacy-early-exit.EarlyExitTagger.v1``, which pipelines name that were saved before
    there was ``shared_wordpieces``: all as in ``build_tagger_model``, but words share wordpieces
    unless it is set.
    """
    return build_tagger_model(
        encoder,
        head_lr_factor,
        freeze_encoder,
        freeze_full_depth,
        mixed_precision,
        shared_wordpieces,
    )


def forward(model: TaggerModel, X: Any, is_train: bool) -> Tuple[Any, Callable[[Any], Any]]:
    """Run the model.

    model (TaggerModel): The model.
    X (Any): Docs, or a pair of Docs and RunSettings.
    is_train (bool): Whether all heads and a gradient are wanted.
    RETURNS (Tuple[Any, Callable]): A DocExits for each Doc, or JointLogits when training; and
        the callback that takes their gradient, of the latter's logits and of what the decoder has
        learnt.
    """
    shim = shim_of(model)
    here = RunSettings(shared_wordpieces=shim.shared_wordpieces)
    docs, settings = X if isinstance(X, tuple) else (X, here)
    docs = list(docs)
    if is_train:
        ready_for_torch()
        with usual_torch():
            return _begin_update(shim, docs, settings, model.attrs["dropout_rate"])
    trained = shim.at(settings.precision)
    predicted = predict(trained, docs, settings)
    release_freed_memory_now_and_then()
    return predicted, lambda gradient: docs


def predict(trained: Trained, docs: List[Doc], settings: RunSettings) -> List[DocExits]:
    """Tag docs, leaving early. Touches nothing of the network that another thread could see.

    trained (Trained): Network and tokenizer.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run.
    RETURNS (List[DocExits]): One for each doc.
    RAISES (ValueError): If the network gives NaN or infinity. The message names the layer.
    """
    network = trained.full_depth if settings.criterion is None else trained.network

    def run(batch: List[Window]) -> List[DocExits]:
        with usual_torch(), torch.inference_mode():
            ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
            exits = run_with_exits(network, ragged, settings.criterion, settings.threshold)
            if not exits.logits.isfinite().all():
                raise ValueError(_not_finite(network, ragged))
        return list(_by_window(batch, exits))

    windows = _windows(trained, docs, settings)
    if network.device.type == "cpu":
        threads = thread_count(settings.threads)
        at_once, least = batches_at_once(threads), LEAST_WORDPIECES
        cut = list(batches(windows, settings.batch_wordpieces, at_once, least))
        done = run_side_by_side(run, cut, threads, functools.partial(_layer_macs, network.spec))
    else:
        cut = list(batches(windows, settings.batch_wordpieces))
        done = [run(batch) for batch in cut]
    parts: List[List[DocExits]] = [[] for _ in docs]
    for batch, found in zip(cut, done):
        for window, part in zip(batch, found):
            parts[window.doc].append(part)
    return [_join_windows(doc_parts, network.tags) for doc_parts in parts]


def _layer_macs(spec: EncoderSpec, batch: Sequence[Window]) -> int:
    """RETURNS (int): About how many multiply-accumulates a whole layer has."""
    weights = spec.hidden_size * (4 * spec.hidden_size + 2 * spec.intermediate_size)
    return weights * sum(len(window.ids) for window in batch)


def _not_finite(network: Tagger, batch: Batch) -> str:
    """RETURNS (str): Where NaN or infinity first comes up in a batch, as an error message."""
    where = "where words leave early"
    for number, of_words in enumerate(run_all_layers(network, batch), start=1):
        if not network.logits(number, of_words).isfinite().all():
            where = f"from layer {number} on"
            break
    return (
        f"The network gives NaN or infinity for a text, {where}: no tags come of that. Its "
        f"weights are extreme, or were changed in place. Load the pipeline anew; or train again, "
        f"with a smaller learn_rate."
    )


def simulate(
    trained: Trained, groups: Iterable[List[Doc]], settings: RunSettings, criterion: Criterion
) -> Callable[[float], float]:
    """Run docs once at full depth, and say what leaving early would save.

    trained (Trained): Network and tokenizer.
    groups (Iterable[List[Doc]]): The docs. The windows of one group are there at once.
    settings (RunSettings): How to run.
    criterion (Criterion): Who may leave.
    RETURNS (Callable[[float], float]): The simulated saving at a threshold: see
        ``network.simulate``.
    """
    network = trained.network
    answers = []
    with usual_torch(), torch.inference_mode():
        for batch in _batches_of(trained, groups, settings):
            ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
            states = list(run_all_layers(network, ragged))
            logits = [network.logits(n, of_words) for n, of_words in enumerate(states, start=1)]
            width = None if criterion.own_loop is not None else 0
            kept = torch.stack([state[:, :width] for state in states])
            answers.append((ragged, torch.stack(logits), kept))
    return usual_torch()(functools.partial(simulated_speedup, network, answers, criterion))


def _batches_of(
    trained: Trained, groups: Iterable[List[Doc]], settings: RunSettings
) -> Iterator[List[Window]]:
    """YIELDS (List[Window]): All batches of one group of docs after another."""
    for group in groups:
        yield from batches(_windows(trained, group, settings), settings.batch_wordpieces)


def measure_heads(model: TaggerModel, docs: List[Doc], settings: RunSettings) -> JointLogits:
    """Ask every head about every word, at full depth.

    model (TaggerModel): The model.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run.
    RETURNS (JointLogits): What the heads say.
    """
    ready_for_torch()
    with usual_torch(), torch.no_grad():
        return _begin_update(shim_of(model), docs, settings, dropout=0.0)[0]


@usual_torch()
def decode(trained: Trained, decoder: Decoder, logits: Sequence[Floats]) -> List[Ints]:
    """RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``

    trained (Trained): The network, which keeps what the decoder has learnt.
    decoder (Decoder): The decoder.
    logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
    """
    return decoder(logits, trained.network.learned)


def _by_window(batch: Sequence[Window], exits: Exits) -> Iterator[DocExits]:
    """YIELDS (DocExits): What came out of each window of a batch, for the words it owns."""
    logits, exit_layer = exits.logits.cpu().numpy(), exits.exit_layer.cpu().numpy()
    spent, full = exits.spent.tolist(), exits.full.tolist()
    waste_rate = exits.padding / sum(spent)
    start = 0
    for number, window in enumerate(batch):
        words = slice(start, start + len(window.words))
        start = words.stop
        yield DocExits(
            words=window.words[window.owned],
            logits=logits[words][window.owned],
            exit_layer=exit_layer[words][window.owned],
            spent=spent[number],
            full=full[number],
            waste=waste_rate * spent[number],
        )


def _join_windows(parts: List[DocExits], tags: int) -> DocExits:
    """RETURNS (DocExits): A doc put together from its windows, which come in any order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return DocExits(nothing, np.zeros((0, tags), dtype=np.float32), nothing, 0, 0, 0.0)
    words = np.concatenate([part.words for part in parts])
    order = np.argsort(words)
    return DocExits(
        words=words[order],
        logits=np.concatenate([part.logits for part in parts])[order],
        exit_layer=np.concatenate([part.exit_layer for part in parts])[order],
        spent=sum(part.spent for part in parts),
        full=sum(part.full for part in parts),
        waste=sum(part.waste for part in parts),
    )


def _begin_update(
    shim: TaggerShim, docs: List[Doc], settings: RunSettings, dropout: float
) -> Tuple[JointLogits, Callable[[Any], List[Doc]]]:
    network, stage = shim.trained.network, settings.stage or JointTraining()
    criterion = settings.criterion or TokenExit(window=0)
    # Not where heads are only measured. bfloat16 has the range of fp32: nothing needs scaling.
    mixed = shim.mixed_precision and settings.stage is not None
    torch.clear_autocast_cache()  # in an autocast of the caller, weights would stay as they were
    teacher = shim.teacher() if stage.needs_teacher else None
    windows: List[Window] = []
    texts: List[int] = []  # of each window
    answers: List[Answers] = []
    for batch in batches(_windows(shim.trained, docs, settings), settings.batch_wordpieces):
        for copy in range(stage.copies):
            windows.extend(batch)
            texts.extend(copy * len(docs) + window.doc for window in batch)
        ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
        with torch.autocast(network.device.type, torch.bfloat16, enabled=mixed):
            answers.append(stage.run(network, ragged, dropout, criterion, teacher))
    outputs = [answer.logits.float() for answer in answers]
    own = [part for answer in answers for part in answer.own]
    taught = [answer.teacher.float() for answer in answers if answer.teacher is not None]
    nothing = network.head(1).weight.new_zeros(network.spec.layers, 0, network.tags)

    @usual_torch()
    def backprop(gradient: Gradient) -> List[Doc]:
        of_logits = xp2torch(gradient.logits, device=network.device)
        parts = of_logits.split([output.shape[1] for output in outputs], dim=1)
        pairs = list(zip(outputs, parts))
        for name, of_learned in gradient.learned.items():
            pairs.append((network.learned[name], xp2torch(of_learned, device=network.device)))
        pairs.extend(zip((t for part in own for t in part if t.requires_grad), gradient.own))
        pairs = [pair for pair in pairs if pair[0].requires_grad]
        if pairs:
            torch.autograd.backward([of for of, _ in pairs], [slope for _, slope in pairs])
        release_freed_memory()
        return docs

    return (
        JointLogits(
            logits=torch2xp(torch.cat([nothing, *outputs], dim=1).detach()),
            doc=_join([np.full(len(window.words), window.doc) for window in windows], np.int64),
            word=_join([window.words for window in windows], np.int64),
            owned=_join([window.owned for window in windows], np.bool_),
            exit_layer=_join([answer.exit_layer.cpu().numpy() for answer in answers], np.int64),
            text=_join([np.full(len(w.words), text) for w, text in zip(windows, texts)], np.int64),
            learned={name: torch2xp(known.detach()) for name, known in network.decoder.items()},
            teacher=torch2xp(torch.cat(taught, dim=1)) if taught else None,
            own=own,
        ),
        backprop,
    )


def _join(arrays: Sequence["NDArray[Any]"], dtype: Any) -> "NDArray[Any]":
    return np.concatenate([np.zeros(0, dtype=dtype), *arrays]).astype(dtype)


def _windows(trained: Trained, docs: List[Doc], settings: RunSettings) -> List[Window]:
    spec, tokenizer = trained.network.spec, trained.tokenizer
    length = settings.window_length or spec.max_wordpieces
    specials = len(tokenizer.prefix) + len(tokenizer.suffix)
    overlap = min(settings.window_overlap, (length - specials) // 2)
    shared = settings.shared_wordpieces
    return windows_of(docs, tokenizer, length, overlap, settings.get_spans, shared)


@usual_torch()
def init(model: TaggerModel, X: Any = None, Y: Any = None) -> None:
    """Fetch the encoder and draw the heads. The number of tags is the model's ``nO``."""
    shim = shim_of(model)
    with usual_dtype():
        loaded = shim.encoder.load()
    network = Tagger(loaded.spec, model.get_dim("nO"))
    network.encoder.load_state_dict(loaded.weights)
    network.init_heads()
    shim.set(Trained(network.to(get_torch_default_device()), WordpieceTokenizer(loaded.tokenizer)))


def shim_of(model: TaggerModel) -> "TaggerShim":
    """RETURNS (TaggerShim): The shim of a model that ``build_tagger_model`` built."""
    return cast(TaggerShim, model.shims[0])
