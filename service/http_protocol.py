"""uvicorn's HTTP protocol, with limits that it lacks: on the time a request takes to arrive, and on the size of its head.

One sweep a half second over all connections looks for those that are late: a timer of its own would cost every request more
than the rest of this file. Built on uvicorn's HttpToolsProtocol, whose methods it extends; tests/service/test_http_protocol.py
runs it on real sockets.
"""

from __future__ import annotations

import itertools
import os
from time import perf_counter
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service import direct
from service.app import Service
from service.direct import Exchange
from service.errors import Problem

SWEEP_SECONDS = 0.5
LINGER_TURNS, LINGER_SECONDS = 5, 0.02  # of the event loop, each with its look at what has come, for what was sent before an end
MAX_HEAD_BYTES = 32 << 10
_sweeping: list[Any] = []  # the servers whose connections are being looked at
_ids = map(f"{os.urandom(6).hex()}-c%x".__mod__, itertools.count(1))


class LimitedProtocol(HttpToolsProtocol):
    """A connection whose client has so many seconds for the head of a request, and so many for the whole of it."""

    cycle: Any  # uvicorn's, or an Exchange

    def connection_made(self, transport: Any) -> None:
        """Starts the clock: a silent connection is late, too."""
        super().connection_made(transport)
        settings = cast(Service, self.app).settings
        self._head_seconds, self._request_seconds = settings.head_seconds, settings.request_seconds
        self._since: float | None = self.loop.time()  # when the request that is arriving began; None between requests
        self._in_head = True
        self._fed = 0  # bytes since the request began
        self._stalled: float | None = None  # since when the client has not taken what was sent
        self._refused = False
        self._idle: float | None = None  # since when nobody waits for anything on this connection
        self._leaving: float | None = None  # the idle time that was too long at the last sweep
        self._default_lines, self._default_head = list[tuple[bytes, bytes]](), b""
        if self.server_state not in _sweeping:
            _sweeping.append(self.server_state)
            self.loop.call_later(SWEEP_SECONDS, _sweep, self.loop, self.server_state)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, unless this connection has been refused and only waits for its end."""
        if self._refused:
            return
        if self._since is None:
            self._since, self._idle = self.loop.time(), None
        self._fed += len(data)
        super().data_received(data)
        if self._in_head and self._fed > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """A request's head begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head is whole; the request goes to the application, unless the head is too large."""
        self._in_head = False
        if self._fed > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            self._refuse_head()
        if self._refused:
            return
        exchange = direct.begin(self, self.app)
        if exchange is None:
            super().on_headers_complete()
            if cast(Service, self.app).draining:
                self.cycle.keep_alive = False
        else:
            self.cycle = exchange

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if type(self.cycle) is Exchange:
            self.cycle.body += body
        elif not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: its clock stops."""
        self._since, self._fed, self._in_head = None, 0, True
        if self._refused:
            return
        if type(self.cycle) is Exchange:
            self.cycle.complete()
        else:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or this side has ended it."""
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            self.cycle.gone()
        super().connection_lost(exc)

    def on_exchange_complete(self) -> None:
        """As on_response_complete, but for its timer for idle connections, which the sweep does without."""
        if self.pipeline:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._idle = self.loop.time()

    def default_head(self) -> bytes:
        """The head lines that every answer has."""
        lines = self.server_state.default_headers  # a new list each second, for the date
        if lines is not self._default_lines:
            self._default_lines, self._default_head = lines, b"".join([b"%b: %b\r\n" % pair for pair in lines])
        return self._default_head

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        self._stalled = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client takes it again."""
        self._stalled = None
        super().resume_writing()

    def shutdown(self) -> None:
        """The process ends: what still comes in on connections that are open is refused, what is under way finishes."""
        cast(Service, self.app).draining = True
        if self._between_requests():
            self._part(LINGER_TURNS)
        else:
            self.cycle.keep_alive = False

    def timeout_keep_alive_handler(self) -> None:
        """Leaves it to the sweep to close a connection that has been idle for too long, as those of Exchanges."""
        self._idle = self.loop.time() - self.timeout_keep_alive

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets a problem document, too."""
        self._refuse(Problem("invalid_http", msg))

    def check_time(self, now: float) -> None:
        """Ends the connection if its client is late."""
        if self.transport.is_closing():
            return
        if self._stalled is not None and now - self._stalled > self._request_seconds:
            self.transport.abort()
        elif self._since is None:
            if self._idle is not None and now - self._idle > self.timeout_keep_alive:
                if self._leaving == self._idle:  # so still at a second look: what came before the first has been read by now
                    self.transport.close()
                self._leaving = self._idle
        elif self._in_head:
            if now - self._since > self._head_seconds:
                self._refuse(Problem("request_timeout", f"The head of the request was not in within {self._head_seconds:g} s."))
        elif now - self._since > self._request_seconds:
            self._refuse(Problem("request_timeout", f"The request was not in within {self._request_seconds:g} s."))

    def _between_requests(self) -> bool:
        """Whether no request is under way, but for a part of a head."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _part(self, turns: int) -> None:
        """Closes a connection after so many turns, unless what its client had sent before it could know is still answered."""
        if turns:
            self.loop.call_later(LINGER_SECONDS, self._part, turns - 1)
        elif self._between_requests() and not self.transport.is_closing():
            self.transport.close()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse_head(self) -> None:
        self._refuse(Problem("head_too_large", f"The head of a request may have {MAX_HEAD_BYTES} bytes."))

    def _refuse(self, problem: Problem) -> None:
        """Answers on the connection itself, where the application has not begun to, and closes it."""
        self._refused = True
        cycle = self.cycle
        request_id = self._count_refusal(problem)
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = problem.body(request_id)
            head = [*problem.head(body, request_id), (b"connection", b"close")]
            lines = b"".join([b"%b: %b\r\n" % pair for pair in head])
            self.transport.write(b"".join([STATUS_LINE[problem.status], self.default_head(), lines, b"\r\n", body]))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application, if it still waits for the body, learns that the client is gone
            cycle.message_event.set()
        self.transport.close()

    def _count_refusal(self, problem: Problem) -> str:
        """Counts and logs it as any other answer, here or where the request under way is; returns the id of the request."""
        service, cycle = cast(Service, self.app), self.cycle
        service.metrics.errors[problem.code] += 1
        if type(cycle) is Exchange and not cycle.response_complete:
            cycle.refused = problem.status
            return cycle.request_id
        if cycle is not None and not cycle.response_complete:
            if not cycle.response_started:
                cycle.scope["refused"] = problem.status
            return str(cycle.scope.get("request_id") or next(_ids))
        request_id = next(_ids)
        spent = 0.0 if self._since is None else self.loop.time() - self._since
        service.count("other", "-", '"-"', problem.status, request_id, perf_counter() - spent)
        return request_id


def _sweep(loop: Any, server_state: Any) -> None:
    now = loop.time()
    for connection in list(server_state.connections):
        connection.check_time(now)
    if server_state.connections:
        loop.call_later(SWEEP_SECONDS, _sweep, loop, server_state)
    else:
        _sweeping.remove(server_state)
