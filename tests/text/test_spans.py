"""Spans that the encoder sees by themselves: sentences, strides, whole docs."""

import pickle

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example

from spacy_early_exit.criteria import SentenceExit
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.docs import set_sentences
from spacy_early_exit.measure.evaluate import evaluate
from spacy_early_exit.measure.hold_saving import make_hold_saving
from spacy_early_exit.model import predict as model_module
from spacy_early_exit.text.spans import line_spans, paragraph_spans, sent_spans, word_ranges
from spacy_early_exit.text.windows import windows_of
from tests.makers.commands import run
from tests.makers.pipelines import answers, blank, train_small
from tests.makers.project import OLD_CONFECTION, OTHERS, hiding
from tests.makers.texts import SENTENCES, TEXTS, examples_of

NAME = "early_exit_ner"
OURS = {"@misc": "spacy-early-exit.sent_spans.v1"}
OF_LINES = {"@misc": "spacy-early-exit.line_spans.v1"}
OF_PARAGRAPHS = {"@misc": "spacy-early-exit.paragraph_spans.v1"}
THEIRS = {"@span_getters": "spacy-transformers.sent_spans.v1"}
STRIDED = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 12, "stride": 8}
WHOLE = {"@span_getters": "spacy-transformers.doc_spans.v1"}
GETTERS = {
    "ours": OURS,
    "sentences": THEIRS,
    "strided": STRIDED,
    "whole docs": WHOLE,
    "lines": OF_LINES,
    "paragraphs": OF_PARAGRAPHS,
}
# Texts that a sentencizer takes for one sentence each.
ENDING = [(text, ents) for text, ents in SENTENCES if text.endswith((".", "!", "?"))]


def resolve(block):
    pytest.importorskip("spacy_transformers")
    return spacy.util.registry.resolve({"get_spans": block})["get_spans"]


def layers(doc):
    return doc._.early_exit[NAME].layers


@pytest.fixture
def cutting(nlp):
    """A trained pipeline that cuts at sentences."""
    nlp.add_pipe("sentencizer", first=True)
    nlp.get_pipe(NAME).get_spans = sent_spans
    return nlp


