"""A save into a folder that has one already: what is there then is of one pipeline, and no more."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import spacy
import torch

from tests.makers.pipelines import answers, blank
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
MODEL = {"network.json", "tokenizer.json", "weights.safetensors"}
ORIGINAL = "original.safetensors"


def everything(nlp):
    return [answers(doc) for doc in nlp.pipe(TEXTS)]


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def listing(folder) -> set:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def size(folder) -> int:
    return sum(map(len, contents(folder).values()))


@pytest.fixture
def adopted(nlp):
    """As an adopted pipeline is: another network answers at full depth."""
    shim = nlp.get_pipe(NAME).model.shims[0]
    original = shim.teacher()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(0.01)
    shim.keep_original(original)
    return nlp


@pytest.fixture
def saved(adopted, tmp_path):
    adopted.to_disk(tmp_path / "pipeline")
    assert listing(tmp_path / "pipeline" / NAME / "model") == MODEL | {ORIGINAL}
    return tmp_path / "pipeline"


def train_on(nlp):
    nlp.update(examples_of(nlp), sgd=nlp.resume_training())
    assert nlp.get_pipe(NAME).model.shims[0].trained.original is None
    return nlp


class TestWhatIsThere:
    def test_a_network_that_was_trained_away_does_not_stay(self, adopted, saved, tmp_path):
        before = size(saved / NAME / "model")
        train_on(adopted).to_disk(saved)
        adopted.to_disk(tmp_path / "fresh")
        assert listing(saved) == listing(tmp_path / "fresh")
        assert size(saved / NAME / "model") < 0.7 * before
        assert everything(spacy.load(saved)) == everything(adopted)

    def test_nor_does_it_get_into_a_package(self, adopted, saved, tmp_path):
        train_on(adopted).to_disk(saved)
        shutil.copytree(saved, tmp_path / "package")  # as spacy package does
        assert listing(tmp_path / "package" / NAME) == {"cfg", *(f"model/{name}" for name in MODEL)}
        assert everything(spacy.load(tmp_path / "package")) == everything(adopted)

    def test_an_untrained_component_leaves_no_network(self, saved, encoders):
        untrained = blank(encoders["bert"])
        untrained.to_disk(saved)
        assert {path.name for path in (saved / NAME).iterdir()} == {"cfg"}
        with pytest.raises(ValueError, match="no weights yet"):
            spacy.load(saved)("Ann")

    def test_what_it_has_comes_back(self, adopted, saved, encoders):
        before, expected = contents(saved), everything(adopted)
        blank(encoders["bert"]).to_disk(saved)
        adopted.to_disk(saved)
        assert contents(saved) == before and everything(spacy.load(saved)) == expected

    @pytest.mark.parametrize("left", [ORIGINAL, f"{ORIGINAL}.saving", "weights.safetensors.saving"])
    def test_what_a_killed_save_left_goes_as_well(self, left, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        expected = listing(tmp_path)
        (tmp_path / NAME / "model" / left).touch()
        nlp.to_disk(tmp_path)
        assert listing(tmp_path) == expected


class TestWhatStays:
    def test_a_users_own_files_and_folders(self, adopted, saved, encoders):
        own = [saved / NAME / "model" / "notes.txt", saved / NAME / "my" / "weights.safetensors"]
        own += [saved / NAME / "model" / "heads" / "network.json", saved / NAME / ORIGINAL]
        for path in own:
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
        blank(encoders["bert"]).to_disk(saved)
        assert [path.read_text() for path in own] == ["mine"] * len(own)
        assert not {path.name for path in (saved / NAME / "model").iterdir()} & {*MODEL, ORIGINAL}
        (saved / NAME / "model" / ORIGINAL).mkdir()
        train_on(adopted).to_disk(saved)
        assert (saved / NAME / "model" / ORIGINAL).is_dir()

    @pytest.mark.parametrize("exclude", ["model", "cfg"])
    def test_what_is_left_out(self, exclude, adopted, saved):
        before = contents(saved / NAME)
        train_on(adopted).get_pipe(NAME).to_disk(saved / NAME, exclude=["vocab", exclude])
        after = contents(saved / NAME)
        kept = [path for path in before if exclude in path.relative_to(saved / NAME).parts]
        assert kept and all(after[path] == before[path] for path in kept)
        assert (saved / NAME / "model" / ORIGINAL in after) == (exclude == "model")

    def test_what_a_link_in_the_place_of_a_file_leads_to(self, adopted, saved, tmp_path):
        (tmp_path / "outside").write_text("of somebody")
        (saved / NAME / "model" / ORIGINAL).unlink()
        (saved / NAME / "model" / ORIGINAL).symlink_to(tmp_path / "outside")
        train_on(adopted).to_disk(saved)
        assert (tmp_path / "outside").read_text() == "of somebody"
        assert listing(saved / NAME / "model") == MODEL

    def test_all_if_the_folder_of_the_network_is_a_link(self, saved, encoders, tmp_path):
        (saved / NAME / "model").rename(tmp_path / "outside")
        (saved / NAME / "model").symlink_to(tmp_path / "outside", target_is_directory=True)
        before = contents(tmp_path / "outside")
        with pytest.raises(OSError, match="is a link to"):
            blank(encoders["bert"]).get_pipe(NAME).to_disk(saved / NAME, exclude=["vocab"])
        assert contents(tmp_path / "outside") == before

    @pytest.mark.parametrize("component", ["trained on", "untrained"])
    def test_all_if_the_save_fails(self, component, adopted, saved, encoders, monkeypatch):
        before, expected = contents(saved), everything(adopted)
        nlp = train_on(adopted) if component == "trained on" else blank(encoders["bert"])
        replace = Path.replace

        def fails(path, target):
            if Path(target).name == f"{ORIGINAL}.saving":
                raise OSError("the folder can't be written to")
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", fails)
        with pytest.raises(OSError, match="can't be written to"):
            nlp.get_pipe(NAME).to_disk(saved / NAME, exclude=["vocab"])
        monkeypatch.undo()
        assert contents(saved) == before and everything(spacy.load(saved)) == expected


def killed_after(steps, pipe, folder):
    """Save, but end without a word at a renaming or a removal. Its exit code says which it was."""
    done = 0

    def counted(step):
        def run(*arguments, **options):
            nonlocal done
            if done == steps:
                os._exit(3)
            done += 1
            return step(*arguments, **options)

        return run

    Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)
    pipe.to_disk(folder, exclude=["vocab"])
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks, to be killed")
@pytest.mark.parametrize(
    "component", ["trained on", pytest.param("untrained", marks=pytest.mark.slow)]
)
@pytest.mark.takes(seconds=12)
def test_a_save_that_is_killed_at_any_step_gives_the_one_the_other_or_an_error(
    component, adopted, saved, encoders, tmp_path
):
    found, old = [], everything(adopted)
    nlp = train_on(adopted) if component == "trained on" else blank(encoders["bert"])
    new = everything(nlp) if component == "trained on" else "no weights"
    context = multiprocessing.get_context("fork")
    for steps in range(40):
        folder = shutil.copytree(saved, tmp_path / f"killed{steps}")
        arguments = (steps, nlp.get_pipe(NAME), folder / NAME)
        process = context.Process(target=killed_after, args=arguments)
        process.start()
        process.join()
        try:
            found.append(everything(spacy.load(folder)))
        except ValueError as e:
            found.append("no weights" if "no weights yet" in str(e) else str(e))
        if process.exitcode == 0:
            break
        assert process.exitcode == 3
        # And the next one goes through, with nothing left of this.
        nlp.get_pipe(NAME).to_disk(folder / NAME, exclude=["vocab"])
        expected = {"cfg", *(f"model/{name}" for name in MODEL if component == "trained on")}
        assert listing(folder / NAME) == expected
    assert found[0] == old and found[-1] == new and len(found) > 10
    for outcome in found:
        assert (
            outcome in (old, new)
            or "not belong to the same pipeline" in outcome
            or "not what" in outcome
        )
