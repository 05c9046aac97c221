"""Texts from files, annotated or not."""

import json

import pytest
import spacy
import srsly
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.scorer import get_ner_prf
from spacy.tokens import Doc, DocBin
from spacy.training import Example, offsets_to_biluo_tags

from spacy_early_exit.corpora import (
    LISTS,
    CorpusError,
    Entity,
    check_label,
    read_annotated,
    read_entities,
    read_lines,
    read_records,
    read_texts,
    set_entities,
)
from tests.makers.project import ROOT

ANN = "Ann Lee lives in New York."
SPANS = [(0, 7, "PER"), (17, 25, "LOC")]


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="made.jsonl"):
        """A file of JSON lines; what is not a dict is a line as it is."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("\n".join(texts) + "\n", encoding="utf8")
        return tmp_path / name

    return write


def tags(doc):
    """BILUO-like: what is annotated of each word, "-" where nothing is."""
    names = {0: "-", 2: "O"}
    return [names.get(t.ent_iob) or f"{t.ent_iob_}-{t.ent_type_}" for t in doc]


def as_dicts(start="start", end="end"):
    return [{start: a, end: b, "label": label, "token_start": 0} for a, b, label in SPANS]


@pytest.mark.parametrize(
    "about",
    [
        {"spans": as_dicts(), "answer": "accept", "_input_hash": 1},  # Prodigy
        {"entities": SPANS},  # spaCy 2
        {"id": 7, "label": SPANS},  # doccano
        {"labels": SPANS},
        {"entities": as_dicts("start_offset", "end_offset"), "relations": []},
        {"spans": as_dicts(), "label": "POSITIVE"},
        {"spans": None, "entities": [], "label": SPANS},
    ],
)
def test_every_way_to_list_entities_says_the_same(about, write, en):
    (doc,), remarks = read_entities(write({"text": ANN, **about}), en)
    assert doc.text == ANN and remarks == []
    assert [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents] == SPANS
    assert "-" not in tags(doc)


def test_text_stays_as_it_is(write, en):
    text = "  ¿Ann?\n\tlives \u2028 in 東京 👍🏽 "
    (doc,), _ = read_entities(write("", {"text": text, "spans": []}, "  "), en)
    assert doc.text == text and tags(doc) == ["O"] * len(doc)


def test_offsets_count_characters_whatever_their_bytes(write, en):
    text = "👍🏽 Zoë in 東京"
    start = text.index("Zoë")
    (doc,), remarks = read_entities(write({"text": text, "label": [[start, start + 3, "PER"]]}), en)
    assert [ent.text for ent in doc.ents] == ["Zoë"] and not remarks


def test_what_does_not_align_is_left_out_and_named(write, en):
    path = write(
        {"text": ANN, "entities": SPANS},
        {"text": "I don't know Lee.", "entities": [(2, 6, "X"), (13, 15, "PER")]},
        {"text": "So Bob-Ann", "entities": [(0, 2, "X"), (2, 3, "X")]},
    )
    docs, (remark,) = read_entities(path, en)
    assert remark == (
        '3 of 6 entities do not align with word boundaries and are left out, such as "don\'" in '
        "line 2."
    )
    assert [tags(doc) for doc in docs[1:]] == [
        ["O", "-", "-", "O", "-", "O"],
        ["B-X", "O", "O", "O"],  # a space is no word
    ]


@pytest.mark.filterwarnings("ignore:.*W030")
def test_words_are_missing_where_spacy_has_them_missing(write, en):
    text, entities = "I don't know Lee.", [(2, 6, "X"), (7, 12, "Y"), (13, 15, "PER")]
    (doc,), _ = read_entities(write({"text": text, "entities": entities}), en)
    expected = offsets_to_biluo_tags(en.make_doc(text), entities)
    assert [tag == "-" for tag in tags(doc)] == [tag == "-" for tag in expected]
    assert expected.count("-") == 4


def test_of_entities_that_overlap_the_longest_is_kept_and_others_are_named(write, en):
    entities = [(17, 20, "LOC"), (17, 25, "LOC"), (21, 26, "X"), (0, 7, "PER"), (0, 7, "ORG")]
    (doc,), (remark,) = read_entities(write({"text": ANN, "entities": entities}), en)
    assert remark == "3 of 5 entities overlap others and are left out, such as 'New' in line 1."
    assert tags(doc) == ["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC", "-"]


def test_the_same_entity_twice_is_one(write, en):
    (doc,), remarks = read_entities(write({"text": ANN, "entities": SPANS + SPANS}), en)
    assert len(doc.ents) == 2 and not remarks


def test_what_nobody_accepted_is_left_out_and_counted(write, en):
    lines = [{"text": ANN, "spans": [], "answer": a} for a in ("reject", "accept", "ignore")]
    lines.append({"text": "Bob", "label": [["nonsense"]], "answer": "ignore"})
    docs, (remark,) = read_entities(write(*lines), en)
    assert len(docs) == 1
    assert remark.startswith('3 of 4 texts have the answer "reject" or "ignore" and are left out')
    assert remark.endswith(f"such as {ANN!r} in line 1.")


def test_a_text_without_any_list_is_not_annotated(write, en):
    lines = [{"text": ANN, "spans": []}, {"text": "Bob"}, {"text": "Eve", "answer": "accept"}]
    docs, (remark,) = read_entities(write(*lines), en)
    assert [tags(doc) for doc in docs] == [["O"] * 7, ["-"], ["O"]]
    assert "1 of 3 texts lists no entities and counts as not annotated" in remark
    for lines in ([{"text": "Bob"}], [{"text": "Bob", "spans": [], "answer": "reject"}], []):
        with pytest.raises(CorpusError, match="no annotated texts"):
            read_entities(write(*lines), en)


def test_what_cannot_be_used_is_counted_in_good_english(write, en):
    def remarks(*lines):
        return read_entities(write(*lines), en)[1]

    wrong, right = [1, 3, "PER"], [0, 3, "PER"]
    does = "not align with word boundaries and is left out: 'nn' in line 1."
    assert remarks({"text": "Ann", "label": [wrong]}) == [f"The only entity does {does}"]
    assert remarks({"text": "Ann", "label": [right, wrong]}) == [f"1 of 2 entities does {does}"]
    assert remarks({"text": "Ann", "label": [wrong, [1, 2, "PER"]]}) == [
        "2 of 2 entities do not align with word boundaries and are left out, "
        "such as 'nn' in line 1."
    ]
    lists = "lists no entities and counts as not annotated: 'Ann' in line 1."
    assert remarks({"text": "Ann"}, {"text": "Bob", "spans": []}) == [f"1 of 2 texts {lists}"]
    with pytest.raises(CorpusError, match=f"The only text {lists}"):
        remarks({"text": "Ann"})


def test_missing_words_are_neither_learnt_nor_scored(write, nlp):
    path = write({"text": "Ann Lee met Bobby", "entities": [(0, 7, "PER"), (12, 15, "PER")]})
    (doc,), _ = read_annotated(path, nlp)
    example = Example(nlp.make_doc(doc.text), doc)
    found, unknown = nlp.get_pipe("early_exit_ner").gold_tags(example)
    assert found[3] == -1 and -1 not in found[:3] and not unknown
    example.predicted.ents = [
        example.predicted.char_span(a, b, "PER") for a, b in [(0, 7), (12, 17)]
    ]
    assert get_ner_prf([example])["ents_f"] == 1.0


@pytest.mark.parametrize(
    "line, message",
    [
        ("[1, 2]", 'line 2: expected {"text": "..."}, found \'[1, 2]\''),
        ("text", "line 2: not valid JSON ("),
        ("[" * 5000, "line 2: not valid JSON"),
        ('{"text": "a", "label": [[NaN, 1, "A"]]}', "line 2: not valid JSON"),
        ('{"text": "a", "label": [[0, %s, "A"]]}' % ("9" * 30), "JSON (Value is too big!): '{"),
        ('{"text": 3, "spans": []}', "line 2: expected {"),
        ({"txt": "Ann"}, "line 2: expected {"),
        (r'{"text": "\ud800 abc", "spans": []}', r"line 2: character 0 of the text is a lone surr"),
        (r'{"text": "a", "label": [[0, 1, "\udc00"]]}', "character 0 of the label is a lone surr"),
        (
            {"text": "a", "label": "POSITIVE"},
            'line 2: "label" must be a list of entities, not \'POS',
        ),
        ({"text": "a", "spans": {"start": 0}}, 'line 2: "spans" must be a list of entities'),
        ({"text": "a", "spans": ["PER"]}, "line 2: an entity must be [start, end,"),
        (
            {"text": "a", "spans": [{"start": 0, "end": 1}]},
            "line 2: an entity must be [start, end,",
        ),
        ({"text": "a", "label": [[0, 1]]}, "line 2: an entity must be [start, end,"),
        ({"text": "a", "label": [[0, 1.0, "X"]]}, "line 2: an entity must be [start, end,"),
        ({"text": "a", "label": [[False, True, "X"]]}, "line 2: an entity must be [start, end,"),
        ({"text": "a", "label": [["0", "1", "X"]]}, "line 2: an entity must be [start, end,"),
        ({"text": "a", "label": [[0, 2, "X"]]}, "can't reach from character 0 to 2 in a text of 1"),
        ({"text": "a", "label": [[-1, 1, "X"]]}, "can't reach from character -1 to 1"),
        ({"text": "a", "label": [[1, 1, "X"]]}, "can't reach from character 1 to 1"),
        (
            {"text": "a", "label": [[0, 1, "X"]], "spans": [[0, 1, "X"]]},
            'line 2: entities are listed under "spans" and "label"',
        ),
        ({"text": "a", "label": [[0, 1, "PER "]]}, "line 2: the label 'PER ' can't be used: it"),
        ({"text": "a", "label": [[0, 1, " PER"]]}, "line 2: the label ' PER' can't be used: it"),
        ({"text": "a", "label": [[0, 1, "P\nR"]]}, r"line 2: the label 'P\nR' can't be used: it"),
        ({"text": "a", "label": [[0, 1, "P\u2028R"]]}, "contains a line break"),
        ({"text": "a", "label": [[0, 1, "PER\n"]]}, "begins or ends with white space"),
        ({"text": "a", "label": [[0, 1, "-"]]}, "line 2: the label '-' can't be used: it is"),
        ({"text": "a", "label": [[0, 1, ""]]}, "line 2: the label '' can't be used: it is empty"),
    ],
)
def test_a_line_that_says_something_else_is_refused(line, message, write, en):
    with pytest.raises(CorpusError) as e:
        read_entities(write({"text": ANN, "spans": []}, line), en)
    assert message in str(e.value) and "made.jsonl" in str(e.value)
    str(e.value).encode("utf8")


def test_labels_of_several_words_are_names(write, en):
    for label in ("WORK OF ART", "B-PER", "人", "-x", "a-b", "/etc"):
        check_label(label, "here")
        (doc,), _ = read_entities(write({"text": "Ann", "spans": [[0, 3, label]]}), en)
        assert doc.ents[0].label_ == label


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
like_entities = st.lists(
    st.tuples(st.integers(-1, 9), st.integers(-1, 9), st.text() | st.just("PER")) | anything
)
records = st.fixed_dictionaries(
    {"text": st.text() | st.just("Ann's  Lee")},
    optional={key: like_entities | anything for key in (*LISTS, "answer")},
)


@settings(max_examples=200, deadline=None)
@given(line=records | anything)
def test_whatever_a_line_says_it_is_read_or_refused(line, tmp_path_factory, en):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps(line), encoding="utf8")
    try:
        docs, remarks = read_entities(path, en)
    except CorpusError as e:
        assert "any.jsonl" in str(e)
        return
    (doc,) = docs
    assert doc.text == line["text"]
    lists = [line[key] for key in LISTS if isinstance(line.get(key), list)]
    given = {tuple(item) for items in lists for item in items if len(item) == 3}
    assert {(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents} <= given
    assert bool(remarks) == (len(given) > len(doc.ents))
    DocBin(docs=docs).to_bytes()


def test_entities_are_set_as_spacy_sets_them(en):
    doc = en.make_doc(ANN)
    assert set_entities(doc, [Entity(*span) for span in SPANS]) == ([], [])
    assert doc.to_json() == Example.from_dict(doc, {"entities": SPANS}).reference.to_json()


def test_records_are_lines_as_they_stand(write):
    about = {"text": ANN, "spans": as_dicts(), "meta": {"source": 1}}
    path = write({"text": "no", "answer": "reject"}, "", about, {"text": "Bob"})
    records, (remark,) = read_records(path)
    assert [(r.number, r.text, r.entities) for r in records] == [
        (3, ANN, [Entity(*span) for span in SPANS]),
        (4, "Bob", None),
    ]
    assert json.loads(records[0].line) == about and "1 of 3 texts has the answer" in remark


def test_texts_are_read_whatever_is_annotated(write, en, tmp_path):
    about = [{"text": ANN, "label": "any", "answer": "reject"}, {"text": "Bob\n"}]
    assert [doc.text for doc in read_texts(write(*about), en)] == [ANN, "Bob\n"]
    lines = write(" Ann ", "", "\u2028Bob", name="made.txt")
    assert [doc.text for doc in read_texts(lines, en)] == [" Ann ", "\u2028Bob"]
    DocBin(docs=[en.make_doc(ANN)]).to_disk(tmp_path / "made.spacy")
    assert [doc.text for doc in read_texts(tmp_path / "made.spacy", en)] == [ANN]
    assert [doc.text for doc in read_annotated(tmp_path / "made.spacy", en).docs] == [ANN]


def test_marks_and_line_ends_of_other_systems_are_no_text(tmp_path):
    (tmp_path / "made.txt").write_bytes(b"\xef\xbb\xbfAnn\r\n\r\nBob\r\n")
    assert read_lines(tmp_path / "made.txt") == [(1, "Ann"), (3, "Bob")]


def test_files_that_are_not_what_they_shall_be_are_refused(tmp_path, en):
    DocBin(docs=[en.make_doc(ANN)] * 20).to_disk(tmp_path / "half.spacy")
    whole = (tmp_path / "half.spacy").read_bytes()
    (tmp_path / "half.spacy").write_bytes(whole[: len(whole) // 2])
    srsly.write_jsonl(tmp_path / "lines.spacy", [{"text": ANN}])
    (tmp_path / "empty.spacy").write_bytes(b"")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "Ann", "spans": []}\n{"text": "Zo\xeb"}\n')
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder.spacy").mkdir()
    for name, message in [
        ("half.spacy", "half.spacy can't be read as a .spacy file: "),
        ("lines.spacy", "lines.spacy can't be read as a .spacy file: "),
        ("empty.spacy", "empty.spacy can't be read as a .spacy file: "),
        ("latin.jsonl", "latin.jsonl is not UTF-8: the byte 0xeb in line 2."),
        ("folder.jsonl", "folder.jsonl is a folder"),
        ("folder.spacy", "folder.spacy is a folder"),
        ("no.jsonl", "There is no file"),
        ("no.spacy", "There is no file"),
        ("a" * 5000 + ".jsonl", "There is no file"),
    ]:
        with pytest.raises(CorpusError) as e:
            read_annotated(tmp_path / name, en)
        assert message in str(e.value)


def test_texts_that_spacy_would_not_take_are_refused(write):
    nlp = spacy.blank("en")
    nlp.max_length = 20
    for read, name in ((read_entities, "made.jsonl"), (read_texts, "made.jsonl")):
        path = write({"text": "ok", "spans": []}, {"text": ANN, "spans": []}, name=name)
        with pytest.raises(CorpusError, match=r"line 2: \[E088\]"):
            read(path, nlp)


def test_nothing_of_a_doc_is_lost_on_the_way_to_a_file(write, en, tmp_path):
    entities = [(0, 7, "PER"), (17, 24, "LOC")]
    docs, _ = read_entities(write({"text": ANN, "entities": entities}), en)
    DocBin(docs=docs).to_disk(tmp_path / "made.spacy")
    (doc,) = read_annotated(tmp_path / "made.spacy", en).docs
    assert tags(doc) == tags(docs[0]) == ["B-PER", "I-PER", "O", "O", "-", "-", "O"]
    assert isinstance(doc, Doc)


TOOLS = sorted((ROOT / "tests" / "fixtures" / "corpora").iterdir())


@pytest.fixture
def of_tools(tmp_path, en):
    """The same three texts as every tool writes them, and as a ``.spacy`` file."""
    docs, _ = read_entities(ROOT / "tests" / "fixtures" / "corpora" / "prodigy.jsonl", en)
    DocBin(docs=docs).to_disk(tmp_path / "made.spacy")
    return [*TOOLS, tmp_path / "made.spacy"]


def test_what_any_tool_exports_is_the_same_corpus(of_tools, en):
    assert len(of_tools) == 8
    for path in of_tools:
        docs, _ = read_annotated(path, en)
        found = [([t.text for t in doc], [(e.text, e.label_) for e in doc.ents]) for doc in docs]
        assert [ents for _, ents in found] == [
            [("Ann Lee", "PER"), ("New York", "LOC")],
            [("Zoë", "PER"), ("Acme", "ORG"), ("Oslo", "LOC")],
            [],
        ], path.name
        assert found[2][0] == ["Nothing", "to", "report", "today", "."], path.name
        assert "-" not in {tag for doc in docs for tag in tags(doc)}, path.name


def write_tasks(path, *tasks):
    srsly.write_json(path / "made.json", tasks)
    return path / "made.json"


def task(*marked, text=ANN, **about):
    """A task of Label Studio, as somebody annotated it."""
    result = [{"type": "labels", "value": value} for value in marked]
    return {"data": {"text": text}, "annotations": [{"result": result, **about}]}


def region(start, end, words, label="PER"):
    return {"start": start, "end": end, "text": words, "labels": [label]}


def test_of_several_annotations_the_last_that_stands_counts(tmp_path, en):
    both = task(region(0, 7, "Ann Lee"))
    both["annotations"] += task(region(0, 3, "Ann"))["annotations"]
    both["annotations"] += task(was_cancelled=True)["annotations"]
    path = write_tasks(tmp_path, both, task(was_cancelled=True), {**both, "annotations": []})
    docs, (remark,) = read_annotated(path, en)
    assert [[ent.text for ent in doc.ents] for doc in docs] == [["Ann"], [], []]
    assert remark.startswith("2 of 3 texts list no entities and count as not annotated")
    assert remark.endswith("in task 2.")


def test_offsets_that_fit_no_words_are_not_believed(tmp_path, en):
    text = "Ann\nLee 👍🏽 met Bob"
    right = task(region(0, 7, "Ann\\nLee"), region(15, 18, "Bob"), text=text)
    wrong = task(region(1, 7, "Ann Lee"), text=text)
    docs, (remark,) = read_annotated(write_tasks(tmp_path, right, wrong), en)
    assert [[ent.text for ent in doc.ents] for doc in docs] == [["Ann\nLee", "Bob"]]
    assert remark == (
        f"1 of 2 texts has offsets that don't fit the words of its entities and is left out: "
        f"{text!r} in task 2."
    )


@pytest.mark.parametrize(
    "tasks, message",
    [
        ({"text": ANN}, "made.json is no list of tasks"),
        ([ANN], "made.json is no list of tasks"),
        ([{"data": {"a": "x", "b": "y"}}], 'task 1: there is no "text" in {'),
        ([{"data": {"text": ANN}}], 'task 1: there is no list of "annotations"'),
        ([task(), {**task(), "annotations": [{"result": "x"}]}], 'task 2: "result" must be a list'),
        ([task({"labels": ["PER"]})], "task 1: an entity must be [start, end,"),
        ([task({"start": 0, "end": 99, "labels": ["PER"]})], "can't reach from character 0 to 99"),
        ([task(region(0, 3, "Ann", label="-"))], "task 1: the label '-' can't be used"),
        ([task(text="\ud800")], "task 1: character 0 of the text is a lone surrogate"),
    ],
)
def test_what_is_no_export_of_label_studio_is_refused(tasks, message, tmp_path, en):
    (tmp_path / "made.json").write_text(json.dumps(tasks), encoding="utf8")
    with pytest.raises(CorpusError) as e:
        read_annotated(tmp_path / "made.json", en)
    assert message in str(e.value) and "made.json" in str(e.value)
    (tmp_path / "made.json").write_text("[{", encoding="utf8")
    with pytest.raises(CorpusError, match=r"made.json is not valid JSON"):
        read_annotated(tmp_path / "made.json", en)


def test_a_task_without_a_field_called_text_has_the_only_string(tmp_path, en):
    one = task(region(0, 3, "Ann"))
    one["data"] = {"post": ANN, "likes": 3}
    (doc,), _ = read_annotated(write_tasks(tmp_path, one), en)
    assert doc.text == ANN and len(doc.ents) == 1


@pytest.mark.parametrize(
    "of_words",
    ["B-X I-X B-X O I-Y", "I-X I-X B-X O I-Y", "B-X E-X S-X O S-Y", "B-X L-X U-X O U-Y"],
)
def test_every_scheme_of_columns_says_the_same(of_words, write, en):
    lines = [f"w{i} NN {tag}" for i, tag in enumerate(of_words.split())]
    (doc,), _ = read_annotated(write(*lines, name="made.conll"), en)
    assert tags(doc) == ["B-X", "I-X", "B-X", "O", "B-Y"]


def word(name, text="Ann", pos="PROPN", tag="NNP", misc="_"):
    return f"{name}\t{text}\t_\t{pos}\t{tag}\t_\t_\t_\t_\t{misc}"


def test_conllu_has_syntactic_words_and_the_spaces_of_the_text(write, en):
    lines = [
        "# text = Ann doesn't.",
        word("1"),
        word("2-3", "doesn't", "_", "_", "SpaceAfter=No"),
        word("2", "does", "AUX", "VBZ"),
        word("3", "n't", "PART", "_"),
        word("3.1", "exist", "VERB"),
        word("4", ".", "PUNCT", ".", "SpaceAfter=No"),
    ]
    (doc,), _ = read_annotated(write(*lines, name="made.conllu"), en)
    assert doc.text == "Ann doesn't."
    assert [(t.text, t.pos_, t.tag_) for t in doc] == [
        ("Ann", "PROPN", "NNP"),
        ("does", "AUX", "VBZ"),
        ("n't", "PART", ""),
        (".", "PUNCT", "."),
    ]
    assert tags(doc) == ["-"] * 4, "no entity is annotated in all of the file"


@pytest.mark.parametrize(
    "name, line, message",
    [
        ("made.conll", "Ann", "line 2: expected a word and, in the last column, its tag, found"),
        ("made.conll", "Ann PER", "line 2: expected O or a tag such as B-PER (IOB, BIO, BIOES"),
        ("made.conll", "Ann B-", "line 2: expected O or a tag such as B-PER"),
        ("made.conllu", "1\tAnn", "line 2: CoNLL-U has 10 columns with tabs between them"),
        ("made.conllu", word("x"), "line 2: expected a number and a word"),
        ("made.conllu", word("2", " "), "line 2: expected a number and a word"),
        ("made.conllu", word("2", pos="NNP"), "line 2: 'NNP' is no part of speech of Universal"),
        ("made.conllu", word("2", misc="NER=PER"), "line 2: expected O or a tag such as B-PER"),
    ],
)
def test_columns_that_say_something_else_are_refused(name, line, message, write, en):
    first = word("1") if name == "made.conllu" else "Bob O"
    with pytest.raises(CorpusError) as e:
        read_annotated(write(first, line, name=name), en)
    assert message in str(e.value) and name in str(e.value)


def test_columns_without_words_are_no_corpus(write, en):
    for name in ("made.conll", "made.conllu"):
        with pytest.raises(CorpusError, match="has no sentences"):
            read_annotated(write("", "# nothing" if name == "made.conllu" else "", name=name), en)
