"""Draw what bench.py measured: F-score against words per second, a panel for each corpus.

Of what ran at several batch sizes, each at its best one. Of the engines that run the same network,
the fastest. Of a contender that two results of one
corpus have, the first's.
"""

import argparse
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from benchmarks.common import results

# Colours that are seen on white as well as on black.
INK, BLUE, SKY, ORANGE, RED, GREEN, GREY = (
    "#7c8796",
    "#2f6fb3",
    "#5ba3e0",
    "#d97706",
    "#c2410c",
    "#3f9142",
    "#8b6fb3",
)
# What belongs together: title, colour, marker, and the contenders with what is written beside each.
Family = tuple[str, str, str, dict[str, str]]
FAMILIES: list[Family] = [
    ("early exits", BLUE, "o", {f"early exits, {s}X": f"{s}X" for s in range(1, 5)}),
    ("early exits, int8", SKY, "s", {f"early exits int8, {s}X": f"{s}X" for s in range(1, 5)}),
    (
        "first layers, distilled, in this engine",
        GREEN,
        "^",
        {f"{n} layers distilled, 1X": str(n) for n in (3, 2)},
    ),
    (
        "fastest other engine, all or first layers",
        ORANGE,
        "D",
        {"fp32": "6", **{f"fp32, {n} layers distilled": str(n) for n in (3, 2)}},
    ),
    (
        "fastest other engine, int8",
        RED,
        "v",
        {"int8": "6", **{f"int8, {n} layers distilled": str(n) for n in (3, 2)}},
    ),
    ("spacy-transformers", GREY, "P", {"spacy-transformers": ""}),
    ("Hugging Face pipeline", INK, "X", {"Hugging Face pipeline": ""}),
    ("spaCy's CNN", INK, "*", {"spaCy's CNN": ""}),
]
# Of these, the fastest is drawn.
ENGINES = {
    "fp32": ("ONNX Runtime fp32", "OpenVINO fp32", "OpenVINO bf16", "CTranslate2 fp32"),
    "int8": ("ONNX Runtime int8", "OpenVINO int8", "CTranslate2 int8"),
}
FAR_BELOW = 15  # points of F under the best: written at the edge


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="what bench.py wrote")
    parser.add_argument("--output", type=Path, required=True, help=".svg")
    args = parser.parse_args()
    benches: dict[str, dict[str, Any]] = {}
    for path in args.results:
        bench = {"about": results.read_about(path), "contenders": results.read(path)}
        known = benches.setdefault(bench["about"]["corpus"], bench)
        known["contenders"] = {**bench["contenders"], **known["contenders"]}
    figure = Figure(figsize=(1.2 + 3.6 * len(benches), 4.4), layout="constrained")
    panels = figure.subplots(1, len(benches), squeeze=False)[0]
    for axes, bench in zip(panels, benches.values()):
        draw(axes, bench)
    panels[0].set_ylabel("F-score", color=INK)
    drawn: dict[str, Any] = {}
    for axes in panels:
        drawn = {**dict(zip(*reversed(axes.get_legend_handles_labels()))), **drawn}
    columns = 4 if len(benches) > 1 else 2
    figure.legend(
        drawn.values(),
        drawn.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, transparent=True, metadata={"Date": None})


def draw(axes: Axes, bench: dict[str, Any]) -> None:
    """Draw a corpus."""
    best = fastest(bench["contenders"])
    top = max(100 * result["ents_f"] for result in best.values())
    lowest = top
    for title, color, marker, names in FAMILIES:
        points = []
        for name, label in names.items():
            if name not in best:
                continue
            x, y = best[name]["words_per_second"] / 1000, 100 * best[name]["ents_f"]
            if y < top - FAR_BELOW:
                y_text = f"{title}: {y:.0f} ↓"
                at = (x, 0.02)
                axes.annotate(
                    y_text, at, xycoords=("data", "axes fraction"), fontsize=7, color=color
                )
                continue
            points.append((x, y))
            lowest = min(lowest, y)
            axes.annotate(
                label, (x, y), (4, 4), textcoords="offset points", fontsize=7, color=color
            )
        if points:
            axes.plot(
                *zip(*points), marker=marker, color=color, linewidth=1, markersize=5, label=title
            )
    axes.set_ylim(lowest - 0.08 * (top - lowest), top + 0.08 * (top - lowest))
    about = bench["about"]
    axes.set_title(about["corpus"].partition("/")[0], color=INK, fontsize=10)
    axes.set_xlabel(f"1,000 words per second, {about['threads']} threads", color=INK, fontsize=9)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MultipleLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)


def fastest(contenders: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """RETURNS (dict): Of what ran at several batch sizes, each at its best one; and of the engines
    that run the same network, the fastest.
    """
    found: dict[str, dict[str, float]] = {}
    for name, result in contenders.items():
        if "error" in result:
            continue
        short = name.partition(", batches of")[0]
        if short not in found or result["words_per_second"] > found[short]["words_per_second"]:
            found[short] = result
    for kind, engines in ENGINES.items():
        for layers in ("", ", 3 layers distilled", ", 2 layers distilled"):
            alike = [found[engine + layers] for engine in engines if engine + layers in found]
            if alike:
                found[kind + layers] = max(alike, key=lambda result: result["words_per_second"])
    return found


if __name__ == "__main__":
    main()
