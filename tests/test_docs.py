"""Every code block of the README and of docs/ does what it says, and numbers are those measured."""

import configparser
import functools
import json
import operator
import re
import shlex
import shutil
import statistics
import subprocess
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
import spacy
import yaml
from spacy.cli.init_config import fill_config
from spacy.tokens import DocBin
from spacy.util import Config, load_config

import spacy_early_exit
from benchmarks.common import results
from scripts import write_reference
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.network.families import FAMILIES
from spacy_early_exit.registering import PLACES
from spacy_early_exit.tasks.ner import DEFAULT_CONFIG
from tests.makers.commands import run
from tests.makers.marks import rest_slow
from tests.makers.project import ROOT
from tests.makers.shared import pos_of
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths, write_corpus

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BESIDE = "wnut17-beside-others"
# Rows of the tables, and what has them in the file.
SYSTEMS = {
    "spacy-transformers": "spacy-transformers, batches of 128",
    "Hugging Face pipeline": "Hugging Face pipeline, batches of 32",
    "ONNX Runtime, fp32": "ONNX Runtime fp32, batches of 32",
    "ONNX Runtime, int8": "ONNX Runtime int8, batches of 32",
    **{
        f"ONNX Runtime, {kind}, {n} layers distilled": (
            f"ONNX Runtime {kind}, {n} layers distilled, batches of 32"
        )
        for kind, n in (("fp32", 3), ("int8", 3), ("int8", 2))
    },
    "spaCy's CNN": "spaCy's CNN, batches of 128",
    "3 layers distilled, in this engine": "3 layers distilled, 1X",
    "2 layers distilled, in this engine": "2 layers distilled, 1X",
    "spacy-early-exit, full depth": "early exits, 1X",
    "full depth, int8": "early exits int8, 1X",
    **{f"`speedup = {n}`": f"early exits, {n}X" for n in (2, 3, 4)},
    **{f"`speedup = {n}`, int8": f"early exits int8, {n}X" for n in (2, 3, 4)},
}
NOT_MEASURED = {"3.10", "2021", "0", "1", "2.0"}  # Python, the paper, a range, a licence


