"""How the selectors of token reduction are trained: by policy gradient.

Every window is tried several times. Its words go on by chance, with the selectors' probabilities.
Tries that went better than the mean of the window's tries are made more likely. Source: NAACL 2021,
"TR-BERT: Dynamic Token Reduction for Accelerating BERT Inference". There are two differences.
Gradients reach the states of words that have exited. And the imitated choice takes the words that
matter most to the network's own tags, not to the annotation.
"""

import math
from dataclasses import dataclass, field
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.all_heads import run_all_heads
from ..network.batch import Batch, Running
from ..network.criterion import Criterion, Step
from ..network.exit_network import ExitNetwork
from ..tags import MISSING
from ..training.base import Answers, Stage
from ..training.losses import distillation_loss, word_losses
from .reduction_exit import TokenReduction
from .reduction_loop import repeated, run_tries


class Decisions(NamedTuple):
    """Which words went on in the tries of a batch.

    log_odds (Tensor): The log-odds of going on. *Shape:* ``(selectors, words)``
    goes_on (Tensor): Which words went on. *Shape:* ``(selectors, words)``, bool
    asked (Tensor): Which words the selector judged. *Shape:* ``(selectors, words)``, bool
    window (Tensor): The window of each word: every try has its own. *Shape:* ``(words,)``
    original (Tensor): For each window, the number that all its tries share. *Shape:* ``(windows,)``
    """

    log_odds: Tensor
    goes_on: Tensor
    asked: Tensor
    window: Tensor
    original: Tensor


@dataclass
class Tries:
    """Draws which words go on, and records how likely that was, with gradients that reach the
    states it was judged by.

    criterion (TokenReduction): The selectors.
    network (ExitNetwork): The network they belong to.
    batch (Batch): All tries of all windows, with the first try of every window first.
    saliency (Optional[Tensor]): How much it matters that a word goes on, by selector, for the words
        of one try. If given, the first try keeps as many words as the selectors expect, but the
        most salient ones. *Shape:* ``(selectors, words)``
    """

    criterion: TokenReduction
    network: ExitNetwork
    batch: Batch
    saliency: Optional[Tensor] = None

    def __post_init__(self) -> None:
        shape = len(self.criterion.layers), self.batch.words
        device = self.batch.ids.device
        self.log_odds = torch.zeros(shape, device=device)
        self.goes_on = torch.zeros(shape, dtype=torch.bool, device=device)
        self.asked = torch.zeros(shape, dtype=torch.bool, device=device)

    def leave(self, layer: int, words: Tensor, logits: Tensor, states: Tensor) -> Tensor:
        """RETURNS (Tensor): Which of the words exit. *Shape:* ``(words,)``, bool"""
        if layer not in self.criterion.layers:
            return torch.zeros_like(words, dtype=torch.bool)
        number = self.criterion.layers.index(layer)
        with torch.enable_grad():
            step = Step(
                layer, words, logits, self.batch, 1.0, self.network.extra_parameters, states
            )
            odds = self.criterion.log_odds(step)
            row = torch.zeros(self.batch.words, device=odds.device).index_put((words,), odds)
            rows = [self.log_odds[:number], row[None], self.log_odds[number + 1 :]]
            self.log_odds = torch.cat(rows)
        chance = odds.detach().sigmoid()
        unit = self.batch.unit_of_word[words]
        goes_on = torch.rand(self.batch.units, device=chance.device)[unit] < chance
        if self.saliency is not None:
            self._imitate(self.saliency[number], words, chance, goes_on)
        # Words that share a wordpiece go on together: what really happens is recorded.
        of_unit = torch.zeros(self.batch.units, dtype=torch.bool, device=chance.device)
        of_unit[unit[goes_on]] = True
        goes_on = of_unit[unit]
        self.goes_on[number, words] = goes_on
        self.asked[number, words] = True
        return ~goes_on

    def _imitate(self, saliency: Tensor, words: Tensor, chance: Tensor, goes_on: Tensor) -> None:
        """Let the most salient words of each window of the first try go on, in place."""
        mine = (words < len(saliency)).nonzero().squeeze(1)
        window = self.batch.window_of_word[words[mine]]
        for number in torch.unique(window).tolist():
            rows = mine[window == number]
            most = int(chance[rows].sum().round())
            best = saliency[words[rows]].topk(most).indices
            goes_on[rows] = False
            goes_on[rows[best]] = True


