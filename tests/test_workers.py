import threading

import pytest
import torch

from spacy_early_exit.model import LEAST_WORDPIECES
from spacy_early_exit.workers import run_side_by_side, worker_count

from .factories import texts_of_all_lengths


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_torch_has_the_threads_it_had(threads):
    seen = run_side_by_side(lambda i: (i, torch.get_num_threads()), list(range(20)))
    assert [i for i, _ in seen] == list(range(20))
    assert {own for _, own in seen} == {1}
    assert torch.get_num_threads() == threads
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [threads]  # as a thread that others start


def test_several_run_at_once(threads):
    meeting = threading.Barrier(worker_count(), timeout=60)
    run_side_by_side(lambda i: meeting.wait(), list(range(2 * worker_count())))


def test_what_one_raises_is_raised(threads):
    with pytest.raises(ZeroDivisionError):
        run_side_by_side(lambda i: 1 / (i - 3), list(range(9)))
    assert run_side_by_side(abs, [-1, -2]) == [1, 2]


def test_one_thing_alone_has_all_threads(threads):
    assert run_side_by_side(lambda i: torch.get_num_threads(), [0]) == [threads]


def test_the_same_entities_with_any_number_of_threads(nlp, threads):
    texts = texts_of_all_lengths(count=150)
    assert sum(map(len, texts)) > 12 * LEAST_WORDPIECES
    nlp.get_pipe("early_exit_ner").store_exits = True

    def found():
        docs = list(nlp.pipe(texts, batch_size=1000))
        records = [doc._.early_exit["early_exit_ner"] for doc in docs]
        return [
            ([(ent.text, ent.label_) for ent in doc.ents], record.layers, record.spent)
            for doc, record in zip(docs, records)
        ]

    several = found()
    torch.set_num_threads(1)
    assert several == found()
