"""Whatever a command is given, it works or says in a line what is wrong."""

import re
import shutil
import sys

import pytest
import spacy
import srsly
from spacy.tokens import DocBin
from spacy.util import Config, load_model_from_config
from typer.testing import CliRunner

from spacy_early_exit.cli import early_exit as commands
from spacy_early_exit.measure import evaluate as measuring
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.pipe.component import EarlyExitPipe
from tests.makers.commands import run
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
WEIGHTS = f"{NAME}/model/weights.safetensors"
SURROGATE = r'{"text": "\ud800 abc", "spans": []}'


@pytest.fixture(scope="module")
def work(tmp_path_factory, trained_bytes):
    """A folder with a calibrated pipeline, texts, and all that is wrong."""
    folder = tmp_path_factory.mktemp("refusals")
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    examples = examples_of(nlp)
    calibrate(nlp.get_pipe(NAME), examples, [1.5])
    nlp.to_disk(folder / "model")
    DocBin(docs=[eg.reference for eg in examples]).to_disk(folder / "tune.spacy")
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf8")
    many = {text for text in texts_of_all_lengths(count=40) if text.strip()}
    (folder / "many.txt").write_text("\n".join(sorted(many)), encoding="utf8")
    write_pipelines(folder)
    write_texts(folder)
    return folder


def write_pipelines(folder):
    whole = folder / "model"
    (folder / "file").write_text("no pipeline")
    (folder / "empty").mkdir()
    spacy.blank("en").to_disk(folder / "blank")
    sentencizer = spacy.blank("en")
    sentencizer.add_pipe("sentencizer")
    sentencizer.to_disk(folder / "sentencizer")
    unknown = (whole / "config.cfg").read_text().replace(f'"{NAME}"', '"early_exit_no"')
    for name, file, content in [
        ("half-weights", WEIGHTS, (whole / WEIGHTS).read_bytes()[:-100]),
        ("no-weights", WEIGHTS, None),
        ("no-config", "config.cfg", None),
        ("odd-config", "config.cfg", b"[nlp\nlang = ???"),
        ("binary-config", "config.cfg", b"\x80\x00\xff"),
        ("unknown-component", "config.cfg", unknown.encode()),
        ("null-meta", "meta.json", b"null"),
        ("odd-meta", "meta.json", b'{"lang": '),
        ("odd-tokenizer", "tokenizer", b"3"),
        ("no-strings", "vocab/strings.json", None),
        ("empty-vectors", "vocab/vectors", b""),
    ]:
        shutil.copytree(whole, folder / name)
        (folder / name / file).unlink()
        if content is not None:
            (folder / name / file).write_bytes(content)


