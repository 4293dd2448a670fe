"""application/x-ndjson: a record a line in, a result a line out, scored block by block as the lines come.

The body is read on only when the results so far are taken, or while a client that sends all before it reads does not take them:
so no more than the body, which has its limit, is ever in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from time import perf_counter

from starlette.types import Message, Receive, Send

from service import runs
from service.background import Done
from service.batch import Explain
from service.bodies import INFLATE_STEP, Inflater, body_too_large
from service.errors import FieldError, Problem
from service.limits import ClientGoneError, Holding
from service.live import Live

BLOCK = 512  # lines scored at a time: other requests wait for no more than these
PART = 256 << 10  # bytes given out at a time, where more wait: what has been scored is held no more


class Lines:
    """The lines of a body that comes in pieces, inflated no further than they are asked for. Belongs to one thread at a time."""

    def __init__(self, limit: int, *, gzipped: bool) -> None:
        self._limit, self._size = limit, 0  # of the inflated body
        self._inflater = Inflater() if gzipped else None
        self._piece, self._fed, self._last = memoryview(b""), 0, False
        self._parts: list[bytes] = []  # of a line that is not whole
        self._unfinished = 0  # bytes of them
        self._whole: list[bytes] = []

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left of what was fed."""
        return not self._whole and not self._piece

    @property
    def held(self) -> int:
        """Bytes of what was fed, and has not been taken, that are in memory; a piece is, until the last of it was looked at."""
        return (self._fed if self._piece else 0) + sum(map(len, self._whole)) + self._unfinished

    def feed(self, piece: bytes, *, last: bool) -> None:
        """The next piece of the body; none may be left of the one before."""
        self._last = last
        if piece:
            self._piece, self._fed = memoryview(piece), len(piece)

    def take(self, n: int) -> list[bytes]:
        """The next n lines that are not blank, or those that are whole by now. Raises the 400 of bad gzip, or the 413."""
        while len(self._whole) < n and self._piece:
            self._split(self._next())
        if self._last and not self._piece:
            self._end()
        lines, self._whole = self._whole[:n], self._whole[n:]
        return lines

    def _next(self) -> bytes:
        """Some more of the body as it was before its encoding."""
        text = bytes(self._piece[:INFLATE_STEP])
        used = len(text)
        if self._inflater is not None:
            text, used = self._inflater.some(text, INFLATE_STEP)
        self._piece = self._piece[used:] if used < len(self._piece) else memoryview(b"")
        self._size += len(text)
        if self._size > self._limit:
            raise body_too_large(self._limit)
        return text

    def _split(self, text: bytes) -> None:
        first, *rest = text.split(b"\n")
        self._parts.append(first)
        self._unfinished += len(first)
        if rest:
            whole = [b"".join(self._parts), *rest[:-1]]
            self._whole += [line for line in whole if not line.isspace() and line]
            self._parts, self._unfinished = [rest[-1]], len(rest[-1])

    def _end(self) -> None:
        if self._inflater is not None:
            self._split(self._inflater.end())
        self._split(b"\n")


class Stream:
    """The records of one request on their way through the worker thread."""

    def __init__(self, live: Live, lines: Lines, max_records: int, alpha: float | None, explain: Explain) -> None:
        self._live, self._lines, self._max_records = live, lines, max_records
        self._alpha, self._explain = alpha, explain
        self._records = 0

    @property
    def exhausted(self) -> bool:
        """Whether more of the body is needed to go on."""
        return self._lines.exhausted

    @property
    def held(self) -> int:
        """Bytes of the body that are in memory, but for those that `work` has not been given."""
        return self._lines.held

    def work(self, piece: bytes, *, last: bool) -> Done | None:
        """Scores the next lines, this piece's among them, in the worker thread; None where none is whole. Raises the Problem of a
        bad one.
        """
        began = perf_counter()
        self._lines.feed(piece, last=last)
        lines = self._lines.take(BLOCK)
        if not lines:
            if last and self.exhausted and not self._records:
                raise Problem("invalid_request", "No records.", [FieldError("records", "a line is needed, at least")])
            return None
        if self._records + len(lines) > self._max_records:
            raise Problem("too_many_records", f"A request may have {self._max_records} records: send several requests.")
        batch = self._live.reader.read_lines(lines, self._records)
        batch.alpha, batch.explain = self._alpha, self._explain
        self._records += len(lines)
        parse = perf_counter() - began
        return *runs.answer(self._live, batch, lines=True), began, parse


