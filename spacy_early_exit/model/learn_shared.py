"""Learning for several tasks in one pass: spaCy updates one component after the other, and all read
the states of the same pass.

The owner of the encoder runs it when it is updated. Its heads, and those of the components that are
updated after it, read copies of the states, in which their gradients add up. The encoder is
backpropagated through once, before the owner takes a step or runs another pass.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import PyTorchGradScaler, torch2xp
from torch import Tensor

from ..network.all_heads import Halting
from ..network.batch import Batch
from ..network.exit_network import ExitNetwork
from ..network.seen import around
from ..network.shared import Reader, run_layers_halting
from ..network.window import Window
from ..runtime.memory import release_freed_memory
from ..runtime.torch_state import usual_torch
from ..settings import RunSettings
from ..text.windows import batches
from ..training.base import Gradient, JointLogits, Places
from ..training.halting import Drawn
from ..training.sharing import Learner
from ..training.taught import taught_together
from .borrowed import BorrowedShim
from .learn import backpropagate, check_cupy, join, mixed_precision, scaled
from .predict import windows_for
from .shim import TaggerShim


@dataclass
class Part:
    """A batch of a pass.

    batch (Batch): The batch.
    states (List[Tensor]): The words' states after each layer, with the encoder's graph. *Shape:*
        ``(words, hidden_size)``
    leaves (List[Tensor]): The same without the graph: what heads read.
    exit_layers (Dict[str, Tensor]): The layer at which each task was sure of each word. *Shape:*
        ``(words,)``
    haltings (Dict[str, Optional[Halting]]): What decided that.
    taught (Dict[str, Tensor]): The logits of each task's teacher. *Shape:*
        ``(heads or 1, words, tags that it knows)``
    """

    batch: Batch
    states: List[Tensor]
    leaves: List[Tensor]
    exit_layers: Dict[str, Tensor]
    haltings: Dict[str, Optional[Halting]]
    taught: Dict[str, Tensor]

    def alive_at(self, number: int) -> Optional[Tensor]:
        """RETURNS (Optional[Tensor]): Which words had not been dropped from the context when a
        layer, counted from 1, ran; None: all. *Shape:* ``(words,)``, bool
        """
        if self.batch.kv == "copy":
            return None
        return torch.stack([*self.exit_layers.values()]).amax(0) >= number


class LearningPass:
    """A pass that several components learn from.

    docs (List[Doc]): The docs.
    windows (List[Window]): Their windows, batch by batch.
    parts (List[Part]): The batches.
    scaler (Optional[PyTorchGradScaler]): Scales gradients where they reach the encoder, which is in
        fp16 then; None: nothing does.
    """

    def __init__(
        self,
        docs: List[Doc],
        windows: List[Window],
        parts: List[Part],
        scaler: Optional[PyTorchGradScaler],
    ):
        self.docs = docs
        self.windows = windows
        self.parts = parts
        self.scaler = scaler
        self.is_over = False
        self.read_by: Set[str] = set()  # the components, other than the owner

    def is_of(self, docs: Sequence[Doc]) -> bool:
        """RETURNS (bool): Whether it ran on these docs."""
        return len(docs) == len(self.docs) and all(a is b for a, b in zip(docs, self.docs))

    @usual_torch()
    def teach_encoder(self) -> None:
        """Backpropagate what the heads' gradients add up to. The pass is over after that."""
        pairs = [
            (state, leaf.grad)
            for part in self.parts
            for state, leaf in zip(part.states, part.leaves)
            if leaf.grad is not None
        ]
        self.is_over, self.parts = True, []
        if pairs:
            slopes = scaled([slope for _, slope in pairs], self.scaler)
            torch.autograd.backward([state for state, _ in pairs], slopes)


def begin_shared_update(
    shim: TaggerShim, docs: List[Doc], settings: RunSettings, dropout: float
) -> Tuple[JointLogits, Callable[[Any], List[Doc]]]:
    """Get the logits of all heads of one task for all words, in a pass that others read, too.

    shim (TaggerShim): Holds the task's heads.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model, with all tasks and how they learn.
    dropout (float): Dropout rate.
    RETURNS (Tuple[JointLogits, Callable]): As ``learn.begin_update`` returns them.
    """
    owner = shim.lender if isinstance(shim, BorrowedShim) else shim
    check_cupy(owner.trained.network)
    shared, is_own = _pass_for(owner, shim, docs, settings, dropout)
    teaches = not isinstance(shim, BorrowedShim) or shim.teaches_encoder
    network, windows = shim.trained.network, shared.windows
    reader, learner = settings.readers[settings.reader], settings.learners[settings.reader]
    outputs = []
    for part in shared.parts:
        # Gradients of heads are not scaled: they need fp32, or the range that it has.
        with mixed_precision(owner, shim.mixed_precision and owner.scaler is None):
            logits = _logits(network, learner, part, dropout, teaches)
        outputs.append(logits.float())
        halting = part.haltings[reader.name]
        learner.stage.see(halting, logits, network, part.batch, learner.criterion)
    taught = [part.taught[reader.name] for part in shared.parts if reader.name in part.taught]
    nothing = torch.zeros(len(network.exit_layers), 0, network.tags, device=network.device)

    @usual_torch()
    def backprop(gradient: Gradient) -> List[Doc]:
        backpropagate(network, outputs, (), gradient)
        if is_own:
            shared.teach_encoder()
        release_freed_memory()
        return docs

    layers = [part.exit_layers[reader.name] for part in shared.parts]
    left = [network.numbers_of_heads(of_part).cpu().numpy() for of_part in layers]
    scores = JointLogits(
        **vars(Places.of(windows)),
        logits=torch2xp(torch.cat([nothing, *outputs], dim=1).detach()),
        exit_head=join(left, np.int64),
        text=join([np.full(len(w.words), w.doc) for w in windows], np.int64),
        learned={name: torch2xp(known.detach()) for name, known in network.decoder.items()},
        teacher=torch2xp(torch.cat(taught, dim=1)) if taught else None,
    )
    return scores, backprop