class TestPredicting:
    @pytest.mark.parametrize("getter", ["ours", "sentences"])
    def test_sentences_get_what_they_get_alone(self, cutting, getter):
        cutting.get_pipe(NAME).get_spans = resolve(GETTERS[getter])
        texts = [text for text, _ in ENDING]
        alone = list(cutting.pipe(texts))
        doc = cutting(" ".join(texts))
        assert [sent.text for sent in doc.sents] == texts
        assert layers(doc) == tuple(layer for one in alone for layer in layers(one))
        assert [ent.text for ent in doc.ents] == [ent.text for one in alone for ent in one.ents]
        records = [one._.early_exit[NAME] for one in alone]
        record = doc._.early_exit[NAME]
        assert (record.spent, record.full) == (
            sum(r.spent for r in records),
            sum(r.full for r in records),
        )

    def test_with_sentee_each_sentence_leaves_at_a_layer_of_its_own(self, cutting):
        ner = cutting.get_pipe(NAME)
        ner.criterion = SentenceExit()
        text = " ".join(text for text, _ in ENDING)
        # How sure the layers are depends on the processor's arithmetic.
        for ner.threshold in (0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002):
            found = [{t._.exit_layer for t in sent} for sent in cutting(text).sents]
            assert all(len(of_sentence) == 1 for of_sentence in found)
            at = [of_sentence.pop() for of_sentence in found]
            pair = next((i for i in range(len(at) - 1) if at[i] != at[i + 1]), None)
            if pair is not None:
                break
        else:
            pytest.fail("at no threshold did some sentences leave and others stay")
        two = " ".join(text for text, _ in ENDING[pair : pair + 2])
        doc = cutting(two)
        assert [{t._.exit_layer for t in sent} for sent in doc.sents] == [
            {at[pair]},
            {at[pair + 1]},
        ]
        ner.get_spans = None
        assert len(set(layers(cutting(two)))) == 1, "without, the text is one window"

    def test_whole_docs_are_what_they_are_without(self, nlp):
        ner, texts = nlp.get_pipe(NAME), [*TEXTS, " ".join(TEXTS * 3), "", "  ", " Ann ran. "]
        expected = [answers(doc) for doc in nlp.pipe(texts)]
        ner.get_spans = resolve(WHOLE)
        assert [answers(doc) for doc in nlp.pipe(texts)] == expected

    @pytest.mark.parametrize("threshold", [0, 0.15, 1.0])
    @pytest.mark.parametrize("getter", list(GETTERS))
    def test_same_answer_alone_in_any_batch_and_order(self, cutting, getter, threshold):
        ner = cutting.get_pipe(NAME)
        ner.get_spans, ner.threshold = resolve(GETTERS[getter]), threshold
        texts = [*TEXTS, " ".join(TEXTS), "\n".join(TEXTS[::-1]), TEXTS[2] * 30, "", "  ", "\n"]
        alone = [answers(cutting(text)) for text in texts]
        for wordpieces in (1, 64, 4096):
            ner.batch_wordpieces = wordpieces
            assert [answers(d) for d in cutting.pipe(texts, batch_size=7)] == alone
            assert [answers(d) for d in cutting.pipe(texts[::-1])] == alone[::-1]

    def test_a_sentence_longer_than_the_encoders_positions_is_cut_further(self, cutting):
        text = " ".join(["Ann saw Bob and"] * 40) + " left. Nothing to report today."
        doc = cutting(text)
        assert [len(sent) for sent in doc.sents] == [162, 5] and all(layers(doc))
        assert layers(doc)[162:] == layers(cutting("Nothing to report today."))

    def test_words_in_no_span_are_spans_of_their_own(self, cutting):
        cutting.get_pipe(NAME).get_spans = lambda docs: [[doc[5:8], doc[10:12]] for doc in docs]
        texts = ["Ann Lee lives in New", "York. I", "don't like", "Bob, and I cannot"]
        doc = cutting(" ".join(texts))
        edges = [0, 5, 8, 10, 12, len(doc)]
        parts = [doc[start:end].text for start, end in zip(edges, edges[1:])]
        cutting.get_pipe(NAME).get_spans = None
        alone = list(cutting.pipe(parts))
        assert layers(doc) == tuple(layer for one in alone for layer in layers(one))

    @pytest.mark.parametrize("text", ["", "Ann", " "])
    def test_a_text_that_is_too_short_for_boundaries_needs_none(self, nlp, text):
        nlp.get_pipe(NAME).get_spans = sent_spans
        assert nlp(text).text == text

    def test_a_text_without_boundaries_is_an_error_that_says_what_to_do(self, nlp):
        nlp.get_pipe(NAME).get_spans = sent_spans
        for call in (lambda: nlp(TEXTS[0]), lambda: list(nlp.pipe(TEXTS))):
            with pytest.raises(ValueError, match="has none: 'Ann Lee.*Put a sentencizer"):
                call()
        failed = []
        nlp.set_error_handler(lambda name, proc, docs, e: failed.extend(docs))
        docs = [nlp.make_doc(text) for text in TEXTS[:3]]
        docs[1][0].is_sent_start = True
        for token in docs[1][1:]:
            token.is_sent_start = False
        assert [doc.text for doc in nlp.pipe(docs)] == [TEXTS[1]]
        assert [doc.text for doc in failed] == [TEXTS[0], TEXTS[2]]

    def test_a_getter_that_leaves_docs_out_is_an_error(self, nlp):
        nlp.get_pipe(NAME).get_spans = lambda docs: []
        with pytest.raises(ValueError, match="each of the 1 docs that it is given, not 0 lists"):
            nlp(TEXTS[0])

    @pytest.mark.parametrize("getter", [None, "ours", "strided"])
    def test_a_batch_never_holds_more_wordpieces_than_it_may(self, cutting, getter, monkeypatch):
        ner = cutting.get_pipe(NAME)
        ner.get_spans = getter and resolve(GETTERS[getter])
        ner.batch_wordpieces = 200
        sizes, original = [], model_module.Batch.of

        def watched(windows, *rest):
            sizes.append(sum(len(window.ids) for window in windows))
            return original(windows, *rest)

        monkeypatch.setattr(model_module.Batch, "of", watched)
        doc = cutting(" ".join(TEXTS * 40))
        assert all(layers(doc)) and len(sizes) > 20
        assert max(sizes) <= 200 and sum(sizes) / len(sizes) > 100


