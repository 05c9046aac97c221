"""What a pipeline saves and scores when a speedup is asked for.

Every pipeline is calibrated twice: on tune, and without annotation on every other text of dev.
Saving and F are those of dev, also where `adaptive` follows what its texts really cost; after the
second, of its other half. F and the share of it that is
kept are means of the pipelines, which should differ in their seed alone. A corpus is a folder with
tune.spacy and dev.spacy.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import spacy
from spacy.tokens import DocBin
from spacy.training import Example
from wasabi import table

from benchmarks.common import results as kept
from benchmarks.common.train import run
from spacy_early_exit.pipe.docs import same_words
from spacy_early_exit.pipe.records import get_records

Rows = list[dict[str, float]]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("pipelines", type=Path, nargs="+")
    parser.add_argument("--speedups", default="1.5,2,2.5,3,4")
    parser.add_argument("--of", type=float, help="the F that is to be kept; without: full depth's")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    names = ("calibrated on tune", "calibrated on tune, adaptive", "on half of dev")
    results: dict[str, list[Rows]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        seen, unseen = halves(args.corpus / "dev.spacy", Path(folder))
        for pipeline in args.pipelines:
            tuned, own = Path(folder) / "tuned", Path(folder) / "own"
            calibrate = ["-m", "spacy", "early-exit", "calibrate", pipeline]
            options = ["--speedups", args.speedups, "--output"]
            run(*calibrate, args.corpus / "tune.spacy", *options, tuned)
            run(*calibrate, seen, "--unlabelled", *options, own)
            asked = f"1,{args.speedups}"
            found = evaluate(tuned, args.corpus / "dev.spacy", asked)
            results["calibrated on tune"].append(found)
            results["calibrated on tune, adaptive"].append(follow(tuned, args.corpus, asked))
            results["on half of dev"].append(evaluate(own, unseen, asked))
    kept.write(args.output, results)
    for name, rows in results.items():
        print(name)
        show(rows, args.of)


def halves(dev: Path, folder: Path) -> tuple[Path, Path]:
    """RETURNS (tuple): Every other text of dev as a line each, and the rest as .spacy."""
    docs = list(DocBin().from_disk(dev).get_docs(spacy.blank("xx").vocab))
    lines, rest = folder / "seen.txt", folder / "unseen.spacy"
    lines.write_text("".join(" ".join(doc.text.split()) + "\n" for doc in docs[::2]))
    DocBin(docs=docs[1::2]).to_disk(rest)
    return lines, rest


def evaluate(pipeline: Path, texts: Path, speedups: str) -> Rows:
    """RETURNS (list): What `spacy early-exit evaluate` finds at every speedup."""
    output = pipeline / "found.json"
    options = ["--speedups", speedups, "--rounds", 0, "--output", output]
    run("-m", "spacy", "early-exit", "evaluate", pipeline, texts, *options)
    rows: Rows = json.loads(output.read_text())["speedups"]
    return rows


def follow(pipeline: Path, corpus: Path, speedups: str) -> Rows:
    """RETURNS (list): What `nlp.pipe` saves and scores on dev when it holds every speedup."""
    nlp = spacy.load(pipeline)
    gold = list(DocBin().from_disk(corpus / "dev.spacy").get_docs(nlp.vocab))
    rows: Rows = []
    for speedup in map(float, speedups.split(",")):
        cfg = {"early_exit_ner": {"speedup": speedup, "adaptive": speedup > 1}}
        docs = list(nlp.pipe(map(same_words, gold), component_cfg=cfg))
        records = [get_records(doc)["early_exit_ner"] for doc in docs]
        scores = nlp.get_pipe("early_exit_ner").score(
            [Example(doc, reference) for doc, reference in zip(docs, gold)]
        )
        saved = sum(record.full for record in records) / sum(record.spent for record in records)
        rows.append({"speedup": speedup, "mac_speedup": saved, "ents_f": scores["ents_f"]})
    return rows


def show(found: list[Rows], of: float | None) -> None:
    """Print the means over pipelines, and what every pipeline saved."""
    lines = []
    for rows in zip(*found):
        scores = [100 * row["ents_f"] for row in rows]
        full = of or statistics.fmean(100 * first["ents_f"] for first, *_ in found)
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        mean = statistics.fmean(scores)
        saved = ", ".join(f"{row['mac_speedup']:.2f}" for row in rows)
        asked = f"{rows[0]['speedup']:g}X"
        lines.append((asked, saved, f"{mean:.2f}{spread}", f"{mean / full:.1%}"))
    print(table(lines, header=("asked", "saved", "F", "kept"), aligns=["r"] * 4))


if __name__ == "__main__":
    main()
