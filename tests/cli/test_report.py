"""The report: a page that stands alone."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import Config, load_model_from_config

from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.report import collect, to_html
from spacy_early_exit.pipe.records import write_record
from tests.makers.commands import run
from tests.makers.pipelines import blank
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
EMPTY = {"br", "meta", "link", "path", "use", "rect", "image", "g", "defs", "line"}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Collects what a page asks for, and whether its elements are closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.asked, self.ids = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in EMPTY:
            self.open.append(tag)
        asked = [attrs.get(name) for name in ("src", "href", "xlink:href", "action")]
        self.asked.extend(one for one in asked if one)
        self.ids.extend([attrs["id"]] if "id" in attrs else [])
        assert tag != "script" and not any(name.startswith("on") for name in attrs)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def nlp(trained_bytes):
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    calibrate(nlp.get_pipe(NAME), examples_of(nlp), [1.2, 1.5])
    return nlp


@pytest.fixture(scope="module")
def report(nlp):
    nlp.get_pipe(NAME).threshold = 0.2
    # Whatever a text says, the page shows it and does nothing else.
    evil = [("<script>alert(1)</script> & Bob <img src=x onerror=alert(2)>", [])]
    return collect(
        nlp,
        nlp.get_pipe(NAME),
        examples_of(nlp, [*evil, ("", [])]) + examples_of(nlp),
        [1, 1.5],
        rounds=1,
    )


@pytest.fixture(scope="module")
def html(report):
    return to_html(report)


def test_it_counts_every_word_once(report, nlp):
    words = sum(len(nlp.make_doc(text)) for text in TEXTS) + len(report.docs[0])
    assert sum(map(sum, report.exits_by_tag.values())) == words
    assert len(report.docs) == len(TEXTS) + 1, "all but the empty one"
    assert {"O", "PER"} <= set(report.exits_by_tag)
    assert report.setting == "threshold = 0.2" and report.layers == 4
    for doc, (length, cost) in zip(report.docs, report.costs):
        record = doc._.early_exit[NAME]
        assert length == len(doc) and cost == pytest.approx(record.spent / record.full)


def test_it_stands_alone(html):
    page = Page(html)
    assert not page.open, "all elements are closed"
    assert all(one.startswith("#") or one == "data:," for one in page.asked)
    assert not re.search(r"url\((?!#)|@import", html)
    assert len(page.ids) == len(set(page.ids)), "the figures' ids do not collide"
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(page.ids)
    assert html.count('role="img"') == 3 and "currentColor" in html
    assert "#010203" not in html


def test_it_shows_words_with_their_layers_and_entities(html, report, nlp):
    assert "&lt;script&gt;" in html and "<script" not in html and "<img" not in html
    ner = nlp.get_pipe(NAME)
    early, ner.threshold = ner.threshold, 0  # at full depth it knows these texts by heart
    full = to_html(collect(nlp, ner, examples_of(nlp), [1], rounds=0))
    ner.threshold = early
    assert re.search(r">Ann<span class=.layer.>4 PER<", full)
    assert re.search(r">Lee<span class=.layer.>4 ·<", full)
    assert re.search(r">lives<span class=.layer.>4<", full)
    layers = {str(t._.exit_layer) for doc in report.docs for t in doc}
    shown = set(re.findall(r'<span class="layer">(\d)', html))
    assert shown and shown <= layers
    for row in report.rows:
        assert f"{100 * row['ents_f']:.2f}" in html


def test_figures_are_relative_to_full_depth(report, nlp):
    assert report.rows[0]["speedup"] == 1.0
    page = collect(nlp, nlp.get_pipe(NAME), examples_of(nlp), [1.5], rounds=0)
    assert [row["speedup"] for row in page.rows] == [1.0, 1.5]


def test_odd_texts_and_labels(nlp, report):
    with pytest.raises(ValueError, match="the texts have no words"):
        collect(nlp, nlp.get_pipe(NAME), examples_of(nlp, [(" \n ", [])]), [1], rounds=0)
    assert "$a_b$" in to_html(replace(report, exits_by_tag={"$a_b$": [1, 2, 3, 4]}))
    nothing = examples_of(nlp, [("ok", []), ("Nothing to report today.", [])])
    page = collect(nlp, nlp.get_pipe(NAME), nothing, [1], rounds=0)
    assert 'class="example"' in to_html(page), "words are shown without entities, too"


def test_a_label_is_not_trusted(nlp):
    doc = nlp("Ann Lee lives in New York.")
    page = collect(nlp, nlp.get_pipe(NAME), [Example(nlp.make_doc(doc.text), doc)], [1], rounds=0)
    evil = Doc(nlp.vocab, words=["Ann"])
    write_record(evil, NAME, 1, 2, [1], [])
    evil.set_ents([Span(evil, 0, 1, label="<b onclick=x>")])
    captions = [[nlp.get_pipe(NAME).shown(token)[1] for token in evil]]
    html = to_html(replace(page, docs=[evil], captions=captions, costs=[(5, 0.5)]))
    assert "<b onclick" not in html and "&lt;b onclick" in html


def test_the_command(nlp, tmp_path):
    nlp.to_disk(tmp_path / "model")
    DocBin(docs=[eg.reference for eg in examples_of(nlp)]).to_disk(tmp_path / "dev.spacy")
    output = tmp_path / "pages" / "report.html"
    arguments = ["-m", "spacy", "early-exit", "report", tmp_path / "model", tmp_path / "dev.spacy"]
    run(*arguments, "--output", output, "--rounds", "0")
    Page(output.read_text(encoding="utf8"))
    DocBin().to_disk(tmp_path / "empty.spacy")
    said = run(*arguments[:-1], tmp_path / "empty.spacy", "-o", output, "-r", "0", ok=False)
    assert "no words" in said and "Traceback" not in said


def test_without_matplotlib_it_says_what_to_install(report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.colors", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        to_html(report)


def browse(page, *options):
    """Open a page in a browser without a window.

    page (Path): The page.
    *options (str): More options.
    RETURNS (CompletedProcess): What the browser printed.
    """
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update"]
    command += [f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the page with")
def test_the_first_table_is_seen_without_scrolling(report, tmp_path):
    rows = [{**row, "words_per_second": 123_456} for row in report.rows[:1] * 5]
    measured = """<script>
        const [box] = document.getElementsByClassName("wide");
        document.title = [box.scrollWidth <= box.clientWidth, box.getBoundingClientRect().bottom];
    </script>"""
    page = tmp_path / "report.html"
    page.write_text(to_html(replace(report, rows=rows)) + measured, encoding="utf8")
    found = browse(page, "--window-size=1200,2000", "--dump-dom").stdout
    fits, bottom = re.search(r"<title>(.*),(.*)</title>", found).groups()
    assert fits == "true" and float(bottom) < 700


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the page with")
@pytest.mark.parametrize("width, scheme", [(360, "light"), (1200, "light"), (1200, "dark")])
def test_a_browser_opens_it_without_complaint(html, tmp_path, width, scheme):
    from matplotlib.image import imread

    (tmp_path / "report.html").write_text(html, encoding="utf8")
    page, picture, log = ((tmp_path / name) for name in ("report.html", "report.png", "net.json"))
    options = ["--enable-logging=stderr", "--v=0", f"--window-size={width},2000"]
    options += [f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"]
    found = browse(page, *options, f"--log-net-log={log}", f"--screenshot={picture}")
    assert picture.stat().st_size > 10_000, found.stderr
    assert "CONSOLE" not in found.stderr, found.stderr
    brightness = imread(picture)[..., :3].mean()
    assert brightness < 0.35 if scheme == "dark" else brightness > 0.8
    # The browser itself may look for updates; the page asks for nothing but itself.
    noted = log.read_text(encoding="utf8")
    asked = set(re.findall(r'"initiator":"([^"]*)"', noted))
    assert "report.html" in noted and "events" in noted
    assert not {initiator for initiator in asked if initiator.startswith(("file:", "null"))}


def test_an_uncalibrated_pipeline_is_refused(encoders):
    nlp = blank(encoders["bert"])
    nlp.initialize(lambda: examples_of(nlp))
    with pytest.raises(ValueError, match="not calibrated"):
        collect(nlp, nlp.get_pipe(NAME), examples_of(nlp), [1, 2], rounds=0)
