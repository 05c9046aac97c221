"""``average_weights.v1``, a callback for training configs: checkpoints lie between the weights that
training started from and those that it has reached.
"""

from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
from spacy.language import Language
from spacy.training import Corpus
from spacy.util import load_model, load_model_from_config

from ..pipe.component import EarlyExitPipe
from .hold_saving import set_threshold_for, some_texts


def make_average_weights(
    path: Path,
    share: float = 0.3,
    texts: Optional[Path] = None,
    speedup: Optional[float] = None,
    component: str = "early_exit_ner",
    most_words: int = 3000,
) -> Callable[[Language], Language]:
    """Make the callback ``spacy-early-exit.average_weights.v1``, for ``training.before_to_disk``.

    What is saved is an average of the weights of another pipeline and of those that are trained,
    which go on as they are. In the second stage of a small corpus, it is better on average than
    either (benchmarks/notes/method.md). The scores that are printed while training are of weights
    that have not been averaged.

    Source: CVPR 2022, "Robust Fine-Tuning of Zero-Shot Models", where the weights are those before
    and after fine-tuning.

    path (Path): The other pipeline, with the same early-exit components: the one that training
        started from.
    share (float): The other's share, from 0 to 1.
    texts (Optional[Path]): Annotated texts, ``.spacy``. What is saved has the threshold that
        reaches the speedup on them, and its scores. None: it has those of the weights that are
        trained.
    speedup (Optional[float]): The speedup, full-depth cost / spent cost.
    component (str): Name of the component that has the speedup.
    most_words (int): About how many words to measure the speedup on, in whole texts.
    RETURNS (Callable): The callback.
    RAISES (ValueError): If an argument makes no sense.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"average_weights: share must be between 0 and 1, not {share}.")
    if (texts is None) != (speedup is None) or not 1.0 < (speedup or 2.0) < float("inf"):
        raise ValueError(
            f"average_weights: speedup must be above 1, and given if texts are, not {speedup}."
        )
    others: Dict[str, _Other] = {}

    def average_weights(nlp: Language) -> Language:
        if not others:
            others.update(_components_of(path))
        # A deep copy would take the optimizer along, whose schedules can't be copied.
        averaged = load_model_from_config(nlp.config, auto_fill=True).from_bytes(nlp.to_bytes())
        pipes = [(n, pipe) for n, pipe in averaged.components if isinstance(pipe, EarlyExitPipe)]
        for _, pipe in pipes:
            pipe.bind(averaged)  # while the encoder is still what borrowed heads belong to
        for name, pipe in pipes:
            _average(name, pipe, others.get(name), path, share)
        if texts is not None and speedup is not None:
            ner = averaged.get_pipe(component)
            some = some_texts(averaged, texts, most_words)
            set_threshold_for(speedup, averaged, ner, some, "average_weights")
            scores = averaged.evaluate(list(Corpus(texts)(averaged)))
            known = averaged.meta.get("performance", {})
            averaged.meta["performance"] = {key: scores.get(key, known[key]) for key in known}
        return averaged

    return average_weights


class _Other(NamedTuple):
    """What is known of a component of the other pipeline.

    labels (Tuple[str, ...]): Its labels.
    weights (Dict[str, torch.Tensor]): Its weights by name.
    """

    labels: Tuple[str, ...]
    weights: Dict[str, torch.Tensor]


def _components_of(path: Path) -> Dict[str, _Other]:
    found = {}
    for name, pipe in load_model(path).components:
        if isinstance(pipe, EarlyExitPipe):
            weights = pipe.model.shims[0].own_parameters()
            found[name] = _Other(pipe.labels, {key: w.detach().cpu() for key, w in weights})
    return found


def _average(
    name: str, pipe: EarlyExitPipe, other: Optional[_Other], path: Path, share: float
) -> None:
    if other is None or other.labels != pipe.labels:
        there = "is no such component"
        if other is not None:
            there = f"are the labels {', '.join(other.labels)}"
        raise ValueError(
            f"average_weights: '{name}' has the labels {', '.join(pipe.labels)}, but in {path} "
            f"there {there}. It must be the pipeline that training started from, and no label may "
            f"have been added since."
        )
    shim = pipe.model.shims[0]
    for key, weight in shim.own_parameters():
        first = other.weights.get(key)
        # What a decoder or a criterion learns may be new in this stage: there is no average of it.
        if first is None and key.startswith(("decoder.", "criterion.")):
            continue
        if first is None or first.shape != weight.shape:
            found = "none" if first is None else f"one of shape {tuple(first.shape)}"
            raise ValueError(
                f"average_weights: '{name}' has a weight '{key}' of shape {tuple(weight.shape)}, "
                f"but {path} has {found}. It must be the pipeline that training started from."
            )
        weight.data = torch.lerp(weight.detach(), first.to(weight.device), share)
    shim.weights_changed()
