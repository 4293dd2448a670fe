"""A request whose client has given up by now costs nothing any more."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pyarrow as pa
import pytest

from service.batch import Batch
from service.limits import NEVER, deadline
from service.streams import BLOCK
from tests.service.client import Client, check_problem, until
from tests.service.conftest import Serve
from tests.service.test_http_protocol import BODY, POST, Server, check_refusal, read_answer, serving
from tests.service.tiny_bundle import GOOD

HEADER = "X-Request-Timeout-Ms"
ONE, LARGE = {"records": [GOOD]}, {"records": [GOOD] * 500}
INFER = {"inputs": [{"name": "amount", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}]}


@pytest.fixture(scope="module")
def server(bundle_dir: Path) -> Iterator[Server]:
    with serving(bundle_dir) as started:
        yield started


def request(milliseconds: bytes, *lines: bytes) -> bytes:
    head = b"".join([POST, HEADER.encode(), b": ", milliseconds, b"\r\n", *lines])
    return head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def arrow() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"amount": [1.0]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def check_too_late(answer: Any) -> None:
    check_problem(answer, 503, "deadline_exceeded")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/score", {"json": ONE}),
        ("/score", {"json": LARGE}),
        ("/score", {"content": json.dumps(GOOD), "headers": {"Content-Type": "application/x-ndjson"}}),
        ("/score", {"content": arrow(), "headers": {"Content-Type": "application/vnd.apache.arrow.stream"}}),
        ("/v2/models/tiny/infer", {"json": INFER}),
    ],
)
def test_on_every_way_a_late_request_is_not_scored(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str, more: dict[str, Any]
) -> None:
    client = serve()
    detector = client.app.registry.default().detector
    scored, real = [], detector.score
    monkeypatch.setattr(detector, "score", lambda x, *given: scored.append(len(x)) or real(x, *given))
    late, early = ({**more, "headers": {**more.get("headers", {}), HEADER: time}} for time in ("0", "60000"))
    check_too_late(client.post(path, **late))
    assert scored == []
    assert client.post(path, **early).status_code == 200
    assert scored


def test_the_short_way_does_not_score_it_either(server: Server) -> None:
    check_refusal(server.ask(request(b"0")), 503, "deadline_exceeded")
    assert server.ask(request(b"0"))[1]["retry-after"] == "1"
    assert server.ask(request(b"60000"))[0] == 200


def test_its_time_runs_while_its_body_arrives(server: Server) -> None:
    whole = request(b"30")
    with server.connect() as connection:
        connection.sendall(whole[:-1])
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):  # nobody answers half a request
            connection.recv(1)
        connection.settimeout(30)
        connection.sendall(whole[-1:])
        check_refusal(read_answer(connection), 503, "deadline_exceeded")
        connection.sendall(request(b"60000"))
        assert read_answer(connection)[0] == 200


def test_it_is_dropped_where_it_has_waited_too_long_for_the_thread(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    go, read = threading.Event(), list[int]()
    reader = client.app.registry.default().reader
    real = reader.read

    def wait(body: bytes) -> Batch:
        read.append(len(body))
        go.wait(20)
        return real(body)

    monkeypatch.setattr(reader, "read", wait)

    async def ask() -> list[Any]:
        first = asyncio.create_task(client.http.post("/score", json=LARGE))
        await until(lambda: read)
        late = asyncio.create_task(client.http.post("/score", json=LARGE, headers={HEADER: "1"}))
        await until(lambda: client.app.permits.taken > 700)
        began = perf_counter()
        await until(lambda: perf_counter() > began + 0.002)
        go.set()
        return await asyncio.gather(first, late)

    first, late = client.run(ask())
    assert first.status_code == 200
    check_too_late(late)
    assert len(read) == 1
    assert client.app.permits.taken == 0


def test_a_late_one_costs_its_neighbours_of_the_same_turn_nothing(service: Client) -> None:
    async def ask() -> list[Any]:
        times = ["60000", "0", "60000", "0"]
        return await asyncio.gather(*(service.http.post("/score", json=ONE, headers={HEADER: time}) for time in times))

    assert [answer.status_code for answer in service.run(ask())] == [200, 503, 200, 503]


@pytest.mark.parametrize("sent", ["", "soon", "-1", "1.5", "1e3", "9" * 10, "१"])
def test_a_time_that_is_none_is_refused(service: Client, sent: str) -> None:
    answer = service.post("/score", json=ONE, headers={HEADER.encode(): sent.encode()})
    assert check_problem(answer, 422, "invalid_request")["errors"][0]["loc"] == HEADER


def test_the_short_way_refuses_such_a_time_as_the_long_way_does(server: Server) -> None:
    check_refusal(server.ask(request(b"soon")), 422, "invalid_request")


def test_without_the_header_there_is_no_deadline() -> None:
    assert deadline({}, 5.0) == NEVER
    assert deadline({b"x-request-timeout-ms": b"250"}, 5.0) == 5.25


def test_a_stream_that_has_begun_is_answered_to_its_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    detector = client.app.registry.default().detector
    real = detector.score
    monkeypatch.setattr(detector, "score", lambda x, *given, **more: sleep(0.6) or real(x, *given, **more))
    lines = b"".join([json.dumps(GOOD).encode(), b"\n"]) * (2 * BLOCK + 1)
    answer = client.post("/score", content=lines, headers={"Content-Type": "application/x-ndjson", HEADER: "1000"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert len(results) == 2 * BLOCK + 1
    assert all("score" in result for result in results)
