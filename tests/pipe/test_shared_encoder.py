"""Components that share an encoder: prediction, knobs, files and spaCy's habits."""

import copy
import gc
import pickle
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import spacy
from spacy.util import load_model_from_config

import spacy_early_exit
from spacy_early_exit.pipe.answers import are_waiting
from spacy_early_exit.pipe.sharing import warn_if_shared
from tests.makers.shared import (
    NER,
    TAGGER,
    add_tagger,
    all_answers,
    answers,
    blank_shared,
    both_of,
    shared_encoder,
    train_shared,
)
from tests.makers.texts import TEXTS

LOW = 0.03  # at which words leave at several layers


@pytest.fixture(scope="module")
def kept(encoders):
    nlp = train_shared(blank_shared(encoders["bert"]), steps=30)
    for name in (NER, TAGGER):
        spacy_early_exit.configure(nlp, threshold=LOW, name=name)
    return nlp.config.to_str(), nlp.to_bytes()


@pytest.fixture
def nlp(kept):
    config = spacy.util.Config().from_str(kept[0])
    return load_model_from_config(config).from_bytes(kept[1])


def encoder_of(pipe):
    return pipe.network.encoder


def test_one_encoder_is_in_memory_and_both_components_answer(nlp):
    ner, tagger = nlp.get_pipe(NER), nlp.get_pipe(TAGGER)
    found = all_answers(nlp)
    assert encoder_of(ner) is encoder_of(tagger)
    layers = [{layer for one in found for layer in one[name][0]} for name in (NER, TAGGER)]
    assert all(len(some) > 2 for some in layers), "words must leave at several layers"
    apart = [a != b for one in found for a, b in zip(one[NER][0], one[TAGGER][0])]
    assert any(apart), "each task leaves where it is sure"
    assert all(one[NER][1:] == one[TAGGER][1:] for one in found), "both say what the pass cost"
    full = {"threshold": 0.0}
    assert nlp.evaluate(both_of(nlp), component_cfg={NER: full})["pos_acc"] > 0.9


def test_a_text_gets_the_same_answers_alone_and_in_any_batch(nlp):
    alone = [answers(nlp(text)) for text in TEXTS]
    for size in (1, 3, 100):
        assert all_answers(nlp, batch_size=size) == alone
    assert all_answers(nlp, TEXTS[::-1]) == alone[::-1]


@pytest.mark.parametrize("threshold", [0.0, 0.01, LOW, 0.1, 0.5, 1.0])
def test_a_second_task_that_never_holds_back_gives_the_first_tasks_answers(nlp, threshold):
    cfg = {NER: {"threshold": threshold}}
    nlp.disable_pipe(TAGGER)
    alone = [(one["ents"], one[NER][0]) for one in all_answers(nlp, component_cfg=cfg)]
    nlp.enable_pipe(TAGGER)
    tagger, ner = nlp.get_pipe(TAGGER), nlp.get_pipe(NER)
    ner.threshold, tagger.threshold = threshold, 1.0
    for head in tagger.network.heads.values():  # sure at once
        head.bias.data[0] = 1e4
    tagger.model.shims[0].weights_changed()
    found = all_answers(nlp)
    assert [(one["ents"], one[NER][0]) for one in found] == alone
    assert {layer for one in found for layer in one[TAGGER][0]} <= {0, 1}


def test_the_record_says_whose_pass_it_was(nlp):
    doc = nlp(TEXTS[0])
    records = doc._.early_exit
    assert records[TAGGER].of_pass == NER and records[NER].of_pass is None
    copied = type(doc)(nlp.vocab).from_bytes(doc.to_bytes())
    assert answers(copied) == answers(doc)
    copied._.early_exit = records
    assert copied._.early_exit == records
    assert not are_waiting(doc), "nothing stays on the Doc that nobody needs any more"


