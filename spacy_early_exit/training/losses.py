"""What the heads are trained on."""

from typing import Any, Callable, Tuple

import torch
import torch.nn.functional as F
from thinc.api import torch2xp, xp2torch
from torch import Tensor

from ..tags import MISSING


def joint_cross_entropy(logits: Tensor, tags: Tensor) -> Tensor:
    """Cross-entropy of all heads, the deeper the heavier: head l weighs l / Σ l.

    Summed over words, as spaCy's own components do it.

    Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".

    logits (Tensor): *Shape:* ``(layers, words, tags)``
    tags (Tensor): The right tag of each word, ``MISSING`` where it is not known. *Shape:*
        ``(words,)``
    RETURNS (Tensor): The loss. *Shape:* ``()``
    """
    layers = len(logits)
    weights = torch.arange(1, layers + 1, dtype=logits.dtype, device=logits.device)
    weights = weights / weights.sum()
    flat = logits.flatten(0, 1)
    losses = F.cross_entropy(flat, tags.repeat(layers), ignore_index=MISSING, reduction="none")
    return (losses.view(layers, -1).sum(1) * weights).sum()


def loss_and_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Any, tags: Any
) -> Tuple[float, Any]:
    """Compute a loss and its gradient, arrays in and out as thinc wants it.

    loss (Callable[[Tensor, Tensor], Tensor]): The loss of logits and tags.
    logits (Any): numpy or cupy. *Shape:* ``(layers, words, tags)``
    tags (Any): numpy. *Shape:* ``(words,)``
    RETURNS (Tuple[float, Any]): The loss, and its gradient by the logits, of their shape.
    """
    variable = xp2torch(logits).detach().requires_grad_(True)
    value = loss(variable, torch.from_numpy(tags).to(variable.device))
    (gradient,) = torch.autograd.grad(value, variable)
    return float(value.detach()), torch2xp(gradient)
