"""Requests that were good before something happened to their bytes or to what they say."""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.torture.placements import NAME, VERSION, Record, as_arrow, as_tensors, columns_of, dumped, ordinary
from tests.torture.raw import post, request

SECRET, NUMBER = b"s3cr3t-value", 271828.25
KEY = {"X_API_Key": "right"}
TOKENS = (
    *rb"""NaN -Infinity 1e400 1e39 - 00 1_0 0x1 null true { } [ ] " : , \ \ud800 // ' 1e-400 -0 "amount":1,""".split(),
    *(b"\x00", b"\xff", b"\xc0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\n", b"\r\n", b"\x1f\x8b\x08", b"ARROW1\x00\x00"),
    *(b'"records":[],', b"[" * 50, b'{"a":' * 50, b"9" * 5000),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**18, 10**400, 1.5, 1e39, -1e308, -0.0),
    *("", "x", "1", "x" * 5000, "\ud800", "\x00", "é", "NaN", "2026-13-45", "all"),
    *([], {}, [[]], [None], {"a": 1}, json.loads("[" * 40 + "]" * 40), [1] * 300),
)
HEAD_TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b": ",
        b"\r\n\r\n",
        b"HTTP/1.0",
        b"%00",
        b"%2e%2e/",
        b"?",
        b"HEAD",
        b"\xff",
    ),
    *(b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n"),
    *(b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Content-Encoding: gzip\r\n", b"Content-Type: application/x-ndjson\r\n"),
    *(b"X-API-Key: wrong\r\n", b"a" * 40_000, b"//"),
)


class Sent(NamedTuple):
    """A request: its bytes; whether its head is as it should be; its JSON, where it claims to be JSON for /score."""

    data: bytes
    framed: bool
    json: bytes | None


def secrets(n: int, seed: int) -> list[Record]:
    """Records with values that no error may tell."""
    made = ordinary(n, seed)
    for place, record in enumerate(made):
        record |= {"amount": NUMBER, "device": f"{SECRET.decode()}-{place}"}
    return made


def mutated(draw: random.Random, made: list[Record]) -> Sent:
    """A request for some of these records with something wrong, most often."""
    chosen = [draw.choice(made) for _ in range(draw.choice([1, 1, 2, 5]))]
    form = draw.choice(FORMS)
    whole = form(draw, chosen)
    if draw.random() < 0.8:
        return whole
    start = whole.data.find(b"\r\n\r\n") + 4
    head = bytes_wrong(draw, whole.data[:start], HEAD_TOKENS)
    return Sent(head + whole.data[start:] or b"?", framed=False, json=None)  # nothing at all would be an idle connection


def in_json(draw: random.Random, made: list[Record]) -> Sent:
    document: Any = {"records": made} if draw.random() < 0.6 else {"columns": columns_of(made)}
    if draw.random() < 0.3:
        document |= draw.choice([{"alpha": 0.05}, {"fdr": 0.1}, {"explain": "all"}, {"alpha": None, "explain": "none"}])
    body = wrong(draw, document)
    if draw.random() < 0.15:
        squeezed = bytes_wrong(draw, gzip.compress(body)) if draw.random() < 0.5 else gzip.compress(body)
        return Sent(post(squeezed, Content_Encoding="gzip", **KEY), True, None)
    return Sent(post(body, draw.choice(["/score", f"/models/{NAME}/score"]), **KEY), True, body)


def in_lines(draw: random.Random, made: list[Record]) -> Sent:
    lines = [wrong(draw, record) if draw.random() < 0.5 else dumped(record) for record in made]
    return Sent(post(b"\n".join(lines), "/score", "application/x-ndjson", **KEY), True, None)


def in_tensors(draw: random.Random, made: list[Record]) -> Sent:
    sent, _ = as_tensors(made)
    body = wrong(draw, json.loads(sent[sent.find(b"\r\n\r\n") :]))
    return Sent(post(body, f"/v2/models/{NAME}/versions/{VERSION}/infer", **KEY), True, None)


def in_binary_tensors(draw: random.Random, made: list[Record]) -> Sent:
    raw = np.array([record.get("amount") or np.nan for record in made]).tobytes()
    texts = b"".join(len(text).to_bytes(4, "little") + text for text in (record["device"].encode() for record in made))
    inputs: list[Any] = [
        {"name": name, "datatype": kind, "shape": [len(made)], "parameters": {"binary_data_size": len(part)}}
        for name, kind, part in (("amount", "FP64", raw), ("device", "BYTES", texts))
    ]
    head = wrong(draw, {"inputs": inputs}) if draw.random() < 0.5 else dumped({"inputs": inputs})
    tail = bytes_wrong(draw, raw + texts) if draw.random() < 0.7 else raw + texts
    length = str(draw.choice([len(head), len(head), len(head), len(head) - 1, 0, 10**6, -1, "x"]))
    return Sent(post(head + tail, f"/v2/models/{NAME}/infer", **KEY, Inference_Header_Content_Length=length), True, None)


def in_arrow(draw: random.Random, made: list[Record]) -> Sent:
    sent, _ = as_arrow(made)
    body = bytes_wrong(draw, sent[sent.find(b"\r\n\r\n") + 4 :])
    return Sent(post(body, "/score", "application/vnd.apache.arrow.stream", **KEY), True, None)


def in_a_path(draw: random.Random, made: list[Record]) -> Sent:
    parts = draw.choice(["/models", "/models/{}", "/models/{}/versions/{}/score", "/v2/models/{}", "/models/{}/report", "/{}"])
    word = draw.choice(
        ["example", "..", "%2e%2e", "%2F", "a" * 300, "%00", "é", "CURRENT", "*", SECRET.decode(), "", "%ff", "a b"]
    )
    target = parts.format(word, draw.choice([word, VERSION])).encode().decode("latin-1").replace(" ", "%20")
    return Sent(request(draw.choice(["GET", "POST", "HEAD", "PUT", "OPTIONS"]), target, None, **KEY), False, None)


FORMS: tuple[Callable[[random.Random, list[Record]], Sent], ...] = (
    *(in_json, in_json, in_json, in_json, in_lines, in_tensors, in_binary_tensors, in_arrow, in_a_path),
)


def wrong(draw: random.Random, document: Any) -> bytes:
    """JSON that says, or is, something else."""
    if draw.random() < 0.1:
        return dumped(document)
    if draw.random() < 0.5:
        return bytes_wrong(draw, dumped(document))
    document = json.loads(dumped(document))
    for _ in range(draw.choice([1, 1, 2])):
        place: Any = document
        while isinstance(place, dict | list) and place:
            key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
            if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.2:
                break
            place = place[key]
        else:
            continue
        what = draw.random()
        if what < 0.7:
            place[key] = copy.deepcopy(draw.choice(ODD))
        elif what < 0.85:
            del place[key]
        elif isinstance(place, dict):
            place[draw.choice(["amounts", "", "é", "x" * 1000, "\ud800"])] = copy.deepcopy(place[key])
    return json.dumps(document).encode()


def bytes_wrong(draw: random.Random, data: bytes, tokens: tuple[bytes, ...] = TOKENS) -> bytes:
    """The bytes with one to three things done to them."""
    for _ in range(draw.choice([1, 1, 2, 3])):
        start = draw.randrange(len(data) + 1)
        stop = min(len(data), start + draw.choice([1, 2, 4, 8, 50]))
        part = data[start:stop]
        part = draw.choice(
            [
                bytes(byte ^ 1 << draw.randrange(8) for byte in part),
                b"",
                part + part,
                draw.choice(tokens),
                draw.choice(tokens) + part,
                draw.randbytes(len(part)),
                part[::-1],
            ]
        )
        data = data[:start] + part + data[stop:]
    return data if draw.random() < 0.95 else data[: draw.randrange(len(data) + 1)]


def as_key(data: bytes) -> bool:
    """Whether something of the secrets became the name of a feature, which errors do tell."""
    return re.search(rb'(s3cr|2718)[^"]*"[^",]*:', data) is not None


def strictly_json(body: bytes) -> bool:
    """Whether it is JSON in which no key stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    def no_constant(_: str) -> None:
        raise ValueError

    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return False
    return True
