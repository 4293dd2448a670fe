"""application/x-ndjson: the results of records, line by line; whole or with a last line that says why not."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Problem
from service.limits import ClientGoneError, Holding, Room
from service.streams import PART, Lines, Pieces
from tests.service.client import Client, check_problem, until
from tests.service.conftest import Serve
from tests.service.test_http_protocol import read_answer, serving
from tests.service.test_overload import metric
from tests.service.test_scoring import records
from tests.service.test_shared_metrics import wait_for
from tests.service.tiny_bundle import GOOD, ODD, publish

HEADERS = {"content-type": "application/x-ndjson"}


def lines_of(made: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in made)


def post(client: Client, content: Any, path: str = "/score", **headers: str) -> httpx.Response:
    return client.post(path, content=content, headers={**HEADERS, **headers})


def results(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == HEADERS["content-type"]
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@given(st.lists(records, min_size=1, max_size=8), st.sampled_from(["flagged", "all", "none"]), st.integers(1, 200))
@settings(max_examples=40)
def test_a_line_is_answered_as_a_record_is(service: Client, made: list[Any], explain: str, size: int) -> None:
    expected = service.score({"records": made, "alpha": 0.05, "explain": explain})["results"]
    body = lines_of(made)
    query = f"/score?alpha=0.05&explain={explain}"
    assert results(post(service, body, query)) == expected
    assert results(post(service, in_pieces(body, size), query)) == expected
    assert results(post(service, in_pieces(gzip.compress(body), size), query, **{"content-encoding": "gzip"})) == expected


def test_many_lines_are_many_blocks_with_one_answer(service: Client) -> None:
    made = [{**GOOD, "amount": i / 7} for i in range(5000)] + [ODD]
    answer = post(service, lines_of(made))
    assert results(answer) == service.score({"records": made})["results"]
    assert answer.headers["connection"] == "close"
    assert {"x-request-id", "server-timing"} <= answer.headers.keys()
    assert service.app.permits.taken == 0


def test_what_has_been_scored_is_held_no_more(serve: Serve) -> None:
    client = serve(max_body_bytes=1 << 20, held_bytes=1 << 20)
    room = client.app.room
    room.bodies = others = room.most - 100_000
    held = list[int]()

    async def body() -> AsyncIterator[bytes]:
        async for piece in in_pieces(lines_of([GOOD] * 8000), 10_000):
            held.append(room.bodies - others)
            yield piece

    assert len(results(post(client, body()))) == 8000
    assert max(held) < 40_000
    assert room.bodies == others
    unfinished = gzip.compress(b'{"country": "' + b"x" * 200_000)
    refused = post(client, in_pieces(unfinished, 100), **{"content-encoding": "gzip"})
    check_problem(refused, 429, "queue_full")  # of which little was sent, and more is held than there is room for
    assert room.bodies == others


def test_what_waits_is_given_out_and_back_a_part_at_a_time() -> None:
    async def work() -> None:
        room, sent = Room(100), asyncio.Event()
        messages = [{"type": "http.request", "body": b"x" * PART, "more_body": n < 2} for n in range(3)]

        async def receive() -> Any:
            if len(messages) == 1:
                sent.set()
            return messages.pop(0)

        with Holding(room) as held:
            pieces = Pieces(await receive(), receive, 1 << 30, held)
            assert len(await pieces.next()) == PART
            await pieces.during(sent.wait())
            assert room.bodies == 3 * PART
            pieces.hold(5)
            assert room.bodies == 2 * PART + 5
            assert len(await pieces.next()) == PART
            pieces.hold(PART)
            assert (room.bodies, pieces.given_out) == (2 * PART, False)
            assert len(await pieces.next()) == PART
            pieces.hold(0)
            assert (room.bodies, pieces.given_out) == (0, True)

    asyncio.run(work())


def test_all_routes_take_streams(service: Client) -> None:
    version = service.score({"records": [GOOD]})["version"]
    for path in ("/score", "/models/tiny/score", f"/models/tiny/versions/{version}/score"):
        assert len(results(post(service, lines_of([GOOD, ODD]), path))) == 2


@pytest.mark.parametrize("body", [b'{"amount": 1}\r\n\r\n  \n{}', b'\n{}\n{"amount": 1}\n\n', b"{}\n{}"])
def test_blank_lines_and_a_missing_last_newline_do_not_matter(service: Client, body: bytes) -> None:
    assert len(results(post(service, body))) == 2


@pytest.mark.parametrize(
    ("body", "status", "code", "loc"),
    [
        (b"", 422, "invalid_request", "records"),
        (b"\n \n", 422, "invalid_request", "records"),
        (b'{}\n{"amount": "x"}\n', 422, "invalid_records", "records[1].amount"),
        (b'{}\n{"amounts": 1}\n', 422, "invalid_records", "records[1].amounts"),
        (b"{}\n5\n", 422, "invalid_records", "records[1]"),
        (b"{}\n{\n}\n", 400, "invalid_json", "records[1]"),
        (b"{} {}\n", 400, "invalid_json", "records[0]"),
        (b"{},{}\n", 400, "invalid_json", "records[0]"),
        (b'{}],"alpha":0.5,"records":[{}\n', 400, "invalid_json", "records[0]"),
        (b'{}\n{"amount": 1, "amount": 1}\n', 400, "duplicate_key", "records[1]"),
        (b'{}\n{"\\ud800": 1, "\\ud800": 1}\n', 400, "duplicate_key", "records[1]"),
        (b'{"amount": NaN}\n', 400, "invalid_json", "records[0]"),
        (b'{"amount": 1e39}\n', 422, "invalid_records", "records[0].amount"),
        (b'\xef\xbb\xbf{"amount": 1}\n', 400, "invalid_json", "records[0]"),
        (b'{"country": "\xff"}\n', 400, "invalid_json", "records[0]"),
        (b'{"amount": ' + b"[" * 50 + b"]" * 50 + b"}\n", 400, "too_deep", "records[0]"),
        (b'{}\n{"amount": 3.4e38, "count": 3.4e38}\n', 422, "not_scorable", "records[1]"),
    ],
)
def test_a_bad_line_is_the_whole_answer_if_none_was_sent(service: Client, body: bytes, status: int, code: str, loc: str) -> None:
    document = check_problem(post(service, body), status, code)
    assert [error["loc"] for error in document["errors"]] == [loc]
    assert service.app.permits.taken == 0


def test_a_bad_line_later_is_the_last_line(service: Client) -> None:
    before = service.app.metrics.errors["invalid_records"]
    answer = post(service, lines_of([GOOD] * 3000 + [{"amount": "s3cr3t"}] + [GOOD] * 3000))
    told = results(answer)
    assert all(result.keys() >= {"score"} for result in told[:-1])
    assert 512 <= len(told) - 1 <= 3000
    problem = told[-1]["error"]
    assert (problem["status"], problem["code"], problem["request_id"]) == (422, "invalid_records", answer.headers["x-request-id"])
    assert problem["errors"] == [{"loc": "records[3000].amount", "message": "not a number"}]
    assert "s3cr3t" not in answer.text
    assert service.app.metrics.errors["invalid_records"] == before + 1
    assert service.app.permits.taken == 0


def test_an_unknown_feature_in_a_later_block_is_told_with_its_place(service: Client) -> None:
    with pytest.raises(Problem) as told:
        service.app.registry.default().reader.read_lines([b'{"amount": 1}', b'{"amounts": 1}'], 7)
    assert [error.loc for error in told.value.errors] == ["records[8].amounts"]


def test_a_fault_of_ours_later_is_the_last_line_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    live = client.app.registry.default()
    real, calls = live.reader.read_lines, []

    def fail(lines: Any, first: int) -> Any:
        calls.append(first)
        if len(calls) > 1:
            raise RuntimeError("s3cr3t")
        return real(lines, first)

    monkeypatch.setattr(live.reader, "read_lines", fail)
    answer = post(client, lines_of([GOOD] * 2000))
    assert results(answer)[-1]["error"]["code"] == "internal_error"
    assert "s3cr3t" not in answer.text
    assert client.app.permits.taken == 0


@pytest.mark.parametrize(
    ("query", "locs"),
    [
        ("fdr=0.1", ["fdr"]),
        ("alpha=0", ["alpha"]),
        ("alpha=1", ["alpha"]),
        ("alpha=nan", ["alpha"]),
        ("alpha=", ["alpha"]),
        ("alpha=x&explain=some", ["alpha", "explain"]),
        ("alpha=0.1&alpha=0.1", ["query"]),
        ("alhpa=0.1", ["alhpa"]),
    ],
)
def test_parameters_that_do_not_fit_are_a_422(service: Client, query: str, locs: list[str]) -> None:
    document = check_problem(post(service, b"{}", f"/score?{query}"), 422, "invalid_request")
    assert [error["loc"] for error in document["errors"]] == locs


def test_an_unsupported_alpha_tells_the_smallest(service: Client) -> None:
    assert check_problem(post(service, b"{}", "/score?alpha=0.001"), 422, "unsupported_alpha")["smallest_alpha"] == 1 / 200


def test_the_limits_are_those_of_json(serve: Serve) -> None:
    client = serve(max_records=600, max_body_bytes=200_000)
    assert len(results(post(client, b"{}\n" * 600))) == 600
    told = results(post(client, b"{}\n" * 601))
    assert (len(told), told[-1]["error"]["code"]) == (513, "too_many_records")
    check_problem(post(client, b" " * 200_001), 413, "body_too_large")
    check_problem(post(client, in_pieces(b'{"country": "' + b"x" * 300_000, 10_000)), 413, "body_too_large")
    check_problem(post(client, gzip.compress(b" " * 200_001), **{"content-encoding": "gzip"}), 413, "body_too_large")
    check_problem(post(serve(max_records=5), b"{}\n" * 6), 413, "too_many_records")
    assert client.app.permits.taken == 0


@pytest.mark.parametrize(
    "body", [b"no gzip", gzip.compress(b"{}")[:-4], gzip.compress(b"{}\n") + b"x"], ids=["other", "cut short", "more behind"]
)
def test_bad_gzip_is_a_400(service: Client, body: bytes) -> None:
    check_problem(post(service, body, **{"content-encoding": "gzip"}), 400, "invalid_encoding")


def test_a_full_queue_is_a_429(serve: Serve) -> None:
    client = serve(queue_rows=1000)
    client.app.permits.taken = 900
    assert post(client, b"{}\n").headers["retry-after"] == "1"
    check_problem(post(client, b"{}\n"), 429, "queue_full")


@given(st.binary(max_size=400), st.integers(1, 50), st.booleans())
def test_lines_are_those_of_the_whole(body: bytes, size: int, gzipped: bool) -> None:
    sent = gzip.compress(body) if gzipped else body
    lines, taken = Lines(1000, gzipped=gzipped), list[bytes]()
    starts = range(0, max(1, len(sent)), size)
    for start in starts:
        lines.feed(sent[start : start + size], last=start == starts[-1])
        while more := lines.take(3):
            taken += more
        assert lines.exhausted
        if not gzipped and start != starts[-1]:
            assert lines.held == len(sent[: start + size].rsplit(b"\n", 1)[-1])
    assert lines.held == 0
    assert taken == [line for line in body.split(b"\n") if line.strip()]


def test_lines_are_inflated_no_further_than_needed() -> None:
    lines = Lines(1 << 40, gzipped=True)
    lines.feed(gzip.compress(b"{}\n" * (8 << 20)), last=True)
    assert len(lines.take(10)) == 10
    assert not lines.exhausted
    assert len(lines._whole) < 100_000
    bomb = Lines(1000, gzipped=True)
    bomb.feed(gzip.compress(b" " * (64 << 20)), last=True)
    with pytest.raises(Problem, match="1000 bytes"):
        bomb.take(1)


def test_the_body_is_read_on_only_while_the_answer_is_not_taken() -> None:
    async def work() -> None:
        received, taken = 0, asyncio.Event()

        async def receive() -> Any:
            nonlocal received
            received += 1
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send() -> None:
            await taken.wait()

        pieces = Pieces({"type": "http.request", "body": b"x", "more_body": True}, receive, 5, Holding(Room(100)))
        assert await pieces.next() == b"x"
        assert received == 0
        sending = asyncio.ensure_future(pieces.during(send()))
        await until(lambda: received >= 5)
        for _ in range(20):  # turns of the loop, in which it could go on
            await asyncio.sleep(0)
        assert received == 5  # one more than the limit allows, which is what tells that it is passed
        taken.set()
        await sending
        with pytest.raises(Problem, match="5 bytes"):
            await pieces.next()
        pieces.close()

    asyncio.run(work())


def test_a_client_that_goes_away_ends_the_stream(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    client = serve(log_requests=True)

    async def broken() -> AsyncIterator[bytes]:
        yield lines_of([GOOD] * 600)
        raise ClientGoneError

    with suppress(AssertionError):  # httpx expects an answer
        post(client, broken())
    client.run(until(lambda: client.app.permits.taken == 0))
    client.app.requests.close()
    told = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert told["status"] == 499
    assert 0 < told["records"] <= 600


def test_columns_that_training_left_out_are_accepted(serve: Serve, tmp_path: Path) -> None:
    publish(tmp_path, dropped=("id", "when"))
    client = serve(models_dir=tmp_path)
    whole = [{**GOOD, "id": "a:b", "when": "10:00"}, {**ODD, "id": 3}, {"when": [1, {"a": None}], "amount": 3}, {"id": None}]
    bare = [{name: value for name, value in record.items() if name not in ("id", "when")} for record in whole]
    for part in (slice(0, 2), slice(0, 4), slice(3, 4)):
        expected = client.score({"records": bare[part], "explain": "all"})["results"]
        assert client.score({"records": whole[part], "explain": "all"})["results"] == expected
        assert results(post(client, lines_of(whole[part]), "/score?explain=all")) == expected
    columns = {"amount": [1, 2], "at": ["2026-01-01T10:00:00", None]}
    expected = client.score({"columns": columns})["results"]
    assert client.score({"columns": {**columns, "id": ["a:b", 1]}})["results"] == expected
    assert client.score({"columns": {**columns, "id": [[1], 1]}})["results"] == expected
    check_problem(client.post("/score", content=b'{"records": [{"id": 1, "id": 1}]}'), 400, "duplicate_key")
    check_problem(client.post("/score", content=b'{"records": [{"id": "a:", "when": "b", "id": 1}]}'), 400, "duplicate_key")
    check_problem(client.post("/score", json={"records": [{"idd": 1}]}), 422, "invalid_records")
    assert "id" in client.get("/openapi.json").json()["components"]["schemas"]["Record"]["properties"]


def test_http_1_0_gets_the_whole_with_its_length(bundle_dir: Path) -> None:
    head = b"POST /score HTTP/1.0\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
    with serving(bundle_dir, log_requests="0", max_body_bytes="1000000", held_bytes="1000000") as server:

        def ask(body: bytes) -> tuple[bytes, bytes]:
            with server.connect() as connection:
                connection.sendall(head % len(body) + body)
                answer = b""
                while more := connection.recv(1 << 20):
                    answer += more
            told, _, content = answer.partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in told
            assert b"content-length: %d" % len(content) in told.split(b"\r\n")
            return told.split(b"\r\n")[0], content

        status, content = ask(lines_of([GOOD] * 2000))
        assert (b" 200 " in status, len(content.splitlines())) == (True, 2000)
        assert all("score" in json.loads(line) for line in content.splitlines())
        status, content = ask(lines_of([GOOD] * 2000) + b"{]\n")
        assert (b" 400 " in status, json.loads(content)["errors"][0]["loc"]) == (True, "records[2000]")
        wait_for(lambda: metric(server, "anomaly_held_bytes") == 0)


def test_results_come_before_the_body_is_whole_and_a_client_may_read_last(bundle_dir: Path) -> None:
    head = b"POST /score?explain=all HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    line = lines_of([GOOD])
    with serving(bundle_dir, log_requests="0") as server, server.connect() as connection:
        for _ in range(2):  # a short stream, whole at once, keeps its connection
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(line) + line)
            status, headers, result = read_answer(connection)
            assert (status, result["is_anomaly"], "connection" in headers) == (200, False, False)
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % (2 * len(line)) + line)
        text = b""
        while b"warnings" not in text:
            text += connection.recv(65536)
        connection.sendall(line)
        while b"\r\n0\r\n\r\n" not in text:
            text += connection.recv(65536)
        assert text.count(b'"warnings"') == 2
        assert connection.recv(1) == b""  # as it said
        with server.connect() as late:  # sends all of it, and only then reads
            body = line * 10_000
            late.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.5)
            text = b""
            while more := late.recv(1 << 20):
                text += more
            assert text.count(b'"warnings"') == 10_000
        with server.connect() as wrong:
            body = line * 5000 + b"{]\n" + line * 4000
            wrong.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            text = b""
            while more := wrong.recv(1 << 20):
                text += more
            assert b'{"error":{' in text
            assert text.endswith(b"0\r\n\r\n")
        with server.connect() as after:
            after.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n" + b'{"records":[]}')
            assert read_answer(after)[0] == 422