def test_on_another_device_the_heads_of_all_tasks_are_copies(nlp):
    ner, tagger = nlp.get_pipe(NER), nlp.get_pipe(TAGGER)
    expected = all_answers(nlp)
    ner.device = "cpu:0"  # another name
    assert all_answers(nlp) == expected
    copied = tagger.model.shims[0].prepare_for("fp32", "cpu:0").network
    assert copied.head(1) is not tagger.network.head(1)
    assert encoder_of(tagger) is copied.encoder, "its owner's copy is used"
    readers = ner.ready_to_predict().readers
    assert readers[1].network is copied and readers[0].network is not ner.network


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_pass_in_16_bits_has_heads_in_fp32(nlp, precision):
    expected = all_answers(nlp, component_cfg={NER: {"threshold": 0.0}})
    nlp.get_pipe(NER).precision = precision
    found = all_answers(nlp, component_cfg={NER: {"threshold": 0.0}})
    alike = sum(a["pos"] == b["pos"] for a, b in zip(found, expected))
    assert alike >= 0.8 * len(TEXTS)
    docs = list(map(nlp.make_doc, TEXTS))
    for doc, one in zip(docs, nlp.get_pipe(NER).predict(docs)):
        for exits in (one.exits, *one.exits.others.values()):
            assert exits.logits.dtype == "float32", doc
    with pytest.raises(ValueError, match="precision of .* runs in the pass of"):
        nlp.get_pipe(TAGGER).precision = "fp16" if precision == "bf16" else "bf16"
        nlp(TEXTS[0])


class TestThresholds:
    def test_each_task_has_its_own(self, nlp):
        before = all_answers(nlp)
        nlp.get_pipe(TAGGER).threshold = 0.0
        after = all_answers(nlp)
        last = nlp.get_pipe(NER).network.spec.layers
        assert {layer for one in after for layer in one[TAGGER][0]} <= {0, last}
        assert {layer for one in after for layer in one[NER][0]} - {0, last}
        assert sum(one[NER][1] for one in after) > sum(one[NER][1] for one in before)

    def test_that_of_a_call_is_for_all(self, nlp):
        full = all_answers(nlp, component_cfg={NER: {"speedup": 1.0}})
        assert all_answers(nlp, component_cfg={NER: {"threshold": 0.0}}) == full
        assert all(one[NER][1] == one[NER][2] for one in full)

    def test_a_call_to_the_borrower_is_refused(self, nlp):
        with pytest.raises(ValueError, match="give that one the threshold"):
            all_answers(nlp, component_cfg={TAGGER: {"threshold": 0.2}})

    def test_a_speedup_of_the_borrower_is_refused(self, nlp, encoders):
        for set_it in (
            lambda: setattr(nlp.get_pipe(TAGGER), "speedup", 2.0),
            lambda: spacy_early_exit.configure(nlp, speedup=2.0, name=TAGGER),
            lambda: add_tagger(nlp, "another", speedup=2.0, threshold=None),
            lambda: all_answers(nlp, component_cfg={TAGGER: {"speedup": 2.0}}),
        ):
            with pytest.raises(ValueError, match=f"Set it for '{NER}'"):
                set_it()


