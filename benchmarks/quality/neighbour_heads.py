"""Would heads that see the states of a word's neighbours keep more at the same saving?

All heads of a trained pipeline but the deepest are fitted anew, on the states of its encoder as
they are: once with the state of the word alone, once with those of the words beside it as well.
Both ways have the same optimizer, steps and weight decays to choose from, by cross-entropy on tune.
Exits are simulated on states of full depth, so that no layer is computed again.

What this can't show is what the encoder would learn if such heads taught it.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import spacy
import torch
import torch.nn.functional as F
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from torch import Tensor
from wasabi import table

from benchmarks.common import results as kept
from spacy_early_exit.budget.search import search_threshold
from spacy_early_exit.measure.docs import fresh
from spacy_early_exit.model.predict import batches_of, decode
from spacy_early_exit.network.all_heads import all_logits, run_all_layers
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.simulate import simulate_exits
from spacy_early_exit.pipe.component import EarlyExitPipe
from spacy_early_exit.pipe.dial import Knob
from spacy_early_exit.pipe.stream import groups
from spacy_early_exit.pipe.targets import targets
from spacy_early_exit.tags import MISSING, entities
from spacy_early_exit.training.base import Places

SAVINGS = (1.5, 2.0, 2.5, 3.0, 4.0)
SHOWN = ["1", *(f"{saving:g}" for saving in SAVINGS)]
DECAYS = (1e-3, 1e-2)
STEPS = 200  # of full-batch Adam
RATE = 5e-3


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a trained pipeline")
    parser.add_argument("corpus", type=Path, help="folder with train, tune and dev.spacy")
    parser.add_argument("--component", default="early_exit_ner")
    parser.add_argument("--radius", type=int, default=1, help="neighbours on each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    nlp = spacy.load(args.model)
    ner = nlp.get_pipe(args.component)
    parts = {
        part: Seen.by(ner, DocBin().from_disk(args.corpus / f"{part}.spacy").get_docs(nlp.vocab))
        for part in ("train", "tune", "dev")
    }
    dev, network = parts["dev"], ner.model.shims[0].trained.network
    found = {f"as trained, {network.head_window} on each side": scores(ner, dev, dev.logits)}
    for radius in (0, args.radius):
        network.head_window = radius  # which is priced: its own heads are not asked again
        heads = [
            fitted(parts["train"], parts["tune"], layer, radius)
            for layer in range(len(dev.states) - 1)
        ]
        early = [head(dev.around(layer, radius)) for layer, head in enumerate(heads)]
        logits = torch.stack([*early, dev.logits[-1]]).detach()
        found[f"fitted, {radius} on each side"] = scores(ner, dev, logits)
    rows = [
        (name, *(f"{100 * row[key]:.1f}" if key in row else "-" for key in SHOWN))
        for name, row in found.items()
    ]
    header = ("heads", *(f"{key}X" for key in SHOWN))
    print(table(rows, header=header, aligns=["l", *["r"] * (len(header) - 1)]))
    if args.output:
        kept.write(args.output, found)


@dataclass
class Seen:
    """What the layers of a network say of texts.

    batches (list[Batch]): Their windows.
    states (Tensor): *Shape:* ``(layers, words, hidden_size)``
    logits (Tensor): *Shape:* ``(layers, words, tags)``
    tags (Tensor): The right tags. *Shape:* ``(words,)``
    window (Tensor): The window of each word, ascending. *Shape:* ``(words,)``
    """

    batches: list[Batch]
    states: Tensor
    logits: Tensor
    tags: Tensor
    window: Tensor

    @classmethod
    def by(cls, ner: EarlyExitPipe, gold: Iterable[Doc]) -> "Seen":
        """RETURNS (Seen): What a component's network says of annotated texts."""
        run = ner.ready_to_predict(Knob(speedup=1.0))
        trained = ner.model.shims[0].prepare_for(run.predicts_in, run.device)
        network, batches, states, tags, window = trained.network, [], [], [], []
        for docs in groups(gold, 64):
            examples = [Example(fresh(ner, doc), doc) for doc in docs]
            for windows in batches_of(trained, [[eg.predicted for eg in examples]], run):
                batch = Batch.of(windows, network.device, run.kv, run.halt_special)
                with torch.inference_mode():
                    states.append(torch.stack(list(run_all_layers(network, batch))))
                tags.append(torch.from_numpy(targets(ner, examples, Places.of(windows))))
                window.append(batch.window_of_word + sum(one.windows for one in batches))
                batches.append(batch)
        with torch.no_grad():
            logits = [
                all_logits(network, batch, of.clone())
                for batch, of in zip(batches, states, strict=True)
            ]
        of_all = torch.cat(states, dim=1).clone()
        return cls(batches, of_all, torch.cat(logits, dim=1), torch.cat(tags), torch.cat(window))

    def around(self, layer: int, radius: int) -> Tensor:
        """RETURNS (Tensor): The states of each word and of so many on each side, zeros beyond the
        ends of its window. *Shape:* ``(words, (2 * radius + 1) * hidden_size)``

        layer (int): Counted from 0.
        radius (int): Words on each side.
        """
        places = torch.arange(len(self.window))
        seen = []
        for step in range(-radius, radius + 1):
            beside = (places + step).clamp(0, len(places) - 1)
            there = (self.window[beside] == self.window) & (beside == places + step)
            seen.append(self.states[layer, beside] * there[:, None])
        return torch.cat(seen, dim=1)