class TestLines:
    """Lines and paragraphs, however they are broken."""

    @pytest.mark.parametrize("line", ["\n", "\r\n", "\r", " \t\r\n  ", "\f", "\u2028"], ids=repr)
    @pytest.mark.parametrize("getter", ["lines", "paragraphs"])
    def test_they_get_what_they_get_alone(self, getter, line, nlp):
        ner, parts = nlp.get_pipe(NAME), TEXTS
        if getter == "paragraphs":  # a line break is none of theirs, several are
            parts = [line.join(pair) for pair in zip(TEXTS[::2], TEXTS[1::2])]
        alone = [answers(doc) for doc in nlp.pipe(parts)]
        ner.get_spans = spacy.util.registry.resolve({"it": GETTERS[getter]})["it"]
        breaks = line if getter == "lines" else line + line
        doc = nlp("\n" + breaks.join(parts) + breaks)
        of_words = [n for n, token in zip(layers(doc), doc) if not token.is_space]
        expected = [layer for _, of_part, _, _ in alone for layer in of_part]
        assert of_words == [layer for layer in expected if layer]
        record = doc._.early_exit[NAME]
        assert record.spent == sum(spent for *_, spent, _ in alone)
        assert record.full == sum(full for *_, full in alone)
        assert len(doc.ents) == sum(len(ents) for ents, *_ in alone)

    @settings(max_examples=200, deadline=None)
    @given(text=st.text("ab \t\n\r\f\x85\u2029", max_size=30))
    def test_every_token_is_in_one_and_none_is_broken(self, text, en):
        doc = en.make_doc(text)
        lines, paragraphs = line_spans([doc])[0], paragraph_spans([doc])[0]
        for found in (lines, paragraphs):
            assert [token.i for span in found for token in span] == list(range(len(doc)))
        known = [line.strip() for line in text.splitlines()]
        stripped = [span.text.strip() for span in lines]
        assert [line for line in stripped if line] == [line for line in known if line]
        # A paragraph: neighbouring lines, of which none is empty.
        expected, new = [], True
        for line in text.splitlines(keepends=True):
            if line.strip() and new:
                expected.append(line)
            elif line.strip():
                expected[-1] += line
            new = not line.strip() or line.endswith("\u2029")
        stripped = [span.text.strip() for span in paragraphs]
        assert [part for part in stripped if part] == [part.strip() for part in expected]

    def test_white_space_that_was_cut_otherwise_than_spacy_does_is_no_problem(self, en):
        words = ["Ann", "\r", "\n", " ", "\n", "Lee", "\n", "ran", ".\n", "\n", "Bob"]
        doc = Doc(en.vocab, words=words, spaces=[False] * len(words))
        parts = [[s.text.strip() for s in get([doc])[0]] for get in (line_spans, paragraph_spans)]
        assert [[text for text in found if text] for found in parts] == [
            ["Ann", "Lee", "ran.", "Bob"],
            ["Ann", "Lee\nran.", "Bob"],
        ]

    def test_empty_texts_have_none(self, en):
        docs = [en.make_doc(""), en.make_doc("a")]
        for get in (line_spans, paragraph_spans):
            assert [len(spans) for spans in get(docs)] == [0, 1]


