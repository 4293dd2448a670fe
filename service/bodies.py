"""The body of a request, read and inflated no further than its limit."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from starlette.types import Message, Receive

from service.errors import Problem
from service.limits import ClientGoneError, Holding

INFLATE_STEP = 1 << 16  # bytes of gzip at a time


def check_length(headers: Mapping[bytes, bytes], limit: int) -> int:
    """The Content-Length, 0 without one; raises the 413 before a byte of the body is read."""
    length = int(headers.get(b"content-length", b"0"))
    if length > limit:
        raise body_too_large(limit)
    return length


async def read_body(message: Message, receive: Receive, limit: int, held: Holding) -> bytes:
    """The whole body, of which `message` is the first part. Raises the 413 as soon as it is over the limit, or the 429 where
    there is no room for it; ClientGoneError.
    """
    parts, size = list[bytes](), 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise body_too_large(limit)
        held.take(len(parts[-1]))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
        message = await receive()


def body_too_large(limit: int) -> Problem:
    """The 413 of a body above so many bytes."""
    return Problem("body_too_large", f"The body may have {limit} bytes, inflated: send fewer records at a time.")


class Inflater:
    """One gzip member, inflated piece by piece. Nothing may follow it."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    def some(self, piece: bytes | memoryview, most: int) -> tuple[bytes, int]:
        """At most so many bytes of what a piece was before, and how many of the piece that took. Raises the 400."""
        try:
            text = self._stream.decompress(piece, most)
        except zlib.error:
            raise Problem("invalid_encoding", "The body is not gzip, although its Content-Encoding says so.") from None
        if self._stream.unused_data:
            raise Problem("invalid_encoding", "Something follows the gzip data.")
        return text, len(piece) - len(self._stream.unconsumed_tail)

    def end(self) -> bytes:
        """What is left when every piece has been given. Raises the 400."""
        text = self._stream.flush()
        if not self._stream.eof:
            raise Problem("invalid_encoding", "The gzip data ends too early.")
        return text


def inflate(body: bytes, limit: int) -> bytes:
    """A gzip body inflated, never further than the limit. Raises the 400 or the 413."""
    inflater, whole, parts, size = Inflater(), memoryview(body), list[bytes](), 0
    for start in range(0, len(body), INFLATE_STEP):
        text, _ = inflater.some(whole[start : start + INFLATE_STEP], limit + 1 - size)
        parts.append(text)
        size += len(text)
        if size > limit:
            raise body_too_large(limit)
    return b"".join([*parts, inflater.end()])
