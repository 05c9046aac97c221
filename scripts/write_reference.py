"""Write the pages of docs/reference that follow from the code: settings and commands."""

import argparse
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer
from spacy import registry

from spacy_early_exit.cli import early_exit
from spacy_early_exit.pipe.component import EarlyExitPipe
from spacy_early_exit.registering import PREFIX
from spacy_early_exit.retired import RETIRED
from spacy_early_exit.settings import Settings
from spacy_early_exit.tasks.ner import DEFAULT_CONFIG, NERSettings
from spacy_early_exit.tasks.tagger import TaggerSettings

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
# What the blocks of a component's config may be. The default comes first.
BLOCKS = {
    "criterion": {
        "TokenExit.v1": "Single words exit (TOKEE).",
        "SentenceExit.v1": "Whole windows exit (SENTEE), when their least certain word is sure.",
        "PatienceExit.v1": "Words exit when neighbouring layers agree on their tag (PABEE). A "
        "`threshold` of 1 is patience alone, as published; below, words must also be certain.",
        "BeliefExit.v1": "Words exit by their belief after hearing their neighbours. Needs a "
        "pipeline trained with `AINDecoder.v1`, whose transitions it uses.",
        "TokenReduction.v1": "Selectors that are trained (`ReductionTraining.v1`) decide which "
        "words continue (TR-BERT).",
    },
    "decoder": {
        "BIOViterbi.v1": "The most probable sequence of tags that is valid BIO.",
        "Viterbi.v1": "The most probable sequence that is valid for the component's tags.",
        "Greedy.v1": "The best tag of each word, for models whose authors decoded like that.",
        "CRFDecoder.v1": "A linear-chain CRF. Its transitions are trained with the pipeline.",
        "AINDecoder.v1": "Mean-field inference in a CRF (AIN), trained with the pipeline.",
    },
    "training": {
        "JointTraining.v1": "The first stage: no word exits, and all heads learn at once.",
        "SelfSampling.v1": "The second stage: words exit while training, as when predicting.",
        "EarlyBirdSearch.v1": "The first stage with gates, which shows what "
        "[slim encoders](../how-to/slim.md) can do without.",
        "MetaSelfTraining.v1": "For few labels and much text: a new network learns a teacher's "
        "tags, each word weighted by how much it helps on labelled text (MetaST).",
        "ReductionTraining.v1": "Trains the selectors of `TokenReduction.v1`.",
    },
    "model": {"EarlyExitTagger.v3": "The network: an encoder with exit heads."},
    "model.encoder": {
        "HFEncoder.v1": "An encoder in Hugging Face's format, loaded by `nlp.initialize`.",
        "PipelineEncoder.v1": "The encoder of a spaCy pipeline, copied by `nlp.initialize`.",
        "SharedEncoder.v1": "The encoder of another component of the same pipeline: see "
        "[share an encoder](../how-to/share.md).",
    },
    "get_spans": {
        "line_spans.v1": "Lines, as `str.splitlines` cuts them.",
        "paragraph_spans.v1": "What is between empty lines.",
        "sent_spans.v1": "Sentences, as set by a component before this one.",
    },
}
HOLD_SAVING = (
    "Before each evaluation it sets the threshold that reaches the speedup, so that checkpoints "
    "are chosen at equal cost. Each is saved with its own threshold."
)
AVERAGE_WEIGHTS = (
    "What is saved lies between the pipeline that training started from and the weights that it "
    "has reached, which go on as they are."
)
JOINED_CORPUS = (
    "Joins some of the texts with those that follow them. Everything else is as in "
    "`spacy.Corpus.v1`, except that joined texts have no categories."
)
UNTIL_DRAWN = "Ends the training of `EarlyBirdSearch.v1` once the ticket is drawn."
ARGUMENT = re.compile(r"^\*{0,2}(\w+) \((.+?)\): (.*)$")
WRITTEN = "<!-- Written by scripts/write_reference.py. To update: make reference -->"


