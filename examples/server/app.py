"""Entities over HTTP. Requests that come at the same time are computed in one batch.

PIPELINE=training/final uvicorn --factory examples.server.app:create_app

One process uses all cores that it may use. ``Dockerfile`` makes an image of it, ``load_test.py``
measures it.
"""

import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any

import spacy
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from spacy.language import Language
from spacy.tokens import Doc

from spacy_early_exit.pipe.component import EarlyExitPipe
from spacy_early_exit.pipe.records import get_confidence, get_records

from .batching import Batcher, QueueIsFull

BYTES = 12  # of a character in JSON, at most: an emoji as two escapes
ENOUGH = 20  # requests that an error rate takes
OWN = ("/health", "/ready", "/metrics")  # paths that are not counted
RECENT = 60.0  # seconds that a failure counts: a server that gets no requests must recover, too


@dataclass(frozen=True)
class Limits:
    """What the server does and does not take. Each can be set by a variable of the environment,
    such as MAX_BATCH.

    max_batch (int): Texts in a batch.
    max_wait_ms (float): How long a text waits for others at most, in milliseconds; alone, half of
        it.
    max_queue (int): Texts that wait. More are refused with status 503.
    max_queue_characters (int): Characters of all texts that wait: they should be answered before an
        orchestrator that stops the server ends it. When so many wait, more texts are refused.
    max_characters (int): Characters of a text. Longer ones are refused with status 422.
    max_error_rate (float): The share of the requests of the last minute, at most the latest 100,
        that may fail. With more, the server is not ready.
    """

    max_batch: int = 32
    max_wait_ms: float = 5.0
    max_queue: int = 256
    max_queue_characters: int = 500_000
    max_characters: int = 20_000
    max_error_rate: float = 0.5

    @classmethod
    def from_environment(cls) -> "Limits":
        """RETURNS (Limits): The limits that the environment sets."""
        given = {field.name: os.environ.get(field.name.upper()) for field in fields(cls)}
        return cls(**{n: type(getattr(cls, n))(v) for n, v in given.items() if v is not None})


class Query(BaseModel):
    """A text, and how early its words exit: at most one of threshold and speedup. Without either it
    is as the pipeline's config says.

    text (str): The text.
    threshold (float | None): The uncertainty below which a word exits: higher is faster.
    speedup (float | None): Speedup to aim at, for which the pipeline must be calibrated.
    """

    model_config = ConfigDict(extra="forbid")

    text: str
    threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    speedup: float | None = Field(default=None, ge=1.0, allow_inf_nan=False)

    @field_validator("text", mode="before")
    @classmethod
    def without_surrogates(cls, text: Any) -> Any:
        """Half an emoji is no text to spaCy: a question mark in its place moves nothing else."""
        return text.encode("utf8", "replace").decode("utf8") if isinstance(text, str) else text

    @model_validator(mode="after")
    def of_one_kind(self) -> "Query":
        """Only one of the two can decide how early words exit."""
        if self.threshold is not None and self.speedup is not None:
            raise ValueError("give a threshold or a speedup, not both")
        return self


class Metrics:
    """What Prometheus is told.

    batcher (Batcher): Its queue is shown.
    """

    def __init__(self, batcher: Batcher):
        self.registry = CollectorRegistry()
        made = {"namespace": "early_exit", "registry": self.registry}
        self.requests = Counter("requests", "Answers, by status", ["status"], **made)
        self.seconds = Histogram("request_seconds", "From a request to its answer", **made)
        self.batches = Histogram(
            "batch_texts", "Texts in a batch", buckets=(1, 2, 4, 8, 16, 32, 64), **made
        )
        self.words = Counter("words", "Words that were tagged", **made)
        self.spent = Counter("spent_macs", "Multiply-accumulates that were spent", **made)
        self.full = Counter("full_macs", "Multiply-accumulates of full depth", **made)
        self.sums = [0, 0]  # spent and full
        saving = Gauge("saving", "Full depth / spent, since the start", **made)
        saving.set_function(lambda: self.sums[1] / self.sums[0] if self.sums[0] else 1.0)
        queue = Gauge("queue", "Texts that wait", **made)
        queue.set_function(lambda: batcher.waiting)

    def add(self, words: int, record: dict[str, Any]) -> None:
        """Count an answer.

        words (int): Its words.
        record (dict[str, Any]): What it cost.
        """
        self.words.inc(words)
        for at, (counter, name) in enumerate(((self.spent, "spent"), (self.full, "full"))):
            counter.inc(record[name])
            self.sums[at] += record[name]