class TestRanges:
    @settings(max_examples=100, deadline=None)
    @given(
        length=st.integers(0, 20),
        bounds=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6),
    )
    def test_spans_stay_and_every_other_word_is_in_just_one_more(self, length, bounds, en):
        doc = Doc(en.vocab, words=["a"] * length)
        spans = [doc[min(pair) : max(pair)] for pair in bounds]
        (ranges,) = word_ranges([doc], lambda docs: [spans])
        given_ranges = [(span.start, span.end) for span in spans if len(span)]
        more = list(ranges)
        for pair in given_ranges:
            more.remove(pair)
        covered = {word for start, end in given_ranges for word in range(start, end)}
        added = [word for start, end in more for word in range(start, end)]
        assert sorted(added) == sorted(set(range(length)) - covered)

    def test_each_word_is_owned_by_the_span_that_shows_most_around_it(self, nlp):
        trained = nlp.get_pipe(NAME).model.shims[0].trained
        doc = nlp.make_doc(" ".join(TEXTS))

        def nested_and_strided(docs):
            return [[d[0:9], d[4:30], d[6:12], d[20:25], d[22:], d[len(d) - 6 :]] for d in docs]

        windows = windows_of([doc], trained.tokenizer, 500, 8, nested_and_strided)
        ends = np.zeros(len(doc), dtype=int)
        for word in range(len(doc)):
            shown = []
            for window in windows:
                at = np.flatnonzero(window.words == word)
                if len(at):
                    # The words to the nearer end; the text's own ends are far away.
                    before = 1000 if window.words[0] == 0 else int(at[0])
                    behind = len(window.words) - int(at[0])
                    behind = 1000 if window.words[-1] == len(doc) - 1 else behind
                    shown.append((min(before, behind), bool(window.owned[at[0]])))
            assert sum(owns for _, owns in shown) == 1
            # Of a like distance in words, wordpieces decide.
            (mine,) = (margin for margin, owns in shown if owns)
            assert mine >= max(margin for margin, _ in shown) - 2
            ends[word] = len(shown)
        assert ends.max() == 3


class TestSettings:
    @pytest.mark.parametrize("factory", [NAME, "early_exit_tagger", "early_exit_segmenter"])
    @pytest.mark.parametrize("getter", ["ours", "strided", "lines", "paragraphs"])
    def test_the_config_keeps_them_and_overrides_win(self, factory, getter, tmp_path):
        pytest.importorskip("spacy_transformers")
        nlp = spacy.blank("en")
        nlp.add_pipe(factory, config={"get_spans": GETTERS[getter]})
        nlp.to_disk(tmp_path)
        loaded = spacy.load(tmp_path)
        assert loaded.config["components"][factory]["get_spans"] == GETTERS[getter]
        assert callable(loaded.get_pipe(factory).get_spans)
        pickle.loads(pickle.dumps(loaded.get_pipe(factory).get_spans))
        override = {"components": {factory: {"get_spans": None}}}
        if OLD_CONFECTION:
            return
        plain = spacy.load(tmp_path, config=override)
        assert plain.get_pipe(factory).get_spans is None
        plain.to_disk(tmp_path)
        override = {"components": {factory: {"get_spans": OURS}}}
        assert spacy.load(tmp_path, config=override).get_pipe(factory).get_spans is sent_spans

    @pytest.mark.slow
    def test_our_own_needs_no_spacy_transformers(self):
        script = hiding(*OTHERS) + (
            "import spacy, sys\n"
            "nlp = spacy.blank('en')\n"
            f"nlp.add_pipe('{NAME}', config={{'get_spans': {OURS}}})\n"
            "print('spacy_transformers' in sys.modules, 'transformers' in sys.modules)"
        )
        assert run("-c", script).split()[-2:] == ["False", "False"]


