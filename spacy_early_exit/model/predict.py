"""Predicting: windows of Docs, batches in parallel, and the results of each Doc's words."""

import functools
from dataclasses import dataclass, field
from typing import Callable, Iterable, Iterator, List, Mapping, Sequence, Tuple, TypeVar

import numpy as np
import torch
from spacy.tokens import Doc

from ..decoders import Decoder
from ..files.network import Trained
from ..network.all_heads import all_logits, run_all_layers
from ..network.arrays import Floats, Ints
from ..network.batch import Batch
from ..network.cost import full_macs
from ..network.criterion import Criterion
from ..network.devices import fetched, is_asynchronous
from ..network.exit_network import ExitNetwork
from ..network.families import EncoderSpec
from ..network.loop import Exits, run_with_exits
from ..network.seen import around
from ..network.simulate import simulated_speedup
from ..network.window import Window
from ..runtime.threads import batches_at_once, run_side_by_side, thread_count
from ..runtime.torch_state import usual_torch
from ..settings import RunSettings
from ..text.windows import batches, windows_of

Result = TypeVar("Result")

MIN_WORDPIECES = 256  # of a batch that is small only so that every worker has one
TIMES_ON_GPU = 8  # as many wordpieces in a batch: small ones leave a GPU idle. Not measured.


@dataclass(frozen=True)
class DocExits:
    """The output of the network for a doc.

    words (Ints): The words that have wordpieces, as indices into the doc, ascending. *Shape:*
        ``(words,)``
    logits (Floats): The logits of each word, from the layer at which it exited. *Shape:*
        ``(words, tags)``
    exit_layer (Ints): That layer, counted from 1. *Shape:* ``(words,)``
    spent (int): The MACs that the method spent.
    full (int): MACs of full depth with one head.
    waste (float): MACs that the run spent on padding in addition: the doc's share of that of its
        batches.
    others (Mapping[str, DocExits]): The output for the other tasks of a shared pass, by name.
    """

    words: Ints
    logits: Floats
    exit_layer: Ints
    spent: int
    full: int
    waste: float
    others: Mapping[str, "DocExits"] = field(default_factory=dict)


def predict(trained: Trained, docs: List[Doc], settings: RunSettings) -> List[DocExits]:
    """Tag docs with early exits. It changes nothing in the network that another thread could see.

    trained (Trained): Network and tokenizer.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model.
    RETURNS (List[DocExits]): One for each doc.
    RAISES (ValueError): If the network returns a NaN or an infinity. The message names the layer.
    """
    network = trained.full_depth if settings.criterion is None else trained.network

    def run(batch: List[Window]) -> List[DocExits]:
        with usual_torch(), torch.inference_mode():
            ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
            exits = run_with_exits(network, ragged, settings.criterion, settings.threshold)
            exits = fetched(exits)
            if not exits.logits.isfinite().all():
                raise ValueError(not_finite(network, ragged, network))
        return list(by_window(batch, exits))

    cut, done = run_in_batches(run, trained, docs, settings)
    return join_docs(cut, done, len(docs), network.tags)


def run_in_batches(
    run: Callable[[List[Window]], Result], trained: Trained, docs: List[Doc], settings: RunSettings
) -> Tuple[List[List[Window]], List[Result]]:
    """Cut docs into batches of windows and run them, on a CPU side by side.

    run (Callable): Runs a batch.
    trained (Trained): Network and tokenizer.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model.
    RETURNS (Tuple[List[List[Window]], List[Result]]): The batches, and the result of each.
    """
    network, windows = trained.network, windows_for(trained, docs, settings)
    if is_asynchronous(network.device):
        cut = list(batches(windows, TIMES_ON_GPU * settings.batch_wordpieces))
        return cut, [run(batch) for batch in cut]
    threads = thread_count(settings.threads)
    at_once, least = batches_at_once(threads), MIN_WORDPIECES
    cut = list(batches(windows, settings.batch_wordpieces, at_once, least))
    work = functools.partial(_rough_work, network.spec)
    return cut, run_side_by_side(run, cut, threads, work)


def join_docs(
    cut: List[List[Window]], done: List[List[DocExits]], docs: int, tags: int
) -> List[DocExits]:
    """RETURNS (List[DocExits]): The results of each doc.

    cut (List[List[Window]]): The batches.
    done (List[List[DocExits]]): The results of each of their windows.
    docs (int): Number of docs.
    tags (int): Number of tags.
    """
    parts: List[List[DocExits]] = [[] for _ in range(docs)]
    for batch, found in zip(cut, done):
        for window, part in zip(batch, found):
            parts[window.doc].append(part)
    return [_join_windows(doc_parts, tags) for doc_parts in parts]


def _rough_work(spec: EncoderSpec, batch: Sequence[Window]) -> int:
    """RETURNS (int): About how many multiply-accumulates the first layer takes."""
    heads, neurons = spec.layer_sizes[0]
    weights = spec.hidden_size * (4 * heads * spec.head_width + 2 * neurons)
    return weights * sum(len(window.ids) for window in batch)


