"""Predicting for several tasks in one pass."""

import functools
from dataclasses import replace
from typing import Callable, Iterable, List, Sequence, Tuple

import torch
from spacy.tokens import Doc
from torch import Tensor

from ..files.network import Trained
from ..network.all_heads import all_logits, run_all_layers
from ..network.batch import Batch
from ..network.devices import fetched
from ..network.exit_network import ExitNetwork
from ..network.shared import Reader, run_shared, simulate_shared
from ..network.window import Window
from ..runtime.torch_state import usual_torch
from ..settings import RunSettings
from .predict import DocExits, batches_of, by_window, join_docs, not_finite, predict, run_in_batches


def predict_shared(trained: Trained, docs: List[Doc], settings: RunSettings) -> List[DocExits]:
    """Tag docs for several tasks. It changes nothing that another thread could see.

    trained (Trained): Network and tokenizer of the encoder's owner.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model, with the tasks.
    RETURNS (List[DocExits]): One for each doc: the owner's, with those of the others. All say what
        the whole pass cost.
    RAISES (ValueError): If heads return a NaN or an infinity. The message names the layer.
    """
    first, *others = settings.readers
    if trained.original is not None and first.criterion is None:
        # Full depth is another network's, which the other tasks do not know.
        own = predict(trained, docs, replace(settings, criterion=None, readers=()))
        found = _run(trained, docs, settings, others)
        return [_with_others(mine, others, rest) for mine, rest in zip(own, zip(*found))]
    found = _run(trained, docs, settings, settings.readers)
    return [
        replace(mine, others={reader.name: one for reader, one in zip(others, rest)})
        for mine, *rest in zip(*found)
    ]


def _with_others(own: DocExits, readers: Sequence[Reader], found: Sequence[DocExits]) -> DocExits:
    """RETURNS (DocExits): The results of two passes. All say what both cost."""
    spent, full = own.spent + found[0].spent, own.full + found[0].full
    waste = own.waste + found[0].waste
    both = [replace(one, spent=spent, full=full, waste=waste) for one in (own, *found)]
    names = [reader.name for reader in readers]
    return replace(both[0], others=dict(zip(names, both[1:])))


def _run(
    trained: Trained, docs: List[Doc], settings: RunSettings, readers: Sequence[Reader]
) -> List[List[DocExits]]:
    """RETURNS (List[List[DocExits]]): The results of each task, for each doc."""
    network = trained.network

    def run(batch: List[Window]) -> List[List[DocExits]]:
        with usual_torch(), torch.inference_mode():
            ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
            found = [fetched(exits) for exits in run_shared(network, ragged, readers)]
            for reader, exits in zip(readers, found):
                if not exits.logits.isfinite().all():
                    raise ValueError(not_finite(network, ragged, reader.network))
        return [list(by_window(batch, exits)) for exits in found]

    cut, done = run_in_batches(run, trained, docs, settings)
    return [
        join_docs(cut, [found[number] for found in done], len(docs), reader.network.tags)
        for number, reader in enumerate(readers)
    ]


def simulate_together(
    trained: Trained,
    groups: Iterable[List[Doc]],
    settings: RunSettings,
    at: Callable[[float], Sequence[Reader]],
) -> Callable[[float], float]:
    """Run docs once at full depth, and estimate what early exits would save.

    trained (Trained): Network and tokenizer of the encoder's owner.
    groups (Iterable[List[Doc]]): The docs. The windows of one group are in memory together.
    settings (RunSettings): How to run the model.
    at (Callable[[float], Sequence[Reader]]): Returns the tasks at a threshold.
    RETURNS (Callable[[float], float]): The simulated speedup at a threshold.
    """
    network, readers = trained.network, at(0.0)
    answers: List[Tuple[Batch, List[Tensor]]] = []
    with usual_torch(), torch.inference_mode():
        for batch in batches_of(trained, groups, settings):
            ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
            states = list(run_all_layers(network, ragged))
            logits = [all_logits(reader.network, ragged, states) for reader in readers]
            answers.append((ragged, logits))
    return usual_torch()(functools.partial(_simulated_speedup, network, answers, at))


def _simulated_speedup(
    network: ExitNetwork,
    answers: Sequence[Tuple[Batch, List[Tensor]]],
    at: Callable[[float], Sequence[Reader]],
    threshold: float,
) -> float:
    """RETURNS (float): Full-depth cost / simulated cost, over batches and their logits."""
    spent = full = 0
    for batch, logits in answers:
        cost = simulate_shared(network, batch, logits, at(threshold))
        spent, full = spent + int(cost.spent.sum()), full + int(cost.full.sum())
    return full / spent if spent else 1.0