def blocks(language):
    """The code blocks of a language, by page."""
    return [
        pytest.param(body, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (found, body) in enumerate(BLOCK.findall(page.read_text(encoding="utf8")))
        if found == language
    ]


def test_every_block_is_of_a_kind_that_is_tested():
    kinds = {kind for page in PAGES for kind, _ in BLOCK.findall(page.read_text(encoding="utf8"))}
    assert kinds <= {"python", "bash", "ini", "text"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, trained_bytes, encoders):
    """A checkout after training, with small stand-ins for corpus, encoder and pipeline."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "scripts", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "project.yml", folder)
    shutil.copytree(encoders["bert"], folder / "assets" / "all-MiniLM-L6-v2")
    write_token_classifier(encoders["bert"], folder / "assets" / "token-classifier")
    (folder / "training").mkdir()
    config, data = trained_bytes
    nlp = spacy.util.load_model_from_config(Config().from_str(config), auto_fill=True)
    nlp.from_bytes(data)
    spacy_early_exit.configure(nlp, threshold=DEFAULT_CONFIG["threshold"])
    calibrate(nlp.get_pipe("early_exit_ner"), examples_of(nlp), [1.5, 2, 3])
    nlp.to_disk(folder / "training" / "final")
    (folder / "training" / "demo").mkdir()
    nlp.to_disk(folder / "training" / "demo" / "calibrated")
    (folder / "corpus").mkdir()
    for part in ("train", "tune", "dev", "unlabelled"):
        docs = [example.reference for example in examples_of(nlp)]
        for token in (token for doc in docs for token in doc):
            token.pos_ = pos_of(token)  # for a task that shares the encoder
        DocBin(docs=docs).to_disk(folder / "corpus" / f"{part}.spacy")
    shutil.copy(ROOT / "tests/fixtures/corpora/prodigy.jsonl", folder / "annotated.jsonl")
    fresh = {text for text in texts_of_all_lengths(count=300) if text.strip()} - {*TEXTS}
    (folder / "my-texts.txt").write_text("\n".join(sorted(fresh)), encoding="utf8")
    return folder


def write_token_classifier(encoder, folder):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    AutoModelForTokenClassification.from_pretrained(encoder, id2label=names).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


# Their commands take a quarter of a minute, or more.
SLOW_PAGES = ("results", "choose-a-speed", "production", "extend", "clusters")


@pytest.mark.takes(seconds=25)
@pytest.mark.parametrize(
    "page, whole",
    rest_slow(
        product(PAGES, [False, True]),
        lambda page, whole: page.stem not in SLOW_PAGES and not whole,
        lambda page, whole: f"{page.stem}-{whole}",
    ),
)
def test_a_page_does_what_it_says(page, whole, checkout, monkeypatch, tmp_path):
    """Block after block, as somebody would who reads on; quickly, without what takes long."""
    monkeypatch.chdir(checkout)
    # A page adds a family: not for the tests after this one.
    monkeypatch.setitem(FAMILIES, "data2vec-text", FAMILIES["roberta"])
    names = {"__name__": "__main__", "texts": TEXTS, "path": tmp_path / "pipeline"}
    for kind, body in BLOCK.findall(page.read_text(encoding="utf8")):
        if kind == "python":
            if body.startswith("# my_blocks.py"):  # what the page's commands read
                with Path("my_blocks.py").open("a", encoding="utf8") as file:
                    file.write(body)
            exec(compile(body, str(page), "exec"), names)
        elif kind == "bash":
            for line in body.replace("\\\n", " ").splitlines():
                if command := shlex.split(line, comments=True):
                    (check if whole or not takes_long(command) else check_words)(command, checkout)


@pytest.mark.parametrize("block", blocks("ini"))
def test_settings_can_be_pasted_into_a_config(block, tmp_path):
    """In place of the sections, and of the nulls, that are there."""
    config = configparser.ConfigParser(interpolation=None)
    config.optionxform = str
    config.read(ROOT / "configs" / "joint.cfg")
    config.add_section("initialize.components")
    pasted = configparser.ConfigParser(interpolation=None)
    pasted.optionxform = str
    pasted.read_string(block)
    for name in pasted.sections():
        if config.has_section(name):
            config[name].clear()  # where it is: sections come before those inside them
        section, _, key = name.rpartition(".")
        if config.get(section, key, fallback="") == "null":
            config.remove_option(section, key)
    config.read_string(block)
    with (tmp_path / "base.cfg").open("w") as file:
        config.write(file)
    fill_config(tmp_path / "filled.cfg", tmp_path / "base.cfg", silent=True)
    filled = load_config(tmp_path / "filled.cfg", interpolate=False)
    for name in pasted.sections():
        there = functools.reduce(operator.getitem, name.split("."), filled)
        for key, text in pasted[name].items():
            assert there[key] == (text if text.startswith("$") else json.loads(text)), key


def test_the_reference_shows_every_setting_and_its_default():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf8")
    (block,) = [body for kind, body in BLOCK.findall(page) if kind == "ini"]
    shown = Config().from_str(block)["components"]["early_exit_ner"]
    assert shown == {
        "factory": "early_exit_ner",
        **{name: value for name, value in DEFAULT_CONFIG.items() if name != "scorer"},
    }


@pytest.mark.parametrize("name", ["settings.md", "commands.md"])
def test_the_reference_is_what_the_code_says(name):
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf8")
    assert written == write_reference.pages()[name], "make reference writes it anew"


def test_the_reference_has_every_block():
    shown = {name for choices in write_reference.BLOCKS.values() for name in choices}
    assert shown == {*PLACES["misc"], "EarlyExitTagger.v3"}


def measured(name, *keys):
    """What a file of results has there."""
    return functools.reduce(
        operator.getitem, keys, results.read(ROOT / "benchmarks" / "results" / f"{name}.json")
    )


def times_as_fast(name, one, other):
    """The median of the rounds' own ratios: in a round, both meet the same machine."""
    seconds = [measured(name, one, "seconds"), measured(name, other, "seconds")]
    return statistics.median(b / a for a, b in zip(*seconds, strict=True))


def rows_of(text):
    """The rows of tables of systems, by system."""
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d,]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    return {system: numbers for system, *numbers in rows}


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/results.md"])
def test_tables_of_systems_are_as_measured(page):
    shown = rows_of((ROOT / page).read_text(encoding="utf8"))
    assert len(shown) >= 6
    for system, numbers in shown.items():
        found = measured(BESIDE, SYSTEMS[system])
        faster = times_as_fast(BESIDE, SYSTEMS[system], SYSTEMS["spacy-transformers"])
        assert numbers == [
            f"{100 * found['ents_f']:.1f}",
            f"{round(found['words_per_second'], -2):,.0f}",
            f"{faster:.1f}",
        ], system


