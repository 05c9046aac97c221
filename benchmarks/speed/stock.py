"""Wall-clock speed beside spacy-transformers' `transformer` + `ner` with the same encoder.

One process, alternating rounds, the same texts and threads. Weights make no difference to the
speed of the stock pipeline, so its entity recognizer is not trained.
"""

import argparse
import statistics
import time
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin

from benchmarks.common import results
from spacy_early_exit.pipe.records import get_records


def stock(encoder: str, labels: list[str]) -> spacy.Language:
    """RETURNS (Language): spacy-transformers' pipeline with an encoder."""
    nlp = spacy.blank("en")
    nlp.add_pipe("transformer", config={"model": {"name": encoder}})
    ner = nlp.add_pipe(
        "ner",
        config={
            "model": {
                "@architectures": "spacy.TransitionBasedParser.v2",
                "state_type": "ner",
                "extra_state_tokens": False,
                "hidden_width": 64,
                "maxout_pieces": 2,
                "use_upper": False,
                "tok2vec": {
                    "@architectures": "spacy-transformers.TransformerListener.v1",
                    "grad_factor": 1.0,
                    "pooling": {"@layers": "reduce_mean.v1"},
                    "upstream": "*",
                },
            }
        },
    )
    for label in labels:
        ner.add_label(label)
    nlp.initialize()
    return nlp


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a trained early-exit pipeline")
    parser.add_argument("encoder", help="the encoder's folder, for spacy-transformers")
    parser.add_argument("corpus", type=Path, help="docs, .spacy")
    parser.add_argument("--thresholds", default="0,0.1,0.3")
    parser.add_argument("--window", type=int, help="neighbours to each side")
    parser.add_argument("--stock-batch-sizes", default="32,128,1000", help="its best one counts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours = spacy.load(args.model)
    ner = ours.get_pipe("early_exit_ner")
    if args.window is not None:
        from spacy_early_exit.criteria import make_token_exit

        ner.criterion = make_token_exit(args.window)
    theirs = stock(args.encoder, list(ner.labels))
    texts = [doc.text for doc in DocBin().from_disk(args.corpus).get_docs(ours.vocab)]
    words = sum(len(ours.make_doc(text)) for text in texts)
    print(f"{len(texts)} texts, {words} words, {args.threads} threads, torch {torch.__version__}")

    saving = {}
    contenders = {}
    for size in args.stock_batch_sizes.split(","):
        contenders[f"stock, batch {size}"] = (theirs, {"batch_size": int(size)})
    for threshold in map(float, args.thresholds.split(",")):
        cfg = {"early_exit_ner": {"threshold": threshold}}
        docs = list(ours.pipe(texts, component_cfg=cfg))
        records = [get_records(doc)["early_exit_ner"] for doc in docs]
        name = f"threshold {threshold:g}"
        saving[name] = sum(r.full for r in records) / sum(r.spent for r in records)
        contenders[name] = (ours, {"component_cfg": cfg})
    list(theirs.pipe(texts[:200]))  # warm up

    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, (nlp, arguments) in contenders.items():
            start = time.perf_counter()
            for _doc in nlp.pipe(texts, **arguments):
                pass
            seconds[name].append(time.perf_counter() - start)
    best = min((n for n in contenders if n.startswith("stock")), key=lambda n: min(seconds[n]))
    full = next(name for name in contenders if name.startswith("threshold"))
    rows = []
    for name, times in seconds.items():
        row = {"name": name, "words_per_second": words / statistics.median(times)}
        row["words_per_second_min"] = words / max(times)
        row["words_per_second_max"] = words / min(times)
        row["over_stock"] = statistics.median(a / b for a, b in zip(seconds[best], times))
        if name in saving:
            ratios = [a / b for a, b in zip(seconds[full], times)]
            row["mac_speedup"], row["wall_speedup"] = saving[name], statistics.median(ratios)
            row["wall_speedup_min"], row["wall_speedup_max"] = min(ratios), max(ratios)
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else v for k, v in row.items()))
    results.write(
        args.output,
        rows,
        threads=args.threads,
        corpus="/".join(args.corpus.parts[-2:]),
        words=words,
        rounds=args.rounds,
    )


if __name__ == "__main__":
    main()
