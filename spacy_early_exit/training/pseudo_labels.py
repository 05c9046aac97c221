"""What a teacher says of words without annotation, and which of it to believe."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.all_heads import run_all_layers
from ..network.batch import Batch
from ..network.exit_network import ExitNetwork, uncertainty

Labels = Literal["sampled", "argmax", "soft"]


def pseudo_labels(logits: Tensor, labels: Labels, tags: int) -> Tensor:
    """Make targets from a teacher's logits.

    logits (Tensor): The logits of its deepest head. *Shape:* ``(words, tags that it knows)``
    labels (Labels): ``"sampled"``: a tag drawn from its softmax, as MetaST's authors do;
        ``"argmax"``: its best tag; ``"soft"``: its distribution, sharpened by squares and divided
        by how frequent a tag is in the batch.
    tags (int): Number of the student's tags. Those that the teacher does not know come last.
    RETURNS (Tensor): The probability that each tag is right. *Shape:* ``(words, tags)``
    """
    p = logits.float().softmax(-1)
    if labels == "soft":
        p = p * p / p.sum(0).clamp(min=torch.finfo(p.dtype).tiny)
        targets = p / p.sum(-1, keepdim=True)
    else:
        drawn = labels == "sampled" and len(p) > 0
        tag = torch.multinomial(p, 1).squeeze(1) if drawn else p.argmax(-1)
        targets = F.one_hot(tag, p.shape[1]).to(p.dtype)
    return F.pad(targets, (0, tags - targets.shape[1]))


def target_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every head on every word.

    logits (Tensor): *Shape:* ``(heads, words, tags)``
    targets (Tensor): The probability that each tag is right. *Shape:* ``(words, tags)``
    RETURNS (Tensor): *Shape:* ``(heads, words)``
    """
    return -(targets * logits.log_softmax(-1)).sum(-1)


def stability(logits: Tensor) -> Tensor:
    """Judge a teacher's tags by its early heads: what would exit early, and stays the same, is
    reliable.

    logits (Tensor): The logits of all its heads. *Shape:* ``(heads, words, tags)``
    RETURNS (Tensor): The confidence of each word: the number of heads, from the deepest upwards,
        that agree with it; less the uncertainty, from 0 to 1, of the earliest of these. *Shape:*
        ``(words,)``
    """
    best = logits.argmax(-1)
    agrees = (best == best[-1]).flip(0).long().cumprod(0).sum(0)
    unsure = torch.stack([uncertainty(of_layer) for of_layer in logits])
    earliest = unsure.gather(0, (len(logits) - agrees)[None]).squeeze(0)
    return agrees - earliest


def certainty(teacher: ExitNetwork, batch: Batch, passes: int, dropout: float) -> Tensor:
    """Judge a teacher's tags by passes with dropout: what it says every time is reliable.

    This is the mean probability of the best tag, times the share of the uncertainty that the passes
    agree on (1 less BALD, normalised). Both are used by SeqUST to select words. Source: 2023,
    "Uncertainty-aware Self-training for Low-resource Neural Sequence Labeling".

    teacher (ExitNetwork): The teacher.
    batch (Batch): The batch.
    passes (int): Number of passes.
    dropout (float): Their dropout rate.
    RETURNS (Tensor): The confidence of each word, from 0 to 1. *Shape:* ``(words,)``
    """
    depth = teacher.spec.layers
    with torch.no_grad():
        last = [[*run_all_layers(teacher, batch, dropout)][-1] for _ in range(passes)]
        runs = [teacher.logits(depth, states, dropout).float() for states in last]
    mean = torch.stack([logits.softmax(-1) for logits in runs]).mean(0)
    within = torch.stack([uncertainty(logits) for logits in runs]).mean(0)
    bald = uncertainty(mean.clamp(min=torch.finfo(mean.dtype).tiny).log()) - within
    return mean.max(-1).values * (1.0 - bald.clamp(min=0.0))


def most_confident(confidence: Tensor, tags: Tensor, share: float) -> Tensor:
    """Select the most confident words of each tag. Rare tags are kept that way, although a teacher
    is less sure of them.

    confidence (Tensor): *Shape:* ``(words,)``
    tags (Tensor): The tag of each word. *Shape:* ``(words,)``
    share (float): The share to select, rounded up. Words that tie with the last one are selected,
        too.
    RETURNS (Tensor): Whether each word is selected. *Shape:* ``(words,)``, bool
    """
    selected = torch.zeros_like(tags, dtype=torch.bool)
    for tag in torch.unique(tags).tolist():
        mine = tags == tag
        count = int(-(-share * mine.sum().item() // 1))  # rounded up
        if count:
            selected |= mine & (confidence >= confidence[mine].topk(count).values[-1])
    return selected