def claims():
    """What the README says of results besides its table, made of what was measured."""
    long, one, asked = (
        f"{BESIDE}.long",
        "wnut17-latency",
        measured("wnut17-asked", "calibrated on tune"),
    )
    saved = {row["speedup"]: row["mac_speedup"] for row in asked[0]}
    snips = {row["speedup"]: row["ents_f"] for row in measured("snips-neighbours-tasks")}
    f_scores = [100 * snips[n] for n in (3, 4)]
    alone = "wnut17-memory-alone"
    most = max(measured(alone, f"early exits, {speedup}X", "peak_mb") for speedup in (1, 2, 3, 4))
    theirs = measured(alone, "Hugging Face pipeline, batches of 32", "peak_mb")
    faster = times_as_fast(long, "early exits, 3X", "spacy-transformers, batches of 8")
    times = [measured(one, name, "p50_ms") for name in ("Hugging Face pipeline", "early exits, 3X")]
    rounds = len(measured(BESIDE, SYSTEMS["spacy-transformers"], "seconds"))
    return [
        f"median of {rounds} interleaved rounds",
        f"long documents: {faster:.1f} times spacy-transformers at `speedup = 3`",
        f"a batch: {times[0] / times[1]:.2f} times the Hugging Face pipeline at `speedup = 3`",
        f"Here, 3 saves {saved[3.0]:.1f} on dev",
        f"on SNIPS from {f_scores[0]:.1f} to {f_scores[1]:.1f} at 4",
        f"up to {most:.0f} MB with MiniLM, the Hugging Face pipeline {theirs:.0f};",
    ]


def test_all_numbers_of_the_readme_are_as_measured():
    text = BLOCK.sub("", PAGES[0].read_text(encoding="utf8"))
    for claim in claims():
        assert claim in text
        text = text.replace(claim, "")
    text = re.sub(r"^\|.*\|$", "", text, flags=re.MULTILINE)  # the table has a test of its own
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)|int8|MiniLM-L6(-v2)?|WNUT-17", "", text)
    assert set(re.findall(r"\d+(?:[.,]\d+)*", text)) <= NOT_MEASURED


def takes_long(command) -> bool:
    """Whether a command takes long that other quick tests run, in test_scripts.py and cli/."""
    match command:
        case ["python", "-m", "spacy", "train", *_]:
            return True
        case ["python", "-m", "spacy", "early-exit", "adopt" | "benchmark" | "slim", *_]:
            return True
        case ["python", "-m", "spacy", "early-exit", "calibrate", *rest]:
            return "--held-out" in rest
        case ["python", script, *_]:
            return script.startswith("benchmarks/")
    return False


def check_words(command, checkout):
    """Whether a command knows what it is told. The trained pipeline stands in for what it makes."""
    if command[1] != "-m":
        source = (ROOT / command[1]).read_text(encoding="utf8")
        assert all(f'"{word}"' in source for word in command[2:] if word.startswith("-"))
        return
    from spacy.cli._util import app
    from typer.main import get_command

    import spacy_early_exit.cli  # noqa: F401

    known, words = get_command(app), command[3:]
    while hasattr(known, "commands"):
        name, *words = words
        known = known.commands[name]
    known.make_context(name, list(words))
    if "--output" in words:
        made = checkout / words[words.index("--output") + 1]
        for folder in (made, made / "model-best", made / "model-last"):
            if not made.suffix:
                shutil.copytree(checkout / "training" / "final", folder, dirs_exist_ok=True)


