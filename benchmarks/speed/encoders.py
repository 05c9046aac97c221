"""Every family of encoders beside Hugging Face's own, with random weights of one shape: how far
states differ, whether the fast loop is the plain one, and words per second at full depth and at a
saving.

Which words leave is up to random heads; the threshold is the one at which they save as much as was
asked for.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from wasabi import table

from benchmarks.common import results
from spacy_early_exit.criteria import TokenExit
from spacy_early_exit.network.batch import Batch, Running
from spacy_early_exit.network.exit_network import ExitNetwork
from spacy_early_exit.network.families import read_spec, read_weights
from spacy_early_exit.network.loop import Exits, run_with_exits
from spacy_early_exit.network.products.packed import is_worth_packing, packed
from spacy_early_exit.network.reference import run_reference
from spacy_early_exit.network.window import Window
from spacy_early_exit.text.windows import batches

CPU = torch.device("cpu")
CRITERION = TokenExit(window=1)
VOCABULARY, POSITIONS, TAGS, FIRST_WORD = 2000, 514, 9, 10
DISENTANGLED = {
    "relative_attention": True,
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "position_buckets": 256,
}


def configs(layers: int, width: int) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): A Hugging Face config of each family."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64 if width % 64 == 0 and width > 384 else 12,
        "intermediate_size": 4 * width,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 1,
    }
    distilbert = {"dim": width, "n_layers": layers, "n_heads": sizes["num_attention_heads"]}
    own: dict[str, dict[str, Any]] = {
        "albert": {"embedding_size": 128},
        "deberta-v2": DISENTANGLED,
        "distilbert": {**distilbert, "hidden_dim": 4 * width},
        "electra": {"embedding_size": 128},
        # Three matrices with a gate cost what two do without.
        "modernbert": {"intermediate_size": 8 * width // 3},
    }
    of_model = transformers.AutoConfig.for_model
    families = ("bert", "roberta", "electra", "distilbert", "albert", "mpnet", "modernbert")
    return {
        family: of_model(family, **{**sizes, **own.get(family, {})})
        for family in (*families, "deberta-v2")
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="6x384", help="layers x width")
    parser.add_argument("--families", help="of config.json's model_type; default: all")
    parser.add_argument("--saving", type=float, default=3.0, help="in multiply-accumulates")
    parser.add_argument("--words", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="the results, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layers, width = (int(number) for number in args.shape.split("x"))
    found = configs(layers, width)
    texts = draw_texts(args.words)
    rows = []
    for family in args.families.split(",") if args.families else found:
        model, network = build(found[family])
        rows.append(
            {
                "family": family,
                "difference": difference(model, network, texts[:16]),
                **measure(network, texts, args.saving, args.rounds),
            }
        )
    shown = [
        [
            row["family"],
            f"{row['difference']:.0e}",
            "yes" if row["fast_equals_plain"] else "NO",
            f"{row['words_per_second'][0]:.0f}",
            f"{row['words_per_second'][1]:.0f}",
            f"{row['saving']:.2f}",
            f"{row['words_per_second'][1] / row['words_per_second'][0]:.2f}",
        ]
        for row in rows
    ]
    saved = f"{args.saving:g}X"
    header = ["", "to HF", "fast = plain", "words/s, 1X", f"words/s, {saved}", "MACs", "clock"]
    print(table(shown, header=header, aligns=["l", *"rrrrrr"]))
    results.write(args.output, rows, shape=args.shape, threads=args.threads)


def draw_texts(words: int) -> list[Window]:
    """RETURNS (list[Window]): Texts of 1 to 60 words, every third of two wordpieces, until there
    are so many words.
    """
    draw = np.random.default_rng(0)
    texts: list[Window] = []
    while sum(len(text.words) for text in texts) < words:
        count = int(draw.integers(1, 61))
        unit_of_piece = np.repeat(np.arange(count), 1 + (np.arange(count) % 3 == 2))
        ids = draw.integers(FIRST_WORD, VOCABULARY, len(unit_of_piece))
        number = np.arange(count)
        texts.append(
            Window(
                doc=len(texts),
                ids=np.concatenate([[2], ids, [3]]),
                unit_of_piece=np.concatenate([[-1], unit_of_piece, [-1]]),
                units=count,
                words=number,
                piece_of_word=1 + np.searchsorted(unit_of_piece, number),
                unit_of_word=number,
                owned=np.ones(count, dtype=np.bool_),
            )
        )
    return texts


def build(config: Any) -> tuple[Any, ExitNetwork]:
    """RETURNS (tuple[Any, ExitNetwork]): Hugging Face's model with random weights, and a network
    that has the same, with random heads.
    """
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name:
                parameter.mul_(4.0)  # a fresh network tells no word from another
    spec = read_spec(config.to_dict())
    network = ExitNetwork(spec, TAGS, head_window=1)
    network.encoder.load_state_dict(read_weights(spec, model.state_dict()))
    for layer in range(1, spec.layers + 1):
        head = network.head(layer)
        torch.nn.init.normal_(head.weight, std=2.0 * head.in_features**-0.5)
    return model, network


def difference(model: Any, network: ExitNetwork, texts: list[Window]) -> float:
    """RETURNS (float): Largest difference to Hugging Face's states behind any layer."""
    batch, largest = Batch.of(texts, CPU), 0.0
    encoder, lengths = network.encoder, [len(text.ids) for text in texts]
    with torch.inference_mode():
        theirs = [
            model(torch.from_numpy(text.ids)[None], output_hidden_states=True) for text in texts
        ]
        running, kept = Running.all_of(batch), encoder.embeddings(batch.ids, batch.offsets)
        for number in range(1, network.spec.layers + 1):
            kept, is_last = encoder.run_layer(number, kept, running), number == network.spec.layers
            states = encoder.states(kept) if is_last else kept
            for ours, their in zip(states.split(lengths), theirs):
                other = their.last_hidden_state if is_last else their.hidden_states[number]
                largest = max(largest, float((ours - other[0]).abs().max()))
    return largest


