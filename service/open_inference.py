"""The endpoint of POST /v2/models/NAME/infer, as bare ASGI beside that of /score."""

from __future__ import annotations

import re
from functools import partial
from time import perf_counter

import numpy as np
from starlette.types import Receive, Scope, Send

from service import batching, open_inference_request
from service.background import Done
from service.errors import Problem
from service.limits import Holding, check_length, deadline, inflate, read_body
from service.live import Live
from service.parts import Parts
from service.scoring import JSON, estimate_rows, is_gzip, no_query, part, server_timing, start
from service.tensors import write

BINARY = b"application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
ROUTES = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")


class Inference:
    """The endpoint of both routes. An ASGI application; errors leave it as Problem."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry, self._keys = parts.registry, parts.keys
        self._limit, self._max_records = parts.settings.max_body_bytes, parts.settings.max_records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, in the thread that also scores the larger ones of /score."""
        began = perf_counter()
        headers = dict(scope["headers"])
        self._keys.check_api(headers)
        if headers.get(b"content-type", JSON).split(b";", 1)[0].strip().lower() not in (JSON, BINARY):
            raise Problem("unsupported_media_type", f"Send {JSON.decode()} or {BINARY.decode()}.")
        gzipped = is_gzip(headers.get(b"content-encoding", b""))
        check_length(headers, self._limit)
        until = deadline(headers, began)
        live = scope["live"] = await self._registry.find(PATH, scope["path"])
        no_query(scope)
        self._parts.permits.check()  # full: says so before the body is read
        with Holding(self._parts.room) as held:
            body = await read_body(await receive(), receive, self._limit, held)
            arrived = perf_counter()
            head, width = headers.get(HEADER_LENGTH), live.detector.manifest.width
            rows = estimate_rows(body, width, gzipped) if head is None else max(1, len(body) // (4 * width))
            work = partial(self._work, live, body, head, gzipped)
            answer, parse, queue = await self._parts.background.answer(live, rows, work, until, scope["trace"], receive)
        total = perf_counter() - arrived
        timing = server_timing(parse, queue, answer.inference, total)
        extent = (b"content-length", b"%d" % len(answer.body))
        started = start(BINARY if answer.head else JSON, extent, scope["request_id"], timing)
        if answer.head:
            started["headers"].append((HEADER_LENGTH, b"%d" % answer.head))
        await send(started)
        await send(part(answer.body, more=False))
        self._parts.metrics.observe(parse, queue, answer.inference, total)
        scope["scored"] = (live.name, live.version, answer.records, answer.anomalies)

    def _work(self, live: Live, body: bytes, header_length: bytes | None, gzipped: bool) -> Done:
        began = perf_counter()
        content = inflate(body, self._limit) if gzipped else body
        request = open_inference_request.read(live.detector.manifest, content, header_length, self._max_records)
        scoring = perf_counter()
        scores = batching.score_finite(live, request.batch)
        inference = perf_counter() - scoring
        head = {
            "model_name": live.name,
            "model_version": live.version,
            **({} if request.id is None else {"id": request.id}),
            "parameters": {
                "score_kind": live.detector.manifest.score_kind,
                "alpha": scores.alpha,
                "threshold": float(str(np.float32(scores.threshold))),  # in the digits of the scores
            },
        }
        body, head_bytes = write(head, request.answer(scores))
        return *batching.answered(body, scores, scoring, inference, {}, head_bytes), began, scoring - began


def infer_route(path: str) -> str | None:
    """Which of ROUTES a path is, if any."""
    found = PATH.fullmatch(path)
    return None if found is None else ROUTES[found[2] is not None]
