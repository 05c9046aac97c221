"""The whole contract of a trainable spaCy component."""

import dataclasses
import multiprocessing
import os
import pickle
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Adam

import spacy_early_exit
from spacy_early_exit.criteria.base import CriterionBase
from tests.makers.marks import rest_slow
from tests.makers.pipelines import answers, blank, train_small, trained_pipeline
from tests.makers.texts import SENTENCES, TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
BAD_LABELS = {
    "PER ": "begins or ends with white space",
    "\tPER": "begins or ends with white space",
    "\u00a0": "begins or ends with white space",
    "PER\n": "begins or ends with white space",
    "A\nB": "contains a line break",
    "A\r\nB": "contains a line break",
    "A\u2028B": "contains a line break",
    "-": "sign for a missing annotation",
}


def at(**knob):
    return {NAME: knob}


def answers_of(nlp, texts):
    """In a process of its own: importable, so that it can be spawned."""
    return [answers(doc) for doc in nlp.pipe(texts)]


class TestPredicting:
    def test_finds_what_it_learnt(self, nlp):
        for text, entities in SENTENCES:
            doc = nlp(text, component_cfg=at(threshold=0))
            assert [(e.start_char, e.end_char, e.label_) for e in doc.ents] == sorted(entities)

    def test_words_leave_at_several_layers(self, nlp):
        found = []
        for threshold in (0.01, 0.05, 0.15, 0.3):
            docs = nlp.pipe(TEXTS, component_cfg=at(threshold=threshold))
            found.append({layer for doc in docs for layer in doc._.early_exit[NAME].layers})
        assert any(len(layers) > 1 for layers in found)

    @pytest.mark.parametrize(
        "threshold, wordpieces",
        rest_slow(
            product([0, 0.05, 0.3, 1.0], [1, 64, 4096]),
            lambda *row: row in [(0.05, 1), (0.3, 64), (0, 4096)],
        ),
    )
    def test_same_answer_alone_in_any_batch_and_order(self, nlp, threshold, wordpieces):
        texts = TEXTS + texts_of_all_lengths(count=20) + ["", "  ", "\n"]
        cfg = at(threshold=threshold)
        nlp.get_pipe(NAME).batch_wordpieces = wordpieces
        alone = [answers(nlp(text, component_cfg=cfg)) for text in texts]
        for size in (1, 2, 7, 64):
            found = [answers(d) for d in nlp.pipe(texts, batch_size=size, component_cfg=cfg)]
            assert found == alone
        backwards = [answers(d) for d in nlp.pipe(texts[::-1], component_cfg=cfg)]
        assert backwards == alone[::-1]

    def test_same_answer_in_any_batch_where_what_left_is_dropped(self, nlp):
        ner, texts = nlp.get_pipe(NAME), texts_of_all_lengths(count=20)
        spent = {"copy": 0, "drop": 0}
        for threshold in (0.05, 0.15, 0.3):
            for kv in spent:
                ner.kv = kv
                alone = [nlp(text, component_cfg=at(threshold=threshold)) for text in texts]
                together = nlp.pipe(texts, component_cfg=at(threshold=threshold))
                assert [answers(doc) for doc in together] == [answers(doc) for doc in alone]
                spent[kv] += sum(doc._.early_exit[NAME].spent for doc in alone)
        assert spent["drop"] < spent["copy"]
        assert ner.fingerprint()["kept_state"] == "dropped"

    def test_special_tokens_that_leave_with_the_first_word_save_more(self, nlp):
        ner, texts = nlp.get_pipe(NAME), texts_of_all_lengths(count=20)
        spent, before = {}, ner.fingerprint()
        for ner.halt_special in (False, True):
            alone = [nlp(text, component_cfg=at(threshold=0.15)) for text in texts]
            together = nlp.pipe(texts, component_cfg=at(threshold=0.15))
            assert [answers(doc) for doc in together] == [answers(doc) for doc in alone]
            spent[ner.halt_special] = sum(doc._.early_exit[NAME].spent for doc in alone)
        assert spent[True] < spent[False]
        assert [name for name, of in ner.fingerprint().items() if of != before[name]] == [
            "special tokens"
        ]

    def test_a_context_that_can_not_be_is_refused(self):
        with pytest.raises(ValueError, match="kv.*keep"):
            spacy.blank("en").add_pipe(NAME, config={"kv": "keep"})

    def test_predict_changes_no_doc(self, nlp):
        doc = nlp.make_doc(TEXTS[0])
        predictions = nlp.get_pipe(NAME).predict(iter([doc]))
        assert len(predictions) == 1 and not doc.ents and not doc.has_annotation("ENT_IOB")

    def test_every_word_gets_an_annotation(self, nlp):
        doc = nlp(TEXTS[5])
        assert doc.has_annotation("ENT_IOB") and all(token.ent_iob == 2 for token in doc)

    def test_before_initialize_the_error_says_what_to_do(self, encoders):
        nlp = blank(encoders["bert"])
        for call in (lambda: nlp("Ann"), lambda: list(nlp.pipe(["Ann"]))):
            with pytest.raises(ValueError, match=r"no weights yet.*nlp\.initialize"):
                call()

    def test_an_entity_never_starts_or_ends_with_white_space(self, encoders):
        nlp = train_small(encoders["roberta"], steps=1)  # it has wordpieces of white space
        ner = nlp.get_pipe(NAME)
        doc = nlp.make_doc("\n\n Ann \n\n Lee \n\n")
        assert [token.is_space for token in doc] == [True, False, True, False, True]
        (prediction,) = ner.predict([doc])
        assert len(prediction.tags) == 5
        prediction.tags[:] = [1, 2, 2, 2, 2]
        ner.set_annotations([doc], [prediction])
        assert [(ent.start, ent.end) for ent in doc.ents] == [(1, 4)]
        doc = nlp.make_doc(doc.text)
        prediction.tags[:] = [1, 0, 1, 0, 1]
        ner.set_annotations([doc], [prediction])
        assert not doc.ents