class TestFiles:
    def test_they_have_the_encoder_once(self, nlp, tmp_path):
        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        names = {path.name for path in (tmp_path / "saved" / TAGGER / "model").iterdir()}
        assert names == {"network.json", "weights.safetensors"}
        again = spacy.load(tmp_path / "saved")
        again.to_disk(tmp_path / "again")  # before anything was used
        assert all_answers(again) == found
        assert all_answers(spacy.load(tmp_path / "again")) == found

    def test_bytes_pickles_and_copies_answer_as_before(self, nlp, kept):
        found = all_answers(nlp)
        for made in (pickle.loads(pickle.dumps(nlp)), copy.deepcopy(nlp)):
            assert encoder_of(made.get_pipe(NER)) is encoder_of(made.get_pipe(TAGGER))
            assert encoder_of(made.get_pipe(NER)) is not encoder_of(nlp.get_pipe(NER))
            assert all_answers(made) == found

    def test_heads_over_another_encoder_are_refused(self, nlp, encoders, tmp_path):
        nlp.to_disk(tmp_path / "saved")
        other = train_shared(blank_shared(encoders["bert"]), steps=1)
        other.get_pipe(TAGGER).from_disk(tmp_path / "saved" / TAGGER, exclude=["vocab"])
        with pytest.raises(ValueError, match="trained over another encoder"):
            other(TEXTS[0])

    @pytest.mark.parametrize("is_used", [False, True])
    def test_another_encoder_under_an_owner_is_refused(self, nlp, encoders, is_used):
        """Whether the heads were just read, or have answered already."""
        other = train_shared(blank_shared(encoders["bert"]), steps=1)
        if is_used:
            nlp(TEXTS[0])
        nlp.remove_pipe(NER)
        nlp.add_pipe(NER, source=other, first=True)
        for _ in range(2):
            with pytest.raises(ValueError, match="trained over another encoder"):
                nlp(TEXTS[0])

    def test_weights_loaded_into_a_used_owner(self, nlp, encoders, tmp_path):
        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        other = train_shared(blank_shared(encoders["bert"]), steps=1)
        other.to_disk(tmp_path / "other")
        ner = nlp.get_pipe(NER)
        ner.from_disk(tmp_path / "saved" / NER, exclude=["vocab"])
        assert all_answers(nlp) == found, "the same weights"
        ner.from_disk(tmp_path / "other" / NER, exclude=["vocab"])
        with pytest.raises(ValueError, match="trained over another encoder"):
            nlp(TEXTS[0])
        nlp.from_disk(tmp_path / "saved")
        assert all_answers(nlp) == found

    def test_initialize_begins_anew_over_another_encoder(self, nlp):
        nlp(TEXTS[0])
        before = encoder_of(nlp.get_pipe(NER))
        nlp.initialize(lambda: both_of(nlp))
        assert encoder_of(nlp.get_pipe(TAGGER)) is encoder_of(nlp.get_pipe(NER)) is not before
        assert nlp(TEXTS[0])

    def test_an_owner_initialized_alone_leaves_heads_that_do_not_fit(self, nlp):
        nlp(TEXTS[0])
        with nlp.select_pipes(disable=TAGGER):
            nlp.initialize(lambda: both_of(nlp))
        with pytest.raises(ValueError, match="trained over another encoder"):
            nlp(TEXTS[0])

    def test_heads_are_not_taken_for_a_component_with_an_encoder(self, nlp, encoders, tmp_path):
        nlp.to_disk(tmp_path / "saved")
        plain = spacy.blank("en")
        config = {"attribute": "pos", "model": {"encoder": {"name": encoders["bert"]}}}
        tagger = plain.add_pipe(TAGGER, config=config)
        with pytest.raises(ValueError, match="was saved with no encoder of its own"):
            tagger.from_disk(tmp_path / "saved" / TAGGER)
        with pytest.raises(ValueError, match="was saved with an encoder of its own"):
            nlp.get_pipe(TAGGER).from_disk(tmp_path / "saved" / NER, exclude=["cfg"])

    def test_damaged_heads_are_an_error(self, nlp, tmp_path):
        nlp.to_disk(tmp_path / "saved")
        path = tmp_path / "saved" / TAGGER / "model" / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(ValueError, match="weights.safetensors"):
            spacy.load(tmp_path / "saved")

    @pytest.mark.takes(seconds=15)
    def test_processes_answer_alike(self, nlp):
        assert all_answers(nlp, n_process=2) == all_answers(nlp)


