"""Small requests for scores, answered in the callbacks of their connection: no task, future or ASGI message is made for them.

An Exchange takes the place of uvicorn's RequestResponseCycle. Only a request that is plain in every way gets one, by `read` and
`begin`; all others, and what is refused before its body is read, go through the ASGI application, which does the same in more
steps.
"""

from __future__ import annotations

import asyncio
import re
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.admission import JSON
from service.batching import too_many
from service.errors import Problem
from service.heads import Head
from service.limits import CLIENT_GONE, NEVER, deadline, too_late
from service.live import Live
from service.log import Scored
from service.runs import Answer
from service.scoring import ROUTES, server_timing

if TYPE_CHECKING:
    from service.parts import Parts
    from service.tracing import Trace

OF_A_MODEL = re.compile(rb"/models/([A-Za-z0-9._-]{1,100})/score")  # a longer name, which none is, goes the long way
# Where too many come, most of the time goes into saying so: that answer is made once, but for its id.
ID = "{id}"
TOO_MANY = too_many()
FULL_BODY = TOO_MANY.body(ID).split(ID.encode())
FULL_HEAD = b"".join([b"%b: %b\r\n" % pair for pair in TOO_MANY.head(b"", ID)])
FULL_HEAD = FULL_HEAD.replace(b"content-length: 0", b"content-length: %d").replace(ID.encode(), b"%b")
LONG_WAY = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})


class Exchange:
    """A request, from its head to the last byte of its answer. What waits for its scores, as a future would."""

    __slots__ = (
        "_arrived",
        "_began",
        "_deadline",
        "_live",
        "_parse",
        "_parts",
        "_protocol",
        "_trace",
        "body",
        "disconnected",
        "head",
        "keep_alive",
        "refused",
        "request_id",
        "response_complete",
    )
    message_event = asyncio.Event()  # uvicorn sets it where the client goes; nobody waits for it
    response_started = False  # head and body leave together

    def __init__(
        self,
        protocol: Any,
        parts: Parts,
        live: Live | None,
        head: Head,
        request_id: str,
        began: float,
        deadline: float,
        trace: Trace | None,
    ) -> None:
        """Without a model to score it with, it is refused as soon as it is whole: its turn was full when its head came."""
        self._began = self._arrived = began
        self._deadline = deadline
        self._parse = 0.0
        self._protocol, self._parts, self._live = protocol, parts, live
        self.head, self.request_id, self._trace = head, request_id, trace
        self.body, self.keep_alive = b"", head.keep_alive
        self.disconnected = self.response_complete = False
        self.refused: Problem | None = None  # by its connection

    @property
    def let_in(self) -> bool:
        """Whether its key was looked at and is good."""
        return self._live is not None

    def complete(self, packet: bytes) -> None:
        """The body, the end of this packet, is read now, and scored with those that came in the same turn of the event loop."""
        live, self._arrived, length = self._live, perf_counter(), self.head.length
        if live is None:
            self._refuse()
            return
        batcher = self._parts.batcher
        try:
            if self._deadline < self._arrived:
                raise too_late()
            cost = batcher.admit(length)
            batch = live.reader.read(packet[-length:])
        except Exception as error:  # noqa: BLE001 - told to the client as far as it may know
            self.set_exception(error)
            return
        self._parse = perf_counter() - self._arrived
        batcher.submit(live, batch, self, self._deadline, cost)

    def done(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.disconnected or self._protocol.transport.is_closing()

    def set_result(self, answer: Answer) -> None:
        """Sends a 200."""
        spent = (self._parse, answer.began - self._arrived - self._parse, answer.inference, perf_counter() - self._arrived)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nserver-timing: %b\r\n" % (
            len(answer.body),
            self.request_id.encode(),
            server_timing(*spent),
        )
        self._send(200, head, answer.body)
        self._parts.metrics.observe(*spent)
        if self._trace is not None:
            queued = self._arrived + self._parse
            self._trace.add((queued, spent[1]), (self._arrived, self._parse), (answer.began, answer.inference))
        live = cast(Live, self._live)  # what was scored had one
        self._count(200, (live.name, live.version, answer.records, answer.anomalies))

    def set_exception(self, error: Exception) -> None:
        """Sends the problem that this is, or a 500."""
        problem = self._parts.problem(error, self.request_id)
        body = problem.body(self.request_id)
        self._send(problem.status, b"".join([b"%b: %b\r\n" % pair for pair in problem.head(body, self.request_id)]), body)
        self._count(problem.status, code=problem.code)

    def _refuse(self) -> None:
        """Sends the 429 of a full turn."""
        request_id = self.request_id.encode()
        body = request_id.join(FULL_BODY)
        self._send(TOO_MANY.status, FULL_HEAD % (len(body), request_id), body)
        self._parts.metrics.errors[TOO_MANY.code] += 1
        self._count(TOO_MANY.status, code=TOO_MANY.code)

    def gone(self) -> None:
        """The client has left before its answer, or was refused by its connection."""
        refused = self.refused
        if refused is None:
            self._count(CLIENT_GONE)
        else:
            self._count(refused.status, code=refused.code)

    def _send(self, status: int, head: bytes, body: bytes) -> None:
        protocol = self._protocol
        close = b"" if self.keep_alive else b"connection: close\r\n"
        protocol.transport.write(b"".join((STATUS_LINE[status], protocol.default_head(), head, close, b"\r\n", body)))
        self.response_complete = True
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_exchange_complete()

    def _count(self, status: int, scored: Scored | None = None, code: str | None = None) -> None:
        head, live, trace, client = self.head, self._live, self._trace, None if scored else self._protocol.client
        self._parts.count(head.route, "POST", head.path, status, self.request_id, self._began, live, scored, trace, code, client)


def read(protocol: Any) -> Head | None:
    """The head that has just been parsed, or None where its request has to go through the application."""
    url, model = protocol.url, None
    if url != b"/score" and (model := OF_A_MODEL.fullmatch(url)) is None:
        return None
    headers, parser = dict(protocol.headers), protocol.parser
    content_type, length = headers.get(b"content-type", JSON), int(headers.get(b"content-length", 0))
    if (
        parser.get_method() != b"POST"
        or parser.get_http_version() != "1.1"
        or not length
        or not LONG_WAY.isdisjoint(headers)
        or (content_type != JSON and content_type.split(b";", 1)[0].strip().lower() != JSON)
    ):
        return None
    keep_alive = parser.should_keep_alive()
    if model is None:
        return Head(headers, ROUTES[0], '"/score"', None, length, keep_alive)
    return Head(headers, ROUTES[1], f'"{url.decode()}"', model[1].decode(), length, keep_alive)


def begin(protocol: Any, parts: Parts, head: Head) -> Exchange | None:
    """The exchange for a request with this head, or None where it has to go through the application."""
    before = protocol.cycle
    if (
        head.length > parts.inline_bytes
        or parts.draining
        or protocol.flow.write_paused
        or not (before is None or before.response_complete)
    ):
        return None
    began, headers = perf_counter(), head.headers
    if parts.batcher.is_full(head.length):
        return Exchange(protocol, parts, None, head, parts.request_id(headers), began, NEVER, None)
    try:
        parts.keys.check_api(headers)
        until = deadline(headers, began)
        live = parts.registry.default() if head.model is None else parts.registry.get(head.model)
    except Problem:
        return None
    trace = None if parts.tracing is None else parts.tracing.begin(headers)
    return Exchange(protocol, parts, live, head, parts.request_id(headers), began, until, trace)