def fitted(train: Seen, tune: Seen, layer: int, radius: int) -> torch.nn.Linear:
    """RETURNS (Linear): The head that has the least cross-entropy on tune, of all decays.

    train (Seen): Is fitted.
    tune (Seen): Chooses.
    layer (int): Counted from 0.
    radius (int): Words on each side that the head sees.
    """
    seen, chooses = train.around(layer, radius), tune.around(layer, radius)
    best: tuple[float, torch.nn.Linear] | None = None
    for decay in DECAYS:
        head = torch.nn.Linear(seen.shape[1], train.logits.shape[-1])
        torch.nn.init.zeros_(head.weight)
        optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=decay / RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(head(seen), train.tags, ignore_index=MISSING).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            loss = F.cross_entropy(head(chooses), tune.tags, ignore_index=MISSING).item()
        if best is None or loss < best[0]:
            best = loss, head
    assert best is not None
    return best[1]


def scores(ner: EarlyExitPipe, seen: Seen, logits: Tensor) -> dict[str, float]:
    """RETURNS (dict[str, float]): F at each saving that can be reached.

    ner (EarlyExitPipe): Its criterion and its decoder.
    seen (Seen): The texts.
    logits (Tensor): Of all heads. *Shape:* ``(layers, words, tags)``
    """
    found = {"1": f_of(ner, seen, logits[-1])}
    layers: dict[float, Tensor] = {}

    def saved(threshold: float) -> float:
        speedup, layers[threshold] = exits(ner, seen, logits, threshold)
        return speedup

    for saving in SAVINGS:
        threshold = search_threshold(saving, saved, steps=16)
        if abs(saved(threshold) / saving - 1) < 0.01:
            at_exit = logits[layers[threshold] - 1, torch.arange(logits.shape[1])]
            found[f"{saving:g}"] = f_of(ner, seen, at_exit)
    return found


def exits(ner: EarlyExitPipe, seen: Seen, logits: Tensor, threshold: float) -> tuple[float, Tensor]:
    """RETURNS (tuple[float, Tensor]): The saving, and the layer at which each word exits."""
    network = ner.model.shims[0].trained.network
    spent, full, layers, start = 0, 0, [], 0
    for batch in seen.batches:
        part = logits[:, start : start + batch.words]
        start += batch.words
        nothing = part.new_zeros(*part.shape[:2], 0)
        layer, cost = simulate_exits(network, batch, part, nothing, ner.criterion, threshold)
        layers.append(layer)
        spent, full = spent + int(cost.spent.sum()), full + int(cost.full.sum())
    return full / spent, torch.cat(layers)


def f_of(ner: EarlyExitPipe, seen: Seen, logits: Tensor) -> float:
    """RETURNS (float): F of entities."""
    trained = ner.model.shims[0].trained
    gold, guessed = set(), set()
    for number, (of_text, right) in enumerate(by_window(seen, logits)):
        (tags,) = decode(trained, ner.decoder, [of_text])
        guessed |= {(number, *entity) for entity in entities(tags)}
        gold |= {(number, *entity) for entity in entities(np.maximum(right, 0))}
    return 2 * len(gold & guessed) / max(1, len(gold) + len(guessed))


def by_window(seen: Seen, logits: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """YIELDS (tuple[ndarray, ndarray]): The logits and the right tags of each window."""
    sizes = torch.bincount(seen.window).tolist()
    yield from zip(
        (part.numpy() for part in logits.split(sizes)),
        (part.numpy() for part in seen.tags.split(sizes)),
        strict=True,
    )


if __name__ == "__main__":
    main()