class TestTheOwnerIsNotThere:
    def test_disabled(self, nlp):
        with nlp.select_pipes(disable=NER):
            with pytest.raises(ValueError, match=f"'{NER}', which is disabled"):
                nlp(TEXTS[0])
            with pytest.raises(ValueError, match=f"'{NER}', which is disabled"):
                list(nlp.pipe(TEXTS))

    def test_missing(self, nlp, tmp_path):
        nlp.to_disk(tmp_path / "saved")
        alone = spacy.load(tmp_path / "saved", exclude=[NER])
        with pytest.raises(ValueError, match=f"encoder of '{NER}', which is not in its pipeline"):
            alone(TEXTS[0])
        nlp.remove_pipe(NER)
        with pytest.raises(ValueError, match=f"encoder of '{NER}', which is not in its pipeline"):
            nlp(TEXTS[0])

    def test_after_it(self, nlp):
        early = add_tagger(nlp, "early")
        early.initialize(lambda: both_of(nlp), nlp=nlp)
        assert nlp(TEXTS[0])[0].pos_
        nlp._components.insert(0, nlp._components.pop())  # as add_pipe(before=...) has it
        with pytest.raises(ValueError, match=f"comes before '{NER}'"):
            nlp(TEXTS[0])

    def test_it_did_not_run_on_the_doc(self, nlp):
        with pytest.raises(ValueError, match="has left none on the Doc"):
            nlp.get_pipe(TAGGER)(nlp.make_doc(TEXTS[0]))

    def test_words_that_changed_in_between(self, nlp):
        nlp.add_pipe("merge_entities", after=NER)
        with pytest.raises(ValueError, match="words of the Doc have changed"):
            nlp("Ann Lee lives in New York.")

    def test_it_is_no_early_exit_component(self):
        plain = spacy.blank("en")
        plain.add_pipe("sentencizer")
        tagger = add_tagger(plain, component="sentencizer")
        with pytest.raises(ValueError, match="'sentencizer', which is no early-exit component"):
            tagger.initialize(lambda: both_of(plain), nlp=plain)

    def test_answers_that_nobody_takes_are_not_saved(self, nlp):
        """A component can't see what a call disables."""
        docs = list(nlp.pipe(TEXTS, disable=[TAGGER]))
        with nlp.select_pipes(disable=TAGGER):
            alone = list(nlp.pipe(TEXTS))
        for doc, other in zip(docs, alone, strict=True):
            assert doc.user_data.keys() == other.user_data.keys()
            assert are_waiting(doc) and not are_waiting(other)
        tagger = nlp.get_pipe(TAGGER)
        assert all(token.pos_ for doc in map(tagger, docs) for token in doc), "late, but the same"
        assert not any(map(are_waiting, docs))

    def test_the_owner_alone_runs_as_if_nobody_borrowed(self, nlp):
        with nlp.select_pipes(disable=TAGGER):
            disabled = [(one["ents"], one[NER]) for one in all_answers(nlp)]
        nlp.remove_pipe(TAGGER)
        removed = [(one["ents"], one[NER]) for one in all_answers(nlp)]
        assert disabled == removed
        assert not are_waiting(nlp(TEXTS[0]))


class TestWhatIsRefused:
    def test_the_segmenter(self, encoders):
        nlp = spacy.blank("zh")
        model = {"@architectures": "spacy-early-exit.EarlyExitTagger.v3"}
        nlp.add_pipe("early_exit_segmenter", config={"model": {"encoder": {"name": "x"}}})
        with pytest.raises(ValueError, match="it reads characters"):
            add_tagger(nlp, component="early_exit_segmenter")
        plain = spacy.blank("zh")
        plain.add_pipe(NER)
        with pytest.raises(ValueError, match="can't share an encoder"):
            model = {**model, "encoder": shared_encoder()}
            plain.add_pipe("early_exit_segmenter", config={"model": model})

    def test_borrowing_from_a_borrower(self, nlp):
        with pytest.raises(ValueError, match="has none of its own"):
            add_tagger(nlp, "third", component=TAGGER)

    def test_a_criterion_with_its_own_loop(self, nlp):
        criterion = {"@misc": "spacy-early-exit.TokenReduction.v1", "layers": [1, 2]}
        with pytest.raises(ValueError, match="TokenReduction of 'third' runs the encoder"):
            add_tagger(nlp, "third", criterion=criterion, threshold=0.0)

    def test_settings_of_the_pass(self, nlp):
        tagger = nlp.get_pipe(TAGGER)
        tagger.settings = replace(tagger.settings, window_length=20)
        with pytest.raises(ValueError, match="window_length of 'early_exit_tagger' is 20"):
            nlp(TEXTS[0])


