"""How much of F is kept at which saving, beside encoders with fewer layers: a table and a figure.

Each corpus is given as NAME=FILES, separated by commas: what `quality.tasks` wrote, one file for
each training, and what `quality.baselines` wrote. Means over trainings; of several rates, the one
that is best on tune. The denominator is full depth, or the single head if that is better.
"""

import argparse
import re
import statistics
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from wasabi import table

from benchmarks.common import results
from benchmarks.common.curves import Rows, value_at

SAVINGS = (2.0, 3.0, 4.0)
FINE = [1 + step / 10 for step in range(1, 41)]
INK, BLUE = "#7c8796", "#2f6fb3"
STYLES = {
    "": ("#d97706", "D"),
    "distilled": ("#3f9142", "^"),
    "distilled, spread": ("#8b6fb3", "v"),
}
RUN = re.compile(r"(?:(uncut)|(\d+) layers(?:, (.+))?), rate (.+), seed \d+")


class Cut(NamedTuple):
    """An encoder with fewer layers.

    layers (int): How many.
    way (str): How it was trained; empty: by itself.
    f (float): Its F on dev.
    """

    layers: int
    way: str
    f: float


class Corpus(NamedTuple):
    """What is known of a corpus.

    curves (list[Rows]): Of each training, what it scores and saves.
    single (float): F of a single head at full depth; 0 if there is none.
    cuts (list[Cut]): The encoders with fewer layers.
    layers (int): How many layers full depth has.
    """

    curves: list[Rows]
    single: float
    cuts: list[Cut]
    layers: int

    @property
    def full(self) -> float:
        """RETURNS (float): What all is compared with."""
        return max(self.single, statistics.fmean(rows[0]["ents_f"] for rows in self.curves))

    def at(self, saving: float) -> float | None:
        """RETURNS (float | None): The mean F at a saving that all trainings reach."""
        found = [value_at(rows, saving, "ents_f") for rows in self.curves]
        reached = [f for f in found if f is not None]
        return statistics.fmean(reached) if len(reached) == len(found) else None


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", nargs="+", metavar="NAME=FILES")
    parser.add_argument("--output", type=Path, required=True, help=".svg")
    args = parser.parse_args()
    corpora = {}
    for given in args.corpora:
        name, _, files = given.partition("=")
        corpora[name] = read([Path(file) for file in files.split(",")])
    figure = Figure(figsize=(0.8 + 3.6 * len(corpora), 4.0), layout="constrained")
    panels = figure.subplots(1, len(corpora), squeeze=False, sharey=True)[0]
    for axes, (name, corpus) in zip(panels, corpora.items(), strict=True):
        draw(axes, name, corpus)
    panels[0].set_ylabel("F kept, %", color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, transparent=True, metadata={"Date": None})
    show(corpora)


def read(files: list[Path]) -> Corpus:
    """RETURNS (Corpus): What the files of a corpus say."""
    known = [results.read(file) for file in files]
    curves = [one for one in known if isinstance(one, list)]
    runs: dict[tuple[int | None, str, str], list[dict[str, float]]] = {}
    for key, found in (pair for one in known if isinstance(one, dict) for pair in one.items()):
        match = RUN.fullmatch(key)
        if match is None:
            raise SystemExit(f"{key!r} is no run of quality.baselines.")
        uncut, layers, way, rate = match.groups()
        runs.setdefault((None if uncut else int(layers), way or "", rate), []).append(found)
    best: dict[tuple[int | None, str], tuple[float, float]] = {}  # by tune: its F, and dev's
    for (depth, way, _), some in runs.items():
        tune, dev = (statistics.fmean(one[part] for one in some) for part in ("tune", "dev"))
        best[depth, way] = max(best.get((depth, way), (0.0, 0.0)), (tune, dev))
    single = best.pop((None, ""), (0.0, 0.0))[1]
    cuts = [Cut(depth or 0, way, dev) for (depth, way), (_, dev) in sorted(best.items(), key=str)]
    return Corpus(curves, single, cuts, round(curves[0][0]["mean_exit_layer"]))


def draw(axes: Axes, name: str, corpus: Corpus) -> None:
    """Draw a corpus: early exits as a line, encoders with fewer layers as points."""
    reached = {saving: f for saving in (1.0, *FINE) if (f := corpus.at(saving)) is not None}
    shares = [100 * f / corpus.full for f in reached.values()]
    axes.plot(list(reached), shares, color=BLUE, linewidth=1.5, label="early exits")
    for way, (color, marker) in STYLES.items():
        points = [
            (corpus.layers / cut.layers, 100 * cut.f / corpus.full)
            for cut in corpus.cuts
            if cut.way == way
        ]
        if points:
            title = ", ".join(["fewer layers", *filter(None, [way])])
            axes.plot(*zip(*points, strict=True), marker, color=color, markersize=5, label=title)
    axes.axhline(100, color=INK, linewidth=0.5)
    axes.set_title(name, color=INK, fontsize=10)
    axes.set_xlabel("times fewer operations", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)


def show(corpora: dict[str, Corpus]) -> None:
    """Print the table."""
    rows = []
    for name, corpus in corpora.items():
        found = [corpus.at(saving) for saving in SAVINGS]
        kept = ["-" if f is None else f"{f / corpus.full:.1%}" for f in found]
        rows.append((name, "early exits", f"{100 * corpus.full:.1f}", *kept))
        for way in STYLES:
            of_way = {corpus.layers / cut.layers: cut.f for cut in corpus.cuts if cut.way == way}
            kept = [f"{of_way[s] / corpus.full:.1%}" if s in of_way else "-" for s in SAVINGS]
            if of_way:
                rows.append(("", ", ".join(["fewer layers", *filter(None, [way])]), "", *kept))
    header = ("corpus", "", "F", *(f"kept at {saving:g}X" for saving in SAVINGS))
    print(table(rows, header=header, aligns=["l", "l", "r", "r", "r", "r"]))


if __name__ == "__main__":
    main()
