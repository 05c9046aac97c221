"""What people do with a pipeline beside calling it: copying, streaming, threads, processes."""

import asyncio
import copy
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import spacy
from spacy.tokens import Doc, DocBin

from spacy_early_exit.pipe import stream as stream_of_docs
from tests.makers.pipelines import answers
from tests.makers.texts import TEXTS, texts_of_all_lengths

NAME = "early_exit_ner"
BLANK = ["", " ", "\n", "\n\n \t", "\u00a0", "\u200b"]


@pytest.fixture
def expected(nlp):
    return [answers(nlp(text)) for text in TEXTS]


class TestTexts:
    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    def test_empty_ones_and_white_space_are_answered_among_others(self, batch_size, nlp, expected):
        mixed = [text for pair in zip(TEXTS, BLANK * 2) for text in pair]
        found = list(nlp.pipe(mixed, batch_size=batch_size))
        assert [doc.text for doc in found] == mixed
        assert [answers(doc) for doc in found[::2]] == expected
        assert all(not doc.ents for doc in found[1::2])

    def test_only_empty_ones_are_answered(self, nlp):
        assert [doc.text for doc in nlp.pipe(BLANK)] == BLANK

    def test_one_by_one_is_as_in_a_stream(self, nlp, expected):
        assert [answers(doc) for doc in nlp.pipe(TEXTS)] == expected

    def test_a_long_one_among_short_ones_changes_nothing(self, nlp, expected):
        long = " ".join(texts_of_all_lengths(count=40))
        found = list(nlp.pipe([*TEXTS[:5], long, *TEXTS[5:]]))
        assert [answers(doc) for doc in found[:5] + found[6:]] == expected
        assert answers(found[5]) == answers(nlp(long))


class TestCopies:
    @pytest.mark.parametrize("way", [copy.deepcopy, lambda nlp: pickle.loads(pickle.dumps(nlp))])
    def test_pipelines_that_are_copied_answer_alike(self, way, nlp, expected):
        assert [answers(doc) for doc in way(nlp).pipe(TEXTS)] == expected

    def test_a_copy_that_is_trained_leaves_the_other_as_it_was(self, nlp, expected):
        from tests.makers.texts import examples_of

        copied = copy.deepcopy(nlp)
        copied.update(examples_of(copied), sgd=copied.create_optimizer())
        assert [answers(doc) for doc in nlp.pipe(TEXTS)] == expected

    def test_docs_that_are_copied_say_the_same(self, nlp, expected):
        docs = list(nlp.pipe(TEXTS))
        pickled = pickle.loads(pickle.dumps(docs))
        stored = DocBin(store_user_data=True, docs=docs).to_bytes()
        stored = list(DocBin().from_bytes(stored).get_docs(nlp.vocab))
        in_bytes = [Doc(nlp.vocab).from_bytes(doc.to_bytes()) for doc in docs]
        copied = [doc.copy() for doc in docs]
        for found in (pickled, stored, in_bytes, copied):
            assert [answers(doc) for doc in found] == expected

    def test_a_sourced_component_answers_alike(self, nlp, expected):
        other = spacy.blank("en")
        other.add_pipe(NAME, source=nlp)
        assert [answers(doc) for doc in other.pipe(TEXTS)] == expected

    def test_a_renamed_component_answers_alike_under_its_new_name(self, nlp, expected, tmp_path):
        nlp.rename_pipe(NAME, "names")
        nlp.to_disk(tmp_path)
        for renamed in (nlp, spacy.load(tmp_path)):
            found = list(renamed.pipe(TEXTS))
            ents = [[(ent.start, ent.end, ent.label_) for ent in doc.ents] for doc in found]
            assert ents == [ents for ents, *_ in expected]


class TestStreams:
    def test_one_that_is_broken_off_leaves_the_next_as_it_should_be(self, nlp, expected):
        stream = nlp.pipe(TEXTS * 5, batch_size=4)
        assert answers(next(stream)) == expected[0]
        stream.close()
        assert [answers(doc) for doc in nlp.pipe(TEXTS)] == expected

    def test_two_at_once_do_not_disturb_each_other(self, nlp, expected):
        pairs = zip(nlp.pipe(TEXTS, batch_size=3), nlp.pipe(TEXTS[::-1], batch_size=2))
        found = [(answers(a), answers(b)) for a, b in pairs]
        assert found == list(zip(expected, expected[::-1]))

    def test_long_ones_come_out_before_all_of_them_are_taken(self, nlp, monkeypatch):
        monkeypatch.setattr(stream_of_docs, "MAX_WORDS", 1000)
        taken = []

        def docs():
            for number in range(20):
                taken.append(number)
                yield nlp.make_doc(" ".join(["Ann Lee lives in New York."] * 60))

        stream = nlp.get_pipe(NAME).pipe(docs(), batch_size=1000)
        next(stream)
        assert len(taken) <= 3
        assert len(list(stream)) == 19

    def test_docs_can_be_forgotten(self, nlp, expected):
        for _ in range(2):
            with nlp.memory_zone():
                assert [answers(doc) for doc in nlp.pipe(TEXTS)] == expected
            gc.collect()


class TestElsewhere:
    def test_threads_share_a_pipeline(self, nlp, expected):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda text: answers(nlp(text)), TEXTS * 3)) == expected * 3

    def test_a_thread_that_loads_it_is_not_the_one_that_uses_it(self, nlp, expected, tmp_path):
        nlp.to_disk(tmp_path)
        loaded = []
        thread = threading.Thread(target=lambda: loaded.append(spacy.load(tmp_path)))
        thread.start()
        thread.join()
        assert [answers(doc) for doc in loaded[0].pipe(TEXTS)] == expected

    def test_coroutines_hand_texts_to_threads(self, nlp, expected):
        async def all_of_them():
            return await asyncio.gather(*(asyncio.to_thread(nlp, text) for text in TEXTS))

        assert [answers(doc) for doc in asyncio.run(all_of_them())] == expected

    def test_processes_keep_what_belongs_to_a_text(self, nlp, expected):
        pairs = [(text, number) for number, text in enumerate(TEXTS)]
        found = list(nlp.pipe(pairs, as_tuples=True, n_process=2, batch_size=3))
        assert [(answers(doc), number) for doc, number in found] == list(zip(expected, range(10)))
