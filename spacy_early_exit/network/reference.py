"""The plain way to the same answers, for tests: padded and masked, with everything computed.

It shares the weights with the fast loop, but none of its arithmetic. Every layer runs on every
wordpiece of the padded rectangle, and the new states of wordpieces that had exited are discarded.
"""

from typing import Any, List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Batch
from .criterion import Criterion, Step
from .exit_network import ExitNetwork
from .layers.disentangled import place_of
from .layers.relative import bucket_of
from .loop import Exits
from .shared import Reader


def run_reference(
    network: ExitNetwork, batch: Batch, criterion: Optional[Criterion], threshold: float = 0.0
) -> Exits:
    """Tag a batch, computing everything and discarding what comes after an exit.

    network (ExitNetwork): The network.
    batch (Batch): The batch.
    criterion (Optional[Criterion]): Decides which words exit; None: no word exits.
    threshold (float): The criterion's threshold.
    RETURNS (Exits): As ``loop.run_with_exits`` returns them, with the states and without the costs.
    """
    return run_shared_reference(network, batch, [Reader("", network, criterion, threshold)])[0]


def run_shared_reference(
    network: ExitNetwork, batch: Batch, readers: Sequence[Reader]
) -> List[Exits]:
    """Tag a batch for several tasks, computing everything and discarding what comes after an exit.

    network (ExitNetwork): The network whose encoder runs.
    batch (Batch): The batch.
    readers (Sequence[Reader]): The tasks.
    RETURNS (List[Exits]): As ``shared.run_shared`` returns them, with the states and without the
        costs.
    """
    spec, last = network.spec, network.spec.layers
    cells = torch.zeros(batch.windows, max(batch.lengths), dtype=torch.bool)
    for window, length in enumerate(batch.lengths):
        cells[window, :length] = True
    ids = torch.zeros(cells.shape, dtype=torch.int64)
    ids[cells] = batch.ids
    offsets = torch.arange(cells.shape[1]).expand_as(ids)
    hidden = network.encoder.embeddings(ids.flatten(), offsets.flatten())
    hidden = hidden.view(*ids.shape, spec.hidden_size)  # (windows, longest, width)

    # The units that each task is sure of. A unit has left once all tasks are.
    sure = [torch.zeros(batch.units, dtype=torch.bool) for _ in readers]
    windows_left = torch.zeros(batch.windows, dtype=torch.bool)
    exit_layers = [torch.full((batch.words,), last) for _ in readers]
    logits = [torch.zeros(batch.words, reader.network.tags) for reader in readers]
    states_of = [None if one.criterion is None else one.criterion.start(batch) for one in readers]

    for number in range(1, last + 1):
        units_left = torch.stack(sure).all(0)
        specials_left = windows_left
        if batch.halt_special:
            touched = batch.window_of_word[units_left[batch.unit_of_word]]
            specials_left = torch.isin(torch.arange(batch.windows), touched)
        left = torch.cat([units_left, specials_left])[batch.unit_of_piece]  # (wordpieces,)
        gone = torch.zeros_like(cells)
        gone[cells] = left
        attended = cells.clone()
        if batch.kv == "drop":
            dropped = torch.cat([units_left, windows_left])[batch.unit_of_piece]
            attended[cells] = ~dropped
        new = network.encoder.layer(number).output_norm(_sums(network, number, hidden, attended))
        hidden = torch.where(gone[:, :, None], hidden, new)
        states = _seen(network, hidden[cells])[batch.piece_of_word]
        unseen = units_left[batch.unit_of_word] if batch.kv == "drop" else None
        for task, reader in enumerate(readers):
            if number not in reader.network.exit_layers:
                continue
            beside = _beside(batch, states, reader.network.reach(number), unseen)
            answer = reader.network.logits(number, beside)
            active = ~sure[task][batch.unit_of_word]
            logits[task][active] = answer[active]
            if reader.criterion is None or number == last:
                continue
            words = active.nonzero().squeeze(1)
            if not len(words):
                continue
            seen, learned = (answer[words], states[words]), reader.network.extra_parameters
            step = Step(number, words, seen[0], batch, reader.threshold, learned, seen[1])
            may_leave = torch.zeros_like(active)
            may_leave[words] = reader.criterion.leave(step, states_of[task])
            staying_units = batch.unit_of_word[active & ~may_leave]
            leaving = active & ~torch.isin(batch.unit_of_word, staying_units)
            sure[task][batch.unit_of_word[leaving]] = True
            exit_layers[task][leaving] = number
        units_left = torch.stack(sure).all(0)
        still_there = batch.window_of_word[~units_left[batch.unit_of_word]]
        windows_left = ~torch.isin(torch.arange(batch.windows), still_there)
    costs = torch.zeros(batch.windows, dtype=torch.int64)
    states = _seen(network, hidden[cells])
    return [Exits(*found, costs, costs, 0, states) for found in zip(logits, exit_layers)]


