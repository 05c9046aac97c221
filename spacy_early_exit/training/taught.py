"""What a frozen teacher says of the texts that are trained on, computed once for each."""

from typing import Dict, List, Sequence, Tuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..network.all_heads import all_logits, run_all_layers
from ..network.batch import Batch
from ..network.exit_network import ExitNetwork

Key = Tuple[bool, bytes, bytes]

MOST = 2**28  # bytes of logits that are kept for each teacher


def taught_by(teacher: ExitNetwork, batch: Batch, deepest: bool) -> Tensor:
    """Get a teacher's logits at full depth. Training passes over the same texts again and again,
    and the teacher never changes its mind.

    teacher (ExitNetwork): The teacher. Its weights never change.
    batch (Batch): The batch.
    deepest (bool): Whether the deepest head is enough.
    RETURNS (Tensor): *Shape:* ``(heads or 1, words, tags)``
    """
    return taught_together([(teacher, deepest)], batch)[0]


@torch.no_grad()
def taught_together(asked: Sequence[Tuple[ExitNetwork, bool]], batch: Batch) -> List[Tensor]:
    """As ``taught_by``, of teachers that share an encoder. It runs once for all of them.

    asked (Sequence[Tuple[ExitNetwork, bool]]): Each teacher, and whether its deepest head is
        enough.
    batch (Batch): The batch.
    RETURNS (List[Tensor]): The logits of each. *Shapes:* ``(heads or 1, words, tags)``
    """
    keys = {deepest: _keys(batch, deepest) for _, deepest in asked}
    known = [_known.setdefault(teacher, {}) for teacher, _ in asked]
    if all(key in some for some, (_, deepest) in zip(known, asked) for key in keys[deepest]):
        return [
            torch.cat([some[key] for key in keys[deepest]], dim=1)
            for some, (_, deepest) in zip(known, asked)
        ]
    states = list(run_all_layers(asked[0][0], batch))
    answers = []
    for some, (teacher, deepest) in zip(known, asked):
        first = len(states) if deepest else 1
        logits = all_logits(teacher, batch, states[first - 1 :], first=first).float()
        answers.append(logits)
        if MOST - sum(answer.nbytes for answer in some.values()) >= logits.nbytes:
            parts = torch.split(logits, batch.word_counts, dim=1)
            some.update(zip(keys[deepest], (part.clone() for part in parts)))
    return answers


_known: "WeakKeyDictionary[ExitNetwork, Dict[Key, Tensor]]" = WeakKeyDictionary()


def _keys(batch: Batch, deepest: bool) -> List[Key]:
    """RETURNS (List[Key]): All that the answers for each window depend on."""
    ids = torch.split(batch.ids.cpu(), batch.lengths)
    places = torch.split(batch.offsets[batch.piece_of_word].cpu(), batch.word_counts)
    return [(deepest, i.numpy().tobytes(), p.numpy().tobytes()) for i, p in zip(ids, places)]
