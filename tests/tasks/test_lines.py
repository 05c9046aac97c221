"""Entities end where their line does, whatever the decoder, unless they may reach across."""

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example

from spacy_early_exit.decoders import (
    make_bio_viterbi,
    make_crf_decoder,
    make_greedy,
    make_viterbi,
)
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.model.predict import DocExits
from spacy_early_exit.pipe.task import Prediction
from spacy_early_exit.relatives.mean_field import make_ain_decoder
from spacy_early_exit.tags import MISSING
from spacy_early_exit.text.spans import after_line_break
from tests.makers.pipelines import train_small, trained_pipeline
from tests.makers.texts import SENTENCES, TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
NAMES = ["Nina Castel", "Omar Reyes", "Harald Voss"]
LINES = [
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    " \n \n  ",
    "\t\r\n\r\n",
    "\v",
    "\f",
    "\x85",
    "\u2028",
    "\u2029",
]
DECODERS = {
    "BIOViterbi": make_bio_viterbi(),
    "Viterbi": make_viterbi(),
    "Greedy": make_greedy(),
    "CRF": make_crf_decoder(),
    "AIN": make_ain_decoder(iterations=3, order=2),
}


@pytest.fixture(scope="module")
def ner(encoders):
    return train_small(encoders["bert"], steps=1).get_pipe(NAME)


@pytest.fixture(params=DECODERS)
def decoder(request):
    return DECODERS[request.param].for_scheme("bio")


def said_of(doc, labels, label, sure=9.0):
    """As if the network took all words that are no white space for one entity."""
    words = np.array([token.i for token in doc if not token.is_space])
    logits = np.zeros((len(words), 1 + 2 * labels), dtype=np.float32)
    logits[:, 2 + 2 * label] = sure
    logits[0, 1 + 2 * label] = 2 * sure
    return DocExits(words, logits, np.ones(len(words), dtype=np.int64), 1, 1, 0.0)


def annotate(ner, doc, decoder, exits):
    """What becomes of what the network says."""
    learned = decoder.parameters(exits.logits.shape[1])
    logits = ner.to_decode(doc, exits)
    (tags,) = decoder([logits], learned)
    ner.annotate(doc, Prediction(exits, logits, tags))
    return [ent.text for ent in doc.ents]


class TestDecoding:
    @pytest.mark.parametrize("line", LINES, ids=repr)
    def test_names_on_lines_of_their_own_are_entities_of_their_own(self, line, decoder, ner, en):
        doc = en.make_doc(line.join(NAMES))
        exits = said_of(doc, len(ner.labels), ner.labels.index("PER"))
        assert annotate(ner, doc, decoder, exits) == NAMES
        assert {ent.label_ for ent in doc.ents} == {"PER"}

    def test_those_after_a_break_are_as_sure_as_the_network_is_that_they_are_names(self, ner, en):
        doc = en.make_doc("\n".join(NAMES))
        exits = said_of(doc, len(ner.labels), ner.labels.index("PER"))
        annotate(ner, doc, make_bio_viterbi(), exits)
        assert all(ent._.confidence > 0.99 for ent in doc.ents)

    def test_within_a_line_nothing_changes(self, decoder, ner, en):
        doc = en.make_doc("  ".join(NAMES))
        exits = said_of(doc, len(ner.labels), 0)
        assert ner.to_decode(doc, exits) is exits.logits
        assert annotate(ner, doc, decoder, exits) == [doc.text]

    def test_it_is_a_setting(self, decoder, ner, en):
        doc = en.make_doc("\n".join(NAMES))
        ner.across_lines = True
        try:
            assert annotate(ner, doc, decoder, said_of(doc, len(ner.labels), 0)) == [doc.text]
        finally:
            ner.across_lines = False

    def test_preset_entities_stay_even_across_lines(self, decoder, ner, en):
        doc = en.make_doc("\n".join(NAMES))
        doc.ents = [spacy.tokens.Span(doc, 1, 4, label="PRESET")]
        found = annotate(ner, doc, decoder, said_of(doc, len(ner.labels), 0))
        assert found[1] == "Castel\nOmar" and found[-1] == NAMES[-1]
        assert doc.ents[1].label_ == "PRESET"

    def test_three_thousand_lines_are_three_thousand_entities(self, decoder, ner, en):
        names = [name.split()[0] for name in NAMES] * 1000
        doc = en.make_doc("\n".join(names))
        assert annotate(ner, doc, decoder, said_of(doc, len(ner.labels), 0)) == names

    def test_tokens_that_hold_a_line_break_end_an_entity_too(self, decoder, ner, en):
        words = ["Nina", "Castel\n", "Omar", "\nReyes", "Ha\nrald", "Voss"]
        doc = Doc(en.vocab, words=words, spaces=[True, False, True, False, True, False])
        found = annotate(ner, doc, decoder, said_of(doc, len(ner.labels), 0))
        assert found == ["Nina", "Castel\n", "Omar", "\nReyes", "Ha\nrald", "Voss"]


