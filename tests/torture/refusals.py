"""The error table of the interface, row by row, as bytes on a socket: what is refused, and with which status and code.

Among them what smuggles a request past a proxy: whatever could be framed in two ways is refused, and its connection ends.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import NamedTuple

from tests.service.tiny_bundle import GOOD
from tests.torture.raw import post, request

SECRET = "s3cr3t-value"
LIMIT, RECORDS = 100_000, 50  # ANOMALY_MAX_BODY_BYTES and ANOMALY_MAX_RECORDS of the service that is asked
KEYED = {"X_API_Key": "right"}
BODY = json.dumps({"records": [GOOD]}).encode()
INNER = b"GET /health/live HTTP/1.1\r\nHost: smuggled\r\n\r\n"
NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"


class Case(NamedTuple):
    """Bytes that are refused. `closes`: the connection ends after the answer, and nothing else is answered on it."""

    name: str
    sent: bytes
    status: int
    code: str
    closes: bool = False


def every() -> list[Case]:
    """All cases that need nothing but their bytes."""
    return [*not_json(), *keys(), *paths(), *late(), *heads(), *too_large(), *unfit(), *not_http(), *smuggled()]


def scored(body: bytes, kind: str = "application/json", target: str = "/score", **headers: str) -> bytes:
    """A POST with a good key."""
    return post(body, target, kind, **KEYED, **headers)


def head(*lines: bytes) -> bytes:
    """The head of a POST with these lines, each whole."""
    first = b"POST /score HTTP/1.1\r\nHost: x\r\nX-API-Key: right\r\nContent-Type: application/json\r\n"
    return first + b"".join(lines) + b"\r\n"


def not_json() -> Iterator[Case]:
    secret = SECRET.encode()
    for name, body in {
        "nothing": b"",
        "half": b'{"records": [{"country": "%b' % secret,
        "bad UTF-8": b'{"records": [{"country": "%b\xff"}]}' % secret,
        "an overlong NUL": b'{"records": [{"country": "%b\xc0\x80"}]}' % secret,
        "a BOM": b"\xef\xbb\xbf" + BODY,
        "UTF-16": BODY.decode().encode("utf-16"),
        "NaN": b'{"records": [{"amount": NaN}]}',
        "Infinity": b'{"records": [{"amount": -Infinity}]}',
        "a comma too many": b'{"records": [{"country": "%b"},]}' % secret,
        "two documents": BODY + BODY,
    }.items():
        yield Case(f"{name}, in JSON", scored(body), 400, "invalid_json")
    yield Case("a key twice", scored(b'{"records": [{"country": "%b", "country": "at"}]}' % secret), 400, "duplicate_key")
    yield Case("records twice", scored(b'{"records": [{}], "records": [{}]}'), 400, "duplicate_key")
    yield Case("a thousand brackets", scored(b'{"records": ' + b"[" * 1000 + b"]" * 1000 + b"}"), 400, "too_deep")
    yield Case("a bad line", scored(b'{"country": "%b"}\n{]\n' % secret, NDJSON), 400, "invalid_json")
    yield Case("no Arrow", scored(secret, ARROW), 400, "invalid_body")
    yield Case("no gzip", scored(secret, Content_Encoding="gzip"), 400, "invalid_encoding")
    yield Case("half a gzip", scored(gzip.compress(BODY)[:-4], Content_Encoding="gzip"), 400, "invalid_encoding")
    yield Case("gzip and more", scored(gzip.compress(BODY) + b"x", Content_Encoding="gzip"), 400, "invalid_encoding")


def keys() -> Iterator[Case]:
    yield Case("no key", post(BODY), 401, "unauthorized")
    for name, value in {"X_API_Key": SECRET, "Authorization": f"Bearer {SECRET}"}.items():
        yield Case(f"a wrong {name}", post(BODY, **{name: value}), 401, "unauthorized")
        yield Case(f"a wrong {name} to read", request("GET", "/models", **{name: value}), 401, "unauthorized")
        yield Case(f"a wrong {name} to reload", request("POST", "/models/tiny/reload", b"", **{name: value}), 401, "unauthorized")
    yield Case("Basic", post(BODY, Authorization="Basic cmlnaHQ6"), 401, "unauthorized")
    yield Case("a key with its neighbour", post(BODY, X_API_Key="right,other"), 401, "unauthorized")
    yield Case("an API key to reload", request("POST", "/models/tiny/reload", b"", **KEYED), 403, "forbidden")


def paths() -> Iterator[Case]:
    for method, target, code in (
        ("GET", "/nothing", "not_found"),
        ("GET", "/health/", "not_found"),
        ("POST", "/score/", "not_found"),
        ("GET", "//health/live", "not_found"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", "not_found"),
        ("GET", "/models/%2e%2e", "model_not_found"),
        ("GET", "/models/other", "model_not_found"),
        ("POST", "/models/other/score", "model_not_found"),
        ("POST", "/models/tiny/versions/..%2f..%2fetc/score", "not_found"),
        ("POST", "/models/tiny/versions/other/score", "version_not_found"),
        ("POST", "/v2/models/other/infer", "model_not_found"),
    ):
        yield Case(f"{method} {target}", request(method, target, b"{}" if method == "POST" else None, **KEYED), 404, code)
    for method, target in (
        *(("GET", "/score"), ("PUT", "/score"), ("DELETE", "/models/tiny"), ("POST", "/health"), ("PATCH", "/metrics")),
        *(("GET", "/models/tiny/reload"), ("OPTIONS", "/score"), ("TRACE", "/score"), ("GET", "/v2/models/tiny/infer")),
    ):
        yield Case(f"{method} {target}", request(method, target, **KEYED), 405, "method_not_allowed")
    yield Case("CONNECT", b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + INNER, 405, "method_not_allowed", closes=True)


def late() -> Iterator[Case]:
    for name, sent in {
        "silence": b"",
        "half a line": b"POST /sco",
        "half a head": b"POST /score HTTP/1.1\r\nHost: x\r\nX-A: ",
        "half a body": head(b"Content-Length: 99\r\n") + b"{",
        "half a chunk": head(b"Transfer-Encoding: chunked\r\n") + b"9\r\n{",
        "no last chunk": head(b"Transfer-Encoding: chunked\r\n") + b"2\r\n{}\r\n",
        "an Expect, and no body": head(b"Expect: 100-continue\r\n", b"Content-Length: 9\r\n"),
        "a chunk of 2^64 bytes": head(b"Transfer-Encoding: chunked\r\n") + b"FFFFFFFFFFFFFFFF\r\n{",
    }.items():
        yield Case(name, sent, 408, "request_timeout", closes=True)


def heads() -> Iterator[Case]:
    filler = b"a" * 1000
    for name, sent in {
        "a long path": b"GET /" + filler * 40,
        "a long line": head(b"X-A: " + filler * 40),
        "a line that does not end": head()[:-2] + b"X-A: " + filler * 40,
        "400 lines": head(*(b"X-%d: %b\r\n" % (i, filler[:100]) for i in range(400))),
        "8,000 lines": head(*(b"a:\r\n" for _ in range(9000))),
        "a long name": head(filler * 40 + b": b\r\n"),
        "lines after the body": head(b"Transfer-Encoding: chunked\r\n") + b"2\r\n{}\r\n0\r\n" + b"X-A: " + filler * 300,
    }.items():
        yield Case(name, sent, 431, "head_too_large", closes=True)


def too_large() -> Iterator[Case]:
    spaces = b" " * (LIMIT + 1)
    for name, sent in {
        "a length above the limit": head(b"Content-Length: %d\r\n" % (LIMIT + 1)),
        "a length of 2^63": head(b"Content-Length: 9223372036854775808\r\n"),
        "an Expect above the limit": head(b"Expect: 100-continue\r\n", b"Content-Length: %d\r\n" % (LIMIT + 1)),
        "a body above the limit": scored(spaces),
        "chunks above the limit": head(b"Transfer-Encoding: chunked\r\n") + b"%x\r\n%b\r\n" % (len(spaces), spaces),
        "gzip above the limit": scored(gzip.compress(spaces), Content_Encoding="gzip"),
        "lines above the limit": scored(spaces, NDJSON),
        "gzipped lines above the limit": scored(gzip.compress(spaces), NDJSON, Content_Encoding="gzip"),
        "Arrow above the limit": scored(spaces, ARROW),
        "gzipped Arrow above the limit": scored(gzip.compress(spaces), ARROW, Content_Encoding="gzip"),
    }.items():
        yield Case(name, sent, 413, "body_too_large")
    many = b'{"records": [' + b"{}," * RECORDS + b"{}]}"
    yield Case("too many records", scored(many), 413, "too_many_records")
    yield Case("too many lines", scored(b"{}\n" * (RECORDS + 1), NDJSON), 413, "too_many_records")
    columns = b'{"columns": {"amount": [' + b"1," * RECORDS + b"1]}}"
    yield Case("too many in columns", scored(columns), 413, "too_many_records")
    for kind in ("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/jsonx", ""):
        yield Case(f"type {kind!r}", scored(BODY, kind), 415, "unsupported_media_type")
    for encoding in ("br", "deflate", "gzip, gzip", "zstd"):
        yield Case(f"encoding {encoding}", scored(BODY, Content_Encoding=encoding), 415, "unsupported_encoding")


def unfit() -> Iterator[Case]:
    for name, record in {
        "an unknown feature": {"amounts": SECRET},
        "text for a number": {"amount": SECRET},
        "a number in quotes": {"amount": "1"},
        "true for a number": {"amount": True},
        "a list for a number": {"amount": [SECRET]},
        "an object for a number": {"amount": {"a": SECRET}},
        "a number for a text": {"country": 271828},
        "a number for a boolean": {"online": 271828},
        "a text for a time": {"at": SECRET},
        "a fraction for a whole category": {"level": 10.5},
    }.items():
        yield Case(name, scored(json.dumps({"records": [GOOD, record]}).encode()), 422, "invalid_records")
        yield Case(f"{name}, in a line", scored(json.dumps(record).encode(), NDJSON), 422, "invalid_records")
    for number in ("1e39", "-1e39", "1e400", "1" + "0" * 400, "3.4028236e38"):
        yield Case(f"{number[:12]}", scored(b'{"records": [{"amount": %b}]}' % number.encode()), 422, "invalid_records")
        yield Case(
            f"{number[:12]} in columns", scored(b'{"columns": {"amount": [1, %b]}}' % number.encode()), 422, "invalid_records"
        )
    yield Case("no finite score", scored(b'{"records": [{"amount": 3.4e38, "count": 3.4e38}]}'), 422, "not_scorable")
    for name, body in {
        "no records": b'{"records": []}',
        "no object": b"[]",
        "records and columns": b'{"records": [{}], "columns": {"amount": [1]}}',
        "columns of two lengths": b'{"columns": {"amount": [1], "count": [1, 2]}}',
        "alpha 0": b'{"records": [{}], "alpha": 0}',
        "alpha 1": b'{"records": [{}], "alpha": 1}',
        "fdr 1": b'{"records": [{}], "fdr": 1}',
        "an unknown explain": b'{"records": [{}], "explain": "%b"}' % SECRET.encode(),
        "an unknown member": b'{"records": [{}], "explained": "%b"}' % SECRET.encode(),
    }.items():
        yield Case(name, scored(body), 422, "invalid_request")
    yield Case("alpha below the smallest", scored(b'{"records": [{}], "alpha": 1e-9}'), 422, "unsupported_alpha")
    yield Case("an unknown parameter", scored(b"{}", NDJSON, f"/score?alpah={SECRET}"), 422, "invalid_request")
    yield Case("no lines", scored(b"\n\n", NDJSON), 422, "invalid_request")


def not_http() -> Iterator[Case]:
    length = b"Content-Length: %d\r\n" % len(BODY)
    for name, sent in {
        "nonsense": SECRET.encode() + b"\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/1.2": b"GET /health/live HTTP/1.2\r\nHost: x\r\n\r\n",
        "a small method": b"get /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        "no such method": b"FOO /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        "a path without a slash": b"GET health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        "a NUL in the path": b"GET /health\x00/live HTTP/1.1\r\nHost: x\r\n\r\n",
        "bytes in the path": "GET /hé HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        "a tab for a space": b"GET\t/health/live\tHTTP/1.1\r\nHost: x\r\n\r\n",
        "a line without a colon": head(SECRET.encode() + b"\r\n", length) + BODY,
        "a line without a name": head(b": b\r\n", length) + BODY,
        "a space in a name": head(b"X A: b\r\n", length) + BODY,
        "a NUL in a value": head(b"X-A: \x00\r\n", length) + BODY,
        "a control character in a value": head(b"X-A: \x01\r\n", length) + BODY,
    }.items():
        yield Case(name, sent, 400, "invalid_http", closes=True)


def smuggled() -> Iterator[Case]:
    """Each could be read in two ways, of which one makes a request of INNER."""
    length, chunked = b"Content-Length: %d\r\n" % len(BODY), b"Transfer-Encoding: chunked\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    for name, sent in {
        "a length twice": head(length, length) + BODY,
        "two lengths": head(length, b"Content-Length: 0\r\n") + BODY,
        "a list of lengths": head(length.replace(b"\r", b", %d\r" % len(BODY))) + BODY,
        "a length and chunks": head(length, chunked) + chunks,
        "chunks and a length": head(chunked, length) + chunks,
        "chunked twice": head(chunked, chunked) + chunks,
        "chunked, chunked": head(b"Transfer-Encoding: chunked, chunked\r\n") + chunks,
        "chunked, then gzip": head(b"Transfer-Encoding: chunked, gzip\r\n") + chunks,
        "identity": head(b"Transfer-Encoding: identity\r\n", length) + BODY,
        "xchunked": head(b"Transfer-Encoding: xchunked\r\n", length) + BODY,
        "chunkedx": head(b"Transfer-Encoding: chunkedx\r\n") + chunks,
        "chunked in quotes": head(b'Transfer-Encoding: "chunked"\r\n') + chunks,
        "a vertical tab before chunked": head(b"Transfer-Encoding: \x0bchunked\r\n") + chunks,
        "a NUL after chunked": head(b"Transfer-Encoding: chunked\x00\r\n") + chunks,
        "no transfer coding": head(b"Transfer-Encoding:\r\n", length) + BODY,
        "a folded transfer coding": head(b"Transfer-Encoding:\r\n chunked\r\n") + chunks,
        "a space before the colon": head(b"Transfer-Encoding : chunked\r\n", length) + BODY,
        "a space before the colon of a length": head(length.replace(b":", b" :")) + BODY,
        "a folded line": head(b"X-A: b\r\n c\r\n", length) + BODY,
        "a folded line, by a tab": head(b"X-A: b\r\n\tc\r\n", length) + BODY,
        "a folded first line": b"POST /score HTTP/1.1\r\n Host: x\r\n" + length + b"\r\n" + BODY,
        "lines that end with LF": head(length).replace(b"\r\n", b"\n") + BODY,
        "one line that ends with LF": head(b"X-A: b\n", length) + BODY,
        "a head that ends with LF CRLF": head(length)[:-4] + b"\n\r\n" + BODY,
        "a CR in a line": head(b"X-A: b\rX-B: c\r\n", length) + BODY,
        "CR CR LF": head(b"X-A: b\r\r\n", length) + BODY,
        "a length with a sign": head(length.replace(b": ", b": +")) + BODY,
        "a length below 0": head(b"Content-Length: -1\r\n") + BODY,
        "a length in hex": head(b"Content-Length: 0x10\r\n") + BODY,
        "a length with a space": head(b"Content-Length: 1 0\r\n") + BODY,
        "a length with a fraction": head(b"Content-Length: 1.0\r\n") + BODY,
        "no length": head(b"Content-Length:\r\n") + BODY,
        "a length of 100 bits": head(b"Content-Length: %d\r\n" % 2**100) + BODY,
        "a chunk's size in 0x": head(chunked) + b"0x" + chunks,
        "a chunk's size below 0": head(chunked) + b"-" + chunks,
        "a chunk's size of 68 bits": head(chunked) + b"F" * 17 + b"\r\n" + BODY,
        "a space before a chunk's size": head(chunked) + b" " + chunks,
        "a space after a chunk's size": head(chunked) + chunks.replace(b"\r", b" \r", 1),
        "no chunk's size": head(chunked) + b"\r\n" + chunks,
        "a chunk's size that ends with LF": head(chunked) + chunks.replace(b"\r\n", b"\n", 1),
        "an extension that ends with LF": head(chunked) + chunks.replace(b"\r\n", b";a\n", 1),
        "a chunk longer than its size": head(chunked) + chunks.replace(b"%x" % len(BODY), b"%x" % (len(BODY) - 1), 1),
        "a length after the last chunk": head(chunked) + chunks[:-2] + b"Content-Length: 5\r\n\r\n",
    }.items():
        yield Case(name, sent + INNER, 400, "invalid_http", closes=True)