def write_texts(folder):
    (folder / "folder.spacy").mkdir()
    (folder / "folder.jsonl").mkdir()
    (folder / "folder.txt").mkdir()
    data = (folder / "tune.spacy").read_bytes()
    for name, content in {
        "half.spacy": data[: len(data) // 2],
        "empty.spacy": b"",
        "lines.spacy": b'{"text": "Ann"}\n',
        "surrogate.jsonl": SURROGATE.encode(),
        "latin.jsonl": '{"text": "Zoë", "spans": []}'.encode("latin1"),
        "latin.txt": "Zoë".encode("latin1"),
        "list.jsonl": b'["Ann"]',
        "number.jsonl": b"7",
        "broken.jsonl": b'{"text": "Ann", "spans": [\n',
        "nan.jsonl": b'{"text": "Ann", "spans": [[NaN, 2, "PER"]]}',
        "large.jsonl": b'{"text": "Ann", "spans": [[0, 99999999999999999999999999, "PER"]]}',
        "no-text.jsonl": b'{"txt": "Ann", "spans": []}',
        "unannotated.jsonl": b'{"text": "Ann"}',
        "odd-span.jsonl": b'{"text": "Ann", "spans": [{"start": 0, "end": 30, "label": "PER"}]}',
        "odd-label.jsonl": b'{"text": "Ann", "spans": [{"start": 0, "end": 3, "label": "PER "}]}',
        "empty.jsonl": b"",
        "empty.txt": b"",
    }.items():
        (folder / name).write_bytes(content)
    nlp = spacy.blank("en")
    DocBin(docs=[nlp.make_doc(" "), nlp.make_doc("")]).to_disk(folder / "spaces.spacy")


def refused(*arguments):
    """What a command says, in one message, when it ends with exit code 1."""
    found = CliRunner().invoke(commands, [*map(str, arguments)])
    if not isinstance(found.exception, SystemExit):
        raise found.exception or AssertionError(f"not refused: {found.output}")
    assert found.exit_code == 1, found.output
    assert "Traceback" not in found.output
    _, said = found.output.split("✘")
    assert "\n\n" not in said.strip(), "a title, and a line of text"
    return " ".join(said.split())


ANNOTATED = {
    "no.spacy": "There is no file",
    "no.jsonl": "There is no file",
    "a" * 5000: "There is no file",
    "folder.spacy": "folder.spacy is a folder, not a file",
    "folder.jsonl": "folder.jsonl is a folder, not a file",
    "half.spacy": "half.spacy can't be read as a .spacy file: ",
    "empty.spacy": "empty.spacy can't be read as a .spacy file: ",
    "lines.spacy": "lines.spacy can't be read as a .spacy file: ",
    "texts.txt": "texts.txt can't be read as a .spacy file: ",
    "surrogate.jsonl": "surrogate.jsonl, line 1: character 0 of the text is a lone surrogate",
    "latin.jsonl": "latin.jsonl is not UTF-8: the byte 0xeb in line 1",
    "list.jsonl": "list.jsonl, line 1: expected {",
    "number.jsonl": "number.jsonl, line 1: expected {",
    "broken.jsonl": "broken.jsonl, line 1: not valid JSON",
    "nan.jsonl": "nan.jsonl, line 1: not valid JSON",
    "large.jsonl": "large.jsonl, line 1: not valid JSON (Value is too big!)",
    "no-text.jsonl": "no-text.jsonl, line 1: expected {",
    "unannotated.jsonl": "unannotated.jsonl has no annotated texts.",
    "odd-span.jsonl": "can't reach from character 0 to 30 in a text of 3",
    "odd-label.jsonl": "odd-label.jsonl, line 1: the label 'PER ' can't be used: it begins",
    "empty.jsonl": "empty.jsonl has no annotated texts.",
    "spaces.spacy": "the texts have no words",
}
NEED_ENTITIES = ("unannotated.jsonl", "odd-span.jsonl", "odd-label.jsonl")
PLAIN = {
    **{name: said for name, said in ANNOTATED.items() if name not in NEED_ENTITIES},
    "folder.txt": "folder.txt is a folder, not a file",
    "latin.txt": "latin.txt is not UTF-8: the byte 0xeb in line 1",
    "empty.txt": "the texts have no words",
    "empty.jsonl": "the texts have no words",
}
del PLAIN["texts.txt"], PLAIN["a" * 5000]
PIPELINES = {
    "nowhere": "[E050]",
    "b" * 5000: "File name too long",
    "file": "meta.json",
    "empty": "meta.json",
    "no-config": "config.cfg",
    "odd-config": "Config validation error",
    "binary-config": "utf-8",
    "unknown-component": "early_exit_no",
    "null-meta": "TypeError",
    "odd-meta": "Expected object or value",
    "odd-tokenizer": "TypeError",
    "no-strings": "strings.json",
    "empty-vectors": "EOFError",
    "half-weights": "weights.safetensors",
    "no-weights": "weights.safetensors",
}
WITHOUT_EARLY_EXIT = {"blank": "has no early-exit component", "sentencizer": "It has: sentencizer."}
NOT_WRITABLE = {"/proc/none/x": "can't be written", "texts.txt/x": "texts.txt is a file"}
FILES = {"empty": "must be a file, but", "/dev/full": "No space left on device"}

# How each command is called, with a word that stands for what is wrong.
EVALUATE = ["evaluate", "MODEL", "DATA", "-s", "1", "-r", "0", "-o", "OUTPUT"]
REPORT = ["report", "MODEL", "DATA", "-s", "1", "-r", "0", "-o", "OUTPUT"]
CALIBRATE = ["calibrate", "MODEL", "DATA", "-s", "1.5", "-o", "OUTPUT"]
UNLABELLED = [*CALIBRATE, "--unlabelled"]
HELD_OUT = ["calibrate", "MODEL", "tune.spacy", "-o", "OUTPUT", "--max-disagreement", "0.1"]
HELD_OUT += ["--held-out", "DATA"]
BENCHMARK = ["benchmark", "MODEL", "DATA", "-s", "1", "-r", "1", "-t", "1", "-o", "OUTPUT"]
BESIDE = ["benchmark", "model", "tune.spacy", "--beside", "MODEL", "-r", "1"]
NAMED = ["benchmark", "model", "tune.spacy", "--beside", "it=MODEL", "-r", "1"]
ADOPT = ["adopt", "MODEL", "DATA", "-o", "OUTPUT"]
MANY = ["adopt", "MODEL", "many.txt", "-o", "OUTPUT"]
GOOD = {"MODEL": "model", "DATA": "tune.spacy", "OUTPUT": "made"}


def cases():
    for command, place, kinds in [
        *[(command, "MODEL", PIPELINES) for command in (EVALUATE, REPORT, CALIBRATE, BENCHMARK)],
        *[(command, "MODEL", WITHOUT_EARLY_EXIT) for command in (EVALUATE, REPORT, CALIBRATE)],
        (BESIDE, "MODEL", PIPELINES),
        (NAMED, "MODEL", {"nowhere": "nowhere can't be measured", "null-meta": "TypeError"}),
        *[(command, "DATA", ANNOTATED) for command in (EVALUATE, REPORT, CALIBRATE, BENCHMARK)],
        *[(command, "DATA", PLAIN) for command in (UNLABELLED, HELD_OUT, ADOPT)],
        *[(command, "OUTPUT", FILES) for command in (EVALUATE, REPORT)],
        (BENCHMARK, "OUTPUT", {"empty": "must be a file, but"}),
        *[(command, "OUTPUT", {"file": "must be a folder, but"}) for command in (CALIBRATE, ADOPT)],
        *[
            (command, "OUTPUT", NOT_WRITABLE)
            for command in (EVALUATE, REPORT, CALIBRATE, BENCHMARK, ADOPT)
        ],
        (MANY, "MODEL", {"./nowhere": "Can't adopt './nowhere'", "empty": "no file named"}),
    ]:
        for wrong, said in kinds.items():
            if command in (HELD_OUT, ADOPT) and said == "the texts have no words":
                said = "are too few"
            if wrong.startswith(("/dev", "/proc")) and sys.platform != "linux":
                continue
            name = f"{command[0]}{len(command)}-{place}-{wrong[:20]}"
            yield pytest.param(command, place, wrong, said, id=name)


def one_command_each():
    """Quickly, what is wrong is given to one command, in turn, and the rest slowly."""
    commands_of = {}
    for case in cases():
        _, place, wrong, _ = case.values
        commands_of.setdefault((place, wrong), []).append(case)
    for number, some in enumerate(commands_of.values()):
        for case in some:
            marks = [] if case is some[number % len(some)] else [pytest.mark.slow]
            yield pytest.param(*case.values, id=case.id, marks=marks)


@pytest.mark.parametrize("command, place, wrong, said", [*one_command_each()])
def test_what_is_wrong_is_said_in_a_line(command, place, wrong, said, work, monkeypatch):
    monkeypatch.chdir(work)
    given = {**GOOD, place: wrong}
    arguments = []
    for argument in command:
        for word, value in given.items():
            argument = argument.replace(word, value)
        arguments.append(argument)
    assert said in refused(*arguments)
    assert not (work / "made").exists()


@pytest.mark.parametrize("setting", ["threshold", "adaptive", "threads"])
def test_a_wrong_setting_is_named_without_all_the_others(setting, work):
    config = (work / "model" / "config.cfg").read_text()
    wrong = re.sub(rf"(?m)^{setting} = .*$", f'{setting} = "seven"', config, count=1)
    folder = work / f"wrong-{setting}"
    shutil.copytree(work / "model", folder)
    (folder / "config.cfg").write_text(wrong)
    said = refused("evaluate", folder, work / "tune.spacy")
    assert setting in said and "seven" in said
    assert "layer_weights" not in said and len(said) < 400, said


def test_a_language_that_is_none_is_refused(work):
    texts = work / "many.txt"
    said = refused("adopt", "any", texts, "-o", work / "made", "--lang", "klingon")
    assert "--lang can't be 'klingon'" in said and "E048" in said


@pytest.mark.parametrize("content", ["no JSON", "[]", "{}", '{"about": [], "contenders": {}}', ""])
def test_results_of_something_else_are_not_gone_on_with(content, work):
    (work / "other.json").write_text(content)
    command = ["benchmark", work / "model", work / "tune.spacy", "-s", "1", "-r", "1"]
    said = refused(*command, "-o", work / "other.json")
    assert "other.json exists, but does not hold results" in said
    assert (work / "other.json").read_text() == content


@pytest.mark.parametrize("factory", ["early_exit_tagger", "early_exit_segmenter"])
def test_entities_do_not_measure_what_finds_none(factory, work, encoders):
    nlp = spacy.blank("en")
    nlp.add_pipe(factory, config={"model": {"encoder": {"name": encoders["bert"]}}})
    nlp.to_disk(work / factory)
    srsly.write_jsonl(work / "good.jsonl", [{"text": "Ann", "spans": []}])
    for command in ("evaluate", "report", "calibrate"):
        said = refused(command, work / factory, work / "good.jsonl", "-o", work / "made")
        assert f"good.jsonl has entities, but '{factory}' finds none" in said
        assert ".spacy" in said


def test_a_pipeline_that_cannot_be_saved_is_refused(work, monkeypatch):
    output = work / "linked"
    output.mkdir()
    (output / NAME).symlink_to(work / "model" / NAME)
    command = ["calibrate", work / "model", work / "tune.spacy", "-s", "1.5", "-o"]
    said = refused(*command, output)
    assert "linked can't be written." in said and "Nothing is saved through links" in said

    def too_large(*arguments, **settings):
        raise ValueError("It is too large.")

    monkeypatch.setattr(EarlyExitPipe, "to_disk", too_large)
    said = refused(*command, work / "made")
    assert "made can't be written." in said and "It is too large." in said
    shutil.rmtree(work / "made", ignore_errors=True)


def failing(module):
    """A function of a module that fails as only mistakes in programs do."""
    names = {"__name__": module}
    exec("def fail(*arguments, **settings): raise KeyError('a mistake')", names)
    return names["fail"]


def test_our_own_mistakes_stay_tracebacks(work, monkeypatch):
    command = ["evaluate", work / "model", work / "tune.spacy", "-s", "1", "-r", "0"]
    for place, name in ((measuring, "count_words"), (EarlyExitPipe, "from_disk")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, failing("spacy_early_exit.somewhere"))
            found = CliRunner().invoke(commands, [*map(str, command)])
        assert isinstance(found.exception, KeyError) and "✘" not in found.output, name
    monkeypatch.setattr(EarlyExitPipe, "from_disk", failing("srsly.somewhere"))
    assert "KeyError: 'a mistake'" in refused(*command), "what is damaged meets theirs"


def test_spacys_command_line_ends_with_the_message_too(work):
    command = ["-m", "spacy", "early-exit", "evaluate", work / "model", work / "surrogate.jsonl"]
    output = run(*command, ok=False)
    assert "lone surrogate" in " ".join(output.split()) and "Traceback" not in output


def test_several_components_must_be_told_apart(work):
    nlp = spacy.load(work / "model")
    nlp.add_pipe(NAME, name="other", source=spacy.load(work / "model"))
    nlp.to_disk(work / "two")
    said = refused("evaluate", work / "two", work / "tune.spacy")
    assert "two has 2 early-exit components" in said and f"{NAME}, other" in said


def test_names_that_no_terminal_can_show_are_refused_all_the_same(work):
    name = work / "a\udcff.jsonl"  # a byte that is no UTF-8
    assert "There is no file" in refused("evaluate", work / "model", name)
