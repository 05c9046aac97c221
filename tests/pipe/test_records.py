"""What a Doc tells: right whatever becomes of the Doc, at once, as JSON, and of each component."""

import ast
import json
import pickle
import time
from contextlib import contextmanager

import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span

from spacy_early_exit.measure.evaluate import evaluate
from spacy_early_exit.measure.report import collect, to_html
from spacy_early_exit.pipe.records import (
    EXTENSIONS,
    KEY,
    get_confidence,
    get_exit_layer,
    get_records,
    register_extensions,
    write_record,
)
from tests.makers.project import ROOT
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"
MANY = 10_000


@contextmanager
def names_taken():
    """Another package was first: it keeps words and numbers of its own under our names."""
    for holder, name, *_ in EXTENSIONS:
        holder.remove_extension(name)
        holder.set_extension(name, default="of another package")
    try:
        yield
    finally:
        for holder, name, *_ in EXTENSIONS:
            holder.remove_extension(name)
        register_extensions()


def entities_of(doc, count):
    return [Span(doc, i, i + 1, label=("PER", "LOC")[i % 2]) for i in range(count)]


@pytest.fixture(scope="module")
def long(en):
    """Every word is an entity."""
    doc = Doc(en.vocab, words=["word"] * MANY)
    doc.ents = entities_of(doc, MANY)
    sure = [(ent.start_char, ent.end_char, ent.label_, ent.start / MANY) for ent in doc.ents]
    write_record(doc, NAME, 1, 2, [i % 7 for i in range(MANY)], sure)
    return doc


def seconds(read, things):
    """RETURNS (float): Of the processor, the least of ten times: there may be other work."""
    times = []
    for _ in range(10):
        start = time.process_time()
        for thing in things:
            read(thing)
        times.append(time.process_time() - start)
    return min(times)


class TestLongTexts:
    def test_all_confidences_of_ten_thousand_entities_are_read_in_a_tenth_of_a_second(self, long):
        ents = long.ents
        assert [ent._.confidence for ent in ents] == [i / MANY for i in range(MANY)]
        assert seconds(lambda ent: ent._.confidence, ents) <= 0.1

    def test_all_exit_layers_of_ten_thousand_words_are_read_in_a_tenth_of_a_second(self, long):
        words = list(long)
        assert [word._.exit_layer for word in words] == [i % 7 for i in range(MANY)]
        assert seconds(lambda word: word._.exit_layer, words) <= 0.1


class TestChanges:
    """Nothing that was once read is told of a Doc that has changed since."""

    @pytest.fixture
    def doc(self, en):
        doc = en.make_doc("Zoe met Ann Lee in Oslo")
        doc.ents = [Span(doc, 0, 1, "PER"), Span(doc, 2, 4, "PER"), Span(doc, 5, 6, "LOC")]
        confidences = [(0, 3, "PER", 0.5), (8, 15, "PER", 0.6), (19, 23, "LOC", 0.7)]
        write_record(doc, NAME, 1, 2, [1, 2, 3, 4, 5, 6], confidences)
        assert [ent._.confidence for ent in doc.ents] == [0.5, 0.6, 0.7]
        assert [word._.exit_layer for word in doc] == [1, 2, 3, 4, 5, 6]
        return doc

    def test_other_entities_have_no_confidence_and_those_that_stay_keep_theirs(self, doc):
        doc.ents = [Span(doc, 0, 1, "ORG"), Span(doc, 2, 3, "PER"), Span(doc, 5, 6, "LOC")]
        assert [ent._.confidence for ent in doc.ents] == [None, None, 0.7]

    def test_merged_words_have_no_layer_and_their_entity_keeps_its_confidence(self, doc):
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[2:4])
        assert [ent._.confidence for ent in doc.ents] == [0.5, 0.6, 0.7]
        assert {word._.exit_layer for word in doc} == {None}

    def test_a_second_run_adds_to_what_was_said_of_entities_that_stay(self, doc):
        doc.ents = [Span(doc, 2, 4, "PER"), Span(doc, 5, 6, "LOC")]
        write_record(doc, NAME, 3, 4, None, [(0, 3, "ORG", 0.9)])
        doc.ents = [Span(doc, 0, 1, "ORG"), *doc.ents]
        assert [ent._.confidence for ent in doc.ents] == [0.9, 0.6, 0.7]
        assert doc[0]._.exit_layer is None and get_records(doc)[NAME].spent == 3

    def test_a_record_that_is_dropped_or_replaced_is_not_told(self, doc):
        kept = dict(doc.user_data)
        doc.user_data.clear()
        assert doc.ents[0]._.confidence is None and doc[0]._.exit_layer is None
        doc.user_data.update(kept)
        assert doc.ents[0]._.confidence == 0.5 and doc[0]._.exit_layer == 1

    def test_copies_tell_the_same_and_of_themselves_alone(self, doc, en):
        bins = DocBin(store_user_data=True, docs=[doc])
        for copy in (
            pickle.loads(pickle.dumps(doc)),
            doc.copy(),
            Doc(en.vocab).from_bytes(doc.to_bytes()),
            next(bins.get_docs(en.vocab)),
        ):
            assert [ent._.confidence for ent in copy.ents] == [0.5, 0.6, 0.7]
            assert [word._.exit_layer for word in copy] == [1, 2, 3, 4, 5, 6]
            write_record(copy, NAME, 3, 4, [6] * 6, [])
            assert [ent._.confidence for ent in copy.ents] == [0.5, 0.6, 0.7]
            assert copy[0]._.exit_layer == 6 and doc[0]._.exit_layer == 1


