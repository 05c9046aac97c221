"""How much of a saving in operations arrives on the clock, from token ids to labels, by shape.

Which word leaves where is recorded from a trained, calibrated pipeline, and replayed in encoders
of other shapes with random weights, whose heads and criteria run as they would. Twice as many
layers: every word leaves at twice the layer. Rounds alternate, full depth among them.

With --beside, the same networks in transformers and ONNX Runtime, in sorted batches of 32 padded
to the longest, from wordpieces to labels as well. Needs onnx and onnxruntime.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch
from spacy.tokens import DocBin
from wasabi import table

from benchmarks.common import results
from benchmarks.common.peers import export_onnx, in_transformers
from spacy_early_exit.criteria import TokenExit
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.criterion import Step
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.network.families import EncoderSpec
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.products.int8 import quantized
from spacy_early_exit.network.products.packed import is_worth_packing, packed
from spacy_early_exit.network.window import Window
from spacy_early_exit.runtime.threads import batches_at_once, run_side_by_side, thread_count
from spacy_early_exit.text.windows import batches, windows_of


@dataclass(frozen=True)
class Replay(TokenExit):
    """Computes what TokenExit does, and lets words leave where they are recorded to.

    layers (torch.Tensor): The layer of each word of the batch. *Shape:* ``(words,)``
    """

    layers: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def leave(self, step: Step, state: Any) -> torch.Tensor:
        """RETURNS (Tensor): Which of ``step.words`` may leave. *Shape:* ``(words,)``, bool"""
        super().leave(step, state)
        return self.layers[step.words] <= step.layer


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path, help="calibrated")
    parser.add_argument("corpus", type=Path, help="docs, .spacy")
    parser.add_argument("--shapes", default="own,12x384,12x768", help="layers x width")
    parser.add_argument("--speedups", default="2,3,4")
    parser.add_argument("--words", type=int, default=4000, help="of the texts, for other shapes")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--beside", type=Path, help="a folder for the same in ONNX")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nlp = spacy.load(args.pipeline)
    ner = nlp.get_pipe("early_exit_ner")
    trained = ner.model.shims[0].trained
    docs = [nlp.make_doc(d.text) for d in DocBin().from_disk(args.corpus).get_docs(nlp.vocab)]
    ner.store_exits = True
    rows = []
    for shape in args.shapes.split(","):
        some = docs if shape == "own" else first(docs, args.words)
        network = trained.network if shape == "own" else of_shape(trained.network, shape)
        deeper = network.spec.layers // trained.network.spec.layers
        plain = network
        if args.int8 or is_worth_packing(network):  # as a pipeline does
            network = quantized(network) if args.int8 else packed(network)
        windows = windows_of(some, trained.tokenizer, network.spec.max_wordpieces, 64)
        runs: dict[str, Callable[[], float]] = {"full depth": runner(network, ner, windows, None)}
        for speedup in args.speedups.split(","):
            ner.speedup = float(speedup)
            recorded = []
            for doc, said in zip(some, ner.predict(some)):
                layers = np.zeros(len(doc), dtype=np.int64)
                layers[said.exits.words] = deeper * said.exits.exit_layer
                recorded.append(layers)
            runs[f"{speedup}X"] = runner(network, ner, windows, recorded)
        if args.beside:
            runs |= others(plain, ner.labels, args.beside / shape, windows, args.threads)
        rows += measure(runs, sum(map(len, some)), args.rounds, shape)
    shown = [
        [
            row["shape"],
            row["run"],
            f"{row['mac_speedup']:.2f}",
            f"{row['words_per_second']:.0f}",
            "{:.2f} ({:.2f}-{:.2f})".format(*row["wall_speedup"]),
            f"{row['wall_speedup'][0] / row['mac_speedup']:.2f}",
        ]
        for row in rows
    ]
    header = ["shape", "", "MACs", "words/s", "on the clock", "realised"]
    print(table(shown, header=header, aligns=["l", "l", "r", "r", "r", "r"]))
    results.write(args.output, rows, threads=args.threads, int8=args.int8)


def first(docs: Sequence[Any], words: int) -> list[Any]:
    """RETURNS (list[Doc]): The first docs, until there are so many words."""
    counts = np.cumsum([len(doc) for doc in docs])
    return list(docs[: int(np.searchsorted(counts, words)) + 1])


def of_shape(like: ExitNetwork, shape: str) -> ExitNetwork:
    """RETURNS (ExitNetwork): A network with random weights and the same wordpieces and tags."""
    layers, width = (int(number) for number in shape.split("x"))
    spec: EncoderSpec = dataclasses.replace(
        like.spec,
        layers=layers,
        hidden_size=width,
        embedding_size=width,
        intermediate_size=4 * width,
        attention_heads=width // 64 if width % 64 == 0 and width > 384 else 12,
    )
    torch.manual_seed(0)
    return ExitNetwork(spec, like.tags, like.head_window)


def runner(
    network: ExitNetwork, ner: Any, windows: list[Window], recorded: list[np.ndarray] | None
) -> Callable[[], float]:
    """RETURNS (Callable): Runs all windows, and says what was saved."""
    threads = thread_count(ner.threads)
    cut = list(batches(windows, ner.batch_wordpieces, batches_at_once(threads), 256))
    cpu = torch.device("cpu")

    def run(batch: list[Window]) -> tuple[int, int]:
        criterion = None
        if recorded is not None:
            layers = np.concatenate([recorded[window.doc][window.words] for window in batch])
            criterion = replace(REPLAY, layers=torch.from_numpy(layers))
        with torch.inference_mode():
            ragged = Batch.of(batch, cpu, ner.kv, ner.halt_special)
            exits = run_with_exits(network, ragged, criterion, 0.1)
            exits.logits.argmax(1)
        return int(exits.spent.sum()), int(exits.full.sum())

    def run_all() -> float:
        costs = run_side_by_side(run, cut, threads, lambda batch: sum(len(w.ids) for w in batch))
        return sum(full for _, full in costs) / sum(spent for spent, _ in costs)

    return run_all


def others(
    network: ExitNetwork,
    labels: Sequence[str],
    folder: Path,
    windows: Sequence[Window],
    threads: int,
) -> dict[str, Callable[[], float]]:
    """RETURNS (dict): Runs all windows through the same network of transformers and ONNX Runtime.

    folder (Path): Where to write it for ONNX Runtime, unless it is there.
    """
    import onnxruntime

    model = in_transformers(network, labels)
    if not (folder / "model-int8.onnx").exists():
        model.save_pretrained(folder)
        export_onnx(folder)
    order = sorted(windows, key=lambda window: -len(window.ids))
    padded = []
    for start in range(0, len(order), 32):
        batch = order[start : start + 32]
        ids = np.zeros((len(batch), len(batch[0].ids)), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(batch):
            ids[row, : len(window.ids)] = window.ids
            mask[row, : len(window.ids)] = 1
        padded.append((ids, mask))

    def in_torch() -> float:
        with torch.inference_mode():
            for ids, mask in padded:
                given = torch.from_numpy(ids), torch.from_numpy(mask)
                model(*given).logits.argmax(-1)
        return 1.0

    def in_onnx(file: str) -> Callable[[], float]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(folder / file), options)

        def run_all() -> float:
            for ids, mask in padded:
                session.run(None, {"ids": ids, "mask": mask})[0].argmax(-1)
            return 1.0

        return run_all

    return {
        "transformers": in_torch,
        "ONNX Runtime fp32": in_onnx("model.onnx"),
        "ONNX Runtime int8": in_onnx("model-int8.onnx"),
    }


REPLAY = Replay(window=1)


def measure(
    runs: dict[str, Callable[[], float]], words: int, rounds: int, shape: str
) -> list[dict[str, Any]]:
    """RETURNS (list[dict]): A row for each, the clock in alternating rounds."""
    savings = {name: run() for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        ratios = [full / mine for full, mine in zip(seconds["full depth"], times)]
        rows.append(
            {
                "shape": shape,
                "run": name,
                "mac_speedup": savings[name],
                "words_per_second": words / statistics.median(times),
                "wall_speedup": (statistics.median(ratios), min(ratios), max(ratios)),
            }
        )
    return rows


if __name__ == "__main__":
    main()