class TestPresets:
    def test_preset_entities_stay_and_nothing_overlaps_them(self, nlp):
        doc = nlp.make_doc(TEXTS[0])
        doc.set_ents([Span(doc, 4, 5, label="X")], default="unmodified")
        doc = nlp.get_pipe(NAME)(doc)
        ents = {(ent.text, ent.label_) for ent in doc.ents}
        assert ("New", "X") in ents and ("Ann Lee", "PER") in ents

    def test_blocked_words_stay_without_entity(self, nlp):
        doc = nlp.make_doc(TEXTS[0])
        doc.set_ents([], blocked=[doc[0:2]], default="unmodified")
        doc = nlp.get_pipe(NAME)(doc)
        assert "Ann Lee" not in {ent.text for ent in doc.ents}
        assert all(token.ent_iob == 3 and not token.ent_type_ for token in doc[0:2])

    def test_a_blocked_word_without_wordpieces_divides_an_entity(self, nlp):
        ner = nlp.get_pipe(NAME)
        doc = nlp.make_doc("New \n\n York")
        doc.set_ents([], blocked=[doc[1:2]], default="unmodified")
        (prediction,) = ner.predict([doc])
        prediction.tags[:] = [1, 2]
        ner.set_annotations([doc], [prediction])
        assert [(ent.start, ent.end) for ent in doc.ents] == [(0, 1), (2, 3)]

    def test_a_text_that_begins_within_an_entity_is_tagged_around_it(self, nlp):
        doc = nlp.make_doc(TEXTS[0])
        within = [[1, doc.vocab.strings.add("X")]] + [[0, 0]] * (len(doc) - 1)
        doc = doc.from_array(["ENT_IOB", "ENT_TYPE"], np.array(within, dtype=np.uint64))
        (doc,) = nlp.get_pipe(NAME).pipe([doc])
        assert doc[0].ent_type_ == "X" and all(token.ent_iob for token in doc)
        assert doc._.early_exit[NAME].spent

    def test_a_second_run_changes_nothing(self, nlp):
        doc = nlp(TEXTS[0])
        first = [(ent.text, ent._.confidence) for ent in doc.ents]
        doc = nlp.get_pipe(NAME)(doc)
        assert [(ent.text, ent._.confidence) for ent in doc.ents] == first
        assert first and all(confidence for _, confidence in first)

    def test_an_entity_ruler_before_it_wins(self, nlp):
        ruler = nlp.add_pipe("entity_ruler", before=NAME)
        ruler.add_patterns([{"label": "GIVEN", "pattern": "Ann"}])
        assert ("Ann", "GIVEN") in {(ent.text, ent.label_) for ent in nlp(TEXTS[0]).ents}


class TestRecords:
    def test_a_doc_tells_what_it_cost(self, nlp):
        record = nlp(TEXTS[0], component_cfg=at(threshold=1))._.early_exit[NAME]
        full = nlp(TEXTS[0], component_cfg=at(threshold=0))._.early_exit[NAME]
        assert 0 < record.spent < record.full == full.full == full.spent

    def test_layers_are_kept_only_on_demand(self, nlp):
        doc = nlp(TEXTS[0])
        assert len(doc._.early_exit[NAME].layers) == len(doc)
        assert [t._.exit_layer for t in doc] == list(doc._.early_exit[NAME].layers)
        nlp.get_pipe(NAME).store_exits = False
        doc = nlp(TEXTS[0])
        assert doc._.early_exit[NAME].layers is None and doc[0]._.exit_layer is None

    def test_words_without_wordpieces_are_at_layer_0(self, nlp):
        assert nlp("Ann \n lives")._.early_exit[NAME].layers[1] == 0

    def test_an_empty_doc_costs_nothing(self, nlp):
        record = nlp("")._.early_exit[NAME]
        assert (record.spent, record.full, record.layers) == (0, 0, ())

    def test_confidence_is_not_that_of_another_label(self, nlp):
        doc = nlp(TEXTS[0], component_cfg=at(threshold=0))
        ent = doc.ents[0]
        assert ent._.confidence is not None
        assert Span(doc, ent.start, ent.end, label="OTHER")._.confidence is None
        assert doc[ent.start : ent.end]._.confidence is None

    def test_names_that_something_else_has_taken_are_said(self, encoders):
        ours = Span.remove_extension("confidence")
        Span.set_extension("confidence", default=0.5)
        try:
            with pytest.warns(UserWarning, match=r"Span\._\.confidence is not that of"):
                blank(encoders["bert"])
        finally:
            Span.remove_extension("confidence")
            Span.set_extension("confidence", getter=ours[2])

    def test_confidence_is_the_smallest_posterior_of_the_entitys_words(self, nlp):
        doc = nlp(TEXTS[0])
        (prediction,) = nlp.get_pipe(NAME).predict([nlp.make_doc(TEXTS[0])])
        ent = doc.ents[0]
        logits = torch.from_numpy(prediction.exits.logits[ent.start : ent.end])
        tags = torch.from_numpy(prediction.tags[ent.start : ent.end])
        expected = logits.softmax(1).gather(1, tags[:, None]).min().item()
        assert ent._.confidence == pytest.approx(expected, abs=1e-6)
        assert doc[2:3]._.confidence is None

    def test_records_survive_bytes_pickling_and_doc_bins(self, nlp):
        doc = nlp(TEXTS[0])
        bins = spacy.tokens.DocBin(store_user_data=True)
        bins.add(doc)
        for copy in (
            Doc(nlp.vocab).from_bytes(doc.to_bytes()),
            pickle.loads(pickle.dumps(doc)),
            next(bins.get_docs(nlp.vocab)),
        ):
            assert answers(copy) == answers(doc)
            assert copy.ents[0]._.confidence == doc.ents[0]._.confidence

    def test_what_no_longer_fits_is_not_told(self, nlp):
        doc = nlp(TEXTS[0])
        part = doc[2:].as_doc(copy_user_data=True)
        assert part._.early_exit[NAME].layers is None and part[0]._.exit_layer is None
        assert all(ent._.confidence is None for ent in part.ents)

    def test_entities_that_stay_keep_their_confidence_when_words_are_merged(self, nlp):
        doc = next(doc for doc in nlp.pipe(TEXTS) if doc.ents and doc.ents[-1].start > 1)
        stays = doc.ents[-1]
        label, confidence = stays.label_, stays._.confidence
        assert confidence is not None and doc[stays.start]._.exit_layer is not None
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[: stays.start])
        assert doc.ents[-1].label_ == label and doc.ents[-1]._.confidence == confidence
        assert doc[doc.ents[-1].start]._.exit_layer is None and doc[0:1]._.confidence is None

    def test_docs_without_a_record_tell_nothing(self, en):
        doc = en("Ann")
        assert doc._.early_exit == {} and doc[0]._.exit_layer is None
        assert doc[0:1]._.confidence is None