@pytest.mark.parametrize("block", ["BIOViterbi", "CRFDecoder"])
def test_a_trained_pipeline_finds_nothing_across_lines(block, encoders):
    decoder = {"@misc": f"spacy-early-exit.{block}.v1"}
    nlp = trained_pipeline(encoders["bert"], decoder=decoder)
    names = ["Ann Lee", "New York", "Paris Hilton", "Grace Hopper", "Acme-Ltd.", "Bob", "Oslo"]
    lines = [*names, *TEXTS, *(name for name in names for _ in range(3))]
    texts = ["\n".join(text.split()) for text in texts_of_all_lengths(count=20)]
    texts += [line.join(lines) for line in LINES]
    ner = nlp.get_pipe(NAME)
    shim = ner.model.shims[0]
    for head in shim.trained.network.heads.values():  # so that entities go on wherever they may
        head.bias.data[2::2] += 3
    shim.weights_changed()
    across = {True: False, False: False}
    for ner.threshold in (0, 0.15, 1.0):
        for ner.across_lines in (True, False):
            ents = [ent.text for doc in nlp.pipe(texts) for ent in doc.ents]
            assert len(ents) > 50
            across[ner.across_lines] |= any(len(ent.splitlines()) > 1 for ent in ents)
    assert across == {True: True, False: False}


@settings(max_examples=100, deadline=None)
@given(st.text("ab \t\n\r\v\f\x1c\x85\u2028", max_size=20))
def test_a_line_ends_where_str_splitlines_cuts(en, text):
    doc = en.make_doc(text)
    words = np.array([token.i for token in doc if not token.is_space], dtype=np.int64)
    found = after_line_break(doc, words).tolist()
    pairs = list(zip(words, words[1:]))
    assert found[1:] == [len(doc[a : b + 1].text.splitlines()) > 1 for a, b in pairs]
    assert not any(found[:1])


class TestSettings:
    def test_the_config_keeps_it_and_overrides_win(self, tmp_path):
        nlp = spacy.blank("en")
        assert not nlp.add_pipe(NAME, config={}).across_lines
        nlp.add_pipe(NAME, name="wrapped", config={"across_lines": True})
        nlp.to_disk(tmp_path)
        config = {"components": {NAME: {"across_lines": True}}}
        loaded, other = spacy.load(tmp_path), spacy.load(tmp_path, config=config)
        assert [pipe.across_lines for _, pipe in loaded.pipeline] == [False, True]
        assert other.get_pipe(NAME).across_lines

    def test_a_calibration_from_before_there_was_the_setting_holds_without_it(self, encoders):
        nlp = train_small(encoders["bert"], steps=5)
        ner = nlp.get_pipe(NAME)
        calibrate(ner, examples_of(nlp), [1.2])
        assert "across_lines" not in ner.calibrated().fingerprint
        ner.across_lines = True
        with pytest.raises(ValueError, match="calibrated with different across_lines"):
            ner.calibrated()


class TestTraining:
    def gold(self, ner, en, text, *spans):
        entities = [(start, end, "PER") for start, end in spans]
        doc = en.make_doc(text)
        return ner.gold_tags(Example.from_dict(doc, {"entities": entities}))[0]

    def test_entities_across_lines_count_as_missing_with_a_warning(self, ner, en):
        text = "Ann Lee saw Grace\nHopper ."
        with pytest.warns(UserWarning, match="across a line break.*across_lines = true"):
            tags = self.gold(ner, en, text, (0, 7), (12, 24))
        begin = 1 + 2 * ner.labels.index("PER")
        assert tags == [begin, begin + 1, 0, MISSING, MISSING, MISSING, 0]

    def test_they_teach_nothing(self, ner, en):
        example = Example.from_dict(en.make_doc("Grace\nHopper"), {"entities": [(0, 12, "PER")]})
        scores, _ = ner.model.begin_update([example.predicted])
        with pytest.warns(UserWarning, match="across a line break"):
            assert ner.get_loss([example], scores)[0] == 0.0

    def test_where_they_may_be_they_are_learnt(self, ner, en, recwarn):
        ner.across_lines = True
        try:
            tags = self.gold(ner, en, "Grace\nHopper .", (0, 12))
        finally:
            ner.across_lines = False
        begin = 1 + 2 * ner.labels.index("PER")
        assert tags == [begin, begin + 1, begin + 1, 0] and not recwarn

    @pytest.mark.parametrize("start, end", [(2, 3), (1, 3), (2, 4), (1, 4)])
    def test_line_breaks_at_the_ends_of_an_entity_are_none_within(
        self, start, end, ner, en, recwarn
    ):
        doc = en.make_doc("ok \n Grace \n Hopper .")
        actions = {1: "U", 2: "BL", 3: "BIL"}[end - start]
        biluo = ["O"] * start + [f"{a}-PER" for a in actions] + ["O"] * (len(doc) - end)
        tags, _ = ner.gold_tags(Example.from_dict(doc, {"entities": biluo}))
        assert MISSING not in tags and sum(tag != 0 for tag in tags) == end - start
        assert not recwarn

    def test_the_sentences_of_the_tests_have_none(self, ner, en, recwarn):
        for text, spans in SENTENCES:
            self.gold(ner, en, text, *(span[:2] for span in spans))
        assert not recwarn