class TestSeveralComponents:
    @pytest.fixture
    def doc(self, en):
        doc = en.make_doc("Zoe met Ann")
        write_record(doc, "first", 1, 2, [1, 1, 1], [(0, 3, "PER", 0.1)])
        write_record(doc, NAME, 3, 4, [4, 3, 2], [(0, 3, "PER", 0.9), (8, 11, "PER", 0.8)])
        doc.ents = [Span(doc, 0, 1, "PER"), Span(doc, 2, 3, "PER")]
        return doc

    def test_each_is_asked_by_its_name(self, doc):
        assert [get_exit_layer(word, NAME) for word in doc] == [4, 3, 2]
        assert [get_confidence(ent, NAME) for ent in doc.ents] == [0.9, 0.8]
        assert [get_confidence(ent, "first") for ent in doc.ents] == [0.1, None]
        assert get_exit_layer(doc[0], "none") is None and get_confidence(doc.ents[0], "no") is None

    def test_without_a_name_the_first_answers(self, doc):
        assert [word._.exit_layer for word in doc] == [1, 1, 1]
        assert [ent._.confidence for ent in doc.ents] == [0.1, 0.8]

    def test_a_component_says_how_sure_it_was_itself(self, doc, nlp):
        ner = nlp.get_pipe(NAME)
        assert ner.confidences(doc, doc) == [(0.9, True), (0.8, True)]
        write_record(doc, NAME, 3, 4, None, [])  # and nothing of what others have set
        doc.user_data["spacy_early_exit"][NAME]["confidence_of"] = {}
        assert ner.confidences(doc, doc) == []

    def test_where_annotation_is_missing_it_was_neither_right_nor_wrong(self, doc, en, nlp):
        ner, reference = nlp.get_pipe(NAME), en.make_doc("Zoe met Ann")
        reference.set_ents([], missing=[reference[2:]])
        assert ner.confidences(doc, reference) == [(0.9, False)]
        reference.set_ents([Span(reference, 2, 3, "PER")], missing=[reference[:1]])
        assert ner.confidences(doc, reference) == [(0.8, True)]
        assert ner.confidences(doc, en.make_doc("Zoe met Ann")) == []

    def test_a_report_shows_the_layers_of_its_own_component(self, nlp):
        ner, examples = nlp.get_pipe(NAME), examples_of(nlp)
        page = collect(nlp, ner, examples, [1], rounds=0)
        expected = to_html(page)
        for doc in page.docs:  # another one was first
            ours = doc.user_data["spacy_early_exit"].pop(NAME)
            write_record(doc, "first", 1, 2, [2] * len(doc), [])
            doc.user_data["spacy_early_exit"][NAME] = ours
        assert to_html(page) == expected


class TestNamesTaken:
    """Where another package has our names, what is measured is as ever."""

    def test_evaluate_and_report_are_the_same(self, nlp):
        ner, examples = nlp.get_pipe(NAME), examples_of(nlp)
        rows = evaluate(nlp, ner, examples, [1], rounds=0)
        page = to_html(collect(nlp, ner, examples, [1], rounds=0))
        with names_taken():
            assert nlp(TEXTS[0])[0]._.exit_layer == "of another package"
            assert evaluate(nlp, ner, examples, [1], rounds=0) == rows
            assert to_html(collect(nlp, ner, examples, [1], rounds=0)) == page

    def test_nothing_of_ours_reads_its_own_answers_by_these_names(self):
        names = {name for _, name, *_ in EXTENSIONS}
        files = [
            path
            for folder in ("spacy_early_exit", "scripts", "benchmarks", "examples")
            for path in (ROOT / folder).rglob("*.py")
        ]
        assert len(files) > 100
        read = [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for path in files
            for node in ast.walk(ast.parse(path.read_text(encoding="utf8")))
            if isinstance(node, ast.Attribute) and node.attr in names
            if isinstance(node.value, ast.Attribute) and node.value.attr == "_"
        ]
        assert not read, "use the functions of records.py"


