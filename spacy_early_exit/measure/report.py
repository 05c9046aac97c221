"""One page to look at: what leaving early saves, what it costs, and which words leave where.

The page is a single file without scripts, that asks the network for nothing.
"""

import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from spacy import displacy
from spacy.language import Language
from spacy.tokens import Doc, Token
from spacy.training import Example

from .. import __version__
from ..budget.curve import Point
from ..component import EarlyExitNER
from ..records import get_records
from . import figures
from .docs import annotated
from .evaluate import evaluate

MOST_TAGS = 12
SENTENCES = 5  # of the least and of the most costly ones
LEAST_WORDS = 5  # a single word says little
MOST_CHARACTERS = 300

# A word, its entity label if it has one, and its layer.
WORD = '<mark class="word" style="background: {bg}">{text}<span class="layer">{label}</span></mark>'


@dataclass(frozen=True)
class Report:
    """What a page is made of.

    name (str): The pipeline.
    setting (str): The setting that texts were run at.
    layers (int): Layers of the encoder.
    rows (List[Dict[str, float]]): What ``evaluate`` gives, for each speedup.
    points (Sequence[Point]): The calibrated curve.
    docs (List[Doc]): The texts, annotated at the setting.
    costs (List[Tuple[int, float]]): Words, and spent / full-depth cost, of each text with words.
    exits_by_tag (Dict[str, List[int]]): How many words left at each layer, by label, or ``O``.
    """

    name: str
    setting: str
    layers: int
    rows: List[Dict[str, float]]
    points: Sequence[Point]
    docs: List[Doc]
    costs: List[Tuple[int, float]]
    exits_by_tag: Dict[str, List[int]]


def collect(
    nlp: Language,
    ner: EarlyExitNER,
    examples: Sequence[Example],
    speedups: Sequence[float],
    *,
    rounds: int = 3,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Report:
    """Run a pipeline for a page.

    nlp (Language): The pipeline.
    ner (EarlyExitNER): Its early-exit component.
    examples (Sequence[Example]): Annotated texts.
    speedups (Sequence[float]): Speedups to compare with full depth.
    rounds (int): Rounds of the clock; 0: none.
    progress (Callable): Wraps what is done one by one, such as a bar.
    RETURNS (Report): What was found.
    RAISES (ValueError): If there are no words, or a speedup is not calibrated.
    """
    if not any(len(eg.reference) for eg in examples):
        raise ValueError("There is nothing to report on: the texts have no words.")
    speedups = sorted({1.0, *speedups})  # what figures are relative to
    rows = evaluate(nlp, ner, examples, speedups, rounds=rounds, progress=progress)
    docs = [eg.reference for eg in examples if len(eg.reference)]
    docs = annotated(ner, docs, store_exits=True)
    layers = ner.model.shims[0].trained.network.spec.layers
    by_tag: Dict[str, List[int]] = {}
    costs = []
    for doc in docs:
        record = get_records(doc)[ner.name]
        costs.append((len(doc), record.spent / record.full if record.full else 0.0))
        for token in doc:
            if token._.exit_layer:
                counts = by_tag.setdefault(token.ent_type_ or "O", [0] * layers)
                counts[token._.exit_layer - 1] += 1
    if not by_tag:
        raise ValueError("There is nothing to report on: no word of the texts has wordpieces.")
    knob = "speedup" if ner.speedup is not None else "threshold"
    return Report(
        name="_".join(filter(None, (nlp.lang, nlp.meta.get("name", "pipeline")))),
        setting=f"{knob} = {getattr(ner, knob):.4g}",
        layers=layers,
        rows=rows,
        points=[] if ner.calibration is None else ner.calibration.points,
        docs=docs,
        costs=costs,
        exits_by_tag=dict(sorted(by_tag.items(), key=lambda tag: -sum(tag[1]))[:MOST_TAGS]),
    )


def to_html(report: Report) -> str:
    """Write a page.

    report (Report): What it is made of.
    RETURNS (str): HTML.
    """
    colors = figures.layer_colors(report.layers)
    order = sorted(
        (i for i, (words, _) in enumerate(report.costs) if words >= LEAST_WORDS),
        key=lambda i: report.costs[i][1],
    )
    shown = [i for i in order if report.docs[i].ents] or order
    step = max(1, len(shown) // 10)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.jinja").render(
        report=report,
        version=__version__,
        words=sum(words for words, _ in report.costs),
        colors=[(layer, colors[layer - 1]) for layer in range(1, report.layers + 1)],
        trade_off=Markup(figures.trade_off(report.rows, report.points)),
        exits_by_tag=Markup(figures.exits_by_tag(report.exits_by_tag)),
        cost_by_length=Markup(figures.cost_by_length(report.costs)),
        sentences=[
            ("Least costly", [_sentence(report, i) for i in order[:SENTENCES]]),
            ("Most costly", [_sentence(report, i) for i in order[::-1][:SENTENCES]]),
        ],
        examples=[_shaded(report.docs[i], colors) for i in shown[::step][:12]],
    )
    return page


def _sentence(report: Report, number: int) -> Tuple[str, str]:
    text = textwrap.shorten(report.docs[number].text, MOST_CHARACTERS, placeholder=" …")
    return f"{100 * report.costs[number][1]:.0f} %", text


def _shaded(doc: Doc, colors: Sequence[str]) -> Markup:
    """RETURNS (Markup): A text whose words are marked, by displaCy."""
    words, by_label = [], {}
    for token in doc:
        layer: Optional[int] = token._.exit_layer
        if layer:
            label = _label(token, layer)
            by_label[label.upper()] = colors[layer - 1]  # displaCy looks colours up so
            end = token.idx + len(token)
            words.append({"start": token.idx, "end": end, "label": label})
    found = displacy.render(
        {"text": doc.text, "ents": words, "title": None},
        style="ent",
        manual=True,
        jupyter=False,
        options={"colors": by_label, "template": WORD},
    )
    return Markup(found)


def _label(token: Token, layer: int) -> str:
    if not token.ent_type_:
        return str(layer)
    begins = token.ent_iob_ == "B"
    return f"{layer} {escape(token.ent_type_) if begins else '·'}"
