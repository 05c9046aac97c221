"""Whatever runs at once, every call gets what it would get alone."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import spacy
import torch

from tests.makers.commands import run
from tests.makers.pipelines import answers
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
SETTINGS = [
    *({"threshold": threshold} for threshold in (0, 0.05, 0.15, 0.3, 0.6, 1.0)),
    *({"speedup": speedup} for speedup in (1, 1.2, 1.5)),
    {},
]


@pytest.fixture
def calibrated(nlp):
    from spacy_early_exit.measure.calibrate import calibrate

    calibrate(nlp.get_pipe(NAME), examples_of(nlp), [1.2, 1.5])
    return nlp


@pytest.mark.takes(seconds=12)
@pytest.mark.parametrize(
    "calls, torch_threads",
    [(400, 1), pytest.param(10_000, 2, marks=pytest.mark.slow)],
)
def test_16_threads_with_settings_of_their_own_get_what_one_gets(
    calls, torch_threads, calibrated, tmp_path
):
    texts = [*TEXTS, *texts_of_all_lengths(count=20)]
    draw = random.Random(0)
    work = [(draw.choice(texts), draw.choice(SETTINGS)) for _ in range(calls)]

    def call(item, nlp):
        text, settings = item
        return answers(nlp(text, component_cfg={NAME: dict(settings)}))

    expected = {repr(item): call(item, calibrated) for item in work}
    assert len({str(answer) for answer in expected.values()}) > 2 * len(texts)
    # Just loaded: all threads meet new words, and what is made at the first call.
    calibrated.to_disk(tmp_path)
    fresh = spacy.load(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(torch_threads)
    try:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(partial(call, nlp=fresh), work))
    finally:
        torch.set_num_threads(before)
    wrong = [item for item, answer in zip(work, found) if answer != expected[repr(item)]]
    assert wrong == []


WORKERS = """
import multiprocessing, sys
import spacy, torch

def found(docs):
    return [([(e.start, e.end, e.label_) for e in doc.ents], doc._.early_exit) for doc in docs]

if __name__ == "__main__":
    method, folder, *texts = sys.argv[1:]
    multiprocessing.set_start_method(method)
    torch.set_num_threads(2)
    nlp = spacy.load(folder)
    expected = found(nlp.pipe(texts))  # torch has run, with its threads
    assert any(ents for ents, _ in expected)
    for cfg in ({"threshold": 0}, {"threshold": 0.15}):
        cfg = {"early_exit_ner": cfg}
        expected = found(nlp.pipe(texts, component_cfg=cfg))
        assert found(nlp.pipe(texts, component_cfg=cfg, n_process=2, batch_size=3)) == expected
    print("same")
"""


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            "fork", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
        ),
        pytest.param("spawn", marks=pytest.mark.slow),
        pytest.param("forkserver", marks=pytest.mark.slow),
    ],
)
@pytest.mark.takes(seconds=15)
def test_two_processes_give_the_same_however_they_start(method, nlp, tmp_path):
    nlp.to_disk(tmp_path / "pipeline")
    (tmp_path / "workers.py").write_text(WORKERS)
    found = run(tmp_path / "workers.py", method, tmp_path / "pipeline", *TEXTS, seconds=570)
    assert "same" in found