def measure(
    network: ExitNetwork, texts: list[Window], saving: float, rounds: int
) -> dict[str, Any]:
    """RETURNS (dict[str, Any]): What leaving early does to a network."""
    plain, network = network, packed(network) if is_worth_packing(network) else network
    cut = list(batches(texts, 2048))

    def run(threshold: float) -> list[Exits]:
        criterion = CRITERION if threshold else None
        with torch.inference_mode():
            return [
                run_with_exits(network, Batch.of(batch, CPU), criterion, threshold) for batch in cut
            ]

    def saved(threshold: float) -> float:
        exits = run(threshold)
        return sum(int(e.full.sum()) for e in exits) / sum(int(e.spent.sum()) for e in exits)

    threshold = bisect(saved, saving)
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for times, at in zip(seconds, (0.0, threshold)):
            start = time.perf_counter()
            run(at)
            times.append(time.perf_counter() - start)
    words = sum(len(text.words) for text in texts)
    return {
        "fast_equals_plain": is_plain(network, plain, texts[:32], threshold),
        "threshold": threshold,
        "saving": saved(threshold),
        "words_per_second": [words / statistics.median(times) for times in seconds],
    }


def bisect(saved: Callable[[float], float], saving: float) -> float:
    """RETURNS (float): The threshold at which so much is saved, or nearly."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if saved(middle) < saving else (low, middle)
    return high


def is_plain(
    network: ExitNetwork, slow: ExitNetwork, texts: list[Window], threshold: float
) -> bool:
    """RETURNS (bool): Whether exit layers and labels are those of the plain loop."""
    batch = Batch.of(texts, CPU)
    with torch.inference_mode():
        fast = run_with_exits(network, batch, CRITERION, threshold)
        plain = run_reference(slow, batch, CRITERION, threshold)
    same = torch.equal(fast.logits.argmax(1), plain.logits.argmax(1))
    return same and torch.equal(fast.exit_layer, plain.exit_layer)


if __name__ == "__main__":
    main()
