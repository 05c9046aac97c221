"""``average_weights.v1``, a callback for training configs: checkpoints lie between the weights that
training started from and those that it has reached.
"""

from pathlib import Path
from typing import Callable, Dict

import torch
from spacy.language import Language
from spacy.util import load_model, load_model_from_config

from .pipe.component import EarlyExitPipe


def make_average_weights(path: Path, share: float = 0.5) -> Callable[[Language], Language]:
    """Make the callback ``spacy-early-exit.average_weights.v1``, for ``training.before_to_disk``.

    What is saved is an average of the weights of another pipeline and of those that are trained,
    which go on as they are. In the second stage of a small corpus, it gives back what that stage
    took from full depth, and keeps what it taught the early heads. Scores while training are of
    weights that have not been averaged.

    Source: CVPR 2022, "Robust Fine-Tuning of Zero-Shot Models", where the weights are those before
    and after fine-tuning.

    path (Path): The other pipeline, with the same early-exit components: the one that training
        started from.
    share (float): The other's share, from 0 to 1.
    RETURNS (Callable): The callback.
    RAISES (ValueError): If the share makes no sense.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"average_weights: share must be between 0 and 1, not {share}.")
    others: Dict[str, Dict[str, torch.Tensor]] = {}

    def average_weights(nlp: Language) -> Language:
        if not others:
            others.update(_weights_by_component(load_model(path)))
        # A deep copy would take the optimizer along, whose schedules can't be copied.
        averaged = load_model_from_config(nlp.config, auto_fill=True).from_bytes(nlp.to_bytes())
        for name, pipe in averaged.components:
            if isinstance(pipe, EarlyExitPipe):
                _average(name, pipe, others.get(name, {}), path, share)
        return averaged

    return average_weights


def _weights_by_component(nlp: Language) -> Dict[str, Dict[str, torch.Tensor]]:
    return {
        name: {key: weight.detach() for key, weight in pipe.model.shims[0].own_parameters()}
        for name, pipe in nlp.components
        if isinstance(pipe, EarlyExitPipe)
    }


def _average(
    name: str, pipe: EarlyExitPipe, others: Dict[str, torch.Tensor], path: Path, share: float
) -> None:
    shim = pipe.model.shims[0]
    for key, weight in shim.own_parameters():
        other = others.get(key)
        if other is None or other.shape != weight.shape:
            found = "none" if other is None else f"one of shape {tuple(other.shape)}"
            raise ValueError(
                f"average_weights: '{name}' has a weight '{key}' of shape {tuple(weight.shape)}, "
                f"but {path} has {found}. It must be the pipeline that training started from, with "
                f"the same component and the same labels."
            )
        weight.data = torch.lerp(weight.detach(), other.to(weight.device), share)
    shim.weights_changed()
