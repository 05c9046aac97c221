"""Whatever runs at once, every call gets what it would get alone."""

import asyncio
import importlib
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import spacy
import torch

from tests.makers.commands import run
from tests.makers.pipelines import answers
from tests.makers.project import ROOT, resident
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


@pytest.fixture
def client(nlp, tmp_path, monkeypatch):
    """Clients of the example, which serves ``nlp``."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    nlp.to_disk(tmp_path)
    monkeypatch.setenv("PIPELINE", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, "examples.web_server", raising=False)
    transport = httpx.ASGITransport(app=importlib.import_module("examples.web_server").app)
    return lambda: httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize("requests", [300, pytest.param(2_500, marks=pytest.mark.slow)])
@pytest.mark.takes(seconds=10)
def test_a_web_server_answers_32_requests_at_a_time_and_keeps_no_memory(
    requests, client, nlp, capsys
):
    draw = random.Random(0)
    thresholds = [None, 0.0, 0.15, 0.6]
    queries = [
        {"text": draw.choice(TEXTS), "threshold": draw.choice(thresholds)} for _ in range(requests)
    ]

    def expected(query):
        cfg = {NAME: {"threshold": query["threshold"]}}
        doc = nlp(query["text"], component_cfg=cfg)
        found = [(e.start_char, e.end_char, e.label_) for e in doc.ents]
        return found, doc._.early_exit[NAME].spent

    right = {repr(query): expected(query) for query in queries}
    assert len({str(answer) for answer in right.values()}) > 5

    async def ask_all(queries):
        gate = asyncio.Semaphore(32)
        async with client() as asked:

            async def ask(query):
                async with gate:
                    response = await asked.post("/entities", json=query)
                assert response.status_code == 200, response.text
                answer = response.json()
                assert all(0 < entity["confidence"] <= 1 for entity in answer["entities"])
                found = [(e["start"], e["end"], e["label"]) for e in answer["entities"]]
                return found, answer["record"]["spent"]

            return await asyncio.gather(*map(ask, queries))

    asyncio.run(ask_all(queries[: requests // 3]))  # until all threads have been there
    before = resident()
    found = asyncio.run(ask_all(queries))
    grown = resident() - before
    assert found == [right[repr(query)] for query in queries]
    with capsys.disabled():
        print(f"\n{requests} requests: memory grew by {grown / 2**20:.1f} MB")
    assert grown < 20 * 2**20


@pytest.mark.parametrize(
    "content, status",
    [
        *((f'{{"text": "Ann", "threshold": {wrong}}}', 422) for wrong in ("2", "NaN", "1e999")),
        ('{"text": "Ann", "threshold": "x"}', 422),
        *((f'{{"text": "Ann", "speedup": {wrong}}}', 422) for wrong in ("0.5", "NaN", "1e999")),
        ('{"text": "Ann", "threshold": 0.1, "speedup": 2}', 422),
        (r'{"text": "Ann", "thre\ud83dshold": 0.1}', 422),
        ('{"text": "' + "Ann " * 30_000 + '"}', 422),
        ('{"text": {"x": "' + "Ann " * 1_000 + '"}}', 422),
        ("Ann " * 1_000, 422),
        (r'{"text": "\ud83d Ann Lee"}', 200),
    ],
    ids=lambda given: str(given)[:40],
)
def test_a_web_server_refuses_what_it_can_not_answer_without_an_echo(content, status, client):
    async def ask():
        async with client() as asked:
            headers = {"content-type": "application/json"}
            return await asked.post("/entities", content=content, headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code == status and len(answer.text) < 300, answer.text
    assert "threshold" in answer.text or "threshold" not in content


def test_a_web_server_takes_a_speedup_and_says_what_is_wrong_with_one(client):
    async def ask(speedup):
        async with client() as asked:
            return await asked.post("/entities", json={"text": TEXTS[0], "speedup": speedup})

    record = asyncio.run(ask(1)).json()["record"]
    assert record["spent"] >= record["full"] > 0
    refused = asyncio.run(ask(1000))
    assert refused.status_code == 422 and "calibrate" in refused.json()["detail"]