class TestSpacysHabits:
    def test_renamed(self, nlp, tmp_path):
        found = all_answers(nlp)
        nlp.rename_pipe(NER, "names")
        renamed = all_answers(nlp)
        assert [{NER: one.pop("names"), **one} for one in all_answers(nlp)] == found
        nlp.to_disk(tmp_path / "saved")
        assert all_answers(spacy.load(tmp_path / "saved")) == renamed

    @pytest.mark.parametrize("disabled", [(), (TAGGER,)], ids=str)
    @pytest.mark.parametrize("is_used", [False, True])
    def test_renamed_and_saved_at_once(self, nlp, tmp_path, is_used, disabled):
        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        nlp = spacy.load(tmp_path / "saved")
        if is_used:
            nlp(TEXTS[0])
        with nlp.select_pipes(disable=disabled):
            nlp.rename_pipe(NER, "names")
        nlp.to_disk(tmp_path / "renamed")
        for one in (nlp, spacy.load(tmp_path / "renamed")):
            assert [{NER: of.pop("names"), **of} for of in all_answers(one)] == found
            config = one.config["components"][TAGGER]["model"]["encoder"]
            assert config["component"] == "names"

    def test_another_component_under_the_owners_old_name(self, nlp, encoders):
        found = all_answers(nlp)
        nlp.rename_pipe(NER, "names")
        other = train_shared(blank_shared(encoders["bert"]), steps=1)
        nlp.add_pipe(NER, source=other, first=True)
        for _ in range(2):
            doc = nlp(TEXTS[0])
            assert [token.pos_ for token in doc] == found[0]["pos"]
            assert doc._.early_exit[TAGGER].of_pass == "names"

    def test_sourced_under_another_name(self, nlp, tmp_path):
        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        source, other = spacy.load(tmp_path / "saved"), spacy.blank("en")
        other.add_pipe(NER, name="names", source=source)
        other.add_pipe(TAGGER, source=source)
        del source
        gc.collect()
        other.to_disk(tmp_path / "sourced")
        for one in (other, spacy.load(tmp_path / "sourced")):
            assert [{NER: of.pop("names"), **of} for of in all_answers(one)] == found

    def test_sourced_while_the_first_pipeline_is_used(self, nlp):
        """spaCy does not copy them: what one pipeline disables is disabled in both. They say so."""
        other = spacy.blank("en")
        for name in (NER, TAGGER):
            other.add_pipe(name, source=nlp)
        nlp.disable_pipe(TAGGER)
        with pytest.raises(ValueError, match="has left none on the Doc"):
            other(TEXTS[0])
        nlp.enable_pipe(TAGGER)
        assert answers(other(TEXTS[0])) == answers(nlp(TEXTS[0]))
        with pytest.warns(UserWarning, match="is shared: another pipeline still has it"):
            warn_if_shared(nlp.get_pipe(NER), other)

    def test_the_same_doc_twice(self, nlp):
        doc = nlp.make_doc(TEXTS[0])
        for found in nlp.pipe([doc, doc]):
            assert found._.early_exit[TAGGER].of_pass == NER

    def test_sourced_together(self, nlp, tmp_path):
        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        source, other = spacy.load(tmp_path / "saved"), spacy.blank("en")
        for name in (NER, TAGGER):
            other.add_pipe(name, source=source)
        del source
        assert all_answers(other) == found

    def test_what_it_assigns_is_known(self, nlp):
        """What a factory requires is the same for all components, with an encoder or without."""
        found = nlp.analyze_pipes()
        assert found["summary"][TAGGER]["assigns"] == ["token.tag", "token.pos", "token.morph"]
        assert found["summary"][TAGGER]["requires"] == [] and not any(found["problems"].values())

    def test_assembled(self, nlp, tmp_path):
        from spacy.cli.assemble import assemble_cli

        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        config = spacy.util.Config(
            {
                "nlp": {"lang": "en", "pipeline": [NER, TAGGER]},
                "components": {name: {"source": str(tmp_path / "saved")} for name in (NER, TAGGER)},
            }
        )
        config.to_disk(tmp_path / "assemble.cfg")
        ctx = SimpleNamespace(args=[])
        assemble_cli(ctx, tmp_path / "assemble.cfg", tmp_path / "out", None, False)
        assert all_answers(spacy.load(tmp_path / "out")) == found

    def test_packaged(self, nlp, tmp_path):
        from spacy.cli.package import package

        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        (tmp_path / "out").mkdir()
        package(
            tmp_path / "saved", tmp_path / "out", name="both", version="1.0", create_sdist=False
        )
        (made,) = (tmp_path / "out").glob("en_both-*/en_both/en_both-*")
        assert all_answers(spacy.load(made)) == found

    def test_sourced_by_a_config(self, nlp, tmp_path):
        found = all_answers(nlp)
        nlp.to_disk(tmp_path / "saved")
        config = {
            "nlp": {"lang": "en", "pipeline": [NER, TAGGER]},
            "components": {name: {"source": str(tmp_path / "saved")} for name in (NER, TAGGER)},
        }
        assert all_answers(load_model_from_config(config, auto_fill=True)) == found

    def test_three_tasks_share(self, nlp):
        third = add_tagger(nlp, "third")
        third.initialize(lambda: both_of(nlp), nlp=nlp)
        doc = nlp(TEXTS[0])
        assert set(doc._.early_exit) == {NER, TAGGER, "third"}
        assert encoder_of(third) is encoder_of(nlp.get_pipe(NER))

    def test_int8_is_that_of_the_pass(self, nlp):
        ner = nlp.get_pipe(NER)
        try:
            ner.quantize = "int8"
            found = all_answers(nlp)
        except ValueError as e:
            pytest.skip(str(e))
        assert len(found) == len(TEXTS) and re.search("NOUN", str(found))


