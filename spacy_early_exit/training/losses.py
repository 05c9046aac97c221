"""What the heads are trained on: losses of every head on every word, and how they are weighted."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tags import MISSING


def word_losses(logits: Tensor, tags: Tensor) -> Tensor:
    """Cross-entropy of every head on every word.

    logits (Tensor): *Shape:* ``(heads, words, tags)``
    tags (Tensor): The right tag of each word, ``MISSING`` if it is not known: its loss is then 0.
        *Shape:* ``(words,)``
    RETURNS (Tensor): *Shape:* ``(heads, words)``
    """
    layers = len(logits)
    flat, repeated = logits.flatten(0, 1), tags.repeat(layers)
    losses = F.cross_entropy(flat, repeated, ignore_index=MISSING, reduction="none")
    return losses.view(layers, -1)


def distillation_loss(logits: Tensor, teacher: Tensor, tags: Tensor) -> Tensor:
    """Kullback-Leibler divergence of every head from a teacher, on annotated words and among the
    tags that the teacher knows, since it can't teach others.

    logits (Tensor): *Shape:* ``(heads, words, tags)``
    teacher (Tensor): The teacher's logits, without gradient. *Shape:*
        ``(words, tags that it knows)``
    tags (Tensor): The right tag of each word, ``MISSING`` if it is not known. *Shape:* ``(words,)``
    RETURNS (Tensor): *Shape:* ``(heads, words)``
    """
    known = teacher.shape[-1]
    student, taught = logits[..., :known].log_softmax(-1), teacher.detach().log_softmax(-1)
    divergence = (taught.exp() * (taught - student)).sum(-1)
    return divergence * ((tags != MISSING) & (tags < known))


def pseudo_tags(logits: Tensor, tags: Tensor) -> Tensor:
    """Replace an annotation with a network's tags.

    logits (Tensor): The network's logits. *Shape:* ``(words, tags that it knows)``
    tags (Tensor): The annotation, ``MISSING`` if a word is not to be learnt. *Shape:* ``(words,)``
    RETURNS (Tensor): The network's tags; but the annotation where that is ``MISSING`` or a tag that
        the network does not know. *Shape:* ``(words,)``
    """
    stays = (tags == MISSING) | (tags >= logits.shape[-1])
    return torch.where(stays, tags, logits.argmax(-1))


def layer_weighted(losses: Tensor) -> Tensor:
    """Sum losses over words, as spaCy's own components do, and average them over heads. Deeper
    heads have more weight: head l has l / Σ l.

    Source: ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit".

    losses (Tensor): *Shape:* ``(heads, words)``
    RETURNS (Tensor): *Shape:* ``()``
    """
    weights = torch.arange(1, len(losses) + 1, dtype=losses.dtype, device=losses.device)
    return (losses.sum(1) * weights).sum() / weights.sum()
