"""Tags and Chinese words: any Doc is answered, and as if it were alone."""

from hypothesis import HealthCheck, given
from spacy.tokens import Doc

from tests.makers.any_input import cases
from tests.makers.marks import examples
from tests.tasks.test_segmenter import nlp as segmenter  # noqa: F401 - a fixture
from tests.tasks.test_tagger import nlp as tagger  # noqa: F401 - a fixture

# The same cases each time: where an uncertainty is the threshold to the last bits, batches differ.
ANY = {"derandomize": True, "suppress_health_check": list(HealthCheck)}


def check(nlp, name, case, answers):
    cfg = {name: {"threshold": case.threshold}}
    alone = [nlp(one.doc(nlp), component_cfg=cfg) for one in case.given]
    for one, doc in zip(case.given, alone):
        assert doc.text == one.doc(nlp).text
        assert len(doc._.early_exit[name].layers) == len(doc)
        again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
        assert answers(again) == answers(doc)
    for order in (range(len(alone)), case.order):
        docs = (case.given[i].doc(nlp) for i in order)
        found = nlp.pipe(docs, batch_size=case.batch_size, component_cfg=cfg)
        assert [answers(doc) for doc in found] == [answers(alone[i]) for i in order]


@examples(40, **ANY)
@given(case=cases())
def test_any_docs_are_tagged_alike_alone_and_in_any_batch(case, tagger):  # noqa: F811
    def answers(doc):
        layers = doc._.early_exit["early_exit_tagger"].layers
        return [(token.pos_, layer) for token, layer in zip(doc, layers)]

    check(tagger, "early_exit_tagger", case, answers)
    for one in case.given:
        assert all(pos for pos, layer in answers(tagger(one.doc(tagger))) if layer)


@examples(40, **ANY)
@given(case=cases())
def test_any_docs_are_cut_alike_alone_and_in_any_batch(case, segmenter):  # noqa: F811
    def answers(doc):
        ents = [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]
        return [token.text_with_ws for token in doc], ents

    check(segmenter, "early_exit_segmenter", case, answers)
    for one in case.given:
        before, after = one.doc(segmenter), segmenter(one.doc(segmenter))
        kept = {(ent.start_char, ent.end_char, ent.label_) for ent in before.ents}
        assert kept <= set(answers(after)[1])
        blocked = {(t.idx, t.text) for t in before if t.ent_iob == 3 and not t.ent_type}
        assert blocked <= {(token.idx, token.text) for token in after}