class TestKnobs:
    def test_the_nearer_knob_wins(self, nlp):
        ner = nlp.get_pipe(NAME)
        assert ner.threshold == 0.15
        ner.speedup = 1
        assert (ner.threshold, ner.speedup) == (None, 1.0)
        assert nlp(TEXTS[0])._.early_exit[NAME].layers == (4,) * 7
        doc = nlp(TEXTS[0], component_cfg=at(threshold=1.0))
        assert doc._.early_exit[NAME].layers == (1,) * 7
        assert ner.speedup == 1.0, "nothing of a call is kept"
        ner.threshold = 0.2
        assert (ner.threshold, ner.speedup) == (0.2, None)
        ner.threshold = None
        assert ner.threshold == 0.15

    def test_a_reused_component_cfg_works_for_pipe_call_and_evaluate(self, nlp):
        cfg = at(threshold=1.0)
        for doc in nlp.pipe(TEXTS[:2], component_cfg=cfg):
            assert set(doc._.early_exit[NAME].layers) == {1}
        assert set(nlp(TEXTS[0], component_cfg=cfg)._.early_exit[NAME].layers) == {1}
        scores = nlp.evaluate(examples_of(nlp), component_cfg=cfg)
        assert scores["exit_cost"] < 0.35

    @pytest.mark.parametrize(
        "way, number", [("call", 1), ("pipe", 0), ("pipe", 3), ("evaluate", 3), ("update", 3)]
    )
    def test_what_it_does_not_know_is_an_error_about_the_call(self, way, number, nlp):
        asked, met = [], []

        def texts():
            for text in TEXTS[:number]:
                asked.append(text)
                yield text

        nlp.set_error_handler(lambda *arguments: met.append(arguments))
        examples, cfg = examples_of(nlp)[:number], at(speedupp=3)
        calls = {
            "call": lambda: nlp.get_pipe(NAME)(nlp.make_doc("Ann"), **cfg[NAME]),
            "pipe": lambda: list(nlp.pipe(texts(), component_cfg=cfg)),
            "evaluate": lambda: nlp.evaluate(examples, component_cfg=cfg),
            "update": lambda: nlp.update(examples, component_cfg=cfg),
        }
        with pytest.raises(ValueError, match="early_exit_ner") as error:
            calls[way]()
        said = str(error.value)
        assert "'speedupp'" in said and "Did you mean 'speedup'?" in said
        assert "threshold, speedup, adaptive, batch_size and drop" in said
        assert not met and not asked, "no text was looked at"

    def test_what_it_does_not_know_and_what_was_meant_are_named(self, nlp):
        for wrong, meant in (("Threshold", "threshold"), ("adaptiv", "adaptive")):
            with pytest.raises(ValueError, match=f"'{wrong}'.*Did you mean '{meant}'"):
                nlp("Ann", component_cfg=at(**{wrong: 1}))
        with pytest.raises(ValueError, match="'colour'") as error:
            nlp("Ann", component_cfg=at(threshold=0.1, colour="red"))
        assert "Did you mean" not in str(error.value)

    def test_a_component_cfg_goes_from_training_to_prediction_and_back(self, nlp):
        cfg = at(threshold=1.0, adaptive=False)
        for _ in range(2):
            nlp.update(examples_of(nlp), component_cfg=cfg, drop=0.1)
            assert "drop" in cfg[NAME], "spaCy leaves it there"
            assert nlp("Ann", component_cfg=cfg)[0]._.exit_layer == 1
            assert [doc[0]._.exit_layer for doc in nlp.pipe(["Ann"], component_cfg=cfg)] == [1]

    def test_both_at_once_are_refused(self, nlp, encoders):
        with pytest.raises(ValueError, match="both set in this call"):
            nlp(TEXTS[0], component_cfg=at(threshold=0.2, speedup=1.0))
        with pytest.raises(ValueError, match="both set in the component's config"):
            blank(encoders["bert"], threshold=0.2, speedup=1.0)

    def test_the_configs_default_threshold_gives_way(self, encoders):
        assert blank(encoders["bert"], speedup=1.0).get_pipe(NAME).speedup == 1.0

    @pytest.mark.parametrize(
        "knob",
        [
            {"threshold": -0.1},
            {"threshold": 1.1},
            {"threshold": float("nan")},
            {"threshold": "high"},
            {"threshold": True},
            {"threshold": 10**400},
            {"speedup": 0.5},
            {"speedup": float("inf")},
            {"speedup": "3X"},
            {"speedup": 10**400},
        ],
    )
    def test_nonsense_is_refused_by_name(self, nlp, knob):
        (name,) = knob
        with pytest.raises(ValueError, match=f"^{name} in this call"):
            nlp(TEXTS[0], component_cfg=at(**knob))
        with pytest.raises(ValueError, match=f"^{name} in this call"):
            list(nlp.pipe(TEXTS, component_cfg=at(**knob)))
        with pytest.raises(ValueError, match=f"^{name} in the property"):
            setattr(nlp.get_pipe(NAME), name, knob[name])

    def test_a_speedup_needs_calibration(self, nlp):
        with pytest.raises(ValueError, match="not calibrated"):
            nlp(TEXTS[0], component_cfg=at(speedup=3.0))

    def test_a_criterion_without_a_dial_refuses_it_by_name(self, nlp):
        class Whim(CriterionBase):
            has_threshold = False

        ner = nlp.get_pipe(NAME)
        ner.criterion = Whim()
        with pytest.raises(ValueError, match=r"Whim.*no threshold"):
            nlp(TEXTS[0], component_cfg=at(threshold=0.2))
        assert nlp(TEXTS[0], component_cfg=at(threshold=0)).ents

    def test_configure_is_kept_by_to_disk_and_config_overrides_win(self, nlp, tmp_path):
        spacy_early_exit.configure(nlp, threshold=0.75)  # older srsly rounds others
        nlp.to_disk(tmp_path)
        assert spacy.load(tmp_path).get_pipe(NAME).threshold == 0.75
        override = {"components": {NAME: {"speedup": 1.0, "threshold": None}}}
        ner = spacy.load(tmp_path, config=override).get_pipe(NAME)
        assert (ner.threshold, ner.speedup) == (None, 1.0)
        with pytest.raises(ValueError, match="needs a threshold or a speedup"):
            spacy_early_exit.configure(nlp)

    def test_a_property_is_not_saved(self, nlp, tmp_path):
        nlp.get_pipe(NAME).threshold = 0.9
        nlp.to_disk(tmp_path)
        assert spacy.load(tmp_path).get_pipe(NAME).threshold == 0.15

    def test_the_config_is_read_on_every_call_as_find_threshold_needs_it(self, nlp):
        ner = nlp.get_pipe(NAME)
        ner.cfg = {**ner.cfg, "threshold": 1.0}
        assert set(nlp(TEXTS[0])._.early_exit[NAME].layers) == {1}


