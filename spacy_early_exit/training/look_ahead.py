"""What a word is worth: how much a step on its loss would lower the loss on labelled text.

To first order, that is the inner product of two gradients, of the loss on labelled text and of the
word's loss. Neither a step nor second derivatives are needed: one backward pass gives the first
gradient, and one forward-mode derivative along it gives the products of all words at once.

Source: KDD 2021, "Meta Self-training for Few-shot Neural Sequence Labeling", which differentiates
through a step that was really taken. That gives the same weights, up to the size of the step.
"""

from typing import Any, Callable, Dict, Iterable, Iterator, Tuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..network.all_heads import run_all_heads
from ..network.batch import Batch
from ..network.exit_network import ExitNetwork
from .losses import layer_weighted, word_losses

Gradients = Dict[str, Tensor]


class _AllHeads(nn.Module):
    """Runs all heads without dropout, in a form that ``functional_call`` takes."""

    def __init__(self, network: ExitNetwork, detach_early_heads: bool):
        super().__init__()
        self.network = network
        self.detach_early_heads = detach_early_heads

    def forward(self, batch: Batch) -> Tensor:
        """RETURNS (Tensor): The logits. *Shape:* ``(heads, words, tags)``"""
        return run_all_heads(self.network, batch, detach_early_heads=self.detach_early_heads)


def gradient_on(
    network: ExitNetwork, labelled: Iterable[Tuple[Batch, Tensor]], detach_early_heads: bool
) -> Gradients:
    """Find the gradient of the joint loss on labelled text, without dropout.

    network (ExitNetwork): The network.
    labelled (Iterable[Tuple[Batch, Tensor]]): Batches, and the right tag of each of their words.
    detach_early_heads (bool): Whether only the deepest head's gradient reaches the encoder.
    RETURNS (Gradients): The gradient, by the names of the parameters that learn.
    """
    run = _AllHeads(network, detach_early_heads)
    learning = {name: p for name, p in run.named_parameters() if p.requires_grad}
    found: Gradients = {}
    for batch, tags in labelled:
        with torch.enable_grad():
            loss = layer_weighted(word_losses(run(batch), tags))
            slopes = torch.autograd.grad(loss, [*learning.values()], allow_unused=True)
        for name, slope in zip(learning, slopes):
            if slope is not None:
                found[name] = found[name] + slope if name in found else slope
    return found


def slopes_along(
    network: ExitNetwork,
    batch: Batch,
    losses: Callable[[Tensor], Tensor],
    direction: Gradients,
    detach_early_heads: bool,
) -> Tensor:
    """Differentiate the losses of words along a direction, without dropout. If that is the gradient
    on labelled text, the results are the inner products with the gradients of the words.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    losses (Callable[[Tensor], Tensor]): From logits to losses. *Shapes:* ``(heads, words, tags)``,
        ``(heads, words)``
    direction (Gradients): The direction, as ``gradient_on`` returns it.
    detach_early_heads (bool): As for ``gradient_on``.
    RETURNS (Tensor): The derivative of every head's loss on every word. *Shape:*
        ``(heads, words)``
    """
    run = _AllHeads(network, detach_early_heads)
    # Only the plain form of attention can be differentiated forwards.
    with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        found = losses(functional_call(run, dict(_duals(run, direction)), (batch,)))
        slopes = forward_ad.unpack_dual(found).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(found) if slopes is None else slopes


def _duals(run: nn.Module, direction: Gradients) -> Iterator[Tuple[str, Any]]:
    for name, parameter in run.named_parameters():
        if name in direction:
            yield name, forward_ad.make_dual(parameter.detach(), direction[name])  # type: ignore[no-untyped-call]


def normalised(slopes: Tensor) -> Tensor:
    """Turn inner products into weights: what would not help gets none, and the mean is 1.

    slopes (Tensor): *Shape:* ``(rows, words)``
    RETURNS (Tensor): The weights. A row in which nothing would help is 0. *Shape:*
        ``(rows, words)``
    """
    helpful = slopes.clamp(min=0.0)
    mean = helpful.mean(1, keepdim=True)
    return torch.where(mean > 0, helpful / mean.clamp(min=torch.finfo(mean.dtype).tiny), 0.0)
