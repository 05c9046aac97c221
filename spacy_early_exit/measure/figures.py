"""The figures of a report, as SVG that follow the page's light or dark colours."""

import io
import re
from typing import Any, Dict, List, Sequence, Tuple

from ..budget.curve import Point

INK = "#010203"  # stands for the page's text colour
LENGTHS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, 80), (81, 10**9))
HATCHES = ("", "///", "...", "xx", "\\\\\\", "ooo")


def layer_colors(layers: int) -> List[str]:
    """RETURNS (List[str]): A background colour for each layer, from light to strong, on which black
    text is readable.
    """
    matplotlib = _matplotlib()
    shades = matplotlib.colormaps["YlGnBu"]
    positions = [0.05 + 0.45 * number / max(1, layers - 1) for number in range(layers)]
    return [matplotlib.colors.to_hex(shades(position)) for position in positions]


def trade_off(rows: Sequence[Dict[str, float]], points: Sequence[Point], score: str) -> str:
    """Draw the score against speedup.

    rows (Sequence[Dict[str, float]]): What ``evaluate`` returns, with full depth first.
    points (Sequence[Point]): The calibrated curve. It is drawn as far as the rows go.
    score (str): Name of the score.
    RETURNS (str): SVG.
    """
    figure, axes = _figure()
    f = [100 * row[score] for row in rows]
    axes.plot([r["mac_speedup"] for r in rows], f, "o-", color="#3b82c4", label="operations")
    if "wall_speedup" in rows[0]:
        clock = [row["wall_speedup"] for row in rows]
        axes.plot(clock, f, "s--", color="#d97706", label="words per second")
    most = 1.1 * max(row["mac_speedup"] for row in rows)  # the curve's end would dwarf the rest
    near = [point for point in points if point.speedup <= most]
    measured = [(p.speedup, 100 * p.score) for p in near if p.score is not None]
    if measured:
        axes.plot(*zip(*measured), "x", color="#7c8796", label="calibration's texts, operations")
    axes.set_xlabel("times as fast as full depth")
    axes.set_ylabel(score.upper())
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return _svg(figure, "Score against speedup, in operations and on the clock")


def exits_by_tag(exits: Dict[str, List[int]]) -> str:
    """Draw at which layers words exit.

    exits (Dict[str, List[int]]): How many words exited at each layer, by label.
    RETURNS (str): SVG.
    """
    figure, axes = _figure(height=1.2 + 0.32 * len(exits))
    layers = len(next(iter(exits.values())))
    colors = layer_colors(layers)
    for row, counts in enumerate(exits.values()):
        left = 0.0
        for layer, count in enumerate(counts):
            share = 100 * count / sum(counts)
            hatch = HATCHES[layer % len(HATCHES)]
            axes.barh(
                row,
                share,
                left=left,
                color=colors[layer],
                edgecolor="#555555",
                linewidth=0.5,
                hatch=hatch,
            )
            if share > 7:
                axes.text(
                    left + share / 2,
                    row,
                    str(layer + 1),
                    ha="center",
                    va="center",
                    color="black",
                    fontsize=8,
                    bbox={"facecolor": colors[layer], "edgecolor": "none", "pad": 1.0},
                )
            left += share
    # A dollar sign would start a formula.
    names = [f"{tag} ({sum(counts)})".replace("$", r"\$") for tag, counts in exits.items()]
    axes.set_yticks(range(len(exits)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of words, %; the number is the layer")
    return _svg(figure, "At which layer words exit, by tag")


def cost_by_length(costs: Sequence[Tuple[int, float]]) -> str:
    """Draw the cost of texts by length.

    costs (Sequence[Tuple[int, float]]): For each text, its number of words and its share of the
        full-depth cost.
    RETURNS (str): SVG.
    """
    figure, axes = _figure()
    groups = [
        ([100 * cost for words, cost in costs if low <= words <= high], low, high)
        for low, high in LENGTHS
    ]
    groups = [group for group in groups if group[0]]
    line = {"color": INK}
    axes.boxplot(
        [shares for shares, _, _ in groups],
        whis=(5, 95),
        showfliers=False,
        medianprops={"color": "#d97706", "linewidth": 2},
        boxprops=line,
        whiskerprops=line,
        capprops=line,
    )
    names = [f"{low}+" if high == LENGTHS[-1][1] else f"{low}–{high}" for _, low, high in groups]
    ticks = [f"{name}\n({len(shares)})" for name, (shares, _, _) in zip(names, groups)]
    axes.set_xticks(range(1, len(groups) + 1), ticks)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("words in the text (number of texts)")
    axes.set_ylabel("cost, % of full depth")
    return _svg(figure, "Cost by length: median, quartiles, 5 to 95 percent")


def _figure(height: float = 3.2) -> Tuple[Any, Any]:
    matplotlib = _matplotlib()
    colored = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context(dict.fromkeys(colored, INK)):
        figure = matplotlib.figure.Figure(figsize=(5.2, height), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    """RETURNS (str): A figure for a page, as wide as the space allows."""
    data = io.StringIO()
    # Text stays text. The ids of several figures in a page must differ.
    with _matplotlib().rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
    svg = data.getvalue()[data.getvalue().index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W", "", title)[:12]
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _matplotlib() -> Any:
    try:
        import matplotlib.colors
        import matplotlib.figure
    except ImportError as e:
        raise ImportError("A report needs matplotlib: pip install matplotlib") from e
    return matplotlib
