"""Draw what bench.py measured: F-score against words per second, a point for each contender."""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

INK, OURS, THEIRS = "#7c8796", "#3b82c4", "#d97706"  # seen on white as well as on black


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what bench.py wrote")
    parser.add_argument("output", type=Path, help=".svg")
    parser.add_argument("--ours", default="early exits", help="how names of our contenders begin")
    args = parser.parse_args()
    bench = json.loads(args.results.read_text())
    best = fastest(bench["contenders"])
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, result in best.items():
        point = result["words_per_second"], 100 * result["ents_f"]
        color = OURS if name.startswith(args.ours) else THEIRS
        axes.plot(*point, "o", color=color)
        axes.annotate(name, point, (4, 4), textcoords="offset points", fontsize=7, color=INK)
        if name.startswith(args.ours):
            lines.setdefault(name.rpartition(",")[0], []).append(point)
    for points in lines.values():
        axes.plot(*zip(*sorted(points)), "-", color=OURS, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(f"words per second, {bench['about']['threads']} threads", color=INK)
    axes.set_ylabel(f"F-score on {bench['about']['corpus']}", color=INK)
    axes.tick_params(which="both", colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, transparent=True, metadata={"Date": None})


def fastest(contenders: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """RETURNS (dict): Of what ran at several batch sizes, each at its best one."""
    found: dict[str, dict[str, float]] = {}
    for name, result in contenders.items():
        if "error" in result:
            continue
        short = name.partition(", batches of")[0]
        if short not in found or result["words_per_second"] > found[short]["words_per_second"]:
            found[short] = result
    return found


if __name__ == "__main__":
    main()