def check(command, checkout):
    """Run a command as far as a test can: what takes long is run dry."""
    match command:
        case ["make", target]:
            if (ROOT / "Makefile").exists():
                subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
        case ["mkdir", "-p", folder]:
            (checkout / folder).mkdir(exist_ok=True)
        case ["pip", "install", requirement, *_]:
            assert requirement in (".", "build", "matplotlib")
            if requirement == "." and (ROOT / "setup.cfg").exists():
                run("-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", ".")
        case ["python", "-m", "spacy", "project", "run", name, ".", *rest]:
            project = yaml.safe_load((ROOT / "project.yml").read_text())
            variables = [option.removeprefix("--vars.") for option in rest[::2]]
            assert set(variables) <= set(project["vars"])
            run("-m", "spacy", "project", "run", name, ".", "--dry", *rest, cwd=checkout)
        case ["python", "-m", "spacy", "early-exit", "adopt", _, *rest]:
            checkpoint = checkout / "assets" / "token-classifier"
            run("-m", "spacy", "early-exit", "adopt", checkpoint, *rest, "-n", "1", cwd=checkout)
        case ["python", "-m", "spacy", "early-exit", "card", *rest]:
            run("-m", "spacy", "early-exit", "card", *rest, "--force", cwd=checkout)
        case ["python", "scripts/few_shot.py", _, *rest]:
            write_corpus(checkout / "annotated")
            run("scripts/few_shot.py", checkout / "annotated", *rest, cwd=checkout)
        case ["python", "-m", "spacy", "package", *rest]:
            run("-m", "spacy", "package", *rest, "--force", cwd=checkout)
        case ["python", "-m", "spacy", "train", *rest]:
            short = ["--training.max_steps", "1", "--training.eval_frequency", "1"]
            run("-m", "spacy", "train", *rest, *short, cwd=checkout)
        case ["python", "-m", "spacy", "early-exit", "tag", *_] if not find_spec("pyarrow"):
            pass  # an extra
        case ["python", "-m", "spacy", *rest]:
            run("-m", "spacy", *rest, cwd=checkout)
        case ["python", "scripts/create_config.py", *rest]:
            run("scripts/create_config.py", *rest, cwd=checkout)
        case ["python", "-m", "benchmarks.speed.stock", *_] if not find_spec("spacy_transformers"):
            pass  # it has no release for the newest transformers
        case ["python", "-m", module, *rest] if module.startswith("benchmarks."):
            once = ["--rounds", "1"] if "--rounds" in rest else []
            run("-m", module, *rest, *once, cwd=checkout)
        case _:
            raise AssertionError(f"no test knows how to run: {' '.join(command)}")


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link, _, anchor in re.findall(
            r"\]\(([^)#\s]*)(#([^)\s]+))?\)", page.read_text(encoding="utf8")
        ):
            if link.startswith("http"):
                continue
            there = page.parent / link if link else page
            assert there.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {link}#{anchor}"


def anchors(page):
    """What a page's headings are linked to by."""
    headings = re.findall(
        r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_navigation_under_its_title():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf8"))["nav"]
    listed = dict(entries(navigation))
    pages = {str(page.relative_to(ROOT / "docs")): page for page in PAGES[1:]}
    assert {path: listed[path] for path in pages} == {
        path: page.read_text(encoding="utf8").partition("\n")[0].removeprefix("# ")
        for path, page in pages.items()
    }


def entries(navigation):
    """The pages in a navigation, and what they are called."""
    for title, place in (item for part in navigation for item in part.items()):
        yield from entries(place) if isinstance(place, list) else [(place, title)]


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf8").splitlines()) <= 150