class TestCalibration:
    def test_other_spans_make_it_void(self, cutting):
        ner = cutting.get_pipe(NAME)
        fingerprints = {}
        for name, getter in GETTERS.items():
            ner.get_spans = resolve(getter)
            fingerprints[name] = ner.fingerprint()["windows"]
        ner.get_spans = resolve({**STRIDED, "stride": 9})
        fingerprints["another stride"] = ner.fingerprint()["windows"]
        ner.get_spans = None
        assert ner.fingerprint()["windows"] == "whole, overlap 64"
        assert len({*fingerprints.values(), "whole, overlap 64"}) == 8
        assert "stride=8" in fingerprints["strided"]
        calibrate(ner, examples_of(cutting), [1.5])
        assert ner.calibrated()
        ner.get_spans = sent_spans
        with pytest.raises(ValueError, match="calibrated with different windows"):
            ner.calibrated()

    def test_it_is_measured_on_the_sentences_that_components_before_it_set(self, cutting):
        ner = cutting.get_pipe(NAME)
        examples = examples_of(cutting, [(" ".join(TEXTS), [])] * 2)
        with pytest.raises(ValueError, match="sentence boundaries"):
            calibrate(ner, examples, [1.5], with_score=False)
        set_sentences(cutting, ner, examples)
        found = calibrate(ner, examples, [1.5], with_score=False)
        threshold = found.points[-1].threshold
        records = [
            doc._.early_exit[NAME]
            for doc in cutting.pipe(
                [eg.reference.text for eg in examples],
                component_cfg={NAME: {"threshold": threshold}},
            )
        ]
        spent, full = sum(r.spent for r in records), sum(r.full for r in records)
        assert found.points[-1].speedup == pytest.approx(full / spent)
        rows = evaluate(cutting, ner, examples, [1.0, 1.5], rounds=0)
        assert rows[0]["mac_speedup"] == 1.0 < rows[1]["mac_speedup"]

    def test_a_saving_is_held_on_them_while_training(self, cutting, tmp_path):
        docs = [eg.reference for eg in examples_of(cutting, [(" ".join(TEXTS), [])])]
        spacy.tokens.DocBin(docs=docs).to_disk(tmp_path / "tune.spacy")
        hold = make_hold_saving(tmp_path / "tune.spacy", 1.3, 1)
        hold(cutting, {"step": 0})
        record = cutting(" ".join(TEXTS))._.early_exit[NAME]
        assert 1.3 <= record.full / record.spent < 2.0


class TestTraining:
    def examples(self, nlp):
        """Two sentences a text."""
        examples = []
        for (one, of_one), (two, of_two) in zip(ENDING, ENDING[1:]):
            shifted = [(s + len(one) + 1, e + len(one) + 1, label) for s, e, label in of_two]
            examples.append((f"{one} {two}", [*of_one, *shifted]))
        return examples_of(nlp, examples)

    @pytest.mark.parametrize("getter", ["ours", "sentences"])
    def test_sentences_teach_what_they_teach_alone(self, cutting, getter):
        ner = cutting.get_pipe(NAME)
        ner.get_spans = resolve(GETTERS[getter])
        together = cutting.update(self.examples(cutting), sgd=False, annotates=["sentencizer"])
        pairs = [text for pair in zip(ENDING, ENDING[1:]) for text in pair]
        ner.get_spans = None
        alone = cutting.update(examples_of(cutting, pairs), sgd=False)
        assert together[NAME] == pytest.approx(alone[NAME], rel=1e-4)

    def test_boundaries_may_be_on_the_docs_already(self, cutting):
        examples = self.examples(cutting)
        annotating = cutting.update(examples, sgd=False, annotates=["sentencizer"])[NAME]
        sentencizer = cutting.get_pipe("sentencizer")
        given = [
            Example(sentencizer(cutting.make_doc(eg.text)), eg.reference)
            for eg in self.examples(cutting)
        ]
        assert cutting.update(given, sgd=False)[NAME] == annotating

    def test_without_them_the_error_names_the_setting(self, cutting):
        with pytest.raises(ValueError, match="annotating_components"):
            cutting.update(self.examples(cutting), sgd=False)

    @pytest.mark.parametrize("getter", ["ours", "strided"])
    def test_a_pipeline_learns_with_them_from_the_start(self, encoders, getter):
        resolve(GETTERS[getter])
        spacy.util.fix_random_seed(0)
        nlp = blank(encoders["bert"], get_spans=GETTERS[getter])
        nlp.add_pipe("sentencizer", first=True)
        optimizer = nlp.initialize(lambda: self.examples(nlp))
        optimizer.learn_rate = 5e-3
        for _ in range(100):
            nlp.update(self.examples(nlp), sgd=optimizer, annotates=["sentencizer"])
            if nlp.evaluate(self.examples(nlp))["ents_f"] == 1.0:
                return
        pytest.fail("100 steps did not teach a small encoder six texts")


def test_strides_of_all_families_lose_no_word(encoders):
    getter = resolve(STRIDED)
    for family in ("roberta", "xlm-roberta"):
        nlp = train_small(encoders[family], steps=1)
        nlp.get_pipe(NAME).get_spans = getter
        doc = nlp(" ".join(TEXTS * 5))
        assert all(layer or token.is_space for token, layer in zip(doc, layers(doc)))