def main() -> None:
    """Run the script."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, page in pages().items():
        (FOLDER / name).write_text(page, encoding="utf8")
        print(f"Wrote {FOLDER / name}")


def pages() -> dict[str, str]:
    """RETURNS (dict[str, str]): The pages, by file name."""
    return {
        "settings.md": "\n".join(settings_page()) + "\n",
        "commands.md": "\n".join(commands_page()) + "\n",
    }


def settings_page() -> Iterator[str]:
    """YIELDS (str): The lines of the page of settings."""
    yield from ("# Settings", "", WRITTEN, "")
    yield "Settings go into the config. `spacy init fill-config` adds those that are missing, with"
    yield "the defaults shown here. A wrong one is refused with a message."
    yield from ("", "A `config.cfg` may also list options that were removed:")
    yield f"{gone()}."
    yield "They are read, and change nothing; a value that would is refused."
    yield from ("", "## All components", "")
    yield "In `[components.early_exit_ner]`, and so for the tagger and the segmenter."
    of_pipe = arguments_of(EarlyExitPipe)
    knobs = {name: (of_pipe[name], DEFAULT_CONFIG[name]) for name in ("threshold", "speedup")}
    yield from table({**knobs, **of_settings(Settings)})
    for name, kind in (("early_exit_ner", NERSettings), ("early_exit_tagger", TaggerSettings)):
        own = {key: row for key, row in of_settings(kind).items() if key in vars(kind)}
        yield from ("", f"## {name}", *table(own))
    yield from ("", "## Blocks", "")
    yield "A block is a section of its own, and `@misc` (`@architectures` for the model) says which"
    yield "registered function makes it. You can [write another](../how-to/extend.md)."
    for block, choices in BLOCKS.items():
        yield from ("", f"### {block}")
        for name, what in choices.items():
            yield from block_lines(block, name, what)
    yield from ("", "## While training", "")
    yield "`[training.before_update]` of the second stage:"
    yield from block_lines("callback", "hold_saving.v1", HOLD_SAVING)
    yield from ("", "`[training.before_to_disk]` of the second stage, where the corpus is small:")
    yield from block_lines("callback", "average_weights.v1", AVERAGE_WEIGHTS)
    yield from ("", "`[corpora.train]`, for pipelines that will read documents:")
    yield from block_lines("reader", "JoinedCorpus.v1", JOINED_CORPUS)
    yield from ("", "`[training.batcher]` of the search for a slim encoder:")
    yield from block_lines("batcher", "until_drawn.v1", UNTIL_DRAWN)
    yield from ("", "## The whole config", "")
    yield "Of `early_exit_ner`, with every default:"
    yield from ("", "```ini", *config_lines(), "```")


def gone() -> str:
    """RETURNS (str): The options that were removed, in alphabetical order."""
    names = sorted({name for options in RETIRED.values() for name in options})
    *others, last = [f"`{name}`" for name in names]
    return f"{', '.join(others)} and {last}"


def block_lines(block: str, name: str, what: str) -> Iterator[str]:
    """YIELDS (str): The lines of a registered function."""
    kinds = {
        "model": registry.architectures,
        "callback": registry.callbacks,
        "batcher": registry.batchers,
        "reader": registry.readers,
    }
    function = inspect.unwrap(kinds.get(block, registry.misc).get(PREFIX + name))
    yield from ("", f"#### {name}", "", f"`{PREFIX}{name}`: {what}")
    told, signature = arguments_of(function), inspect.signature(function).parameters
    rows = {key: (told[key], argument.default) for key, argument in signature.items()}
    if rows:
        yield from table(rows, inspect.Parameter.empty)


def of_settings(kind: type) -> dict[str, tuple[str, Any]]:
    """RETURNS (dict[str, tuple[str, Any]]): The description of each setting of a class, and its
    default.
    """
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        told.update(arguments_of(base))
    return {field.name: (told[field.name], field.default) for field in fields(kind)}


def table(rows: dict[str, tuple[str, Any]], required: object = None) -> Iterator[str]:
    """YIELDS (str): The lines of a table of settings.

    rows (dict[str, tuple[str, Any]]): The description and default of each setting.
    required (object): Stands for the default of settings that have none.
    """
    yield from ("", "| setting | default | what it does |", "| --- | --- | --- |")
    for name, (text, default) in rows.items():
        none = required is not None and default is required
        shown = "required" if none else f"`{as_json(default)}`"
        yield f"| `{name}` | {shown} | {text} |"


def as_json(value: Any) -> str:
    """RETURNS (str): A value as written in configs."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def arguments_of(thing: Any) -> dict[str, str]:
    """RETURNS (dict[str, str]): The arguments in a docstring, and their descriptions."""
    found: dict[str, str] = {}
    name = None
    for line in textwrap.dedent(inspect.getdoc(thing) or "").splitlines():
        if match := ARGUMENT.match(line):
            name, _, text = match.groups()
            found[name] = text
        elif name and line.startswith("    "):
            found[name] += f" {line.strip()}"
        else:
            name = None
    return {name: as_markdown(text) for name, text in found.items()}


def as_markdown(text: str) -> str:
    """RETURNS (str): A docstring's text in markdown, for a cell of a table."""
    text = text.replace("``", "`").replace("|", "\\|")
    return re.sub(r"\bNone\b", "null", text)


def config_lines() -> Iterator[str]:
    """YIELDS (str): The lines of the default config of ``early_exit_ner``."""
    yield from ("[nlp]", 'lang = "en"', 'pipeline = ["early_exit_ner"]', "", "[components]", "")
    yield from ("[components.early_exit_ner]", 'factory = "early_exit_ner"')
    yield from section("components.early_exit_ner", DEFAULT_CONFIG)


def section(name: str, config: dict[str, Any]) -> Iterator[str]:
    """YIELDS (str): The lines of a section's settings, then of the sections inside it."""
    for key, value in config.items():
        if not isinstance(value, dict):
            yield f"{key} = {as_json(value)}"
    for key, value in config.items():
        if isinstance(value, dict) and key != "scorer":
            yield from ("", f"[{name}.{key}]")
            yield from section(f"{name}.{key}", value)


def commands_page() -> Iterator[str]:
    """YIELDS (str): The lines of the page of commands."""
    yield from ("# Commands", "", WRITTEN, "")
    yield "`python -m spacy early-exit COMMAND --help` says the same."
    group: Any = typer.main.get_command(early_exit)
    for name, command in sorted(group.commands.items()):
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name == "option"]
        yield from ("", f"## {name}", "")
        names = " ".join(argument.name.upper() for argument in arguments)
        yield from ("```text", f"python -m spacy early-exit {name} {names} [OPTIONS]", "```", "")
        yield inspect.cleandoc(command.help or "")
        yield from ("", "| argument | what it is |", "| --- | --- |")
        for argument in arguments:
            yield f"| `{argument.name.upper()}` | {cell(argument.help)} |"
        yield from ("", "| option | default | what it does |", "| --- | --- | --- |")
        for option in options:
            yield option_row(option)


def option_row(option: Any) -> str:
    """RETURNS (str): The row of an option."""
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))
    names += "".join(f" / `{name}`" for name in option.secondary_opts)
    default = option.default
    if option.required:
        shown = "required"
    elif option.is_flag:
        shown = f"`{option.opts[0]}`" if default else "off"
    else:
        shown = "" if default is None else f"`{default}`"
    return f"| {names} | {shown} | {cell(option.help)} |"


def cell(text: str | None) -> str:
    """RETURNS (str): A help text in a cell of a table."""
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    main()
