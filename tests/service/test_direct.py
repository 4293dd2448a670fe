"""Small requests that skip the application's layers: nobody can tell, but by the time."""

import gzip
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service import direct
from service.batching import BURST, too_many
from service.settings import Settings
from tests.service.client import Client
from tests.service.test_heads import head_of
from tests.service.test_http_protocol import BODY, DEADLINE, POST, WHOLE, Server, read_answer, serving
from tests.service.test_shared_metrics import wait_for
from tests.service.tiny_bundle import GOOD, ODD

IDLE_SECONDS = 1
KEY = b"X-API-Key: right\r\n"
BODIES: list[Any] = [
    {"records": [GOOD]},
    {"records": [ODD, GOOD]},
    {"records": [ODD], "explain": "none"},
    {"records": [{}], "alpha": 0.5},
    {"columns": {"amount": [1, 2]}, "explain": "all"},
    {"records": [{"amount": "wrong"}]},
    {"records": [{"amount": 3.4e38, "count": 3.4e38}]},
    {"records": [GOOD], "alpha": 1e-9},
    {"records": []},
    "no object",
]


@pytest.fixture(scope="module")
def server(bundle_dir: Path) -> Iterator[Server]:
    with serving(bundle_dir, api_keys="right", log_requests="false") as started:
        yield started


def request(body: bytes, more: bytes = KEY, path: bytes = b"/score") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%b" % (path, more)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes) -> bytes:
    return POST + KEY + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def same(status: int, document: Any) -> Any:
    return status, {name: value for name, value in document.items() if name != "request_id"}


@pytest.mark.parametrize("path", [b"/score", b"/models/tiny/score"])
def test_the_short_way_answers_as_the_long_way_and_as_the_application(server: Server, service: Client, path: bytes) -> None:
    for body in BODIES:
        text = json.dumps(body).encode()
        short = server.ask(request(text, path=path))
        long = server.ask(chunked(text).replace(b"/score", path))
        inside = service.post(path.decode(), content=text)
        assert same(short[0], short[2]) == same(long[0], long[2]) == same(inside.status_code, inside.json())
        assert short[1].keys() == long[1].keys()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(BODY, b""), 401),
        (request(BODY, b"Authorization: Bearer right\r\n"), 200),
        (request(BODY, KEY, b"/models/none/score"), 404),
        (request(BODY, KEY, b"/models/../score"), 404),
        (request(BODY, KEY, b"/score?alpha=0.1"), 422),
        (request(BODY, KEY, b"/models/tiny/score?x"), 422),
        (request(BODY, KEY, b"/score?"), 200),
        (request(BODY, KEY).replace(b"application/json", b"application/json; charset=utf-8"), 200),
        (request(BODY, KEY).replace(b"application/json", b"text/plain"), 415),
        (request(BODY, KEY).replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
        (request(gzip.compress(BODY), KEY + b"Content-Encoding: gzip\r\n"), 200),
        (request(BODY, KEY).replace(b"POST", b"PUT"), 405),
        (request(b"", KEY), 400),
    ],
)
def test_what_is_not_plain_is_answered_all_the_same(server: Server, sent: bytes, status: int) -> None:
    assert server.ask(sent)[0] == status


def test_the_callers_request_id_comes_back_if_it_is_sane(server: Server) -> None:
    assert server.ask(request(BODY, KEY + b"X-Request-ID: mine-1\r\n"))[1]["x-request-id"] == "mine-1"
    assert server.ask(request(BODY, KEY + b"X-Request-ID: {forged}\r\n"))[1]["x-request-id"] != "{forged}"
    _, headers, problem = server.ask(request(b"{", KEY + b"X-Request-ID: mine-2\r\n"))
    assert headers["x-request-id"] == problem["request_id"] == "mine-2"


def test_server_timing_names_its_stages(server: Server) -> None:
    timing = server.ask(request(BODY))[1]["server-timing"]
    assert re.fullmatch(r"parse;dur=[\d.]+, queue;dur=[\d.]+, inference;dur=[\d.]+, total;dur=[\d.]+", timing)


def test_a_body_that_comes_in_drops_is_scored(server: Server) -> None:
    with server.connect() as connection:
        for byte in request(BODY):
            connection.sendall(bytes([byte]))
        assert read_answer(connection)[0] == 200


def test_requests_whose_head_came_before_are_answered_as_the_first(server: Server) -> None:
    """In one packet or two, with the next in the same packet, and of another connection."""
    sent = request(BODY)
    first = server.ask(sent)
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (sent, sent[:40], sent[40:], sent[:-5], sent[-5:], sent + sent[:9], sent[9:], sent):
            connection.sendall(part)
            time.sleep(0.02)  # so that each is a packet of its own
            if part.startswith(sent) or sent.endswith(part):
                answer = read_answer(connection)
                assert same(answer[0], answer[2]) == same(first[0], first[2])
                assert answer[1].keys() == first[1].keys()
                assert answer[1]["x-request-id"] != first[1]["x-request-id"]
        wrong = sent.replace(BODY, b"x" * len(BODY))
        connection.sendall(wrong)
        assert read_answer(connection)[0] == 400


