"""Heads of requests for scores, and those that came before: what is the same byte for byte is not parsed again.

A client that keeps its connection sends the same head with each record, but for the length of the body. A head is remembered as
its bytes and what the parser made of them, so that a later packet of a head so known and a body as long as that says is read by
one look at a dict. Whatever differs in a byte, or comes in more than one packet, goes through the parser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

END = b"\r\n\r\n"
LONGEST = 1 << 10  # bytes of a head that is remembered
MOST = 512  # heads; with more, all are forgotten, and the common ones are soon back
# Any parser finds the same end of such a head: every line ends as it should, and none goes on in the next.
SHAPE = re.compile(rb"POST [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+\r\n")
OF_ONE_REQUEST = (b"x-request-id", b"traceparent")  # no other has the same


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request for scores that is plain in every way."""

    headers: Mapping[bytes, bytes]
    route: str
    path: str  # as the log has it
    model: str | None  # None: the default
    length: int  # bytes of the body
    keep_alive: bool


class Heads:
    """The heads that came before."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, packet: bytes) -> Head | None:
        """The head of a packet that is one whole request, where it is known."""
        end = packet.find(END, 0, LONGEST) + len(END)
        head = self._known.get(packet[:end])
        return head if head is not None and len(packet) == end + head.length else None

    def keep(self, packet: bytes, head: Head) -> None:
        """Remembers the head of a packet that the parser has found to be one whole request, and made this head of."""
        end = packet.find(END, 0, LONGEST) + len(END)
        if len(packet) != end + head.length or not head.headers.keys().isdisjoint(OF_ONE_REQUEST):
            return
        text = packet[:end]
        if SHAPE.fullmatch(text):
            if len(self._known) >= MOST:
                self.forget()
            self._known[text] = head

    def forget(self) -> None:
        """Forgets them all, with the keys that are in them."""
        self._known.clear()