class Tagger:
    """Runs a pipeline on batches.

    nlp (Language): The pipeline. It must have an early-exit component.
    """

    def __init__(self, nlp: Language):
        self.nlp = nlp
        self.name = next(name for name, pipe in nlp.pipeline if isinstance(pipe, EarlyExitPipe))
        # A text that fails is left out, and does not take its batch along.
        nlp.set_error_handler(self._note)

    def __call__(self, queries: Sequence[Query]) -> list[Any]:
        """RETURNS (list[Any]): For each query its answer, or the exception that it raised."""
        answers: list[Any] = [None] * len(queries)
        for knob in {(query.threshold, query.speedup) for query in queries}:
            alike = [
                i for i, query in enumerate(queries) if (query.threshold, query.speedup) == knob
            ]
            try:
                found = self._answer([queries[i].text for i in alike], *knob)
            except ValueError as error:  # a speedup that is out of reach, or not calibrated
                found = [HTTPException(422, str(error)) if knob[1] else error] * len(alike)
            for i, answer in zip(alike, found, strict=True):
                answers[i] = answer
        return answers

    def _answer(
        self, texts: list[str], threshold: float | None, speedup: float | None
    ) -> list[Any]:
        cfg = {self.name: {"threshold": threshold, "speedup": speedup, "adaptive": False}}
        answers: list[Any] = [RuntimeError("the pipeline failed")] * len(texts)
        # spaCy forgets the words of these texts at its end: memory does not grow.
        with self.nlp.memory_zone():
            numbered = zip(texts, range(len(texts)), strict=True)
            for doc, i in self.nlp.pipe(numbered, as_tuples=True, component_cfg=cfg):
                answers[i] = self._describe(doc)
        return answers

    def _describe(self, doc: Doc) -> dict[str, Any]:
        found = [
            {
                "start": ent.start_char,
                "end": ent.end_char,
                "label": ent.label_,
                "confidence": get_confidence(ent, self.name),
            }
            for ent in doc.ents
        ]
        return {"entities": found, "record": get_records(doc)[self.name], "words": len(doc)}

    def _note(self, name: str, pipe: Any, docs: list[Doc], error: Exception) -> None:
        print(f"'{name}' failed on {len(docs or ())} texts: {error!r}", flush=True)


def create_app(nlp: Language | None = None, limits: Limits | None = None) -> FastAPI:
    """Make the server.

    nlp (Language | None): The pipeline; None: the one in the folder that PIPELINE names.
    limits (Limits | None): The limits; None: those in the environment.
    RETURNS (FastAPI): The server.
    """
    limits = Limits.from_environment() if limits is None else limits
    if nlp is None:
        nlp = spacy.load(os.environ.get("PIPELINE", "training/final"))
    nlp.max_length = max(nlp.max_length, limits.max_characters)
    tagger = Tagger(nlp)

    def run_batch(queries: Sequence[Query]) -> list[Any]:
        metrics.batches.observe(len(queries))
        return tagger(queries)

    batcher = Batcher(
        run_batch,
        most=limits.max_batch,
        wait=limits.max_wait_ms / 1000,
        queue=limits.max_queue,
        weigh=lambda query: len(query.text),
        weight=limits.max_queue_characters,
    )
    metrics = Metrics(batcher)
    failures: deque[tuple[float, bool]] = deque(maxlen=100)  # when, and whether it was one

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        # The first text takes longest, and tells whether the config asks for what can't be had.
        await batcher.submit(Query(text="Ready?"))
        yield
        await batcher.stop()

    app = FastAPI(lifespan=run)
    app.add_middleware(Bounded, most=BYTES * limits.max_characters + 1000)
    app.add_middleware(Counted, answers=metrics.requests)  # those of Bounded, too

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        """Say what is wrong, but not what was sent, as FastAPI would: it may be no JSON."""
        known = ("body", *Query.model_fields)
        wrong = [
            {"where": [part for part in found["loc"] if part in known], "what": found["msg"]}
            for found in error.errors()
        ]
        return JSONResponse({"detail": wrong}, status_code=422)

    @app.post("/entities")
    async def entities(query: Query) -> Response:
        """RETURNS (Response): The entities of a text, how sure the model is of each, and the record
        of what the text cost.
        """
        begin, status = time.perf_counter(), 500
        try:
            if len(query.text) > limits.max_characters:
                raise HTTPException(422, f"text: at most {limits.max_characters} characters")
            answer = await batcher.submit(query)
            status = 200
        except QueueIsFull:
            status = 503
            raise HTTPException(503, "too much is waiting", {"Retry-After": "1"}) from None
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            end = time.perf_counter()
            failures.append((end, status == 500))
            metrics.seconds.observe(end - begin)
        metrics.add(answer["words"], answer["record"])
        return JSONResponse({"entities": answer["entities"], "record": answer["record"]})

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """What Prometheus reads."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether the process should live on."""
        return JSONResponse({"alive": batcher.is_alive}, 200 if batcher.is_alive else 503)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether requests should be sent here."""
        since = time.perf_counter() - RECENT
        recent = [failed for when, failed in failures if when > since]
        rate = sum(recent) / max(ENOUGH, len(recent))
        well = {
            "alive": batcher.is_alive,
            "queue": not batcher.is_full,
            "errors": rate <= limits.max_error_rate,
        }
        return JSONResponse(well, 200 if all(well.values()) else 503)

    return app


class Bounded:
    """Refuses requests that are too long before they are read.

    app (Any): The server behind it.
    most (int): The largest number of bytes.
    """

    def __init__(self, app: Any, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or let the server do so."""
        if scope["type"] == "http" and scope["method"] == "POST":
            length = dict(scope["headers"]).get(b"content-length")
            if length is None or int(length) > self.most:
                status = 411 if length is None else 413
                await Response(status_code=status)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Counted:
    """Counts answers by status, those to paths that are not there, too.

    app (Any): The server behind it.
    answers (Counter): The counter.
    """

    def __init__(self, app: Any, answers: Counter):
        self.app, self.answers = app, answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let the server answer."""
        if scope["type"] != "http" or scope["path"] in OWN:
            await self.app(scope, receive, send)
            return
        status = 500  # the answer of a server that raises, which is given further out

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            self.answers.labels(status).inc()