def test_the_idle_time_of_a_connection_begins_anew_with_each_request(bundle_dir: Path) -> None:
    """Also where the last one came by the short way, and one before it, whose timer is uvicorn's, did not."""
    with serving(bundle_dir, idle_seconds=str(IDLE_SECONDS)) as server, server.connect() as connection:
        connection.sendall(WHOLE)
        read_answer(connection)
        for sent, pause in ((b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", 0.8), (WHOLE, 0.5)):
            connection.sendall(sent)
            assert read_answer(connection)[0] == 200
            time.sleep(IDLE_SECONDS * pause)
        connection.sendall(WHOLE)
        assert read_answer(connection)[0] == 200
        assert connection.recv(1) == b""  # and at its end the connection is closed


def test_a_key_that_no_longer_holds_is_refused_though_its_head_came_before(bundle_dir: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right\n")
    with serving(bundle_dir, api_keys_file=str(keys), reload_seconds="0.1") as server, server.connect() as connection:
        for _ in range(3):
            connection.sendall(request(BODY))
            assert read_answer(connection)[0] == 200
        keys.write_text("another\n")
        until = time.monotonic() + DEADLINE
        status = 200
        while status == 200 and time.monotonic() < until:
            connection.sendall(request(BODY))
            status = read_answer(connection)[0]
        assert status == 401


def test_pipelined_requests_of_both_ways_are_answered_in_order(server: Server) -> None:
    ways = [request(BODY), chunked(BODY), request(b"{"), request(BODY), request(BODY, b""), request(BODY)]
    sent = [way.replace(b"Host: x", b"X-Request-ID: r%d" % i) for i, way in enumerate(ways)]
    with server.connect() as connection:
        connection.sendall(b"".join(sent))
        text = b""
        while len(re.findall(rb"HTTP/1.1 \d+", text)) < len(ways) or not text.endswith(b"}"):
            text += connection.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+)", text) == [b"200", b"200", b"400", b"200", b"401", b"200"]
    assert [int(i) for i in re.findall(rb"x-request-id: r(\d)", text)] == list(range(len(ways)))


def test_a_client_that_asks_to_close_is_left_with_its_answer(server: Server) -> None:
    """At once, and not when it has been idle for too long."""
    with server.connect() as connection:
        began = time.monotonic()
        connection.sendall(request(BODY, KEY + b"Connection: close\r\n"))
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""
        assert time.monotonic() - began < Settings.idle_seconds


@pytest.mark.parametrize("paused", [False, True])
def test_who_does_not_take_answers_gets_no_more_of_them_by_the_short_way(service: Client, paused: bool) -> None:
    protocol = SimpleNamespace(cycle=None, flow=SimpleNamespace(write_paused=paused))
    assert (direct.begin(protocol, service.app, head_of(b"{}")) is None) == paused


@pytest.mark.parametrize(("closing", "gone"), [(False, False), (True, False), (False, True)])
def test_nobody_waits_where_the_connection_ends(service: Client, closing: bool, gone: bool) -> None:
    transport = SimpleNamespace(is_closing=lambda: closing)
    protocol = SimpleNamespace(cycle=None, flow=SimpleNamespace(write_paused=False), transport=transport)
    exchange = direct.begin(protocol, service.app, head_of(b"{}"))
    assert exchange is not None
    exchange.disconnected = gone
    assert exchange.done() == (closing or gone)


def test_both_ways_are_counted_alike(bundle_dir: Path) -> None:
    with serving(bundle_dir, log_requests="false") as server:
        for sent in (WHOLE, request(b"{", b""), chunked(BODY), request(BODY, b"", b"/models/tiny/score")):
            server.ask(sent)
        with server.connect() as connection:  # leaves in the middle of its body
            connection.sendall(WHOLE[:-5])
        wait_for(lambda: 'status="499"' in metrics(server))
        text = metrics(server)
    for line in (
        'anomaly_requests_total{method="POST",route="/score",status="200"} 2.0',
        'anomaly_requests_total{method="POST",route="/score",status="400"} 1.0',
        'anomaly_requests_total{method="POST",route="/score",status="499"} 1.0',
        'anomaly_requests_total{method="POST",route="/models/{name}/score",status="200"} 1.0',
        'anomaly_errors_total{code="invalid_json"} 1.0',
        'anomaly_request_seconds_count{stage="total"} 3.0',
    ):
        assert line in text.splitlines()


def metrics(server: Server) -> str:
    with server.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_a_request_whose_turn_is_full_gets_the_429_of_the_application(server: Server) -> None:
    """What comes while the process is stopped comes in one turn: more than a burst."""
    body = json.dumps({"records": [GOOD]}).encode() + b" " * 30_000
    n = 2 * BURST // len(body)
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(n)]
        for connection in connections:
            connection.sendall(request(json.dumps({"records": [GOOD]}).encode()))
            assert read_answer(connection)[0] == 200
        server.process.send_signal(signal.SIGSTOP)
        try:
            for connection in connections:
                connection.sendall(request(body, KEY + b"X-Request-ID: mine\r\n"))
        finally:
            server.process.send_signal(signal.SIGCONT)
        answers = [read_answer(connection) for connection in connections]
    refused = [answer for answer in answers if answer[0] == 429]
    assert 0 < len(refused) < n
    assert {answer[0] for answer in answers} == {200, 429}
    problem = too_many()
    meant = dict(problem.head(problem.body("mine"), "mine"))
    for _, headers, document in refused:
        assert document == json.loads(problem.body("mine"))
        assert {name: headers.get(name.decode()) for name in meant} == {name: value.decode() for name, value in meant.items()}
    with server.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        told = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    assert f'anomaly_errors_total{{code="queue_full"}} {len(refused)}' in told
    assert f'anomaly_requests_total{{method="POST",route="/score",status="429"}} {len(refused)}' in told
