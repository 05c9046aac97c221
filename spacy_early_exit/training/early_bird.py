"""Search of an early-bird ticket: which attention heads and feed-forward neurons matter shows very
early in training.

Every head and every neuron gets a gate, whose size is penalized. The ticket is those whose gates
stay large. It is drawn as soon as it hardly changes any more, and the stage then ends. ``spacy
early-exit slim`` cuts out what is not on it.

Source: ACL 2021, "EarlyBERT: Efficient BERT Training via Early-bird Lottery Tickets". The authors'
code draws at a fixed step. When a ticket is stable is decided as in ICLR 2020, "Drawing Early-Bird
Tickets: Towards More Efficient Training of Deep Networks": when it differs little from each of the
last five.
"""

import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, cast

import torch
from torch import Tensor
from wasabi import msg

from ..network.batch import Batch
from ..network.criterion import Criterion
from ..network.exit_network import ExitNetwork
from ..network.gates import Units, add_gates, gates_of, has_gates
from ..network.slimming import Scope, check_share, distance, draw_ticket, gate_scores
from ..tags import MISSING
from .base import Answers, Stage, check_bounds
from .joint import JointTraining

COMPARED = 5  # earlier tickets that each is compared with
MAX_IDLE_EPOCHS = 1000

Batcher = Callable[[Iterable[Any]], Iterable[Any]]

# What the batcher needs to know of the stage, which spaCy makes separately.
_latest = threading.local()


class Check(NamedTuple):
    """How far a ticket differs from those before.

    update (int): After how many updates it was looked at.
    heads (float): The largest share of heads that are on only one of it and an earlier ticket.
    neurons (float): The same of neurons.
    """

    update: int
    heads: float
    neurons: float


