"""Heads that came before: a head is known only where any parser would find the same end of it, and make the same of it."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.heads import LONGEST, MOST, Head, Heads
from tests.service.conftest import Serve

LINES = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def packet(body: bytes, lines: bytes = LINES) -> bytes:
    return lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


def head_of(body: bytes, **headers: bytes) -> Head:
    sent = {b"content-length": b"%d" % len(body), **{name.replace("_", "-").encode(): value for name, value in headers.items()}}
    return Head(sent, "/score", '"/score"', None, len(body), True)


class Parsed:
    """What httptools makes of bytes."""

    def __init__(self, sent: bytes) -> None:
        self.url, self.headers, self.body = b"", list[tuple[bytes, bytes]](), b""
        self.begun, self.whole = 0, 0
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        parser.feed_data(sent)

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1


def parsed(sent: bytes) -> Parsed | None:
    try:
        return Parsed(sent)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None


def test_a_head_that_came_before_is_known_with_any_body_of_its_length() -> None:
    heads, head = Heads(), head_of(b"{}")
    assert heads.find(packet(b"{}")) is None
    heads.keep(packet(b"{}"), head)
    assert heads.find(packet(b"[]")) is head


@pytest.mark.parametrize(
    "sent",
    [
        packet(b"{}") + b" ",
        packet(b"{}") + packet(b"{}"),
        packet(b"{}")[:-1],
        packet(b"{}").replace(b"Host: x", b"Host: y"),
        packet(b"{} "),
        b"\r\n" + packet(b"{}"),
        b"",
        b"\r\n\r\n",
    ],
)
def test_what_differs_in_a_byte_is_not_known(sent: bytes) -> None:
    heads = Heads()
    heads.keep(packet(b"{}"), head_of(b"{}"))
    assert heads.find(sent) is None


@pytest.mark.parametrize(
    "lines",
    [
        LINES.replace(b"\r\nHost", b"\nHost"),
        LINES + b"X: a\r\n b\r\n",
        LINES + b"X: \xff\r\n",
        LINES + b"X: a\rb\r\n",
        LINES + b"X : a\r\n",
        LINES.replace(b"POST", b"\r\nPOST"),
        LINES.replace(b"POST", b"PUT"),
        LINES.replace(b"1.1", b"1.0"),
        LINES + b"X: %b\r\n" % (b"x" * LONGEST),
    ],
)
def test_an_odd_or_long_head_is_parsed_each_time(lines: bytes) -> None:
    heads = Heads()
    heads.keep(packet(b"{}", lines), head_of(b"{}"))
    assert heads.find(packet(b"{}", lines)) is None


@pytest.mark.parametrize("name", ["x_request_id", "traceparent"])
def test_the_head_of_one_request_alone_takes_no_place(name: str) -> None:
    heads = Heads()
    heads.keep(packet(b"{}"), head_of(b"{}", **{name: b"1"}))
    assert heads.find(packet(b"{}")) is None


def test_there_are_never_more_than_so_many() -> None:
    heads = Heads()
    sent = [packet(b" " * length) for length in range(1, 2 * MOST)]
    for one in sent:
        heads.keep(one, head_of(Parsed(one).body))
    assert 0 < sum(heads.find(one) is not None for one in sent) <= MOST


def test_keys_that_change_are_forgotten_with_their_heads(serve: Serve) -> None:
    app = serve().app
    app.heads.keep(packet(b"{}"), head_of(b"{}"))
    app.keys.changed()
    assert app.heads.find(packet(b"{}")) is None


PIECES = st.sampled_from(
    [b"POST /score HTTP/1.1", b"Host: x", b"Content-Length: 4", b"Content-Length: 0", b"X:", b"X: a b", b" b", b"\t", b"{}", b":"]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b""])
ODD_TEXT = st.lists(st.tuples(PIECES, ENDS), max_size=7).map(lambda pairs: b"".join(b"%b%b" % pair for pair in pairs))


@given(ODD_TEXT, st.sampled_from([b"{}{}", b"\r\n\r\n", b"\n\r\n{"]), st.binary(min_size=4, max_size=4))
def test_the_parser_would_make_the_same_of_whatever_is_known(more: bytes, body: bytes, other: bytes) -> None:
    """Of heads of any shape that the parser takes: those that are kept mean the same with any other body."""
    sent = b"POST /score HTTP/1.1\r\n" + more + b"Content-Length: 4\r\n\r\n" + body
    first = parsed(sent)
    if first is None or not (first.begun == first.whole == 1):
        return
    heads: Any = Heads()
    heads.keep(sent, head_of(first.body))
    for key in heads._known:  # what it would be found by
        again = parsed(key + other)
        assert again is not None
        assert (again.begun, again.whole) == (1, 1)
        assert (again.url, again.headers, again.body) == (first.url, first.headers, other)
        assert heads.find(key + other).length == len(other)
