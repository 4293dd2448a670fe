"""HTTP/1.1 by hand: requests as bytes, so that they may be wrong, and the answers of a connection, one after another."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Coroutine
from typing import Any, ClassVar, NamedTuple

import uvloop

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
SECONDS = 30.0


class Answer(NamedTuple):
    """One answer, its body without the framing of chunks; header names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """A client's connection. What is sent is whatever bytes the caller likes."""

    living: ClassVar[set[Connection]] = set()

    def __init__(self) -> None:
        self.transport: Any = None
        self.port = 0
        self.buffer = bytearray()
        self.closed = False
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, port: int, receive_buffer: int = 0) -> Connection:
        """A new connection to this machine; `receive_buffer`: bytes that the system takes in for it, if not as usual."""
        one = socket.socket()
        if receive_buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
        opened = (await asyncio.get_running_loop().create_connection(cls, sock=one))[1]
        opened.port = port
        return opened

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.living.add(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.living.discard(self)
        self._changed.set()

    def send(self, data: bytes) -> None:
        """Sends bytes, if the connection still stands."""
        self.transport.write(data)

    async def answer(self, seconds: float = SECONDS, *, bodyless: bool = False) -> Answer | None:
        """The next whole answer, 100 Continue left aside; None if the connection ends before. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while (found := take(self.buffer, bodyless)) is None:
                if self.closed:
                    return None
                self._changed.clear()
                await self._changed.wait()
        return found

    async def ask(self, data: bytes, seconds: float = SECONDS) -> Answer:
        """The answer to a request, which must come."""
        self.send(data)
        found = await self.answer(seconds)
        assert found is not None, f"no answer to {data[:200]!r}"
        return found

    async def insist(self, data: bytes) -> Answer:
        """The answer that is no 429. A machine that does other things is slow: there may be some before, and a connection
        that nothing was sent on for seconds is closed, perhaps while this is sent: then it is opened again.
        """
        for _ in range(1000):
            if self.closed:
                self.closed, port = False, self.port
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
            self.send(data)
            found = await self.answer()
            if found is not None and found.status != 429:
                return found
            assert not self.buffer, f"half an answer to {data[:200]!r}"
            await asyncio.sleep(0.05)
        raise AssertionError(f"no answer to {data[:200]!r}")

    async def end(self, seconds: float = SECONDS) -> None:
        """Waits until the other side has closed. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not self.closed:
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        """Leaves, in order."""
        self.transport.close()

    def abort(self) -> None:
        """Leaves with a reset."""
        if not self.closed:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


def take(buffer: bytearray, bodyless: bool = False) -> Answer | None:
    """Takes the first whole answer off the buffer, or None."""
    while True:
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        if buffer[9:12] != b"100":
            break
        del buffer[: end + 4]
    head, start = bytes(buffer[:end]), end + 4
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(head[9:12])
    if bodyless:
        body, stop = b"", start
    elif "transfer-encoding" in headers:
        found = unchunk(buffer, start)
        if found is None:
            return None
        body, stop = found
    else:
        length = LENGTH.search(head)
        stop = start + (int(length[1]) if length else 0)
        if len(buffer) < stop:
            return None
        body = bytes(buffer[start:stop])
    del buffer[:stop]
    return Answer(status, headers, body)


def unchunk(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """The body in chunks that begins there, and where it ends; None if it is not whole."""
    parts = []
    while True:
        line = buffer.find(b"\r\n", start)
        if line < 0:
            return None
        size = int(buffer[start:line], 16)
        if len(buffer) < line + size + 4:
            return None
        parts.append(bytes(buffer[line + 2 : line + 2 + size]))
        start = line + size + 4
        if size == 0:
            return b"".join(parts), start


def request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """A request as it should be; an underscore in a header's name stands for a hyphen."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def post(body: bytes, target: str = "/score", kind: str = "application/json", **headers: str) -> bytes:
    """A POST as it should be."""
    return request("POST", target, body, Content_Type=kind, **headers)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of work on a loop of its own, of which no connection is left."""

    async def whole() -> Any:
        try:
            return await work
        finally:
            for connection in list(Connection.living):
                connection.transport.abort()
            while Connection.living:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())
