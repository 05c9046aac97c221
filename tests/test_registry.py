"""What setup.cfg registers is what the code has, with its entry points and without."""

import configparser
import inspect
import re
import subprocess
import sys
import typing
from importlib.metadata import entry_points

import pytest
import spacy
from spacy import registry
from spacy.language import Language

from spacy_early_exit.registering import PLACES, PREFIX, Deferred
from tests.makers.pipelines import answers
from tests.makers.project import OTHERS, ROOT, hiding
from tests.makers.texts import TEXTS

GROUPS = (
    "spacy_factories",
    "spacy_architectures",
    "spacy_batchers",
    "spacy_misc",
    "spacy_readers",
    "spacy_scorers",
    "spacy_callbacks",
    "spacy_cli",
    "thinc_optimizers",  # thinc's registry, which spaCy's looks into
)
OURS = [
    (point.group, point.name)
    for group in GROUPS
    for point in entry_points(group=group)
    if point.value.startswith("spacy_early_exit.")
]
DEFERRED = [(kind, name, place) for kind in PLACES for name, place in PLACES[kind].items()]


def test_there_are_entry_points_of_every_kind():
    assert {group for group, _ in OURS} == set(GROUPS)


@pytest.mark.parametrize("group,name", OURS)
def test_every_entry_point_is_found_by_spacy(group, name):
    if group == "spacy_factories":
        Language.get_factory_meta(name)
    elif group == "spacy_cli":
        assert name in registry.cli
    else:
        found = registry.get(group.partition("_")[2], name)
        assert callable(found) and found.__doc__
        assert name.startswith("spacy-early-exit.") and re.search(r"\.v\d+$", name)


class TestWithoutEntryPoints:
    """As in a frozen application."""

    def test_the_import_registers_what_setup_cfg_names(self):
        if not (ROOT / "setup.cfg").exists():
            pytest.skip("not a checkout")
        config = configparser.ConfigParser(delimiters=["="])
        config.optionxform = str
        config.read(ROOT / "setup.cfg")
        named = {
            group: dict(line.split(" = ") for line in lines.split("\n") if line)
            for group, lines in config["options.entry_points"].items()
        }
        assert set(named.pop("spacy_cli")) == {"early-exit"}
        for factory in named.pop("spacy_factories"):
            Language.get_factory_meta(factory)
        assert named == {
            f"{'thinc' if kind == 'optimizers' else 'spacy'}_{kind}": {
                f"{PREFIX}{n}": f"spacy_early_exit.{place}" for n, place in of.items()
            }
            for kind, of in PLACES.items()
        }

    @pytest.mark.parametrize("kind,name,place", DEFERRED)
    def test_what_is_registered_looks_like_the_function_itself(self, kind, name, place):
        function, deferred = registry.get(kind, f"{PREFIX}{name}"), Deferred(place)
        assert deferred.__wrapped__ is function
        assert inspect.signature(deferred) == inspect.signature(function)
        assert typing.get_type_hints(deferred) == typing.get_type_hints(function)
        assert deferred.__name__ == function.__name__
        assert inspect.getmodule(deferred).__name__ == f"spacy_early_exit.{place.split(':')[0]}"

    def run(self, script, *arguments) -> str:
        code = hiding(*OTHERS, "spacy_early_exit") + "import sys, spacy, spacy_early_exit\n"
        command = [sys.executable, "-W", "error::UserWarning", "-c", code + script]
        found = subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    @pytest.mark.takes(seconds=15)
    def test_a_saved_pipeline_loads_predicts_and_trains(self, nlp, tmp_path, encoders):
        nlp.to_disk(tmp_path / "saved")
        script = (
            "from tests.makers.pipelines import answers\n"
            "from tests.makers.texts import TEXTS, examples_of\n"
            "nlp = spacy.load(sys.argv[1])\n"
            "print([answers(doc) for doc in nlp.pipe(TEXTS)])\n"
            "optimizer = nlp.initialize(lambda: examples_of(nlp))\n"
            "optimizer.learn_rate = 1e-4\n"
            "nlp.update(examples_of(nlp), sgd=optimizer)\n"
            "nlp.to_disk(sys.argv[2])\n"
        )
        printed = self.run(script, tmp_path / "saved", tmp_path / "again")
        again = spacy.load(tmp_path / "saved")
        assert printed.strip() == str([answers(doc) for doc in again.pipe(TEXTS)])
        # Defaults are those of the functions themselves.
        assert spacy.load(tmp_path / "again").config == again.config

    @pytest.mark.takes(seconds=12)
    def test_every_component_can_be_added(self):
        kinds = ("early_exit_ner", "early_exit_tagger", "early_exit_segmenter")
        script = f"for kind in {kinds}: print(spacy.blank('zh').add_pipe(kind).name)"
        assert self.run(script).split() == [*kinds]

    def test_the_commands_are_there(self):
        script = (
            "from spacy.cli._util import setup_cli\n"
            "sys.argv = ['spacy', 'early-exit', '--help']\n"
            "setup_cli()"
        )
        assert "calibrate" in self.run(script)


def test_entry_points_and_import_together_register_each_command_once():
    from spacy.cli._util import app

    import spacy_early_exit.cli as cli

    groups = [group.typer_instance for group in app.registered_groups]
    assert groups.count(cli.early_exit) == 1
    commands = [command.name for command in cli.early_exit.registered_commands]
    assert len(commands) == len(set(commands))
