"""One pass through the encoder for several tasks.

Every task has exit heads, a criterion and a threshold of its own. A word goes on while any task
wants it. The answer of a task is that of the layer at which the task was sure, even if the word
goes on for another. Where only one task is left, this is the loop of ``loop.py``.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .all_heads import Halting
from .batch import Batch, Running
from .cost import Cost, Visit, head_macs, price, words_by_window
from .criterion import Criterion, Step, checked
from .devices import compacted
from .exit_network import ExitNetwork
from .loop import Exits, states_of_words
from .seen import around, logits_of_words, not_dropped


@dataclass(frozen=True)
class Reader:
    """A task that reads the states of a shared pass.

    name (str): Its name.
    network (ExitNetwork): Its heads and learnt parameters. Its encoder is not used.
    criterion (Optional[Criterion]): Decides which words it is sure of; None: it wants all words
        until the last layer, and only its last head runs.
    threshold (float): The criterion's threshold.
    """

    name: str
    network: ExitNetwork
    criterion: Optional[Criterion] = None
    threshold: float = 0.0


@dataclass
class Asking:
    """A task in a pass.

    reader (Reader): The task.
    batch (Batch): The batch.
    words (Tensor): The words that it still wants, ascending. *Shape:* ``(wanted words,)``
    wants (Tensor): Which words those are, or will be once the pass goes on. *Shape:* ``(words,)``,
        bool
    state (Any): What its criterion remembers.
    exit_layer (Tensor): The layer at which it was sure of each word, so far. *Shape:* ``(words,)``
    visits (Dict[int, List[Tensor]]): The words that its heads were applied to, by the MACs that
        answering for one of them and judging it took.
    """

    reader: Reader
    batch: Batch
    words: Tensor
    wants: Tensor
    state: Any
    exit_layer: Tensor
    visits: Dict[int, List[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, reader: Reader, batch: Batch) -> "Asking":
        """RETURNS (Asking): A task before the first layer: it wants all words."""
        criterion = reader.criterion
        return cls(
            reader=reader,
            batch=batch,
            words=torch.arange(batch.words, device=batch.ids.device),
            wants=torch.ones_like(batch.piece_of_word, dtype=torch.bool),
            state=None if criterion is None else criterion.start(batch),
            exit_layer=torch.zeros_like(batch.piece_of_word),
        )

    def asks_at(self, number: int) -> bool:
        """RETURNS (bool): Whether its head is needed after a layer, counted from 1."""
        network = self.reader.network
        is_asked = number in network.exit_layers and self.reader.criterion is not None
        return bool(len(self.words)) and (is_asked or number == network.spec.layers)

    def judge(self, number: int, logits: Tensor, states: Tensor) -> bool:
        """Take the answers after a layer, and want no more of the words that it is now sure of.

        number (int): The layer, counted from 1.
        logits (Tensor): Its logits for the words that it wanted. *Shape:* ``(wanted words, tags)``
        states (Tensor): Their states. *Shape:* ``(wanted words, hidden_size)``
        RETURNS (bool): Whether it may want fewer words than before.
        """
        network, criterion = self.reader.network, self.reader.criterion
        self.exit_layer.index_fill_(0, self.words, number)
        is_judged = criterion is not None and number < network.spec.layers
        spec, tags = network.spec, network.tags
        macs = criterion.macs(number, spec, tags) if criterion and is_judged else 0
        macs += head_macs(spec, tags, 1, network.reach(number))
        self.visits.setdefault(macs, []).append(self.words)
        if criterion is None or not is_judged:
            return False
        learned = network.extra_parameters
        step = Step(number, self.words, logits, self.batch, self.reader.threshold, learned, states)
        sure = checked(criterion, step, self.state)
        self.wants = without_sure(self.batch, self.words, sure)
        return True

    def cost(self) -> Tuple[Tensor, Tensor]:
        """RETURNS (Tuple[Tensor, Tensor]): The MACs of its heads and its criterion, by window: what
        was spent, and those of one head at full depth. *Shapes:* ``(windows,)``
        """
        batch, network = self.batch, self.reader.network
        spent = torch.zeros_like(batch.words_of_window)
        for macs, words in self.visits.items():
            spent = spent + macs * words_by_window(words, batch)
        return spent, head_macs(network.spec, network.tags, batch.words_of_window)


def run_shared(network: ExitNetwork, batch: Batch, readers: Sequence[Reader]) -> List[Exits]:
    """Tag a batch for several tasks with early exits.

    network (ExitNetwork): The network whose encoder runs.
    batch (Batch): The batch.
    readers (Sequence[Reader]): The tasks, at least one.
    RETURNS (List[Exits]): The logits and exit layers of each task. The costs are those of the whole
        pass, the same in each.
    """
    last, running = network.spec.layers, Running.all_of(batch)
    asking = [Asking.of(reader, batch) for reader in readers]
    trace: List[Visit] = []
    kept = network.encoder.embeddings(batch.ids, batch.offsets)  # (context, width)
    heads = [reader.network.head(last) for reader in readers]
    answers = [head.weight.new_zeros(batch.words, head.out_features) for head in heads]

    for number in range(1, last + 1):
        kept = network.encoder.run_layer(number, kept, running)
        trace.append(Visit(number, running))
        of_words, judged = None, False
        for task, logits in zip(asking, answers):
            if not task.asks_at(number):
                continue
            if of_words is None:
                of_words = states_of_words(network, kept, running)
            mine = rows_of(task.words, running.words, of_words)
            of_task, encoder = task.reader.network, network.encoder
            answer = logits_of_words(of_task, number, task.words, mine, encoder, kept, running)
            logits.index_copy_(0, task.words, answer)
            judged |= task.judge(number, answer, mine)
        if number == last:
            break
        if not judged:
            continue
        after = go_on(running, asking)
        if not len(after.words):
            break
        kept, running = running.rows_for(after, kept), after
    cost = price_shared(network, trace, asking)
    return [Exits(logits, task.exit_layer, *cost) for task, logits in zip(asking, answers)]


def rows_of(words: Tensor, among: Tensor, states: Tensor) -> Tensor:
    """RETURNS (Tensor): The states of some words. *Shape:* ``(words, hidden_size)``

    words (Tensor): The words, ascending. *Shape:* ``(words,)``
    among (Tensor): The words that the states are of, ascending. *Shape:* ``(more words,)``
    states (Tensor): The states. *Shape:* ``(more words, hidden_size)``
    """
    if len(words) == len(among):
        return states
    return states.index_select(0, torch.searchsorted(among, words))


def without_sure(batch: Batch, words: Tensor, sure: Tensor) -> Tensor:
    """RETURNS (Tensor): Which words a task still wants. Words that share a wordpiece stay until it
    is sure of them all. *Shape:* ``(words,)``, bool

    batch (Batch): The batch.
    words (Tensor): The words that it wanted. *Shape:* ``(wanted words,)``
    sure (Tensor): Which of them it is sure of. *Shape:* ``(wanted words,)``
    """
    unit_of_word = batch.unit_of_word[words]
    unsure = words.new_zeros(batch.units).index_add_(0, unit_of_word, (~sure).long())
    nothing = torch.zeros_like(batch.piece_of_word, dtype=torch.bool)
    return nothing.index_copy_(0, words, unsure[unit_of_word] > 0)


def go_on(running: Running, asking: Sequence[Asking]) -> Running:
    """RETURNS (Running): What goes on: the words that some task wants. Its ``words`` may be empty.

    running (Running): What was computed.
    asking (Sequence[Asking]): The tasks. Their ``words`` become those that they still want.
    """
    words, wants = [task.words for task in asking], [task.wants for task in asking]
    after, left = still_wanted(running, words, wants)
    for task, some in zip(asking, left):
        task.words = some
    return after


def still_wanted(
    running: Running, words: Sequence[Tensor], wants: Sequence[Tensor]
) -> Tuple[Running, List[Tensor]]:
    """Go on with the words that some task wants. On a GPU, this waits once, for all tasks.

    running (Running): What was computed.
    words (Sequence[Tensor]): The words that each task wanted. *Shapes:* ``(wanted words,)``
    wants (Sequence[Tensor]): Which words each still wants. *Shapes:* ``(words,)``, bool
    RETURNS (Tuple[Running, List[Tensor]]): What is still computed, the same object if no word
        exits; its ``words`` may be empty. And the words that each task still wants.
    """
    goes_on = torch.stack(list(wants)).any(0)
    after, counts = running.after_counting(~goes_on[running.words], wants)
    left = [
        some if count == len(some) else compacted(some, want[some], count)
        for some, want, count in zip(words, wants, counts)
    ]
    return after, left


def price_shared(network: ExitNetwork, trace: Sequence[Visit], asking: Sequence[Asking]) -> Cost:
    """RETURNS (Cost): What a pass cost: the encoder once, and every task's heads and criterion.

    network (ExitNetwork): The network whose encoder ran.
    trace (Sequence[Visit]): What ran, layer by layer.
    asking (Sequence[Asking]): The tasks.
    """
    spent, full, padding = price(network.spec, 0, trace)
    for task in asking:
        of_task = task.cost()
        spent, full = spent + of_task[0], full + of_task[1]
    return Cost(spent, full, padding)


def simulate_shared(
    network: ExitNetwork, batch: Batch, logits: Sequence[Tensor], readers: Sequence[Reader]
) -> Cost:
    """Estimate what early exits would cost, as ``simulate.simulate_exits`` does.

    network (ExitNetwork): The network whose encoder runs.
    batch (Batch): The batch.
    logits (Sequence[Tensor]): The logits of every head of each task, at full depth. *Shapes:*
        ``(heads, words, tags)``
    readers (Sequence[Reader]): The tasks.
    RETURNS (Cost): The costs.
    """
    running, trace = Running.all_of(batch), []
    asking = [Asking.of(reader, batch) for reader in readers]
    for number in range(1, network.spec.layers + 1):
        trace.append(Visit(number, running))
        for task, of_task in zip(asking, logits):
            if task.asks_at(number):
                head = task.reader.network.number_of_head(number)
                seen = of_task[head - 1, task.words]
                task.judge(number, seen, seen[:, :0])
        if number == network.spec.layers:
            break
        running = go_on(running, asking)
        if not len(running.words):
            break
    return price_shared(network, trace, asking)


def run_layers_halting(
    network: ExitNetwork,
    batch: Batch,
    readers: Sequence[Reader],
    haltings: Sequence[Optional[Halting]],
    dropout: float = 0.0,
) -> Tuple[List[Tensor], List[Tensor]]:
    """Train as prediction will run: words exit once no task wants them, keep their state, and are
    attended to. See ``all_heads.run_all_heads_halting``.

    network (ExitNetwork): The network whose encoder runs.
    batch (Batch): The batch.
    readers (Sequence[Reader]): The tasks.
    haltings (Sequence[Optional[Halting]]): Decides, for each task, which words it is sure of; None:
        it wants all words until the last layer.
    dropout (float): Dropout rate. The logits that decide have no dropout of the heads.
    RETURNS (Tuple[List[Tensor], List[Tensor]]): The words' states after each layer, and the layer
        at which each task was sure of each word. *Shapes:* ``(words, hidden_size)``, ``(words,)``
    """
    last, running = network.spec.layers, Running.all_of(batch)
    kept = network.encoder.embeddings(batch.ids, batch.offsets, dropout)
    everything = kept  # of all wordpieces, including those of windows that have ended
    wanted = [running.words for _ in readers]
    wants = [torch.ones_like(batch.piece_of_word, dtype=torch.bool) for _ in readers]
    exit_layers = [torch.zeros_like(batch.piece_of_word) for _ in readers]
    states: List[Tensor] = []
    for number in range(1, last + 1):
        if len(running.words):
            kept = network.encoder.run_layer(number, kept, running, dropout)
            everything = running.written_into(everything, kept)
        of_words = network.encoder.states(everything.index_select(0, batch.piece_of_word))
        states.append(of_words)
        for words, exit_layer in zip(wanted, exit_layers):
            exit_layer.index_fill_(0, words, number)
        if number == last or not len(running.words):
            continue
        for at, (reader, halting) in enumerate(zip(readers, haltings)):
            if halting is None or number not in reader.network.exit_layers:
                continue
            if not len(wanted[at]):
                continue
            # The decision is made in fp32, even in mixed precision.
            every, reach = of_words.float(), reader.network.reach(number)
            mine = every.index_select(0, wanted[at])
            with torch.no_grad(), torch.autocast(mine.device.type, enabled=False):
                seen = around(reach, every, batch, not_dropped(running))
                logits = reader.network.logits(number, seen.index_select(0, wanted[at]))
                sure = halting.leave(number, wanted[at], logits, mine)
            wants[at] = without_sure(batch, wanted[at], sure)
        after, wanted = still_wanted(running, wanted, wants)
        kept, running = running.rows_for(after, kept), after
    return states, exit_layers
