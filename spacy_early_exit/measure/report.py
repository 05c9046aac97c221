"""A report on one page: what early exits save, what they cost, and which words exit at which layer.

The page is a single file without scripts. It loads nothing from the internet.
"""

import textwrap
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Tuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from spacy import displacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from .. import __version__
from ..budget.curve import Point
from ..pipe.component import EarlyExitPipe
from ..pipe.records import get_records
from . import figures
from .docs import annotated, tasks_of
from .evaluate import evaluate

MAX_TAGS = 12
SENTENCES = 5  # number of the cheapest and of the most expensive sentences
MIN_WORDS = 5  # shorter ones say little
MAX_CHARACTERS = 300

# A word, its layer, and its caption if there is one.
WORD = '<mark class="word" style="background: {bg}">{text}<span class="layer">{label}</span></mark>'


@dataclass(frozen=True)
class Report:
    """The content of a page.

    name (str): The pipeline.
    component (str): Its early-exit component.
    setting (str): The setting that texts were run at.
    layers (int): Layers of the encoder.
    scores (Tuple[str, ...]): Names of the task's scores in ``rows``, with the main one last.
    rows (List[Dict[str, float]]): What ``evaluate`` returns, for each speedup.
    points (Sequence[Point]): The calibrated curve.
    docs (List[Doc]): The texts, annotated at the setting.
    captions (List[List[str]]): The caption next to the layer of each of their words.
    costs (List[Tuple[int, float]]): For each text with words, its number of words and spent /
        full-depth cost.
    exits_by_tag (Dict[str, List[int]]): How many words exited at each layer, by tag.
    others (Dict[str, Tuple[str, ...]]): The scores in ``rows`` of the other tasks of a shared pass,
        by component.
    """

    name: str
    component: str
    setting: str
    layers: int
    scores: Tuple[str, ...]
    rows: List[Dict[str, float]]
    points: Sequence[Point]
    docs: List[Doc]
    captions: List[List[str]]
    costs: List[Tuple[int, float]]
    exits_by_tag: Dict[str, List[int]]
    others: Dict[str, Tuple[str, ...]] = field(default_factory=dict)


def collect(
    nlp: Language,
    ner: EarlyExitPipe,
    examples: Sequence[Example],
    speedups: Sequence[float],
    *,
    rounds: int = 3,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Report:
    """Run a pipeline for a page.

    nlp (Language): The pipeline.
    ner (EarlyExitPipe): Its early-exit component.
    examples (Sequence[Example]): Annotated texts.
    speedups (Sequence[float]): Speedups to compare with full depth.
    rounds (int): Rounds of time measurement; 0: none.
    progress (Callable): Wraps what is done step by step, such as a progress bar.
    RETURNS (Report): The content of the page.
    RAISES (ValueError): If there are no words, or a speedup is not calibrated.
    """
    if not any(len(eg.reference) for eg in examples):
        raise ValueError("There is nothing to report on: the texts have no words.")
    speedups = sorted({1.0, *speedups})  # figures are relative to 1.0
    rows = evaluate(nlp, ner, examples, speedups, rounds=rounds, progress=progress)
    docs = [eg.reference for eg in examples if len(eg.reference)]
    docs = annotated(ner, docs, store_exits=True)
    layers = ner.model.shims[0].outline.network.spec.layers
    by_tag: Dict[str, List[int]] = {}
    costs = []
    for doc in docs:
        record = get_records(doc)[ner.name]
        costs.append((len(doc), record.spent / record.full if record.full else 0.0))
        for token, layer in zip(doc, record.layers or ()):
            if layer:
                counts = by_tag.setdefault(ner.shown(token)[0], [0] * layers)
                counts[layer - 1] += 1
    if not by_tag:
        raise ValueError("There is nothing to report on: no word of the texts has wordpieces.")
    knob = "speedup" if ner.speedup is not None else "threshold"
    return Report(
        name="_".join(filter(None, (nlp.lang, nlp.meta.get("name", "pipeline")))),
        component=ner.name,
        setting=f"{knob} = {getattr(ner, knob):.4g}",
        layers=layers,
        scores=ner.scores,
        rows=rows,
        points=[] if ner.calibration is None else ner.calibration.points,
        docs=docs,
        captions=[[ner.shown(token)[1] for token in doc] for doc in docs],
        costs=costs,
        exits_by_tag=dict(sorted(by_tag.items(), key=lambda tag: -sum(tag[1]))[:MAX_TAGS]),
        others={
            task.name: tuple(
                f"{name}_{task.name}" if f"{name}_{task.name}" in rows[0] else name
                for name in task.scores
            )
            for task in tasks_of(ner)[1:]
        },
    )


def to_html(report: Report) -> str:
    """Write a page.

    report (Report): Its content.
    RETURNS (str): HTML.
    """
    colors = figures.layer_colors(report.layers)
    order = sorted(
        (i for i, (words, _) in enumerate(report.costs) if words >= MIN_WORDS),
        key=lambda i: report.costs[i][1],
    )
    shown = [i for i in order if any(report.captions[i])] or order
    step = max(1, len(shown) // 10)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.jinja").render(
        report=report,
        version=__version__,
        words=sum(words for words, _ in report.costs),
        colors=[(layer, colors[layer - 1]) for layer in range(1, report.layers + 1)],
        trade_off=Markup(figures.trade_off(report.rows, report.points, report.scores[-1])),
        exits_by_tag=Markup(figures.exits_by_tag(report.exits_by_tag)),
        cost_by_length=Markup(figures.cost_by_length(report.costs)),
        sentences=[
            ("Least costly", [_sentence(report, i) for i in order[:SENTENCES]]),
            ("Most costly", [_sentence(report, i) for i in order[::-1][:SENTENCES]]),
        ],
        examples=[_shaded(report, i, colors) for i in shown[::step][:12]],
    )
    return page


def _sentence(report: Report, number: int) -> Tuple[str, str]:
    text = textwrap.shorten(report.docs[number].text, MAX_CHARACTERS, placeholder=" …")
    return f"{100 * report.costs[number][1]:.0f} %", text


def _shaded(report: Report, number: int, colors: Sequence[str]) -> Markup:
    doc = report.docs[number]
    layers = get_records(doc)[report.component].layers or ()
    return shade(doc, layers, report.captions[number], colors)


def shade(
    doc: Doc, layers: Sequence[int], captions: Sequence[str], colors: Sequence[str]
) -> Markup:
    """Mark the words of a text, by displaCy.

    doc (Doc): The text.
    layers (Sequence[int]): The layer at which each word exited, from 1; 0: don't mark it.
    captions (Sequence[str]): The caption next to the layer of each word.
    colors (Sequence[str]): The background colour for each layer.
    RETURNS (Markup): HTML, without any that the text may contain.
    """
    words, by_label = [], {}
    for token, layer, caption in zip(doc, layers, captions):
        if layer:
            label = f"{layer} {escape(caption)}".rstrip()
            by_label[label.upper()] = colors[layer - 1]  # displaCy looks up colours in upper case
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
