"""Make confidences mean what they say: a temperature for each exit head.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from dataclasses import replace
from typing import Any, Iterable, List, Sequence, Tuple

import torch
from spacy.training import Example
from thinc.api import xp2torch
from torch import Tensor

from ..model.learn import measure_heads
from ..network.arrays import Ints
from ..pipe.component import EarlyExitPipe
from ..pipe.dial import Knob
from ..pipe.stream import groups
from ..pipe.targets import targets
from ..runtime.torch_state import usual_torch
from ..tags import MISSING
from ..training.losses import word_losses
from .docs import fresh

COLDEST, HOTTEST = 0.05, 20.0


@usual_torch()
def fit_temperatures(ner: EarlyExitPipe, examples: Sequence[Example]) -> List[float]:
    """Find the number to divide each head's logits by, so that its probabilities fit best.

    Heads become overconfident in training. A temperature above 1 corrects that and changes no
    head's best tag.

    ner (EarlyExitPipe): The component.
    examples (Sequence[Example]): Annotated texts that were not trained on.
    RETURNS (List[float]): The temperature of each head, which minimises cross-entropy over
        all words at full depth.
    RAISES (ValueError): If no word is annotated.
    """
    logits, tags = _heads_on(ner, examples)
    known = tags != MISSING
    if not known.any():
        raise ValueError("Temperatures need annotated texts: no word of these is annotated.")
    logits, tags = logits[:, known], tags[known]

    def cost(inverse: Tensor) -> Tensor:
        return word_losses(logits * inverse[:, None, None], tags).sum(1)

    # The loss is convex in the inverse, so the minimum lies in the better two thirds of an
    # interval.
    low = torch.full((len(logits),), 1 / HOTTEST)
    high = torch.full((len(logits),), 1 / COLDEST)
    for _ in range(60):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        falls = cost(one) > cost(two)
        low, high = torch.where(falls, one, low), torch.where(falls, high, two)
    temperatures: List[float] = (2 / (low + high)).tolist()
    return temperatures


def confidence_error(found: Sequence[Tuple[float, bool]], bins: int = 10) -> float:
    """Compute the expected calibration error of entities' confidences.

    found (Sequence[Tuple[float, bool]]): Confidence of each predicted entity, and whether it is
        right.
    bins (int): Number of bins of equal width.
    RETURNS (float): Mean over entities of the distance between the bin's mean confidence and its
        share of right ones; 0 without entities.
    """
    confidences, right = [[0.0] * bins for _ in range(2)]
    for confidence, is_right in found:
        number = min(int(confidence * bins), bins - 1)
        confidences[number] += confidence
        right[number] += is_right
    distance = sum(abs(c - r) for c, r in zip(confidences, right))
    return distance / len(found) if found else 0.0


def _heads_on(ner: EarlyExitPipe, examples: Sequence[Example]) -> Tuple[Tensor, Tensor]:
    """RETURNS (Tuple[Tensor, Tensor]): The logits of every head for every word at full depth, and
    the right tags. *Shapes:* ``(heads, words, tags)``, ``(words,)``
    """
    logits, tags = [], []
    for docs in groups((eg.reference for eg in examples), 64):
        heads, gold = heads_on(ner, [Example(fresh(ner, doc), doc) for doc in docs])
        logits.append(xp2torch(heads).cpu())
        tags.append(torch.from_numpy(gold))
    return torch.cat(logits, dim=1), torch.cat(tags)


def heads_on(ner: EarlyExitPipe, examples: Iterable[Example]) -> Tuple[Any, Ints]:
    """Get the logits of every head for every word, at full depth.

    ner (EarlyExitPipe): The component.
    examples (Iterable[Example]): Annotated examples.
    RETURNS (Tuple[Any, Ints]): The logits, numpy or cupy, and the right tags, ``MISSING`` where a
        tag is not known. *Shapes:* ``(heads, words, tags)``, ``(words,)``
    """
    examples = list(examples)
    # At full depth, whatever the knob; by itself, even if it shares an encoder.
    owner = ner.bind() or ner
    run = owner.ready(Knob(speedup=1.0))
    run = replace(run, criterion=ner.criterion, readers=())
    scores = measure_heads(ner.model, [eg.predicted for eg in examples], run)
    return scores.logits, targets(ner, examples, scores)


def scale_heads(ner: EarlyExitPipe, temperatures: Sequence[float]) -> None:
    """Divide the logits of each head by a temperature. That changes uncertainties, so that a
    calibration no longer holds.

    ner (EarlyExitPipe): The component.
    temperatures (Sequence[float]): One for each layer's head, all above 0.
    RAISES (ValueError): If the decoder learns: its transitions are tuned to the heads' logits.
    """
    shim = ner.model.shims[0]
    if shim.needed(ner.decoder, ner.criterion)["decoder"]:
        raise ValueError(
            f"Temperatures would change the tags of '{ner.name}': its decoder "
            f"{type(ner.decoder).__name__} learnt transitions that fit the heads as they are. "
            f"Temperatures are for BIOViterbi.v1."
        )
    shim.scale_heads(temperatures)
