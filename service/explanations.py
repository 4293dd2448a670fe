"""The endpoint of POST /explain, as bare ASGI beside that of /score: why records are odd, at the price of a score a feature.

It is for the few records that somebody looks at, most of which were scored before: they are not counted once more among the live
ones, whose drift and share of flagged ones are watched.
"""

from __future__ import annotations

import re
from functools import partial
from time import perf_counter

import numpy as np
from starlette.types import Receive, Scope, Send

from service import runs
from service.admission import JSON, admit
from service.background import Done
from service.bodies import inflate, read_body
from service.errors import FieldError, Problem, not_scorable
from service.limits import Holding
from service.live import Live
from service.parts import Parts
from service.runs import Answer
from service.scoring import estimate_rows, send_whole

ROUTES = ("/explain", "/models/{name}/explain", "/models/{name}/versions/{version}/explain")
PATH = re.compile(r"(?:/models/([^/]+)(?:/versions/([^/]+))?)?/explain")


class Explanations:
    """The endpoint of all three routes. An ASGI application; errors leave it as Problem."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._limit, self._max_records = parts.settings.max_body_bytes, parts.settings.max_records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, in the thread that also scores the larger ones of /score."""
        head = await admit(self._parts, scope, PATH, (JSON,))
        self._parts.permits.check()  # full: says so before the body is read
        with Holding(self._parts.room) as held:
            body = await read_body(await receive(), receive, self._limit, held)
            arrived, manifest = perf_counter(), head.live.detector.manifest
            rows = min(estimate_rows(body, manifest.width, head.gzipped) * len(manifest.features), self._max_records)
            work = partial(self._work, head.live, body, head.gzipped)
            answer, parse, queue = await self._parts.background.answer(head.live, rows, work, head.until, scope["trace"], receive)
        await send_whole(scope, send, JSON, answer, (parse, queue, answer.inference, perf_counter() - arrived))

    def _work(self, live: Live, body: bytes, gzipped: bool) -> Done:
        """The answer, of which nothing is observed. Raises the Problem that says why there is none."""
        arrived = perf_counter()
        batch = live.reader.read(inflate(body, self._limit) if gzipped else body)
        if batch.columnar or batch.explain != "flagged":
            wrong, why = ("columns", "give records") if batch.columnar else ("explain", "all records are explained: leave it out")
            raise Problem("invalid_request", "One of the request's members does not fit.", [FieldError(wrong, why)])
        n, features = len(batch.x), len(live.detector.manifest.features)
        most = max(1, self._max_records // features)
        if n > most:
            detail = f"{n} records, each once without each of {features} features; {most} may be explained at a time"
            raise Problem("too_many_records", f"{detail}: send several requests.")
        batch.explain = "all"
        began = perf_counter()
        scores = runs.score(live, batch)
        what_if = live.detector.what_if(batch.x, scores)
        inference = perf_counter() - began
        finite = np.isfinite(what_if.score) & ~np.isinf(what_if.expected_score)
        if not finite.all():
            raise not_scorable([f"records[{row}]" for row in np.flatnonzero(~finite.all(axis=1))])
        results, _ = live.writer.records(batch, scores, what_if)
        told = b"%b[%b]}" % (live.writer.head(scores), b",".join(results))
        return Answer(told, n, int(np.count_nonzero(scores.is_anomaly)), began, inference), None, arrived, began - arrived


def explain_route(path: str) -> str | None:
    """Which of ROUTES a path is, if any."""
    found = PATH.fullmatch(path)
    return None if found is None else ROUTES[found.lastindex or 0]