def not_finite(network: ExitNetwork, batch: Batch, heads: ExitNetwork) -> str:
    """RETURNS (str): Where a NaN or an infinity first occurs in a batch, as an error message.

    network (ExitNetwork): The network whose encoder runs.
    batch (Batch): The batch.
    heads (ExitNetwork): The network whose heads read it.
    """
    where = "where words exit early"
    for number, of_words in enumerate(run_all_layers(network, batch), start=1):
        if number not in heads.exit_layers:
            continue
        seen = around(heads.reach(number), of_words, batch)
        if not heads.logits(number, seen).isfinite().all():
            where = f"from layer {number} on"
            break
    if network.encoder.embeddings.word.weight.dtype == torch.float16:
        where += " (in fp16, which ends at 65,504: precision = 'bf16' may do)"
    return (
        f"The network gives NaN or infinity for a text, {where}, so it can't be tagged. Its "
        f"weights are extreme, or were changed in place. Load the pipeline again, or train again "
        f"with a smaller learn_rate."
    )


def simulate(
    trained: Trained, groups: Iterable[List[Doc]], settings: RunSettings, criterion: Criterion
) -> Callable[[float], float]:
    """Run docs once at full depth, and estimate what early exits would save.

    trained (Trained): Network and tokenizer.
    groups (Iterable[List[Doc]]): The docs. The windows of one group are in memory together.
    settings (RunSettings): How to run the model.
    criterion (Criterion): Decides which words exit.
    RETURNS (Callable[[float], float]): The simulated speedup at a threshold: see
        ``network.simulate``.
    """
    network = trained.network
    answers = []
    with usual_torch(), torch.inference_mode():
        for batch in batches_of(trained, groups, settings):
            ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
            states = list(run_all_layers(network, ragged))
            logits = all_logits(network, ragged, states)
            width = None if criterion.own_loop is not None else 0
            kept = torch.stack([state[:, :width] for state in states])
            answers.append((ragged, logits, kept))
    return usual_torch()(functools.partial(simulated_speedup, network, answers, criterion))


def full_depth_macs(
    trained: Trained, docs: List[Doc], settings: RunSettings, spec: EncoderSpec
) -> int:
    """RETURNS (int): What docs would cost at full depth, in an encoder of given sizes.

    trained (Trained): Network and tokenizer, for the windows and the tags.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model.
    spec (EncoderSpec): The sizes of the encoder.
    """
    windows = windows_for(trained, docs, settings)
    wordpieces = torch.tensor([len(window.ids) for window in windows])
    words = torch.tensor([len(window.words) for window in windows])
    return int(full_macs(spec, trained.network.tags, wordpieces, words).sum())


def batches_of(
    trained: Trained, groups: Iterable[List[Doc]], settings: RunSettings
) -> Iterator[List[Window]]:
    """YIELDS (List[Window]): The batches of each group of docs, group by group."""
    for group in groups:
        yield from batches(windows_for(trained, group, settings), settings.batch_wordpieces)


@usual_torch()
def decode(trained: Trained, decoder: Decoder, logits: Sequence[Floats]) -> List[Ints]:
    """RETURNS (List[Ints]): The tags of each text. *Shape:* ``(words,)``

    trained (Trained): The network, which keeps the decoder's learnt parameters.
    decoder (Decoder): The decoder.
    logits (Sequence[Floats]): The exit logits of each text. *Shape:* ``(words, tags)``
    RAISES (ValueError): If the decoder does not return a tag for each word.
    """
    found = decoder(logits, trained.network.extra_parameters)
    if wrong := _wrong_with(found, logits):
        raise ValueError(
            f"The decoder {type(decoder).__name__} must return one integer array per text, with a "
            f"tag for each of its words. It returned {wrong}."
        )
    return found


def _wrong_with(found: Sequence[Ints], logits: Sequence[Floats]) -> str:
    """RETURNS (str): What is wrong with what a decoder returned; empty if nothing is."""
    if len(found) != len(logits):
        return f"{len(found)} for {len(logits)} texts"
    for tags, of in zip(found, logits):
        if not isinstance(tags, np.ndarray):
            return f"a {type(tags).__name__}"
        if tags.dtype.kind != "i" or tags.shape != of.shape[:1]:
            return f"{tags.dtype} of shape {tags.shape} for {len(of)} words"
    together = np.concatenate(found) if found else np.zeros(0, int)
    least, most = (together.min(), together.max()) if len(together) else (0, 0)
    known = logits[0].shape[1] if len(logits) else 1
    return "" if least >= 0 and most < known else f"{least} to {most}: tags are 0 to {known - 1}"


def by_window(batch: Sequence[Window], exits: Exits) -> Iterator[DocExits]:
    """YIELDS (DocExits): The results of each window of a batch, for the words that it owns."""
    logits, exit_layer = exits.logits.numpy(), exits.exit_layer.numpy()
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
    """RETURNS (DocExits): A doc's results, joined from its windows, which come in any order."""
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


def windows_for(trained: Trained, docs: List[Doc], settings: RunSettings) -> List[Window]:
    """Cut docs into windows that fit the encoder.

    trained (Trained): Network and tokenizer.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model.
    RETURNS (List[Window]): The windows of all docs.
    """
    spec, tokenizer = trained.network.spec, trained.tokenizer
    length = settings.window_length or spec.max_wordpieces
    specials = len(tokenizer.prefix) + len(tokenizer.suffix)
    overlap = min(settings.window_overlap, (length - specials) // 2)
    shared = settings.shared_wordpieces
    return windows_of(docs, tokenizer, length, overlap, settings.get_spans, shared)
