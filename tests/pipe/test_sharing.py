"""spaCy shares a component that another pipeline sources: it is said where it can be noticed."""

import gc
import warnings

import pytest
import spacy

import spacy_early_exit
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


@pytest.fixture
def nlp(nlp, tmp_path_factory):
    """A trained pipeline that is loaded as users do it, not one that was pickled."""
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return spacy.load(folder)


@pytest.fixture
def other(nlp):
    """Another pipeline with the same component, under another name."""
    other = spacy.blank("en")
    other.add_pipe(NAME, source=nlp, name="other")
    return other


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


class TestSaid:
    @pytest.mark.parametrize("which", ["first", "other"])
    def test_once_where_either_is_used(self, which, nlp, other):
        used = {"first": nlp, "other": other}[which]
        about = f"'other' is shared.*still has it, as '{NAME}'.*source=spacy.load"
        with pytest.warns(UserWarning, match=about):
            used(TEXTS[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            nlp(TEXTS[0])
            list(other.pipe(TEXTS))

    def test_where_either_is_trained(self, nlp, other):
        with pytest.warns(UserWarning, match="is shared"):
            nlp.update(examples_of(nlp), sgd=nlp.resume_training())

    @pytest.mark.slow
    def test_where_either_is_configured(self, nlp, other):
        with pytest.warns(UserWarning, match="whatever its config says"):
            spacy_early_exit.configure(nlp, threshold=0.2)

    def test_where_one_of_the_same_name_is_configured(self, nlp):
        other = spacy.blank("en")
        other.add_pipe(NAME, source=nlp)
        with pytest.warns(UserWarning, match=f"'{NAME}' is shared.*as '{NAME}'"):
            spacy_early_exit.configure(other, threshold=0.2)

    def test_where_the_first_one_of_the_same_name_is_configured(self, nlp):
        other = spacy.blank("en")
        other.add_pipe(NAME, source=nlp)
        with pytest.warns(UserWarning, match=f"'{NAME}' is shared: another pipeline.*'{NAME}'"):
            spacy_early_exit.configure(nlp, threshold=0.2)
        assert other.get_pipe(NAME).threshold == 0.2, "as it says"

    def test_where_two_share_what_they_have_from_one_that_is_gone(self, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        source = spacy.load(tmp_path)
        one, other = spacy.blank("en"), spacy.blank("en")
        one.add_pipe(NAME, source=source)
        other.add_pipe(NAME, source=source)
        del source
        with pytest.warns(UserWarning, match="is shared: another pipeline still has it"):
            spacy_early_exit.configure(one, threshold=0.2)

    @pytest.mark.parametrize("how", ["used", "configured"])
    def test_where_a_pipeline_has_it_twice(self, how, nlp):
        nlp.add_pipe(NAME, name="two", source=nlp)
        about = f"'two' is shared: its pipeline also has it, as '{NAME}'.*source=spacy.load"
        with pytest.warns(UserWarning, match=about):
            if how == "used":
                nlp(TEXTS[0])
            else:
                spacy_early_exit.configure(nlp, threshold=0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            nlp(TEXTS[0])


@pytest.mark.usefixtures("silent")
class TestNotSaid:
    def test_of_a_component_that_is_renamed(self, nlp):
        nlp.rename_pipe(NAME, "other")
        assert nlp(TEXTS[0])._.early_exit["other"]
        spacy_early_exit.configure(nlp, threshold=0.2, name="other")

    def test_where_the_first_pipeline_no_longer_has_it(self, nlp, other):
        nlp.remove_pipe(NAME)
        assert other(TEXTS[0])._.early_exit["other"]

    def test_where_nobody_has_the_first_pipeline_any_more(self, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        other = spacy.blank("en")
        gc.disable()
        try:
            other.add_pipe(NAME, source=spacy.load(tmp_path), name="other")
            assert other(TEXTS[0])._.early_exit["other"]
        finally:
            gc.enable()

    def test_of_what_a_config_sources(self, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        block = {"source": str(tmp_path), "component": NAME}
        config = {"nlp": {"lang": "en", "pipeline": ["other"]}, "components": {"other": block}}
        other = spacy.blank("en").from_config(config)
        assert other(TEXTS[0])._.early_exit["other"]
        spacy_early_exit.configure(other, threshold=0.2, name="other")

    def test_of_a_copy_which_is_a_component_of_its_own(self, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        other = spacy.blank("en")
        other.add_pipe(NAME, source=spacy.load(tmp_path), name="other")
        spacy_early_exit.configure(other, threshold=0, name="other")
        assert nlp.get_pipe(NAME).threshold == 0.15
        assert list(nlp(TEXTS[0])._.early_exit) == [NAME]
        assert list(other(TEXTS[0])._.early_exit) == ["other"]