@dataclass(frozen=True)
class ReductionTraining:
    """Train the selectors of ``TokenReduction``; with ``joint``, everything else as well.

    samples (int): How often each window is tried.
    cost_weight (float): The cost of a share of words that go on, in addition to the loss of their
        tags.
    guided_steps (int): For this many batches (of at most ``batch_wordpieces``) at the start, one of
        the tries imitates: the words that matter most to the network's own tags go on. Not with
        ``joint``.
    joint (bool): Whether encoder and heads learn, too. They learn from the deepest head as it was
        before this stage, at the layers where words exited.
    """

    samples: int
    cost_weight: float
    guided_steps: int
    joint: bool
    batches: List[int] = field(default_factory=lambda: [0], compare=False, repr=False)

    @property
    def needs_teacher(self) -> bool:
        """RETURNS (bool): Whether it needs the network as it was before this stage."""
        return self.joint

    trains_criterion = True

    @property
    def trains_decoder(self) -> bool:
        """RETURNS (bool): Whether the decoder's parameters are trained."""
        return self.joint

    @property
    def copies(self) -> int:
        """RETURNS (int): How often each window is run."""
        return self.samples

    def run(
        self,
        network: ExitNetwork,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[ExitNetwork],
    ) -> Answers:
        """RETURNS (Answers): The logits of the heads in all tries, with gradients if they learn.

        RAISES (ValueError): If the criterion has no selectors.
        """
        if not isinstance(criterion, TokenReduction):
            raise ValueError(
                f"ReductionTraining trains the criterion TokenReduction, not "
                f"{type(criterion).__name__}."
            )
        for layer in criterion.layers:
            network.head(layer)  # or an error that says what is missing
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = run_all_heads(teacher, batch).repeat(1, self.samples, 1)
        self.batches[0] += 1
        guided = not self.joint and self.batches[0] <= self.guided_steps
        important = saliency(network, batch, criterion.layers) if guided else None
        tries = Tries(criterion, network, repeated(batch, self.samples), important)
        with torch.set_grad_enabled(self.joint):
            logits, exit_head = run_tries(
                network,
                batch,
                tries,
                copies=self.samples,
                branch_after=criterion.layers[0],
                dropout=dropout if self.joint else 0.0,
            )
        original = torch.arange(batch.windows, device=batch.ids.device).repeat(self.samples)
        decisions = Decisions(
            tries.log_odds, tries.goes_on, tries.asked, tries.batch.window_of_word, original
        )
        return Answers(logits, exit_head, taught, [decisions])

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words and averaged over tries. *Shape:* ``()``"""
        if not answers.own:  # no words
            return answers.logits.sum()
        words = torch.arange(len(tags), device=tags.device)
        of_exits = answers.logits[answers.exit_head - 1, words][None]
        losses = word_losses(of_exits, tags)[0]
        if answers.teacher is not None:
            teacher = answers.teacher[-1]
            taught = distillation_loss(of_exits, teacher, tags)[0]
            losses = torch.where(tags < teacher.shape[-1], taught, losses)
        parts = [Decisions(*part) for part in answers.own]
        sizes = [len(part.window) for part in parts]
        known = torch.split(tags != MISSING, sizes)
        of_parts = zip(torch.split(losses.detach(), sizes), known, parts)
        policy = torch.stack([policy_loss(*part, self.cost_weight) for part in of_parts]).sum()
        return (policy + losses.sum() if self.joint else policy) / self.samples


def policy_loss(
    losses: Tensor,
    known: Tensor,
    decisions: Decisions,
    cost_weight: float,
) -> Tensor:
    """Make tries that went better than the mean of a window's tries more likely, and the others
    less.

    losses (Tensor): The loss of each word in each try. *Shape:* ``(words,)``
    known (Tensor): Whether its tag is known. Other words have no loss. *Shape:* ``(words,)``, bool
    decisions (Decisions): Which words went on.
    cost_weight (float): The cost of a share of words that go on.
    RETURNS (Tensor): The loss, summed over windows, each weighted by its number of words with a
        tag. *Shape:* ``()``
    """
    window, original = decisions.window, decisions.original

    def by_window(values: Tensor) -> Tensor:
        return values.new_zeros(len(original)).index_add(0, window, values)

    # A word without a tag has no loss if it exits and no cost if it goes on, so it teaches nothing.
    sizes = by_window(known.float())
    loss = by_window(losses) / sizes.clamp(min=1.0)
    share = by_window(decisions.goes_on.float().mean(0) * known) / sizes.clamp(min=1.0)
    reward = -loss - cost_weight * share
    tries = torch.bincount(original).clamp(min=1)
    mean = reward.new_zeros(len(tries)).index_add(0, original, reward) / tries
    advantage = reward - mean[original]
    surprise = F.binary_cross_entropy_with_logits(
        decisions.log_odds, decisions.goes_on.float(), reduction="none"
    )
    of_window = torch.zeros_like(reward)
    for asked, row in zip((decisions.asked & known).float(), surprise):
        of_window = of_window + by_window(row * asked) / by_window(asked).clamp(min=1.0)
    return (advantage * of_window * sizes).sum()


def saliency(network: ExitNetwork, batch: Batch, layers: Tuple[int, ...]) -> Tensor:
    """Estimate how much the loss changes if a word stops after a layer.

    To first order, this is the gradient of the loss with respect to the state after a deeper layer,
    times the change of the state up to there. The network's own tags count as the right ones.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    layers (Tuple[int, ...]): The layers after which words may stop.
    RETURNS (Tensor): The estimates. *Shape:* ``(layers, words)``
    """
    spec, running = network.spec, Running.all_of(batch)
    reference = max(min(math.ceil(0.75 * spec.layers), spec.layers - 1), layers[-1] + 1)
    stopped = []
    with torch.no_grad():
        kept = network.encoder.embeddings(batch.ids, batch.offsets)
        for number in range(1, reference + 1):
            kept = network.encoder.run_layer(number, kept, running)
            if number in layers:
                stopped.append(kept[batch.piece_of_word])
    with torch.enable_grad():
        kept = later = kept.detach().requires_grad_(True)
        for number in range(reference + 1, spec.layers + 1):
            later = network.encoder.run_layer(number, later, running)
        last = network.encoder.states(later.index_select(0, batch.piece_of_word))
        logits = network.logits(spec.layers, last)
        loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, kept)
    deeper, slope = kept.detach()[batch.piece_of_word], gradient[batch.piece_of_word]
    found = torch.zeros(len(layers), batch.words, device=kept.device)
    for row, state in enumerate(stopped):
        found[row] = (slope * (deeper - state)).sum(1).abs()
    return found


def make_reduction_training(
    samples: int = 4, cost_weight: float = 0.1, guided_steps: int = 50, joint: bool = False
) -> Stage:
    """Make the stage ``spacy-early-exit.ReductionTraining.v1``.

    samples (int): How often each window is tried, at least 2.
    cost_weight (float): The cost of a share of words that go on, on the scale of a word's loss.
    guided_steps (int): For this many batches at the start, one of the tries imitates. Not with
        ``joint``, which continues from trained selectors.
    joint (bool): false: only the selectors learn. true: everything does.
    RETURNS (Stage): The stage.
    RAISES (ValueError): If an argument makes no sense.
    """
    if samples < 2:
        raise ValueError(f"ReductionTraining: samples must be 2 or more, not {samples}.")
    for name, value in (("cost_weight", cost_weight), ("guided_steps", guided_steps)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"ReductionTraining: {name} must be 0 or more, not {value}.")
    return ReductionTraining(samples, cost_weight, guided_steps, joint)
