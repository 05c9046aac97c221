"""Exit when mean-field inference is certain: neighbours are heard before a word is judged.

Source of the inference: EMNLP 2020, "AIN: Fast and Accurate Sequence Labeling with Approximate
Inference Network", which decodes with it. Its use as an exit criterion is ours.
"""

from dataclasses import dataclass, replace
from typing import Optional, Tuple

from torch import Tensor

from ..criteria.base import CriterionBase
from ..criteria.neighbours import Neighbourhoods
from ..network.batch import Batch
from ..network.criterion import Criterion, Step
from ..network.exit_network import uncertainty
from ..network.families import EncoderSpec
from .mean_field import Links


@dataclass
class Beliefs:
    """What the words of a batch believe. It is overwritten after every layer.

    neighbourhoods (Neighbourhoods): The words' neighbours.
    links (Optional[Links]): Which words tell which; None: not known so far.
    by_word (Optional[Tensor]): A distribution for each word; for words that have exited, their
        last. None: nothing is believed so far. *Shape:* ``(words, tags)``
    """

    neighbourhoods: Neighbourhoods
    links: Optional[Links] = None
    by_word: Optional[Tensor] = None


@dataclass(frozen=True)
class BeliefExit(CriterionBase):
    """A word exits when the uncertainties of its belief and of its neighbours' are below the
    threshold.

    iterations (int): How often adjacent words tell each other what they believe. Words that have
        exited keep telling what they believed last.
    window (int): How many words on each side are neighbours.
    order (int): How far apart words that tell each other may be.
    """

    iterations: int
    window: int
    order: int

    @property
    def needs_learned(self) -> Tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): The learnt parameters of the decoder that it needs."""
        apart = range(1, self.order + 1)
        return tuple(f"{of}_{j}" for j in apart for of in ("transitions", "start", "end"))

    def macs(self, layer: int, spec: EncoderSpec, tags: int) -> int:
        """RETURNS (int): The cost of a word that hears as many words on each side as possible."""
        return 2 * self.order * self.iterations * tags * tags

    def with_window(self, window: int) -> "BeliefExit":
        """RETURNS (BeliefExit): The same with another neighbourhood."""
        return replace(self, window=window)

    def start(self, batch: Batch) -> Beliefs:
        """RETURNS (Beliefs): A state without beliefs."""
        return Beliefs(Neighbourhoods.of(batch, self.window))

    def leave(self, step: Step, state: Beliefs) -> Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may exit. *Shape:* ``(words,)``, bool"""
        if state.by_word is None or state.links is None:
            state.links = Links.of(step.batch.window_of_word, step.learned, self.order)
            state.by_word = step.logits.new_zeros(step.batch.words, step.logits.shape[1])
        scores = step.logits
        for _ in range(self.iterations):
            state.by_word[step.words] = scores.softmax(1)
            scores = step.logits + state.links.messages(state.by_word)[step.words]
        state.by_word[step.words] = scores.softmax(1)
        return state.neighbourhoods.largest(step.words, uncertainty(scores)) < step.threshold


def make_belief_exit(iterations: int = 3, window: int = 0, order: int = 1) -> Criterion:
    """Make the criterion ``spacy-early-exit.BeliefExit.v1``. It needs a pipeline trained with
    ``AINDecoder.v1``, whose transitions it uses.

    iterations (int): How often words tell each other what they believe; 0: never, as in
        ``TokenExit.v1``.
    window (int): How many words on each side must be certain, too, or have exited.
    order (int): 1: adjacent words tell each other; 2: words two apart do, too, which needs a
        decoder of that order.
    RETURNS (Criterion): The criterion.
    RAISES (ValueError): If an argument makes no sense.
    """
    for name, value in (("iterations", iterations), ("window", window)):
        if value < 0:
            raise ValueError(f"BeliefExit: {name} must be 0 or more, not {value}.")
    if order < 1:
        raise ValueError(f"BeliefExit: order must be 1 or more, not {order}.")
    return BeliefExit(iterations, window, order)
