"""uvicorn's HTTP protocol, with limits that it lacks: on the time a request takes to arrive and its answer to be taken, and on
the size of its head. And in order where uvicorn is not: what is refused is never answered before what came earlier.

One sweep a half second over all connections looks for those that are late: a timer of its own would cost every request more
than the rest of this file. Built on uvicorn's HttpToolsProtocol, whose methods it extends; tests/service/test_http_protocol.py
runs it on real sockets.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from time import perf_counter
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service import direct, log
from service.direct import Exchange
from service.errors import Problem, shutting_down
from service.limits import Room
from service.parts import Parts

SWEEP_SECONDS = 0.5
LINGER_TURNS, LINGER_SECONDS = 5, 0.02  # of the event loop, each with its look at what has come, for what was sent before an end
MAX_HEAD_BYTES = 32 << 10
SLOWEST = 1 << 10  # bytes of an answer that a client takes in a second, on average over the time that a request may take
_sweeping: list[Any] = []  # the servers whose connections are being looked at
_ids = map(f"{os.urandom(6).hex()}-c%x".__mod__, itertools.count(1))


class LimitedProtocol(HttpToolsProtocol):
    """A connection whose client has so many seconds for the head of a request, and so many for the whole of it."""

    cycle: Any  # uvicorn's, or an Exchange

    def connection_made(self, transport: Any) -> None:
        """Starts the clock: a silent connection is late, too."""
        super().connection_made(transport)
        self._parts = cast(Parts, self.app)
        settings = self._parts.settings
        self._head_seconds, self._request_seconds = settings.head_seconds, settings.request_seconds
        self._since: float | None = self.loop.time()  # when the request that is arriving began; None between requests
        self._in_head = True
        self._fed = 0  # bytes since the request, or the last part of its body
        self._behind = False  # it began in the packet in which the one before ended, so that not all of it is counted
        self._untaken: tuple[float, int] | None = None  # when so many bytes waited for the client
        self._refused = False
        self._idle: float | None = None  # since when nobody waits for anything on this connection
        self._leaving: float | None = None  # the idle time that was too long at the last sweep
        self._upgrading = False  # the head that has just been read asks for another protocol
        self._running: Any = None  # the cycle whose answer is the next to be sent
        self._default_lines, self._default_head = list[tuple[bytes, bytes]](), b""
        if self.server_state not in _sweeping:
            _sweeping.append(self.server_state)
            self.loop.call_later(SWEEP_SECONDS, _sweep, self.loop, self.server_state, self._parts.room)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, unless this connection has been refused and only waits for its end."""
        if self._refused:
            return
        begins = self._since is None or (self._in_head and not self._fed and not self._behind)
        if begins and self._is_known(data):
            return
        if self._since is None:
            if not data.strip(b"\r\n"):
                return  # some clients end a body with an empty line: no request has begun
            self._since, self._idle = self.loop.time(), None
        self._fed += len(data)
        self._unset_keepalive_if_required()
        rest: memoryview | None = memoryview(data)
        try:
            while rest is not None:
                rest = self._feed(rest)
        except httptools.HttpParserCallbackError as error:  # a fault of ours, not of the request
            log.fault(error.__context__ or error, request_id="-")
            self.transport.abort()
            return
        except httptools.HttpParserError:
            if not self._refused:
                self._refuse(Problem("invalid_http", "Invalid HTTP request received."))
        if self._fed > MAX_HEAD_BYTES and not self._refused:
            self._refuse_head()
        if begins and self._since is None and type(self.cycle) is Exchange and self.cycle.let_in:
            self._parts.heads.keep(data, self.cycle.head)

    def _is_known(self, data: bytes) -> bool:
        """Answers a packet that is one whole request, if its head came before: the parser would make the same of it."""
        head = self._parts.heads.find(data)
        exchange = None if head is None else direct.begin(self, self._parts, head)
        if head is None or exchange is None:
            return False
        self._since = self._idle = None
        self._unset_keepalive_if_required()
        self.cycle = self._running = exchange
        exchange.complete(data)
        return True

    def _feed(self, data: memoryview) -> memoryview | None:
        """Parses; returns what comes after a head that was begun anew, without its wish for another protocol.

        The parser would take the body of such a request for the next request: clients that ask for HTTP/2 would score nothing,
        and who gets a proxy to pass such a head on could smuggle a request in.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._upgrading = False
            if self._refused:
                return None
            first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            lines = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(b"".join([first, *lines, b"\r\n"]))
            return data[stopped.args[0] :]
        return None

    def on_message_begin(self) -> None:
        """A request's head begins, perhaps in the packet in which the one before ended."""
        super().on_message_begin()
        self._in_head = True
        if self._since is None:
            self._since, self._behind = self.loop.time(), True

    def on_headers_complete(self) -> None:
        """The head is whole; the request goes to the application, unless the head is too large."""
        if (self._fed > MAX_HEAD_BYTES or self._behind) and self._head_bytes() > MAX_HEAD_BYTES:
            self._refuse_head()
        self._fed, self._behind = 0, False
        if not self._refused and (wrong := _misframed(self.headers)):
            self._refuse(Problem("invalid_http", wrong))
        if self._refused:
            return
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._refuse(Problem("method_not_allowed", "This is no proxy.", headers={"Allow": "GET, HEAD, POST"}))
            self._upgrading = True
            return
        head = direct.read(self)
        exchange = None if head is None else direct.begin(self, self._parts, head)
        if exchange is None:
            super().on_headers_complete()
            if self._parts.draining:
                self.cycle.keep_alive = False
        else:
            self.cycle = self._running = exchange
        self.headers, self._in_head, self._idle = _NOWHERE, False, None

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._fed = 0
        if self._refused:
            return
        if type(self.cycle) is Exchange:
            self.cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: its clock stops."""
        if self._upgrading:
            return
        self._since, self._fed, self._in_head = None, 0, True
        if self._refused:
            return
        if type(self.cycle) is Exchange:
            self.cycle.complete(self.cycle.body)
        else:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or this side has ended it."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True  # uvicorn tells the last one that came
            running.message_event.set()
            if type(running) is Exchange:
                running.gone()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

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

    def resume_writing(self) -> None:
        """The client has taken nearly all that was sent."""
        self._untaken = None
        super().resume_writing()

    def shutdown(self) -> None:
        """The process ends: what still comes in on connections that are open is refused, what is under way finishes."""
        self._parts.draining = True
        if self._between_requests():
            self._part(LINGER_TURNS)
        else:
            self.cycle.keep_alive = False

    def refuse_unfinished(self) -> None:
        """The time that requests have at the end is over: a small one that is not whole is refused, as the application does."""
        if type(self.cycle) is Exchange and not self.cycle.response_complete and not self._refused:
            self._refuse(shutting_down())

    def timeout_keep_alive_handler(self) -> None:
        """Leaves it to the sweep to close a connection that has been idle for too long, as those of Exchanges."""
        self._idle = self.loop.time() - self.timeout_keep_alive

    def check_time(self, now: float) -> None:
        """Ends the connection if its client is late, in sending or in taking."""
        if self._too_slow(now):
            own = self.transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the system, too, forgets the rest
            self.transport.abort()
        elif self._refused or self.transport.is_closing():
            return  # it ends as soon as what is to be sent is taken
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

    def _too_slow(self, now: float) -> bool:
        """Whether the client does not take its answers."""
        left = self.transport.get_write_buffer_size()
        if not left:
            self._untaken = None
        elif self._untaken is None or left <= self._untaken[1] - SLOWEST * self._request_seconds:
            self._untaken = now, left
        return self._untaken is not None and now - self._untaken[0] > self._request_seconds

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse_head(self) -> None:
        self._refuse(Problem("head_too_large", f"The head of a request may have {MAX_HEAD_BYTES} bytes, and so what frames it."))

    def _refuse(self, problem: Problem) -> None:
        """Answers on the connection itself, if there is still an answer to give, and closes it. What came before has its answer
        first, and the connection then ends without one more.
        """
        self._refused = True
        before, own = self.cycle, None
        if not self._in_head:  # what is refused is the body of the last request
            before, own = None, self.cycle
            if self.pipeline:
                self.pipeline.popleft()
                before = self.pipeline[0][0] if self.pipeline else self._running
        if before is not None and not before.response_complete:
            before.keep_alive = False
            return
        if own is None or not own.response_started:
            request_id = self._count_refusal(problem, own)
            body = problem.body(request_id)
            problem.headers["Connection"] = "close"
            lines = b"".join([b"%b: %b\r\n" % pair for pair in problem.head(body, request_id)])
            self.transport.write(b"".join([STATUS_LINE[problem.status], self.default_head(), lines, b"\r\n", body]))
        if own is not None and not own.response_complete:
            own.disconnected = True  # the application, if it still waits for the body, learns that the client is gone
            own.message_event.set()
        self.transport.close()

    def _count_refusal(self, problem: Problem, own: Any) -> str:
        """Counts and logs it as any other answer, here or where the request under way is; returns the id of the request."""
        parts = self._parts
        parts.metrics.errors[problem.code] += 1
        if type(own) is Exchange:
            own.refused = problem
            return own.request_id
        if own is not None:
            own.scope["refused"] = problem
            return str(own.scope.get("request_id") or next(_ids))
        request_id = next(_ids)
        spent = 0.0 if self._since is None else self.loop.time() - self._since
        began = perf_counter() - spent
        parts.count("other", "-", '"-"', problem.status, request_id, began, code=problem.code, client=self.client)
        return request_id


def _misframed(headers: list[tuple[bytes, bytes]]) -> str | None:
    """What is wrong with a head that the parser lets pass, although a server in front may have read it in another way."""
    if sum(name == b"host" for name, _ in headers) > 1:
        return "A request has one Host."
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and codings != [b"chunked"]:
        return "Transfer-Encoding: only chunked is known."
    return None


class _Nowhere(list[tuple[bytes, bytes]]):
    """What follows a body in chunks is no part of the head."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        """Forgets it."""


_NOWHERE = _Nowhere()


def _sweep(loop: Any, server_state: Any, room: Room) -> None:
    if not server_state.connections:
        room.answers = 0
        _sweeping.remove(server_state)
        return
    loop.call_later(SWEEP_SECONDS, _sweep, loop, server_state, room)  # whatever becomes of this one
    now, room.answers = loop.time(), 0
    for connection in list(server_state.connections):
        connection.check_time(now)
        room.answers += connection.transport.get_write_buffer_size()
