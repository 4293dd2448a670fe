"""Bodies and answers of all clients together take so many bytes, and no more."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.errors import Problem
from service.limits import Holding, Room
from tests.service.test_http_protocol import read_answer, serving
from tests.service.test_overload import large, metric
from tests.service.test_shared_metrics import wait_for
from tests.service.tiny_bundle import GOOD

SMALL = json.dumps({"records": [GOOD]}).encode()
MOST = 1_000_000
PART = 300_000
HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
KINDS = [
    (b"/score", b"application/json"),
    (b"/score", b"application/x-ndjson"),
    (b"/score", b"application/vnd.apache.arrow.stream"),
    (b"/v2/models/tiny/infer", b"application/octet-stream"),
]


def test_one_request_alone_has_room_whatever_its_size() -> None:
    room = Room(10)
    with Holding(room) as first, Holding(room) as second:
        first.take(100)
        first.take(100)
        with pytest.raises(Problem, match="take 200 bytes, and all together may take 10") as refused:
            second.take(1)
        assert refused.value.status == 429
    assert room.taken == 0


def test_requests_share_the_room_with_answers_that_nobody_takes() -> None:
    room = Room(10)
    room.answers = 4
    with Holding(room) as first, Holding(room) as second:
        first.take(3)
        second.take(3)
        assert room.taken == 10
        for full in (first, second):
            with pytest.raises(Problem):
                full.take(1)
    assert room.taken == 4


@pytest.mark.parametrize(("path", "kind"), KINDS)
def test_what_arrives_halfway_takes_room_until_it_ends(bundle_dir: Path, path: bytes, kind: bytes) -> None:
    settings = {"max_body_bytes": str(MOST), "held_bytes": str(MOST), "inline_bytes": "1024"}
    with serving(bundle_dir, **settings) as server, ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in connections:
            connection.sendall(HEAD % (path, kind, 2 * PART) + b" " * PART)
        wait_for(lambda: metric(server, "anomaly_held_bytes") == 3 * PART)
        status, headers, problem = server.ask(HEAD % (path, kind, 2 * PART) + b" " * PART)
        assert (status, headers["retry-after"], problem["code"]) == (429, "1", "queue_full")
        assert server.ask(HEAD % (b"/score", b"application/json", len(SMALL)) + SMALL)[0] == 200  # needs no room
        connections[0].close()
        wait_for(lambda: metric(server, "anomaly_held_bytes") == 2 * PART)
        assert server.ask(large(b"/score", 500))[0] == 200
        assert metric(server, "anomaly_held_bytes") == 2 * PART


def test_answers_that_nobody_takes_leave_less_room(bundle_dir: Path) -> None:
    most, records = 5_000_000, 30_000
    settings = {"max_body_bytes": str(most), "held_bytes": str(most), "max_records": str(records)}
    body = json.dumps({"records": [GOOD] * records, "explain": "all"}).encode()
    with serving(bundle_dir, **settings) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(HEAD % (b"/score", b"application/json", len(body)) + body)
            wait_for(lambda: metric(server, "anomaly_held_bytes") > most)
            status, _, problem = server.ask(large(b"/score", 500))
            assert (status, problem["code"]) == (429, "queue_full")
            assert server.ask(HEAD % (b"/score", b"application/json", len(SMALL)) + SMALL)[0] == 200
        wait_for(lambda: metric(server, "anomaly_held_bytes") == 0)
        with server.connect() as connection:
            connection.sendall(large(b"/score", 500))
            assert read_answer(connection)[0] == 200