class TestLabels:
    def test_labels_come_from_the_examples_sorted(self, nlp):
        ner = nlp.get_pipe(NAME)
        assert ner.labels == ("LOC", "ORG", "PER") and ner.label_data == ["LOC", "ORG", "PER"]
        assert nlp.pipe_labels[NAME] == ["LOC", "ORG", "PER"]

    def test_label_data_goes_back_into_initialize(self, encoders):
        nlp = blank(encoders["bert"])
        ner = nlp.get_pipe(NAME)
        ner.initialize(lambda: examples_of(nlp), nlp=nlp, labels=["Z", "PER"])
        assert ner.labels == ("Z", "PER")

    def test_labels_added_before_initialize_are_kept(self, encoders):
        nlp = blank(encoders["bert"])
        ner = nlp.get_pipe(NAME)
        assert (ner.add_label("NEW"), ner.add_label("NEW")) == (1, 0)
        nlp.initialize(lambda: examples_of(nlp))
        assert ner.labels == ("NEW", "LOC", "ORG", "PER")
        assert ner.model.get_dim("nO") == 9

    def test_a_label_must_be_a_string(self, nlp):
        with pytest.raises(ValueError, match="E187"):
            nlp.get_pipe(NAME).add_label(3)

    @pytest.mark.parametrize("label, wrong", BAD_LABELS.items(), ids=map(repr, BAD_LABELS))
    @pytest.mark.parametrize("task", ["ner", "tagger", "segmenter"])
    def test_labels_that_would_get_lost_or_be_misread_are_refused(
        self, task, label, wrong, encoders
    ):
        nlp = spacy.blank("zh" if task == "segmenter" else "en")
        model = {"encoder": {"name": encoders["bert"]}}
        pipe = nlp.add_pipe(f"early_exit_{task}", config={"model": model})
        before = pipe.labels
        doc = nlp.make_doc("Ann")
        examples = [Example(doc, doc.copy())]
        for refused in (
            lambda: pipe.add_label(label),
            lambda: pipe.initialize(lambda: examples, nlp=nlp, labels=["GOOD", label]),
        ):
            with pytest.raises(ValueError) as error:
                refused()
            assert repr(label) in str(error.value)
            assert wrong in str(error.value) or "are B, M, E, S, not" in str(error.value)
            assert pipe.labels == before

    @pytest.mark.parametrize("label, wrong", BAD_LABELS.items(), ids=map(repr, BAD_LABELS))
    @pytest.mark.parametrize("task", ["ner", "tagger"])
    def test_so_are_those_that_examples_have(self, task, label, wrong, encoders):
        nlp = spacy.blank("en")
        model = {"encoder": {"name": encoders["bert"]}}
        pipe = nlp.add_pipe(f"early_exit_{task}", config={"model": model})
        doc = nlp.make_doc("Ann ran")
        if task == "ner":
            doc.ents = [Span(doc, 0, 1, label=label), Span(doc, 1, 2, label="A")]
        else:
            doc[0].tag_, doc[1].tag_ = label, "A"
        with pytest.raises(ValueError) as error:
            nlp.initialize(lambda: [Example(nlp.make_doc("Ann ran"), doc)])
        assert repr(label) in str(error.value) and wrong in str(error.value)
        assert pipe.labels == ()

    @pytest.mark.parametrize("label", BAD_LABELS, ids=map(repr, BAD_LABELS))
    def test_a_pipeline_that_was_saved_with_one_still_loads_and_trains(self, label, nlp, tmp_path):
        ner = nlp.get_pipe(NAME)
        ner._labels[0] = label  # when nothing refused it
        expected = [answers(doc) for doc in nlp.pipe(TEXTS)]
        assert label in {ent for ents, *_ in expected for *_, ent in ents}
        nlp.to_disk(tmp_path)
        for loaded in (
            spacy.load(tmp_path),
            spacy.util.load_model_from_config(nlp.config, auto_fill=True).from_bytes(
                nlp.to_bytes()
            ),
        ):
            assert [answers(doc) for doc in loaded.pipe(TEXTS)] == expected
            assert loaded.get_pipe(NAME).add_label(label) == 0
        examples = [Example(loaded.make_doc(doc.text), doc) for doc in nlp.pipe(TEXTS)]
        loaded.get_pipe(NAME).initialize(lambda: examples, nlp=loaded, start_from=str(tmp_path))
        loaded.update(examples, sgd=loaded.resume_training())
        assert loaded.get_pipe(NAME).labels == ner.labels

    def test_white_space_and_hyphens_inside_a_label_are_fine(self, encoders):
        ner = blank(encoders["bert"]).get_pipe(NAME)
        labels = ["work of art", "B-PER", "--", "-x", "日本"]
        assert [ner.add_label(label) for label in labels] == [1] * len(labels)

    def test_a_label_added_after_training_can_be_learnt_and_forgets_nothing(self, nlp):
        optimizer = nlp.resume_training()
        nlp.update(examples_of(nlp), sgd=optimizer)  # the optimizer has moments of old heads
        before = [answers(doc) for doc in nlp.pipe(TEXTS, component_cfg=at(threshold=0))]
        nlp.get_pipe(NAME).add_label("NEW")
        after = [answers(doc) for doc in nlp.pipe(TEXTS, component_cfg=at(threshold=0))]
        assert [ents for ents, *_ in after] == [ents for ents, *_ in before]
        optimizer.learn_rate = 5e-3
        new = examples_of(nlp, [*SENTENCES, ("Nothing to report today.", [(0, 7, "NEW")])])
        for _ in range(40):
            nlp.update(new[:5] + new[6:], sgd=optimizer)
        doc = nlp("Nothing to report today.", component_cfg=at(threshold=0))
        assert [(ent.text, ent.label_) for ent in doc.ents] == [("Nothing", "NEW")]

    def test_labels_it_does_not_know_count_as_missing_with_a_warning(self, nlp):
        eg = Example.from_dict(nlp.make_doc("Ann ran"), {"entities": [(0, 3, "ALIEN")]})
        with pytest.warns(UserWarning, match="ALIEN"):
            scores, _ = nlp.get_pipe(NAME).model.begin_update([eg.predicted])
            gradient = nlp.get_pipe(NAME).get_loss([eg], scores)[1].logits
        assert (gradient[:, 0] == 0).all() and (gradient[:, 1] != 0).any()


