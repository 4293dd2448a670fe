"""POST /score, as bare ASGI: bytes -> records -> detector -> bytes, with nothing made on the way that can be made once.

JSON is the way that counts; streams of lines and Arrow tables, which many records come in, turn off it early.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.types import Message, Receive, Scope, Send

from service import runs, tabular
from service.admission import ARROW, JSON, NDJSON, Admitted, admit
from service.background import Done, account
from service.bodies import inflate, read_body
from service.limits import NEVER, ClientGoneError, Holding
from service.live import Live
from service.runs import Answer
from service.streams import BLOCK, Lines, Pieces, Stream, Whole
from service.validation import query

if TYPE_CHECKING:
    from service.parts import Parts

Spent = tuple[float, float, float, float]  # seconds of metrics.STAGES
ROUTES = ("/score", "/models/{name}/score", "/models/{name}/versions/{version}/score")
PATH = re.compile(r"(?:/models/([^/]+)(?:/versions/([^/]+))?)?/score")


class Scoring:
    """The endpoint of all three routes. An ASGI application; errors leave it as Problem."""

    def __init__(self, parts: Parts) -> None:
        self._parts, settings = parts, parts.settings
        self._limit, self._inline, self._max_records = settings.max_body_bytes, parts.inline_bytes, settings.max_records
        self._permits, self._room = parts.permits, parts.room
        self._batcher, self._background = parts.batcher, parts.background
        self._observe = parts.metrics.observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        head = await admit(self._parts, scope, PATH, (JSON, NDJSON, ARROW))
        if head.length > self._inline:
            self._permits.check()  # full: says so before the body is read
        with Holding(self._room) as held:
            if head.content_type == NDJSON:
                pieces = Pieces(await receive(), receive, self._limit, held)
                out = Whole(send, held) if scope["http_version"] == "1.0" else send
                await self._stream(scope, pieces, out, head)
                return
            answer, parse, queue, arrived = await self._score(scope, receive, held, head)
        spent = parse, queue, answer.inference, perf_counter() - arrived
        await send_whole(scope, send, head.content_type, answer, spent)
        self._observe(*spent)

    async def _score(self, scope: Scope, receive: Receive, held: Holding, head: Admitted) -> tuple[Answer, float, float, float]:
        """The answer, the seconds of parsing and of waiting, and when the body was whole. Nothing has the body any more."""
        live, gzipped, until, trace, message = head.live, head.gzipped, head.until, scope["trace"], await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body = message.get("body", b"")
        if message.get("more_body", False) or len(body) > self._inline:
            body = await read_body(message, receive, self._limit, held)
        arrived = perf_counter()
        if head.content_type == ARROW:
            table = tabular.Request(live, body, self._limit, self._max_records, scope["query_string"], gzipped=gzipped)
            return *await self._background.answer(live, table.rows, table.answer, until, trace, receive), arrived
        if len(body) > self._inline or gzipped:
            rows = estimate_rows(body, live.detector.manifest.width, gzipped)
            work = partial(self._work, live, body, gzipped)
            return *await self._background.answer(live, rows, work, until, trace, receive), arrived
        cost = self._batcher.admit(len(body))
        batch = live.reader.read(body)
        parse = perf_counter() - arrived
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._batcher.submit(live, batch, future, until, cost)
        answer = await future
        queue = answer.began - arrived - parse
        if trace is not None:
            trace.add((arrived + parse, queue), (arrived, parse), (answer.began, answer.inference))
        return answer, parse, queue, arrived

    async def _stream(self, scope: Scope, pieces: Pieces, send: Send, head: Admitted) -> None:
        """Answers a stream of lines. A problem is the whole answer if no result was sent yet; else it is the last line."""
        alpha, _, explain = query(scope["query_string"], ("alpha", "explain"))
        live, until = head.live, head.until
        stream = Stream(live, Lines(self._limit, gzipped=head.gzipped), self._max_records, alpha, explain)
        request_id, started, ended = scope["request_id"], False, False
        records, anomalies, seconds, take = 0, 0, [0.0, 0.0, 0.0], self._permits.take
        try:
            while not ended:
                piece = await pieces.next() if stream.exhausted else b""
                last = pieces.given_out
                take(BLOCK)
                take, queued = self._permits.take_more, perf_counter()
                done = await self._background.run(BLOCK, partial(stream.work, piece, last=last), until)
                pieces.hold(stream.held)
                ended = last and stream.exhausted
                if done is not None:
                    answer, parse, queue = account(live, done, queued, scope["trace"])
                    records, anomalies = records + answer.records, anomalies + answer.anomalies
                    seconds = [sum(pair) for pair in zip(seconds, (parse, queue, answer.inference), strict=True)]
                    if not started:
                        timing = server_timing(seconds[0], seconds[1], seconds[2], sum(seconds))
                        extent = (b"content-length", b"%d" % len(answer.body)) if ended else (b"connection", b"close")
                        await send(start(NDJSON, extent, request_id, timing))
                        started = True
                    until = NEVER  # what has begun is answered
                    await pieces.during(send(part(answer.body, more=not ended)))
                elif ended and started:
                    await send(part(b"", more=False))
        except ClientGoneError:
            raise
        except Exception as error:
            if not started or isinstance(send, Whole):
                raise
            problem = self._parts.problem(error, request_id)
            scope["code"] = problem.code
            await send(part(b'{"error":%b}\n' % problem.body(request_id), more=True))
            await pieces.drain()
            await send(part(b"", more=False))
        finally:
            pieces.close()
            if started:  # also for one who leaves in the middle
                scope["scored"] = (live.name, live.version, records, anomalies)
        self._observe(*seconds, sum(seconds))

    def _work(self, live: Live, body: bytes, gzipped: bool) -> Done:
        began = perf_counter()
        batch = live.reader.read(inflate(body, self._limit) if gzipped else body)
        parse = perf_counter() - began
        return *runs.answer(live, batch), began, parse


def score_route(path: str) -> str | None:
    """Which of ROUTES a path is, if any."""
    found = PATH.fullmatch(path)
    return None if found is None else ROUTES[found.lastindex or 0]


async def send_whole(
    scope: Scope, send: Send, content_type: bytes, answer: Answer, spent: Spent, more: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Sends a 200 in one piece, with these headers more, and tells the log by the scope what was scored."""
    head = start(content_type, (b"content-length", b"%d" % len(answer.body)), scope["request_id"], server_timing(*spent))
    head["headers"] += more
    await send(head)
    await send({"type": "http.response.body", "body": answer.body})
    scope["scored"] = (scope["live"].name, scope["live"].version, answer.records, answer.anomalies)


def start(content_type: bytes, extent: tuple[bytes, bytes], request_id: str, timing: bytes) -> Message:
    """The head of a 200; extent: the header that says where its body ends."""
    headers = [(b"content-type", content_type), extent, (b"x-request-id", request_id.encode()), (b"server-timing", timing)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def part(body: bytes, *, more: bool) -> Message:
    """A part of the body of an answer."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def server_timing(parse: float, queue: float, inference: float, total: float) -> bytes:
    """The header's value."""
    milliseconds = 1e3 * parse, 1e3 * queue, 1e3 * inference, 1e3 * total
    return b"parse;dur=%.3f, queue;dur=%.3f, inference;dur=%.3f, total;dur=%.3f" % milliseconds


def estimate_rows(body: bytes, width: int, gzipped: bool) -> int:
    """About how many records a body holds, without reading it: a comma a value, a brace a record. Gzip: three bytes a value."""
    if gzipped:
        return max(1, len(body) // 3 // width)
    return max(1, body.count(b",") // max(1, width), body.count(b"{") - 2)
