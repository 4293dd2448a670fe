"""The endpoint of POST /v2/models/NAME/infer, as bare ASGI beside that of /score."""

from __future__ import annotations

import re
from functools import partial
from time import perf_counter

from starlette.types import Receive, Scope, Send

from service import open_inference_request, runs
from service.admission import BINARY, JSON, admit
from service.background import Done
from service.bodies import inflate, read_body
from service.encoding import as_written
from service.limits import Holding
from service.live import Live
from service.parts import Parts
from service.scoring import estimate_rows, send_whole
from service.tensors import write

HEADER_LENGTH = b"inference-header-content-length"
ROUTES = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")


class Inference:
    """The endpoint of both routes. An ASGI application; errors leave it as Problem."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._limit, self._max_records = parts.settings.max_body_bytes, parts.settings.max_records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, in the thread that also scores the larger ones of /score."""
        head = await admit(self._parts, scope, PATH, (JSON, BINARY))
        self._parts.permits.check()  # full: says so before the body is read
        with Holding(self._parts.room) as held:
            body = await read_body(await receive(), receive, self._limit, held)
            arrived = perf_counter()
            header_length, width = scope["fields"].get(HEADER_LENGTH), head.live.detector.manifest.width
            rows = estimate_rows(body, width, head.gzipped) if header_length is None else max(1, len(body) // (4 * width))
            work = partial(self._work, head.live, body, header_length, head.gzipped)
            answer, parse, queue = await self._parts.background.answer(head.live, rows, work, head.until, scope["trace"], receive)
        spent = parse, queue, answer.inference, perf_counter() - arrived
        more = [(HEADER_LENGTH, b"%d" % answer.head)] if answer.head else []
        await send_whole(scope, send, BINARY if answer.head else JSON, answer, spent, more)
        self._parts.metrics.observe(*spent)

    def _work(self, live: Live, body: bytes, header_length: bytes | None, gzipped: bool) -> Done:
        began = perf_counter()
        content = inflate(body, self._limit) if gzipped else body
        request = open_inference_request.read(live.detector.manifest, content, header_length, self._max_records)
        scoring = perf_counter()
        scores = runs.score_finite(live, request.batch)
        inference = perf_counter() - scoring
        head = {
            "model_name": live.name,
            "model_version": live.version,
            **({} if request.id is None else {"id": request.id}),
            "parameters": {
                "score_kind": live.detector.manifest.score_kind,
                "alpha": scores.alpha,
                "threshold": as_written(scores.threshold),
            },
        }
        body, head_bytes = write(head, request.answer(scores))
        return *runs.answered(body, scores, scoring, inference, {}, head_bytes), began, scoring - began


def infer_route(path: str) -> str | None:
    """Which of ROUTES a path is, if any."""
    found = PATH.fullmatch(path)
    return None if found is None else ROUTES[found[2] is not None]