class TestTraining:
    def test_initialize_without_labels_says_what_to_do(self, encoders):
        nlp = blank(encoders["bert"])
        for get_examples in (None, lambda: [Example.from_dict(nlp.make_doc("a"), {})]):
            with pytest.raises(ValueError, match="no labels to learn"):
                nlp.initialize(get_examples)

    def test_an_empty_training_set_is_spacys_own_error(self, encoders):
        with pytest.raises((TypeError, ValueError), match="E930|E913|no labels"):
            blank(encoders["bert"]).initialize(lambda: [])

    def test_the_loss_is_summed_over_words_and_weighs_layers(self, nlp):
        ner = nlp.get_pipe(NAME)
        examples = examples_of(nlp)
        scores, _ = ner.model.begin_update([eg.predicted for eg in examples])
        loss, gradients = ner.get_loss(examples, scores)
        gradient = gradients.logits
        logits = torch.from_numpy(scores.logits)
        names = ["O"] + [f"{bi}-{label}" for label in ner.labels for bi in "BI"]
        tags = [
            [names.index(t.replace("U-", "B-").replace("L-", "I-")) for t in eg.get_aligned_ner()]
            for eg in examples
        ]
        right = torch.tensor([tags[d][w] for d, w in zip(scores.doc, scores.word)])
        by_hand = sum(
            (layer + 1) / 10 * torch.nn.functional.cross_entropy(z, right, reduction="sum")
            for layer, z in enumerate(logits)
        )
        assert loss == pytest.approx(by_hand.item(), rel=1e-5)
        step = np.zeros_like(gradient)
        step[2, 3, 1] = 1e-2
        scores = [dataclasses.replace(scores, logits=scores.logits + s) for s in (step, -step)]
        up, down = (ner.get_loss(examples, s)[0] for s in scores)
        assert gradient[2, 3, 1] == pytest.approx((up - down) / 2e-2, abs=1e-3)

    def test_missing_annotation_carries_no_loss(self, nlp):
        ner = nlp.get_pipe(NAME)
        words = ["Ann", "met", "Bob", "Lee"]
        doc = Doc(nlp.vocab, words=words)
        eg = Example.from_dict(doc, {"words": words, "entities": ["U-PER", "-", "B-PER", "L-PER"]})
        scores, _ = ner.model.begin_update([doc])
        gradient = ner.get_loss([eg], scores)[1].logits
        assert (gradient[:, 1] == 0).all() and (gradient[:, [0, 2, 3]] != 0).any(axis=(0, 2)).all()
        nothing = Example.from_dict(nlp.make_doc("Ann met Bob"), {})
        assert nlp.update([nothing])[NAME] == 0.0

    def test_words_of_overlapping_windows_count_once(self, nlp):
        ner = nlp.get_pipe(NAME)
        text = " ".join(TEXTS * 2)
        eg = Example.from_dict(nlp.make_doc(text), {"entities": []})
        scores, _ = ner.model.begin_update([eg.predicted])
        gradient = ner.get_loss([eg], scores)[1].logits
        counted = scores.word[(gradient != 0).any(axis=(0, 2))]
        assert sorted(counted.tolist()) == list(range(len(eg.predicted)))
        assert len(scores.word) > len(counted)

    def test_gradients_add_up_until_the_optimizer_steps(self, nlp):
        network = nlp.get_pipe(NAME).model.shims[0].trained.network
        examples = examples_of(nlp)
        for group in (examples[:5], examples[5:]):
            nlp.update(group, sgd=False)
        in_two = {name: p.grad.clone() for name, p in network.named_parameters()}
        network.zero_grad()
        losses = nlp.update(examples, sgd=False)
        assert losses[NAME] > 0
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.grad, in_two[name], rtol=1e-3, atol=1e-4, msg=name)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        nlp.get_pipe(NAME).finish_update(Adam(1e-3))
        assert all(parameter.grad is None for parameter in network.parameters())
        changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
        assert changed == set(before)

    def test_heads_learn_faster_by_the_factor(self, encoders):
        nlp = blank(encoders["bert"], model={"head_lr_factor": 8.0})
        nlp.initialize(lambda: examples_of(nlp))
        seen = {}

        def optimizer(key, weights, gradient, *, lr_scale=1.0):
            seen[key[1].split(":")[0]] = lr_scale
            return weights, gradient

        nlp.update(examples_of(nlp), sgd=False)
        optimizer.learn_rate = 1e-4
        nlp.get_pipe(NAME).finish_update(optimizer)
        assert {s for name, s in seen.items() if name.startswith("heads")} == {8.0}
        assert {s for name, s in seen.items() if name.startswith("encoder")} == {1.0}

    def test_a_frozen_encoder_stays_as_it_is_and_the_heads_learn(self, encoders):
        nlp = blank(encoders["bert"], model={"freeze_encoder": True})
        optimizer = nlp.initialize(lambda: examples_of(nlp))
        network = nlp.get_pipe(NAME).model.shims[0].trained.network
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        nlp.update(examples_of(nlp), sgd=optimizer)
        changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
        assert changed == {name for name in before if name.startswith("heads")}

    @pytest.mark.parametrize("decoder", ["BIOViterbi", "CRFDecoder"])
    def test_with_full_depth_frozen_the_earlier_heads_alone_learn(self, decoder, encoders):
        block = {"@misc": f"spacy-early-exit.{decoder}.v1"}
        nlp = blank(encoders["bert"], model={"freeze_full_depth": True}, decoder=block)
        optimizer = nlp.initialize(lambda: examples_of(nlp))
        network = nlp.get_pipe(NAME).model.shims[0].trained.network
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        nlp.update(examples_of(nlp), sgd=optimizer)
        changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
        heads = {name for name in before if name.startswith("heads")}
        assert changed == {name for name in heads if not name.startswith("heads.3.")}

    def test_a_rehearsal_says_that_there_is_none_and_leaves_others_theirs(self, nlp):
        nlp.add_pipe("textcat").add_label("A")
        nlp.get_pipe("textcat").add_label("B")
        nlp.get_pipe("textcat").initialize(lambda: examples_of(nlp), nlp=nlp)
        nlp.resume_training()
        before = nlp.get_pipe(NAME).fingerprint()
        with pytest.warns(UserWarning, match=f"'{NAME}' can't rehearse.*mix them into"):
            losses = nlp.rehearse(examples_of(nlp))
        assert set(losses) == {"textcat"}
        assert nlp.get_pipe(NAME).fingerprint() == before
        assert nlp.rehearse(examples_of(nlp), exclude=[NAME, "textcat"]) == {}

    def test_the_dropout_of_the_call_reaches_the_network(self, nlp):
        examples = examples_of(nlp)
        losses = [nlp.update(examples, sgd=False, drop=drop)[NAME] for drop in (0.0, 0.0, 0.5)]
        assert losses[0] == losses[1] and losses[2] > 1.5 * losses[0]

    def test_averages_reach_the_weights(self, nlp):
        ner = nlp.get_pipe(NAME)
        optimizer = Adam(5e-3, use_averages=True)
        for _ in range(3):
            nlp.update(examples_of(nlp), sgd=optimizer)
        network = ner.model.shims[0].trained.network
        raw = {name: p.detach().clone() for name, p in network.named_parameters()}
        with nlp.use_params(optimizer.averages):
            inside = {name: p.detach().clone() for name, p in network.named_parameters()}
        shim = ner.model.shims[0]
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, raw[name])
            average = torch.from_numpy(optimizer.averages[shim._key(name, parameter)])
            assert torch.equal(inside[name], average) and not torch.equal(average, raw[name])

    def test_the_same_seed_gives_the_same_training(self, encoders):
        weights = []
        for _ in range(2):
            spacy.util.fix_random_seed(3)
            nlp = blank(encoders["bert"])
            optimizer = nlp.initialize(lambda nlp=nlp: examples_of(nlp))
            for _ in range(2):
                nlp.update(examples_of(nlp), sgd=optimizer, drop=0.1)
            weights.append(nlp.get_pipe(NAME).model.shims[0].trained.network.state_dict())
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_update_ignores_a_component_cfg_meant_for_prediction(self, nlp):
        cfg = at(threshold=0.2, batch_size=3)
        assert nlp.update(examples_of(nlp), sgd=False, component_cfg=cfg)[NAME] > 0

    def test_a_batch_without_words_is_no_problem(self, nlp):
        empty = [Example.from_dict(nlp.make_doc(text), {}) for text in ("", " ")]
        assert nlp.update(empty) == {NAME: 0.0}
        assert nlp.get_pipe(NAME).update([]) == {NAME: 0.0}

    def test_misaligned_entities_count_as_missing(self, nlp):
        with pytest.warns(UserWarning, match="W030"):
            eg = Example.from_dict(nlp.make_doc("Annabel ran"), {"entities": [(0, 3, "PER")]})
            assert eg.get_aligned_ner()[0] is None
            nlp.update([eg], sgd=False)

    def test_overlapping_entities_are_spacys_own_error(self, nlp):
        with pytest.raises(ValueError, match="E1010|E103"):
            Example.from_dict(
                nlp.make_doc("Ann Lee ran"), {"entities": [(0, 7, "PER"), (4, 7, "PER")]}
            )

    def test_training_goes_on_from_a_sourced_component(self, nlp):
        other = spacy.blank("en")
        other.add_pipe(NAME, source=nlp)
        optimizer = other.resume_training()
        loss = other.update(examples_of(other), sgd=optimizer)[NAME]
        assert other.update(examples_of(other), sgd=optimizer)[NAME] != loss
        assert other(TEXTS[0]).ents