@dataclass
class Progress:
    """How far a search is.

    network (Optional[Callable]): Returns the network that is searched, while it lives.
    updates (int): How many steps the optimizer has taken.
    within_batch (bool): Whether it is learning from a batch.
    has_learnt (bool): Whether it has learnt since the last step.
    tickets (Deque[Units]): The last tickets.
    checks (List[Check]): How they changed.
    drawn (str): Why the ticket was drawn; empty until it is.
    """

    network: Optional[Callable[[], Optional[ExitNetwork]]] = None
    updates: int = 0
    within_batch: bool = False
    has_learnt: bool = False
    tickets: Deque[Units] = field(default_factory=lambda: deque(maxlen=COMPARED))
    checks: List[Check] = field(default_factory=list)
    drawn: str = ""

    def __getstate__(self) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): What other processes get: there, it is another network."""
        return {**self.__dict__, "network": None}


@dataclass
class EarlyBirdSearch:
    """Find out which heads and neurons matter, while learning as in the first stage.

    Once the ticket is drawn, the network learns no more: the gates stay as they were.

    heads (float): Share of attention heads on the ticket.
    neurons (float): Share of feed-forward neurons on it.
    heads_scope (Scope): Whether each layer has this share of its heads, or all layers together.
    neurons_scope (Scope): The same for neurons.
    penalty (float): Weight of the sum of the gates' sizes, on the scale of a word's loss.
    gate_lr_factor (float): How many times faster the gates learn than the encoder.
    every (int): Updates between two looks at the ticket.
    bound (float): The ticket is stable if its distance from each of the last five is below this.
    max_updates (int): After so many updates it is drawn even so; 0: never.
    joint (JointTraining): What is learnt.
    progress (Progress): How far it is.
    """

    heads: float
    neurons: float
    heads_scope: Scope
    neurons_scope: Scope
    penalty: float
    gate_lr_factor: float
    every: int
    bound: float
    max_updates: int
    joint: JointTraining
    progress: Progress = field(default_factory=Progress, compare=False, repr=False)
    needs_teacher = False
    trains_decoder = True
    trains_criterion = False
    copies = 1

    def run(
        self,
        network: ExitNetwork,
        batch: Batch,
        dropout: float,
        criterion: Criterion,
        teacher: Optional[ExitNetwork],
    ) -> Answers:
        """RETURNS (Answers): The logits of all heads for the batch, with gradients. What else the
        loss needs is the gates.

        RAISES (ValueError): If the encoder is frozen.
        """
        if self.progress.network is None or self.progress.network() is not network:
            self._begin(network)
        self._count(network)
        if self.progress.drawn:
            with torch.no_grad():
                return self.joint.run(network, batch, 0.0, criterion, teacher)
        gates = [gate for kind in gates_of(network) for gate in kind]
        for gate in gates:
            gate.lr_factor = self.gate_lr_factor  # type: ignore[attr-defined]
        return self.joint.run(network, batch, dropout, criterion, teacher)._replace(own=[gates])

    def loss(self, answers: Answers, tags: Tensor) -> Tensor:
        """RETURNS (Tensor): The loss, summed over words. *Shape:* ``()``"""
        self.progress.within_batch = False
        _latest.progress = self.progress
        loss = self.joint.loss(answers, tags)
        words = int((tags != MISSING).sum())  # as a tensor it would bring torch's default dtype
        self.progress.has_learnt |= bool(answers.own)
        # The gates of each batch of an update are the same.
        for gate in answers.own[0] if answers.own else ():
            loss = loss + self.penalty * words * gate.abs().sum()
        return loss

    def _begin(self, network: ExitNetwork) -> None:
        """Begin to search a network.

        RAISES (ValueError): If its encoder is frozen.
        """
        if not all(weight.requires_grad for weight in network.encoder.parameters()):
            raise ValueError(
                "EarlyBirdSearch finds out what the encoder needs while it learns: set "
                "freeze_encoder and freeze_full_depth to false."
            )
        if not has_gates(network):
            add_gates(network)
        self.progress = Progress(weakref.ref(network))

    def _count(self, network: ExitNetwork) -> None:
        """Count the optimizer's steps, which may be one for several batches, and look at the ticket
        after them.
        """
        now = self.progress
        if now.within_batch:  # it is too large for the network, and comes in parts
            return
        now.within_batch = True
        # A step uses up the gradients.
        if now.has_learnt and gates_of(network).heads[0].grad is None:
            now.updates, now.has_learnt = now.updates + 1, False
            self._check(network)

    def _check(self, network: ExitNetwork) -> None:
        """Look at the ticket between two updates, and draw it if it is time."""
        now = self.progress
        last = now.updates == self.max_updates
        if now.updates % self.every and not last:
            return
        scopes = self.heads_scope, self.neurons_scope
        ticket = draw_ticket(gate_scores(network), self.heads, self.neurons, *scopes)
        apart = [distance(ticket, earlier) for earlier in now.tickets]
        now.tickets.append(ticket)
        if apart:
            heads, neurons = (max(kind) for kind in zip(*apart))
            now.checks.append(Check(now.updates, heads, neurons))
            if len(apart) == COMPARED and max(heads, neurons) < self.bound:
                now.drawn = f"it is stable, as both shares are below {self.bound:.1%}"
        if last and not now.drawn:
            now.drawn = "it is not stable, but max_updates allows no more"


class UntilDrawn:
    """Makes batches until the ticket of an ``EarlyBirdSearch`` is drawn, which ends the training.
    It prints how the ticket changes, and why it is drawn.

    batcher (Batcher): Makes the batches.
    """

    def __init__(self, batcher: Batcher):
        self.batcher = batcher
        self.earlier = _latest_progress()  # of another training in this process
        self.idle_epochs = self.shown = 0
        self.followed: List[Progress] = []  # that of its own training, once there is one
        weakref.finalize(self, _warn_if_undrawn, self.followed)

    def __call__(self, examples: Iterable[Any]) -> Iterator[Any]:
        """YIELDS (Any): The batches of an epoch.

        examples (Iterable[Any]): Its examples.
        RAISES (ValueError): If training goes on without batches.
        """
        if self.idle_epochs > MAX_IDLE_EPOCHS:
            raise ValueError(
                f"The ticket is drawn, but training does not end: set max_epochs in [training] to "
                f"a number from 1 to {MAX_IDLE_EPOCHS}, of epochs that the search may take."
            )
        if self.idle_epochs:
            self.idle_epochs += 1
            return
        for batch in self.batcher(examples):
            yield batch
            # By now, the stage has learnt from it.
            progress = _latest_progress()
            if progress is None or progress is self.earlier:
                continue
            self.followed[:] = [progress]
            for check in progress.checks[self.shown :]:
                msg.info(
                    f"Update {check.update}: {check.heads:.1%} of the heads and "
                    f"{check.neurons:.1%} of the neurons differ from an earlier ticket, at most"
                )
            self.shown = len(progress.checks)
            if progress.drawn:
                msg.good(f"The ticket is drawn after {progress.updates} updates: {progress.drawn}")
                self.idle_epochs = 1
                return


def _warn_if_undrawn(followed: List[Progress]) -> None:
    """Warn if training has ended before the ticket was drawn.

    followed (List[Progress]): How far the search was, if there was one.
    """
    for progress in followed:
        if not progress.drawn:
            msg.warn(
                f"Training has ended after {progress.updates + progress.has_learnt} updates, and "
                f"the ticket is not drawn yet: slim would take it as it is. Let the search go on "
                f"(max_steps, max_epochs), or set max_updates below max_steps."
            )


def _latest_progress() -> Optional[Progress]:
    """RETURNS (Optional[Progress]): That of the search which learnt last, in this thread."""
    return cast(Optional[Progress], getattr(_latest, "progress", None))


def make_until_drawn(batcher: Batcher) -> Batcher:
    """Make the batcher ``spacy-early-exit.until_drawn.v1``, which ends the training of
    ``EarlyBirdSearch.v1`` once the ticket is drawn. Set ``max_epochs`` in ``[training]``, too.

    batcher (Batcher): Makes the batches until then.
    RETURNS (Batcher): The batcher.
    """
    return UntilDrawn(batcher)


def make_early_bird_search(
    heads: float = 0.67,
    neurons: float = 0.6,
    heads_scope: Scope = "layerwise",
    neurons_scope: Scope = "global",
    penalty: float = 1e-4,
    gate_lr_factor: float = 50.0,
    every: int = 5,
    bound: float = 0.1,
    max_updates: int = 0,
    distillation: float = 0.0,
    detach_early_heads: bool = True,
) -> Stage:
    """Make the stage ``spacy-early-exit.EarlyBirdSearch.v1``.

    heads (float): Share of attention heads that are to stay.
    neurons (float): Share of feed-forward neurons that are to stay.
    heads_scope (Scope): Whether each layer keeps this share of its heads (``"layerwise"``), or all
        layers together (``"global"``).
    neurons_scope (Scope): The same for neurons.
    penalty (float): Weight of the sum of the gates' sizes, on the scale of a word's loss.
    gate_lr_factor (float): How many times faster the gates learn than the encoder. At its rate,
        they would hardly move in so few steps.
    every (int): Updates between two looks at the ticket.
    bound (float): The ticket is drawn when the share of heads, and that of neurons, in which it
        differs from each of the last five tickets is below this. 0: only at ``max_updates``.
    max_updates (int): After so many updates the ticket is drawn, stable or not; 0: never.
    distillation (float): As in ``JointTraining.v1``.
    detach_early_heads (bool): As in ``JointTraining.v1``.
    RETURNS (Stage): The stage.
    RAISES (ValueError): If an argument makes no sense.
    """
    for name, share in (("heads", heads), ("neurons", neurons)):
        check_share(f"EarlyBirdSearch: {name}", share)
    for name, scope in (("heads_scope", heads_scope), ("neurons_scope", neurons_scope)):
        if scope not in ("layerwise", "global"):
            raise ValueError(
                f"EarlyBirdSearch: {name} must be 'layerwise' or 'global', not {scope!r}."
            )
    if gate_lr_factor <= 0:
        raise ValueError(
            f"EarlyBirdSearch: gate_lr_factor must be above 0, not {gate_lr_factor}: gates that do "
            f"not move tell nothing."
        )
    most = float("inf")
    check_bounds(
        "EarlyBirdSearch",
        penalty=(penalty, most),
        bound=(bound, 1.0),
        max_updates=(max_updates, most),
        distillation=(distillation, most),
    )
    if every < 1:
        raise ValueError(f"EarlyBirdSearch: every must be 1 or more, not {every}.")
    if not bound and not max_updates:
        raise ValueError(
            "EarlyBirdSearch: with bound = 0 no ticket is stable, so max_updates must be set."
        )
    return EarlyBirdSearch(
        heads=heads,
        neurons=neurons,
        heads_scope=heads_scope,
        neurons_scope=neurons_scope,
        penalty=penalty,
        gate_lr_factor=gate_lr_factor,
        every=every,
        bound=bound,
        max_updates=max_updates,
        joint=JointTraining(distillation=distillation, detach_early_heads=detach_early_heads),
    )