class Whole:
    """Sends an answer that comes in parts as one with a length, for HTTP/1.0, which has no chunks. Its parts take room, too."""

    def __init__(self, send: Send, held: Holding) -> None:
        self._send, self._held = send, held
        self._head: Message = {}
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        """Keeps a message, and sends all with the last. Raises the 429 where there is no room for one: then nothing was sent."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        self._held.take(len(message["body"]))
        self._parts.append(message["body"])
        if not message["more_body"]:
            body = b"".join(self._parts)
            headers = [pair for pair in self._head["headers"] if pair[0] not in (b"connection", b"content-length")]
            await self._send({**self._head, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
            await self._send({**message, "body": body})


class Pieces:
    """A request's body as it comes, read on while the client does not take the answer."""

    def __init__(self, first: Message, receive: Receive, limit: int, held: Holding) -> None:
        """Raises the 429 where there is no room for its first piece, as `next` and `during` do for others."""
        self._receive, self._limit, self._held = receive, limit, held
        self._waiting: asyncio.Future[Message] | None = None
        self._kept: deque[bytes] = deque()
        self._out = 0  # bytes that `next` has given out and are still held
        self._size, self.more = 0, True  # more: whether the client has more to send
        self._keep(first)

    @property
    def given_out(self) -> bool:
        """Whether `next` has returned the whole body."""
        return not self.more and not self._kept

    async def next(self) -> bytes:
        """Some of what has come, PART or a little more where so much waits; waits for a piece if there is none."""
        if not self._kept:
            self._keep(await self._receiving())
        if self._size > self._limit:
            raise body_too_large(self._limit)
        parts, size = list[bytes](), 0
        while self._kept and size < PART:
            parts.append(self._kept.popleft())
            size += len(parts[-1])
        self._out += size
        return b"".join(parts)

    def hold(self, size: int) -> None:
        """So many bytes of what was given out are still held: gives the others back. Raises the 429 where inflating made more of
        them than there is room for.
        """
        if size > self._out:
            self._held.take(size - self._out)
        else:
            self._held.give_back(self._out - size)
        self._out = size

    async def during(self, sending: Awaitable[None]) -> None:
        """Sends, and reads on as long as that takes."""
        task = asyncio.ensure_future(sending)
        try:
            await asyncio.sleep(0)
            while not task.done() and self.more and self._size <= self._limit:
                received = self._receiving()
                await asyncio.wait((task, received), return_when=asyncio.FIRST_COMPLETED)
                if received.done():
                    self._keep(received.result())
            await task
        finally:
            task.cancel()

    async def drain(self) -> None:
        """Throws the rest away, as far as the limit: a client that is cut off while it sends may not read why."""
        while self.more and self._size <= self._limit:
            self._read(await self._receiving())

    def close(self) -> None:
        """Waits for nothing any more."""
        if self._waiting is not None:
            self._waiting.cancel()

    def _receiving(self) -> asyncio.Future[Message]:
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(self._receive())
        return self._waiting

    def _keep(self, message: Message) -> None:
        piece = self._read(message)
        self._held.take(len(piece))
        self._kept.append(piece)

    def _read(self, message: Message) -> bytes:
        self._waiting = None
        if message["type"] == "http.disconnect":
            self.more = False
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        self._size += len(piece)
        self.more = message.get("more_body", False)
        return piece