class TestScoring:
    def test_scores_are_spacys_own_and_the_cost(self, nlp):
        scores = nlp.evaluate(examples_of(nlp), component_cfg=at(threshold=0))
        assert scores["ents_f"] == 1.0 and scores["exit_cost"] == 1.0
        assert set(scores["ents_per_type"]) == {"LOC", "ORG", "PER"}
        records = [doc._.early_exit[NAME] for doc in nlp.pipe(TEXTS)]
        expected = sum(r.spent for r in records) / sum(r.full for r in records)
        assert nlp.evaluate(examples_of(nlp))["exit_cost"] == pytest.approx(expected)

    def test_an_empty_corpus_costs_nothing(self, nlp):
        eg = Example.from_dict(nlp.make_doc(""), {"entities": []})
        assert nlp.evaluate([eg])["exit_cost"] == 0.0

    def test_two_components_keep_their_records_and_costs_apart(self, nlp, encoders):
        other = trained_pipeline(encoders["distilbert"])
        other.rename_pipe(NAME, "second")
        nlp.add_pipe("second", source=other, first=True)
        examples = examples_of(nlp)
        cfg = {"second": {"threshold": 0}}
        docs = list(nlp.pipe(TEXTS, component_cfg=cfg))
        examples = [Example(doc, eg.reference) for doc, eg in zip(docs, examples)]
        assert set(docs[0]._.early_exit) == {NAME, "second"}
        costs = [nlp.get_pipe(name).score(examples)["exit_cost"] for name in ("second", NAME)]
        assert costs[0] == 1.0 > costs[1]
        scores = nlp.evaluate(examples_of(nlp), component_cfg=cfg)
        assert [scores[f"exit_cost_{name}"] for name in ("second", NAME)] == costs
        assert scores["exit_cost"] == costs[1], "that of the last"