class TestPlainForm:
    def test_a_record_goes_into_json_as_it_is(self, nlp):
        record = nlp(TEXTS[0])._.early_exit[NAME]
        assert json.loads(json.dumps(record)) == {
            "spent": record.spent,
            "full": record.full,
            "layers": list(record.layers),
        }

    def test_a_doc_goes_into_json_with_its_records(self, nlp):
        nlp.get_pipe(NAME).store_exits = False
        for text in (TEXTS[0], ""):
            doc = nlp(text)
            written = json.loads(json.dumps(doc.to_json(underscore=["early_exit"])))
            assert written["_"]["early_exit"] == {NAME: doc._.early_exit[NAME]}
        assert spacy.blank("en")("Ann").to_json(underscore=["early_exit"])["_"]["early_exit"] == {}

    def test_records_are_equal_by_what_they_say_and_can_be_pickled(self, nlp):
        record = nlp(TEXTS[0])._.early_exit[NAME]
        copy = pickle.loads(pickle.dumps(record))
        assert copy == record == nlp(TEXTS[0])._.early_exit[NAME] != nlp("ok")._.early_exit[NAME]
        assert type(copy) is type(record) and copy.layers == record.layers and copy.full > 0

    def test_what_is_changed_in_a_record_does_not_change_the_doc(self, nlp):
        doc = nlp(TEXTS[0])
        before = doc._.early_exit[NAME].spent
        doc._.early_exit[NAME]["spent"] = 0
        assert doc._.early_exit[NAME].spent == before
        with pytest.raises(AttributeError):
            doc._.early_exit[NAME].spent = 0


class TestSetting:
    """What is set is what is told afterwards, or an error: nothing is set in vain."""

    def test_a_doc_cleaner_removes_the_records(self, nlp):
        nlp.add_pipe("doc_cleaner", config={"attrs": {"_.early_exit": None}})
        doc = nlp(TEXTS[0])
        assert doc.ents and doc._.early_exit == {} and KEY not in doc.user_data
        assert doc.ents[0]._.confidence is None and doc[0]._.exit_layer is None
        nlp.remove_pipe("doc_cleaner")
        assert nlp.get_pipe(NAME)(doc)._.early_exit[NAME].layers

    def test_records_come_back_from_json(self, nlp):
        doc = nlp(TEXTS[0])
        written = json.loads(json.dumps(doc.to_json(underscore=["early_exit"])))
        again = Doc(nlp.vocab).from_json(written)
        assert again._.early_exit == doc._.early_exit
        assert [t._.exit_layer for t in again] == [t._.exit_layer for t in doc]

    def test_records_that_are_set_as_they_are_change_nothing(self, nlp):
        doc = nlp(TEXTS[0])
        records, sure = doc._.early_exit, [ent._.confidence for ent in doc.ents]
        doc._.early_exit = {**records, "other": records[NAME]}
        assert list(doc._.early_exit) == [NAME, "other"]
        doc._.early_exit = records
        assert doc._.early_exit == records
        assert [ent._.confidence for ent in doc.ents] == sure != [None] * len(sure)

    @pytest.mark.parametrize(
        "wrong", [False, 3, "none", [NAME], {NAME: None}, {NAME: {"spent": 1}}, {NAME: {"full": 1}}]
    )
    def test_anything_else_is_an_error_that_says_what_is_right(self, wrong, nlp):
        doc = nlp(TEXTS[0])
        before = doc._.early_exit
        with pytest.raises(ValueError, match="must be None, which removes"):
            doc._.early_exit = wrong
        assert doc._.early_exit == before

    def test_layers_and_confidences_can_not_be_set(self, nlp):
        doc = nlp(TEXTS[0])
        with pytest.raises(AttributeError, match="can't be set"):
            doc[0]._.exit_layer = 3
        with pytest.raises(AttributeError, match="can't be set"):
            doc.ents[0]._.confidence = 1.0
