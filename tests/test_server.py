"""The web server of the examples: what one gets alone, whoever else asks, and signs of life."""

import asyncio
import os
import random
import re
import threading
import time
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
from spacy.language import Language

from tests.makers.project import ROOT, resident
from tests.makers.texts import TEXTS

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client", reason="pip install prometheus-client")

NAME = "early_exit_ner"


@pytest.fixture
def serve(nlp, monkeypatch):
    """Clients of the example, which serves ``nlp`` within limits."""
    monkeypatch.syspath_prepend(ROOT)
    from examples.server.app import Limits, create_app

    @asynccontextmanager
    async def serve(**limits):
        app = create_app(nlp, Limits(**limits))
        transport = httpx.ASGITransport(app=app)
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield client

    return serve


async def metric(client, name) -> float:
    """RETURNS (float): What Prometheus reads under a name."""
    text = (await client.get("/metrics")).text
    (value,) = re.findall(rf"^early_exit_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(value)


@pytest.mark.parametrize("requests", [300, pytest.param(2_500, marks=pytest.mark.slow)])
@pytest.mark.takes(seconds=10)
def test_32_requests_at_a_time_get_what_each_gets_alone_and_leave_no_memory(
    requests, serve, nlp, capsys
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

    async def ask_all():
        gate = asyncio.Semaphore(32)
        async with serve() as client:

            async def ask(query):
                async with gate:
                    response = await client.post("/entities", json=query)
                assert response.status_code == 200, response.text
                answer = response.json()
                assert all(0 < entity["confidence"] <= 1 for entity in answer["entities"])
                found = [(e["start"], e["end"], e["label"]) for e in answer["entities"]]
                return found, answer["record"]["spent"]

            await asyncio.gather(*map(ask, queries[: requests // 3]))
            before = resident()
            found = await asyncio.gather(*map(ask, queries))
            batches = await metric(client, "batch_texts_count")
            texts = await metric(client, "batch_texts_sum")
            return found, resident() - before, texts / batches

    found, grown, batch = asyncio.run(ask_all())
    assert found == [right[repr(query)] for query in queries]
    with capsys.disabled():
        print(f"\n{requests} requests: {batch:.1f} a batch, memory grew by {grown / 2**20:.1f} MB")
    assert batch > 8 and grown < 20 * 2**20


@pytest.mark.parametrize(
    "content, status",
    [
        *((f'{{"text": "Ann", "threshold": {wrong}}}', 422) for wrong in ("2", "NaN", "1e999")),
        ('{"text": "Ann", "threshold": "x"}', 422),
        *((f'{{"text": "Ann", "speedup": {wrong}}}', 422) for wrong in ("0.5", "NaN", "1e999")),
        ('{"text": "Ann", "threshold": 0.1, "speedup": 2}', 422),
        (r'{"text": "Ann", "thre\ud83dshold": 0.1}', 422),
        ('{"text": "' + "Ann " * 30_000 + '"}', 422),
        ('{"text": "' + "Ann " * 300_000 + '"}', 413),
        ('{"text": {"x": "' + "Ann " * 1_000 + '"}}', 422),
        ("Ann " * 1_000, 422),
        (r'{"text": "\ud83d Ann Lee"}', 200),
    ],
    ids=lambda given: str(given)[:40],
)
def test_what_can_not_be_answered_is_refused_without_an_echo(content, status, serve):
    async def ask():
        async with serve() as client:
            headers = {"content-type": "application/json"}
            return await client.post("/entities", content=content, headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code == status and len(answer.text) < 300, answer.text
    assert "threshold" in answer.text or "threshold" not in content


def test_a_speedup_is_held_and_what_is_wrong_with_one_is_said(serve):
    async def ask(*speedups):
        async with serve() as client:
            bodies = [{"text": TEXTS[0], "speedup": speedup} for speedup in speedups]
            return await asyncio.gather(*(client.post("/entities", json=b) for b in bodies))

    full, refused = asyncio.run(ask(1, 1000))  # in one batch
    record = full.json()["record"]
    assert record["spent"] >= record["full"] > 0
    assert refused.status_code == 422 and "calibrate" in refused.json()["detail"]


def test_prometheus_reads_requests_words_savings_and_the_queue(serve, nlp):
    async def in_parts():
        yield b'{"text": "Ann"}'

    async def ask():
        async with serve() as client:
            answer = await client.post("/entities", json={"text": TEXTS[0]})
            await client.post("/entities", json={"text": 3})
            await client.post("/entities", content="Ann " * 300_000)
            await client.post("/entities", content=in_parts())  # so that it has no length
            await client.get("/nowhere")
            await client.get("/ready")
            names = [f'requests_total{{status="{n}"}}' for n in (200, 404, 411, 413, 422)]
            names += ["words_total", "saving", "queue", "request_seconds_count"]
            return answer.json()["record"], [await metric(client, name) for name in names]

    record, found = asyncio.run(ask())
    saving = record["full"] / record["spent"]
    assert found == [*[1] * 5, len(nlp.make_doc(TEXTS[0])), pytest.approx(saving), 0, 1]


def test_one_text_that_fails_does_not_take_others_along_and_many_make_it_unready_for_a_minute(
    serve, nlp, monkeypatch
):
    annotate = type(nlp.get_pipe(NAME)).annotate

    def fail(self, doc, prediction):
        if "Bob" in doc.text:
            raise RuntimeError("no room")
        annotate(self, doc, prediction)

    monkeypatch.setattr(type(nlp.get_pipe(NAME)), "annotate", fail)

    async def ask():
        async with serve() as client:
            ready = [(await client.get("/ready")).status_code]
            found = []
            for texts in (["Ann", "Bob", "Lee"], ["Bob"] * 20):
                asked = [client.post("/entities", json={"text": text}) for text in texts]
                answers = await asyncio.gather(*asked, return_exceptions=True)
                found.append([getattr(answer, "status_code", 500) for answer in answers])
                ready.append((await client.get("/ready")).status_code)
            later = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 61)
            monkeypatch.setattr("examples.server.app.time", later)
            ready.append((await client.get("/ready")).status_code)
            return found, ready, (await client.get("/health")).status_code

    (some, _), ready, alive = asyncio.run(ask())
    assert some == [200, 500, 200] and ready == [200, 200, 503, 200] and alive == 200


@pytest.mark.parametrize("limits", [{"max_queue": 4}, {"max_queue_characters": 60}])
def test_more_than_may_wait_is_refused_at_once(limits, serve):
    async def ask():
        async with serve(**limits, max_batch=1) as client:
            asked = [client.post("/entities", json={"text": text}) for text in TEXTS]
            answers = await asyncio.gather(*asked)
            ready = await client.get("/ready")
            return [*answers, await client.post("/entities", json={"text": TEXTS[0]})], ready

    (*answers, last), ready = asyncio.run(ask())
    assert last.status_code == ready.status_code == 200  # nothing waits any more
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503} and len(refused) >= 4
    assert all(answer.headers["retry-after"] == "1" for answer in refused)


def test_an_item_waits_for_others_but_not_for_long(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from examples.server.batching import Batcher

    batches = []

    def run(items):
        batches.append(list(items))
        return [item * 2 for item in items]

    async def ask():
        batcher = Batcher(run, most=3, wait=0.05, queue=100)
        batcher.start()
        begin = time.perf_counter()
        assert await batcher.submit(1) == 2
        alone = time.perf_counter() - begin
        found = await asyncio.gather(*(batcher.submit(item) for item in range(7)))
        last = asyncio.ensure_future(batcher.submit(8))
        await asyncio.sleep(0)
        await batcher.stop()  # answers what is waiting
        return alone, found, await last

    alone, found, last = asyncio.run(ask())
    assert found == [0, 2, 4, 6, 8, 10, 12] and last == 16 and 0.025 <= alone < 2
    assert batches == [[1], [0, 1, 2], [3, 4, 5], [6], [8]]


@pytest.mark.parametrize("pause, count", [(0.1, 4), (0.02, 100)])
def test_a_batch_gathers_as_long_as_new_items_come_but_not_for_ever(pause, count, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from examples.server.batching import Batcher

    batches = []

    def run(items):
        batches.append(list(items))
        return items

    async def ask():
        batcher = Batcher(run, most=1000, wait=0.5, queue=1000)
        batcher.start()
        asked = [asyncio.ensure_future(batcher.submit(-1))]  # so that two are there at the start
        for item in range(count):
            asked.append(asyncio.ensure_future(batcher.submit(item)))
            await asyncio.sleep(pause)
        await asyncio.gather(*asked)
        await batcher.stop()

    asyncio.run(ask())
    assert [item for batch in batches for item in batch] == list(range(-1, count))
    assert 2 < len(batches[0]) < 60


def test_a_server_that_is_stopped_answers_what_it_has(nlp, monkeypatch, request):
    uvicorn = pytest.importorskip("uvicorn", reason="pip install uvicorn")
    monkeypatch.syspath_prepend(ROOT)
    from examples.server.app import Limits, create_app

    gate = threading.Event()
    gate.set()  # the server asks for one text at its start
    request.addfinalizer(gate.set)  # a failure does not keep the server waiting

    @Language.component("gate")
    def wait(doc):
        assert gate.wait(60)
        return doc

    nlp.add_pipe("gate")
    app = create_app(nlp, Limits(max_batch=1))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    gate.clear()
    (port,) = (s.getsockname()[1] for found in server.servers for s in found.sockets)
    statuses = []

    def ask():
        answer = httpx.post(
            f"http://127.0.0.1:{port}/entities", json={"text": TEXTS[0]}, timeout=60
        )
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for asking in threads:
        asking.start()
    while "queue 3.0" not in httpx.get(f"http://127.0.0.1:{port}/metrics").text:  # and one runs
        time.sleep(0.01)
    server.should_exit = True  # as SIGTERM does
    with pytest.raises(httpx.ConnectError):
        for _ in range(1000):
            # What comes just as the server stops listening is cut off.
            with suppress(httpx.ReadError, httpx.RemoteProtocolError):
                httpx.get(f"http://127.0.0.1:{port}/ready")
            time.sleep(0.01)
    assert statuses == [] and thread.is_alive()
    gate.set()
    for asking in [*threads, thread]:
        asking.join(60)
    assert statuses == [200] * 4 and not thread.is_alive()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_a_process_that_serves_ends_well_and_what_loads_it_names_an_error(
    nlp, tmp_path, monkeypatch
):
    pytest.importorskip("uvicorn", reason="pip install uvicorn")
    monkeypatch.syspath_prepend(ROOT)
    from examples.server import load_test

    nlp.to_disk(tmp_path)
    monkeypatch.chdir(ROOT)
    with load_test.server(tmp_path, {}) as port:
        right, wrong = (load_test.make_request({"text": "Oslo", "speedup": s}) for s in (None, 0))
        assert load_test.load(port, [right], clients=2, seconds=1)
        with pytest.raises(SystemExit, match="1 clients met an error, .* status 422: b.*speedup"):
            load_test.load(port, [wrong], clients=1, seconds=60)