class TestOtherLayers:
    """Encoders whose layers are not BERT's own, from end to end."""

    @pytest.mark.parametrize("family", ["albert", "modernbert", "mpnet", "deberta-v2"])
    def test_they_learn_and_answer_alike_in_any_batch(self, family, encoders):
        nlp = trained_pipeline(encoders[family])
        # How sure the first layer is depends on the processor's arithmetic.
        for threshold in (0.15, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001):
            cfg = at(threshold=threshold)
            alone = [answers(nlp(text, component_cfg=cfg)) for text in TEXTS]
            if len({layer for _, layers, *_ in alone for layer in layers}) > 1:
                break
        else:
            pytest.fail("at no threshold did some words leave and others stay")
        for other in (nlp, pickle.loads(pickle.dumps(nlp))):
            docs = other.pipe(TEXTS[::-1] * 3, batch_size=7, component_cfg=cfg)
            assert [answers(doc) for doc in docs] == alone[::-1] * 3


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def go_on(name, component, docs, error):
    """Raise nothing, but for a good text: that ends a process."""
    if [doc for doc in docs if "Acme" not in doc.text]:
        raise SystemExit("a good text was given to the handler")


class TestErrorHandling:
    def test_a_bad_doc_never_takes_its_batch_along(self, nlp, monkeypatch):
        ner = nlp.get_pipe(NAME)
        expected = {text: answers(nlp(text)) for text in TEXTS}
        original = type(ner)._predict

        def fails(self, docs, settings):
            if any("Acme" in doc.text for doc in docs):
                raise RuntimeError("a bad doc")
            return original(self, docs, settings)

        monkeypatch.setattr(type(ner), "_predict", fails)
        failed = []
        nlp.set_error_handler(lambda name, proc, docs, e: failed.extend(docs))
        found = [(doc.text, answers(doc)) for doc in nlp.pipe(TEXTS)]
        assert [doc.text for doc in failed] == [text for text in TEXTS if "Acme" in text]
        assert found == [(text, expected[text]) for text in TEXTS if "Acme" not in text]

    @pytest.mark.parametrize(
        "how",
        [
            pytest.param(how, marks=FORKS if "n_process" in how else ())
            for how in (
                {"as_tuples": True},
                {"batch_size": 3},
                {"as_tuples": True, "batch_size": 3},
                {"n_process": 2, "batch_size": 4},
                {"n_process": 2, "batch_size": 4, "as_tuples": True},
            )
        ],
        ids=str,
    )
    def test_nor_however_it_comes(self, how, nlp, monkeypatch):
        original = type(nlp.get_pipe(NAME))._predict
        expected = [(text, answers(nlp(text))) for text in TEXTS]

        def fails(self, docs, settings):
            if any("Acme" in doc.text for doc in docs):
                raise RuntimeError("a bad doc")
            return original(self, docs, settings)

        monkeypatch.setattr(type(nlp.get_pipe(NAME)), "_predict", fails)
        nlp.set_error_handler(go_on)
        texts = TEXTS * 3
        if "as_tuples" in how:
            pairs = list(nlp.pipe([(text, i) for i, text in enumerate(texts)], **how))
            assert [doc.text for doc, _ in pairs] == [texts[number] for _, number in pairs]
            docs = [doc for doc, _ in pairs]
        else:
            docs = list(nlp.pipe(texts, **how))
        kept = [one for one in expected * 3 if "Acme" not in one[0]]
        assert [(doc.text, answers(doc)) for doc in docs] == kept

    @pytest.mark.parametrize("threads", [1, 2])
    def test_nor_where_the_tokenizer_panics(self, threads, nlp, monkeypatch):
        """As a library in Rust may do: its panics are no Exceptions."""
        PanicException = type("PanicException", (BaseException,), {})
        ner = nlp.get_pipe(NAME)
        expected = {text: answers(nlp(text)) for text in TEXTS}
        tokenizer = ner.model.shims[0].trained.tokenizer._tokenizer

        class Panicking:
            def encode_batch(self, texts, **how):
                if any("Acme" in text for text in texts):
                    raise PanicException("index out of bounds")
                return tokenizer.encode_batch(texts, **how)

        monkeypatch.setattr(ner.model.shims[0].trained.tokenizer, "_tokenizer", Panicking())
        monkeypatch.setattr(ner, "batch_wordpieces", 20)
        failed = []
        nlp.set_error_handler(lambda name, proc, docs, e: failed.extend((d.text, e) for d in docs))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found = [(doc.text, answers(doc)) for doc in nlp.pipe(TEXTS)]
        finally:
            torch.set_num_threads(before)
        assert [text for text, _ in failed] == [text for text in TEXTS if "Acme" in text]
        assert all(isinstance(e, ValueError) and "panicked" in str(e) for _, e in failed)
        assert found == [(text, expected[text]) for text in TEXTS if "Acme" not in text]

    def test_a_pipeline_without_weights_is_no_fault_of_single_docs(self, encoders):
        nlp = blank(encoders["bert"])
        nlp.set_error_handler(lambda *a: pytest.fail("the handler was called"))
        for texts in (["a"], ["a", "b"]):
            with pytest.raises(ValueError, match="no weights yet"):
                list(nlp.pipe(texts))

    def test_without_a_handler_the_error_comes_through(self, nlp, monkeypatch):
        def fails(self, docs, settings):
            raise RuntimeError("a bad doc")

        monkeypatch.setattr(type(nlp.get_pipe(NAME)), "_predict", fails)
        for call in (lambda: nlp("Ann"), lambda: list(nlp.pipe(TEXTS))):
            with pytest.raises(RuntimeError, match="a bad doc"):
                call()