def _pass_for(
    owner: TaggerShim, shim: TaggerShim, docs: List[Doc], settings: RunSettings, dropout: float
) -> Tuple[LearningPass, bool]:
    """RETURNS (Tuple[LearningPass, bool]): The pass over some docs, and whether this component is
    the only one to read it.
    """
    last, name = owner.learning_pass, settings.readers[settings.reader].name
    if shim is owner:
        if last is not None:
            last.teach_encoder()
            _warn_of_unread(owner, name, last, settings)
        owner.learning_pass = _run(owner, docs, settings, dropout)
        return owner.learning_pass, False
    if last is None or not last.is_of(docs) or name in last.read_by:
        # The owner does not learn from these now, so its encoder does not, either.
        with torch.no_grad():
            return _run(owner, docs, settings, dropout), True
    last.read_by.add(name)
    if last.is_over:
        # The owner has taken a step already, as in nlp.update with an optimizer. What is learnt
        # here is part of its next one.
        return _run(owner, docs, settings, dropout), True
    return last, False


def _warn_of_unread(
    owner: TaggerShim, name: str, last: LearningPass, settings: RunSettings
) -> None:
    """Warn, once, of components that do not learn while the encoder that they read does.

    owner (TaggerShim): Holds the encoder.
    name (str): Name of its component.
    last (LearningPass): The pass before this one, which all had the time to read.
    settings (RunSettings): How to run the model.
    """
    left = [one.name for one in settings.readers if one.name not in {name, *last.read_by}]
    if not left or owner.warned_of_unread or owner.freeze_encoder or owner.freeze_full_depth:
        return
    owner.warned_of_unread = True
    names = " and ".join(f"'{one}'" for one in left)
    warnings.warn(
        f"The encoder learns with '{name}', but {names}, over the same encoder, did not learn from "
        f"the last batch: its answers get worse. Train all, or freeze all, or set freeze_encoder "
        f"in the model of '{name}'.",
        stacklevel=2,
    )


def _run(owner: TaggerShim, docs: List[Doc], settings: RunSettings, dropout: float) -> LearningPass:
    """RETURNS (LearningPass): A pass over docs."""
    network = owner.trained.network
    torch.clear_autocast_cache()  # within the caller's autocast, old weights would stay cached
    windows: List[Window] = []
    parts: List[Part] = []
    for batch in batches(windows_for(owner.trained, docs, settings), settings.batch_wordpieces):
        windows.extend(batch)
        ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
        with mixed_precision(owner, owner.mixed_precision):
            parts.append(_run_batch(network, ragged, settings, dropout))
    return LearningPass(docs, windows, parts, owner.scaler)


def _run_batch(network: ExitNetwork, batch: Batch, settings: RunSettings, dropout: float) -> Part:
    """RETURNS (Part): A pass over a batch."""
    readers, learners = settings.readers, settings.learners
    taught = _taught(batch, readers, learners)
    drawn = Drawn([learner.stage.draws for learner in learners])
    haltings: Dict[str, Optional[Halting]] = {}
    for reader, learner in zip(readers, learners):
        known = taught.get(reader.name)
        halting = learner.stage.halting(reader.network, batch, learner.criterion, known, drawn)
        haltings[reader.name] = halting
    states, left = run_layers_halting(network, batch, readers, [*haltings.values()], dropout)
    states = [state.float() for state in states]
    leaves = [state.detach().requires_grad_(state.requires_grad) for state in states]
    exit_layers = {reader.name: layers for reader, layers in zip(readers, left)}
    return Part(batch, states, leaves, exit_layers, haltings, taught)


def _taught(
    batch: Batch, readers: Sequence[Reader], learners: Sequence[Learner]
) -> Dict[str, Tensor]:
    """RETURNS (Dict[str, Tensor]): The logits of the teachers, at full depth, of the tasks that
    have one. They share an encoder, as their pupils do.
    """
    asked = {
        reader.name: (learner.teacher, learner.deepest)
        for reader, learner in zip(readers, learners)
        if learner.teacher is not None
    }
    return dict(zip(asked, taught_together([*asked.values()], batch)))


def _logits(
    network: ExitNetwork, learner: Learner, part: Part, dropout: float, teaches: bool
) -> Tensor:
    """RETURNS (Tensor): The logits of every head. *Shape:* ``(heads, words, tags)``"""
    answers = []
    for number, leaf in enumerate(part.leaves, start=1):
        if number not in network.exit_layers:
            continue
        is_early = number < network.spec.layers
        reads = teaches and not (is_early and learner.stage.detach_early_heads)
        state = leaf if reads else leaf.detach()
        seen = around(network.reach(number), state, part.batch, part.alive_at(number))
        answers.append(network.logits(number, seen, dropout))
    return torch.stack(answers)