def _beside(batch: Batch, states: Tensor, reach: int, unseen: Optional[Tensor]) -> Tensor:
    """RETURNS (Tensor): What heads see of each word, window by window. *Shape:*
    ``(words, (2 * reach + 1) * hidden_size)``
    """
    if not reach:
        return states
    others = states if unseen is None else states.masked_fill(unseen[:, None], 0.0)
    found = []
    for own, other in zip(*(torch.split(some, batch.word_counts) for some in (states, others))):
        wide = F.pad(other, (0, 0, reach, reach))
        shifted = [wide[step : step + len(own)] for step in range(2 * reach + 1)]
        shifted[reach] = own
        found.append(torch.cat(shifted, dim=1))
    return torch.cat(found)


def _seen(network: ExitNetwork, states: Tensor) -> Tensor:
    norm = network.encoder.final_norm
    return states if norm is None else norm(states)


def _sums(network: ExitNetwork, number: int, hidden: Tensor, attended: Tensor) -> Tensor:
    layer: Any = network.encoder.layer(number)
    if network.spec.table.attention == "rotary":
        mixed = _attention(network, number, layer.attention_norm(hidden), attended)
        hidden = hidden + layer.attention_output(mixed)
        wide, gate = layer.intermediate(layer.intermediate_norm(hidden)).chunk(2, dim=-1)
        sums: Tensor = hidden + layer.output(layer.activation(wide) * gate)
        return sums
    mixed = _attention(network, number, hidden, attended)
    middle = layer.attention_norm(layer.attention_output(mixed) + hidden)
    wide = layer.activation(layer.intermediate(middle))
    sums = layer.output(wide) + middle
    if network.spec.convolution and number == 1:
        weight, bias = layer.convolution.weight, layer.convolution.bias
        columns = (hidden * attended[:, :, None]).transpose(1, 2)  # (windows, width, longest)
        seen = F.conv1d(columns, weight, bias, padding=weight.shape[2] // 2).transpose(1, 2)
        sums = layer.inner_norm(sums) + layer.convolution_activation(seen)
    return sums


def _attention(network: ExitNetwork, number: int, states: Tensor, attended: Tensor) -> Tensor:
    encoder: Any = network.encoder
    layer, spec = encoder.layer(number), encoder.spec
    windows, longest, _ = states.shape
    shape = (windows, longest, layer.attention_heads, spec.head_width)
    query, key, value = (part.view(shape) for part in layer.qkv(states))
    place = torch.arange(longest)
    distance = place[:, None] - place[None, :]  # between query and key
    attended = attended[:, None, None, :]
    if spec.table.attention == "rotary":
        theta = spec.local_rope_theta if spec.is_local(number) else spec.rope_theta
        query, key = _turned(query, theta), _turned(key, theta)
        if spec.is_local(number):
            attended = attended & (distance.abs() <= spec.local_reach)
    scores = torch.einsum("wqhd,wkhd->whqk", query, key) / shape[-1] ** 0.5
    if spec.table.attention == "biased":
        table = encoder.shared.table.weight
        if spec.kept_heads:
            table = table[:, spec.kept_heads[number - 1]]
        scores = scores + table[bucket_of(distance, len(table))].permute(2, 0, 1)
    if spec.table.attention == "disentangled":
        scores = scores + _of_places(layer, encoder.shared, query, key, place_of(spec, distance))
        scores = scores / 3**0.5
    scores = scores.masked_fill(~attended, torch.finfo(scores.dtype).min)
    mixed = torch.einsum("whqk,wkhd->wqhd", scores.softmax(-1), value)
    return mixed.reshape(windows, longest, -1)


def _of_places(layer: Any, shared: Any, query: Tensor, key: Tensor, place: Tensor) -> Tensor:
    """RETURNS (Tensor): Scores by relative position, for each pair. *Shape:* that of the scores"""
    table = shared.norm(shared.table.weight)
    of_place, to_place, _ = (
        part.view(len(table), *query.shape[2:])[place] for part in layer.qkv(table)
    )  # (longest, longest, heads, width / heads)
    scores = torch.einsum("wqhd,qkhd->whqk", query, to_place)
    scores = scores + torch.einsum("wkhd,qkhd->whqk", key, of_place)
    scaled: Tensor = scores / query.shape[-1] ** 0.5
    return scaled


def _turned(states: Tensor, theta: float) -> Tensor:
    """RETURNS (Tensor): Pairs of columns as complex numbers, rotated by their position."""
    longest, width = states.shape[1], states.shape[3]
    speed = theta ** (-torch.arange(0, width, 2) / width)
    angle = torch.arange(longest)[:, None] * speed  # (longest, width / 2)
    pairs = torch.complex(*states.chunk(2, dim=-1))
    turned = pairs * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)