class TestProcesses:
    @pytest.fixture(autouse=True)
    def two_threads(self):
        """What makes forked processes hang that do nothing about it."""
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(1)

    def test_forked_workers_give_the_same_answers_and_print_nothing(self, nlp, capfd):
        expected = [answers(doc) for doc in nlp.pipe(TEXTS)]  # torch has run in this process
        found = [answers(doc) for doc in nlp.pipe(TEXTS, n_process=2, batch_size=3)]
        assert found == expected
        assert "huggingface/tokenizers" not in capfd.readouterr().err

    def test_spawned_workers_give_the_same_answers(self, nlp, monkeypatch):
        # nlp.pipe takes the default context. The workers' own tests are those of the others.
        expected = [answers(doc) for doc in nlp.pipe(TEXTS)]
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            found = pool.apply(answers_of, (nlp, TEXTS))
        assert found == expected

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_process_that_forks_itself_does_not_hang(self, nlp):
        expected = answers(nlp(TEXTS[0]))
        child = os.fork()
        if not child:
            signal.alarm(60)
            os._exit(0 if answers(nlp(TEXTS[0])) == expected else 1)
        assert os.waitpid(child, 0)[1] == 0

    def test_threads_share_a_pipeline_at_thresholds_of_their_own(self, nlp):
        thresholds = [0.0, 0.001, 0.01, 1.0] * 10
        expected = {
            t: [answers(d) for d in nlp.pipe(TEXTS, component_cfg=at(threshold=t))]
            for t in set(thresholds)
        }
        assert len({str(value) for value in expected.values()}) > 2

        def call(threshold):
            docs = nlp.pipe(TEXTS, component_cfg=at(threshold=threshold))
            return [answers(doc) for doc in docs]

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(call, thresholds))
        assert found == [expected[threshold] for threshold in thresholds]

    def test_as_tuples(self, nlp):
        pairs = list(nlp.pipe([(text, i) for i, text in enumerate(TEXTS)], as_tuples=True))
        assert [context for _, context in pairs] == list(range(len(TEXTS)))


def test_factory_metadata():
    meta = spacy.language.Language.get_factory_meta(NAME)
    assert meta.assigns == ["doc.ents", "token.ent_iob", "token.ent_type"]
    assert meta.default_score_weights["ents_f"] == 1.0


def test_predicting_warns_of_nothing(nlp):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(nlp.pipe(TEXTS))
