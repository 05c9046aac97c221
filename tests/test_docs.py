"""Every code block of the README and of docs/ does what it says."""

import configparser
import functools
import json
import operator
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec

import pytest
import spacy
import yaml
from spacy.cli.init_config import fill_config
from spacy.tokens import DocBin
from spacy.util import Config, load_config

import spacy_early_exit
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.tasks.ner import DEFAULT_CONFIG
from tests.makers.commands import run
from tests.makers.project import ROOT
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


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
    (folder / "corpus").mkdir()
    for part in ("train", "tune", "dev"):
        docs = [example.reference for example in examples_of(nlp)]
        DocBin(docs=docs).to_disk(folder / "corpus" / f"{part}.spacy")
    fresh = {text for text in texts_of_all_lengths(count=300) if text.strip()} - {*TEXTS}
    (folder / "my-texts.txt").write_text("\n".join(sorted(fresh)), encoding="utf8")
    return folder


def write_token_classifier(encoder, folder):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    AutoModelForTokenClassification.from_pretrained(encoder, id2label=names).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


@pytest.mark.takes(seconds=25)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, whole, checkout, monkeypatch, tmp_path):
    """Block after block, as somebody would who reads on; quickly, without what takes long."""
    monkeypatch.chdir(checkout)
    names = {"__name__": "__main__", "texts": TEXTS, "path": tmp_path / "pipeline"}
    for kind, body in BLOCK.findall(page.read_text(encoding="utf8")):
        if kind == "python":
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


def test_the_readme_shows_every_setting_and_its_default():
    (block,) = [
        b for kind, b in BLOCK.findall(PAGES[0].read_text(encoding="utf8")) if kind == "ini"
    ]
    shown = Config().from_str(block)["components"]["early_exit_ner"]
    assert shown == {
        "factory": "early_exit_ner",
        **{name: value for name, value in DEFAULT_CONFIG.items() if name != "scorer"},
    }


def takes_long(command) -> bool:
    """Whether a command takes long that other quick tests run, in test_scripts.py and cli/."""
    match command:
        case ["python", "-m", "spacy", "train", *_]:
            return True
        case ["python", "-m", "spacy", "early-exit", "adopt" | "benchmark", *_]:
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
        case ["python", "-m", "spacy", "train", *rest]:
            short = ["--training.max_steps", "1", "--training.eval_frequency", "1"]
            run("-m", "spacy", "train", *rest, *short, cwd=checkout)
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
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_docs_are_in_the_readme():
    text = PAGES[0].read_text(encoding="utf8")
    assert all(f"docs/{page.name}" in text for page in PAGES[1:])
