"""The page of the examples, in a real browser."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from spacy_early_exit.measure.calibrate import calibrate
from tests.makers.project import ROOT
from tests.makers.texts import examples_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "Ann met <img src=x onerror=\"document.title='evil'\"> Bob in Oslo."


@pytest.fixture
def url(nlp, tmp_path):
    """Where the page of a small calibrated pipeline is served."""
    pytest.importorskip("streamlit", reason="pip install streamlit")
    calibrate(nlp.get_pipe("early_exit_ner"), examples_of(nlp), [1.2, 1.5])
    nlp.to_disk(tmp_path / "pipeline")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--global.developmentMode", "false", "--browser.gatherUsageStats", "false"]
    options += ["--server.headless", "true", "--server.address", "127.0.0.1"]
    options += ["--server.port", str(port)]
    command = [sys.executable, "-m", "streamlit", "run", ROOT / "examples" / "page.py", *options]
    process = subprocess.Popen([*command, "--", tmp_path / "pipeline"], cwd=tmp_path)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def browser():
    """A real browser."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no chromium to open the page with")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--disable-quic"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


def seen(page, is_it):
    """What the page shows, once that is what is waited for, and no longer changes: words and their
    layers, their colours, and its figures.
    """
    found, before = None, None
    for _ in range(240):
        page.wait_for_timeout(500)
        words = page.locator("mark.word").all_inner_texts()
        shades = page.eval_on_selector_all("mark.word", "m => m.map(w => w.style.background)")
        figures = page.locator("[data-testid=stMetricValue]").all_inner_texts()
        found, before = (words, shades, *(float(re.split("[X ]", f)[0]) for f in figures)), found
        if len(figures) == 2 and found == before and is_it(found[2]):
            return found
    raise AssertionError(found)


@pytest.mark.takes(seconds=40)
def test_words_are_shaded_by_the_layer_at_which_they_exit_at_any_speedup(url, browser):
    page = browser.new_page()
    page.set_default_timeout(120_000)
    faults = []
    page.on("pageerror", lambda fault: faults.append(fault))
    page.goto(url)
    slider = page.get_by_role("slider")
    slider.press("Home")
    deep, _, _, last = seen(page, lambda saved: saved == pytest.approx(1, abs=0.01))
    for _ in range(6):  # to 1.6
        slider.press("ArrowRight")
    quick, shades, _, mean = seen(page, lambda saved: saved > 1.1)
    layers = [int(re.search(r"(\d+)\D*$", word)[1]) for word in quick]
    assert len(deep) == len(quick) > 10 and 1 <= mean < last >= max(layers)
    assert len(set(shades)) == len(set(layers)) > 1, "a colour for each layer"
    page.locator("textarea").fill(EVIL)
    page.locator("textarea").press("Control+Enter")
    page.wait_for_function("document.querySelector('.entities').innerText.includes('onerror')")
    assert "evil" not in page.title() and not faults
