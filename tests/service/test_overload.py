"""A permit is tried, never awaited; and given back whatever happens."""

import asyncio
import gzip
import json
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import batching, limits
from service.batch import Batch
from service.batching import BURST, LEAST, MOST_REFUSED, OVERLOADED, SCARCE, STEADY, Batcher
from service.bodies import read_body
from service.errors import Problem
from service.limits import CALM, MANY, ClientGoneError, Holding, Permits, Room
from service.scoring import estimate_rows
from tests.service.client import check_problem, until
from tests.service.conftest import Serve
from tests.service.test_http_protocol import Server, read_answer, serving
from tests.service.test_shared_metrics import wait_for
from tests.service.tiny_bundle import GOOD, NUMBERS, publish

SMALL = {"records": [GOOD]}
LARGE = {"records": [GOOD] * 500}


def test_a_full_queue_is_a_429_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(queue_rows=600)
    go = threading.Event()
    reader = client.app.registry.default().reader
    real = reader.read

    def wait(body: bytes) -> Batch:
        if len(body) > client.app.settings.inline_bytes:
            go.wait(20)
        return real(body)

    monkeypatch.setattr(reader, "read", wait)

    async def overload() -> None:
        first = asyncio.create_task(client.http.post("/score", json=LARGE))
        await until(lambda: client.app.permits.taken)
        refused = await client.http.post("/score", json=LARGE)
        check_problem(refused, 429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        assert (await client.http.get("/health")).status_code == 200
        assert (await client.http.post("/score", json={"records": [GOOD]})).status_code == 200  # small: needs no queue
        go.set()
        assert (await first).status_code == 200

    client.run(overload())
    assert client.app.permits.taken == 0
    assert client.post("/score", json=LARGE).status_code == 200


@pytest.mark.parametrize(("body", "status"), [(SMALL, 200), ({"records": [{"amount": "wrong"}]}, 422)])
def test_more_small_requests_at_once_than_a_burst_are_refused(serve: Serve, body: Any, status: int) -> None:
    client = serve()
    burst = BURST // LEAST

    async def ask() -> Any:
        return await asyncio.gather(*(client.http.post("/score", json=body) for _ in range(burst + 20)))

    answers = client.run(ask())
    assert Counter(answer.status_code for answer in answers) == {status: burst, 429: 20}
    check_problem(answers[-1], 429, "queue_full")
    assert answers[-1].headers["retry-after"] == "1"
    assert client.post("/score", json=SMALL).status_code == 200


class Turns:
    """Turns of an event loop, each of so many seconds by a clock of its own, and what they let in of bodies of 1 KiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(batching, "perf_counter", lambda: self.now)
        self.batcher = Batcher()

    async def turn(self, offered: int, seconds: float = 0.02) -> int:
        """How many of those offered were let in."""
        taken = 0
        for _ in range(offered):
            with suppress(Problem):
                self.batcher.admit(1000)
                taken += 1
        self.now += seconds
        await asyncio.sleep(0)
        return taken


def test_where_it_is_no_burst_any_more_turns_get_short(monkeypatch: pytest.MonkeyPatch) -> None:
    async def overload() -> None:
        turns = Turns(monkeypatch)
        assert await turns.turn(300) == 300
        taken = [await turns.turn(1000) for _ in range(20)]
        assert taken[0] == BURST // LEAST
        assert taken[-10:] == [SCARCE // LEAST] * 10
        few = (1 + MOST_REFUSED) * SCARCE // LEAST  # not far more are refused than taken
        assert [await turns.turn(few) for _ in range(3)] == [SCARCE // LEAST, STEADY // LEAST, STEADY // LEAST]
        assert await turns.turn(300) == STEADY // LEAST  # a turn that let in all that came ends no overload
        assert [await turns.turn(100) for _ in range(6)] == [100] * 6  # 0.12 s of them do
        assert await turns.turn(300) == 300

    asyncio.run(overload())


def test_bursts_in_a_load_that_can_be_scored_keep_up_no_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    async def overload() -> None:
        turns = Turns(monkeypatch)
        for _ in range(20):
            await turns.turn(1000)
        taken = []
        for _ in range(20):
            for _ in range(8):
                await turns.turn(10, 0.01)
            taken.append(await turns.turn(300))
        assert taken[0] < 300
        assert taken[-10:] == [300] * 10

    asyncio.run(overload())


def test_an_overload_ends_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def overload() -> None:
        turns = Turns(monkeypatch)
        for _ in range(20):
            last = await turns.turn(1000)
        assert last == SCARCE // LEAST
        turns.now += 1
        assert await turns.turn(300) == 300

    asyncio.run(overload())


def test_an_overload_ends_when_it_has_been_calm_for_more_than_twice_as_long() -> None:
    batcher = Batcher()
    batcher._look(True, OVERLOADED)
    assert batcher._overloaded
    for seconds, lasts in ((0.015, True), (0.03, False)):
        for _ in range(100):
            batcher._look(False, seconds)
            batcher._look(True, 0.01)
        assert batcher._overloaded == lasts


def test_one_request_alone_gets_in_whatever_its_size(serve: Serve) -> None:
    client = serve(inline_bytes=2 * BURST)
    body = json.dumps({"records": [GOOD]}).encode()
    assert client.score(body + b" " * BURST)["results"][0]["score"] == 36.0


def test_a_client_that_goes_away_leaves_no_permit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()

    async def go_away() -> None:
        sending = asyncio.create_task(client.http.post("/score", json=LARGE))
        await until(lambda: client.app.permits.taken or sending.done())
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: not client.app.permits.taken)

    client.run(go_away())


def test_a_failing_model_leaves_no_permit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(client.app.registry.default().detector, "score", fail)
        check_problem(client.post("/score", json=LARGE), 500, "internal_error")
    assert client.app.permits.taken == 0
    assert client.post("/score", json=LARGE).status_code == 200


def test_permits_let_one_request_of_any_size_in() -> None:
    permits = Permits(10)
    permits.take(1000)
    with pytest.raises(Exception, match="1000 rows are waiting"):
        permits.take(1)
    permits.give_back(1000)
    permits.take(6)
    permits.take(4)


def test_requests_that_wait_for_long_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    permits = Permits(1000)
    for _ in range(100):  # a burst
        permits.take(1)
    now += 0.06  # at ten times the capacity 20 large requests come within 0.09 s
    for _ in range(100 - MANY):
        with pytest.raises(Problem, match="for too long"):
            permits.take(1)
        permits.give_back(1)
    with pytest.raises(Problem):
        permits.check()
    permits.give_back(1)
    permits.take(1)
    with pytest.raises(Problem):  # it lasts for as long as so many wait
        permits.take(1)
    for _ in range(MANY - CALM):
        permits.give_back(1)
    for _ in range(100):
        permits.take(1)


def test_rows_are_estimated_well_enough() -> None:
    width = 8
    for n in (1, 10, 500):
        body = json.dumps({"records": [GOOD] * n}).encode()
        assert n / 2 <= estimate_rows(body, width, False) <= 2 * n + 1
        body = json.dumps({"columns": {name: [value] * n for name, value in GOOD.items()}}).encode()
        assert n / 2 - 1 <= estimate_rows(body, width, False) <= 2 * n + 1


@pytest.mark.parametrize("n", [200, 2_000])
def test_rows_of_a_compressed_body_are_estimated_well_enough(n: int) -> None:
    draw = np.random.default_rng(0)
    records = [{f"value{place}": round(value, 3) for place, value in enumerate(row)} for row in draw.normal(size=(n, 8)).tolist()]
    body = gzip.compress(json.dumps({"records": records}).encode())
    assert n / 2 <= estimate_rows(body, 8, True) <= 2 * n


def test_a_body_that_breaks_off_is_nobodys_request() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGoneError):
        asyncio.run(read_body({"type": "http.request", "body": b"{", "more_body": True}, receive, 100, Holding(Room(100))))


@pytest.mark.parametrize("width", [1, 3])
def test_models_of_few_features_are_estimated_too(serve: Serve, tmp_path: Any, width: int) -> None:
    publish(tmp_path, features=NUMBERS[:width])
    client = serve(models_dir=tmp_path)
    assert client.post("/score", json={"records": [{"f0": 1.0}] * 5000}).status_code == 200


@pytest.mark.parametrize("path", [b"/score", b"/v2/models/tiny/infer"])
def test_what_waits_for_a_client_that_has_gone_is_not_computed(bundle_dir: Path, path: bytes) -> None:
    """It leaves the queue at once, so that there is room for others."""
    many, few = 100_000, 500
    with serving(
        bundle_dir, log_requests="false", max_records=str(many), max_body_bytes="100000000", queue_rows="1000000"
    ) as server:
        with server.connect() as first, server.connect() as last:
            first.sendall(large(b"/score", many))
            wait_for(lambda: metric(server, "anomaly_queue_rows") > 0)
            alone = metric(server, "anomaly_queue_rows")
            for _ in range(2):
                with server.connect() as connection:
                    connection.sendall(large(path, few))
                    wait_for(lambda: metric(server, "anomaly_queue_rows") > alone)
                wait_for(lambda: metric(server, "anomaly_queue_rows") == alone)  # the first is still under way
            last.sendall(large(path, few))
            assert read_answer(first)[0] == read_answer(last)[0] == 200
        assert metric(server, "anomaly_records_total") == many + few
        assert metric(server, 'anomaly_requests_total{method="POST"') == 4
        assert metric(server, 'status="499"') == 2


def large(path: bytes, records: int) -> bytes:
    """A request that is scored in the background thread."""
    if path == b"/score":
        body = json.dumps({"records": [{**GOOD, "amount": i % 7} for i in range(records)]}).encode()
    else:
        tensor = {"datatype": "FP64", "shape": [records, 1], "data": [1.0] * records}
        body = json.dumps({"inputs": [{"name": "amount", **tensor}]}).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        path,
        len(body),
        body,
    )


def metric(server: Server, name: str) -> float:
    """The sum of the samples whose line has the name."""
    with server.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if name in line and not line.startswith("#"))