class TestSeparate:
    def test_a_borrower_gets_a_copy_of_its_own(self, nlp, tmp_path):
        full = {"threshold": 0.0}
        before = all_answers(nlp, component_cfg={NER: full})
        nlp.get_pipe(NER).threads = 1
        spacy_early_exit.separate(nlp, TAGGER)
        ner, tagger = nlp.get_pipe(NER), nlp.get_pipe(TAGGER)
        assert encoder_of(ner) is not encoder_of(tagger) and tagger.threads == 1
        cfg = {NER: full, TAGGER: full}
        after = all_answers(nlp, component_cfg=cfg)
        for one, other in zip(after, before):
            assert (one["ents"], one["pos"]) == (other["ents"], other["pos"])
        nlp.to_disk(tmp_path / "saved")
        again = spacy.load(tmp_path / "saved", exclude=[NER])
        alone = all_answers(again, component_cfg={TAGGER: full})
        assert [one["pos"] for one in alone] == [one["pos"] for one in before]

    def test_one_that_borrows_nothing_is_refused(self, nlp):
        with pytest.raises(ValueError, match=f"'{NER}' does not use the encoder of another"):
            spacy_early_exit.separate(nlp, NER)


def test_an_adopted_owner_keeps_its_full_depth(nlp):
    """Full depth is another network's, of which the borrower knows nothing: each answers by its
    own, and both passes are paid for.
    """
    cfg = {NER: {"speedup": 1.0}}
    shared = all_answers(nlp, component_cfg=cfg)
    ner = nlp.get_pipe(NER)
    other = copy.deepcopy(ner.network)
    for head in other.heads.values():
        head.bias.data[0] += 100.0  # it finds nothing
    ner.model.shims[0].keep_original(other)
    found = all_answers(nlp, component_cfg=cfg)
    assert not any(one["ents"] for one in found) and any(one["ents"] for one in shared)
    assert [one["pos"] for one in found] == [one["pos"] for one in shared]
    assert all(one[NER][1] > 1.9 * other[NER][1] for one, other in zip(found, shared))
    assert any(one["ents"] for one in all_answers(nlp)), "below full depth, the pass is shared"
