"""The log: one line a request, which no client can forge."""

import asyncio
import fcntl
import json
import logging
import os
import re
import select
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service import log
from service.log import MAX_EVENTS, RequestLog
from tests.service.client import until
from tests.service.conftest import Serve
from tests.service.test_direct import metrics, request
from tests.service.test_http_protocol import POST, serving
from tests.service.test_tracing import WAYS
from tests.service.tiny_bundle import GOOD, ODD, publish

CapFd = pytest.CaptureFixture[str]
EVIL = '/x%0A{"event":"forged"}%1b[31m%22'
EVIL_HOST = 'x","status":200,"x":"\n'  # as a server in front that believes X-Forwarded-For may give it


def lines(serve: Serve, capfd: CapFd, log_format: str) -> list[str]:
    client = serve(log_requests=True, log_format=log_format)
    transport = httpx.ASGITransport(client.app, client=(EVIL_HOST, 1))
    client.http = httpx.AsyncClient(transport=transport, base_url="http://service")
    client.post("/score", json={"records": [{**GOOD, "amount": 12.4987654}]}, headers={"x-request-id": "mine"})
    client.post("/score", json={"records": [{"amount": "s3cr3t"}]}, headers={"x-api-key": "hidden"})
    client.get(EVIL)
    client.get("/models")
    client.app.requests.close()
    return [line for line in capfd.readouterr().err.splitlines() if "request_id" in line]


def test_json_lines(serve: Serve, capfd: CapFd) -> None:
    told = [json.loads(line) for line in lines(serve, capfd, "json")]
    assert [(line["method"], line["path"][:7], line["status"]) for line in told] == [
        ("POST", "/score", 200),
        ("POST", "/score", 422),
        ("GET", '/x\n{"ev', 404),
        ("GET", "/models", 200),
    ]
    first = told[0]
    assert (first["request_id"], first["model"], first["records"], first["anomalies"]) == ("mine", "tiny", 1, 0)
    assert first["ms"] > 0
    assert first["time"].endswith("Z")
    assert [line.get("client") for line in told] == [None, EVIL_HOST, EVIL_HOST, None]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_line_of_an_error_has_its_code_the_model_that_it_came_to_and_whose_it_is(
    serve: Serve, capfd: CapFd, log_format: str
) -> None:
    client = serve(log_requests=True, log_format=log_format, api_keys=("right",))
    bad, good, key = {"records": [{"amount": "x"}]}, {"records": [GOOD]}, {"x-api-key": "right"}
    stream = "\n".join([json.dumps(GOOD)] * 1_100 + ["{"])  # whose first block has been answered by then
    client.post("/score", json=good)
    client.get("/models")
    client.post("/models/none/score", json=good, headers=key)
    client.get("/models/none", headers=key)
    client.get("/nothing")
    client.post("/score", json=bad, headers=key)
    client.post("/score", json=good, headers={**key, "x-request-timeout-ms": "0"})
    client.post("/score", content=stream, headers={**key, "content-type": "application/x-ndjson"})
    client.post("/score", json=good, headers=key)
    client.app.requests.close()
    pattern = r'\b(code|model|version|client)"?[:=]"?([^",}\s]+)'
    told = [dict(re.findall(pattern, line)) for line in capfd.readouterr().err.splitlines() if "request_id" in line]
    model = {"model": "tiny", "version": client.app.registry.get("tiny").version}
    assert told == [
        {"code": "unauthorized", "client": "127.0.0.1"},
        {"code": "unauthorized", "client": "127.0.0.1"},
        {"code": "model_not_found", "client": "127.0.0.1"},
        {"code": "model_not_found", "client": "127.0.0.1"},
        {"code": "not_found", "client": "127.0.0.1"},
        {"code": "invalid_records", "client": "127.0.0.1", **model},
        {"code": "deadline_exceeded", **model},
        {"code": "invalid_json", **model},
        model,
    ]


def test_probes_and_scrapes_have_lines_only_where_they_fail(serve: Serve, capfd: CapFd, tmp_path: Path) -> None:
    keys = {"api_keys": ("right",), "metrics_need_key": True}
    well, empty = serve(log_requests=True, **keys), serve(log_requests=True, models_dir=tmp_path, **keys)
    probes = ("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
    for path in probes:
        for client in (well, empty):
            client.get(path)
            client.request("HEAD", path)
    for key in ("right", "wrong"):
        well.get("/metrics", headers={"x-api-key": key})
    for client in (well, empty):
        client.app.requests.close()
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "request_id" in line]
    assert sorted((line["path"], line["status"], line["code"]) for line in told) == [
        *((path, 503, "not_ready") for path in ("/health", "/health/ready") for _ in ("GET", "HEAD")),
        ("/metrics", 401, "unauthorized"),
        *(("/v2/health/ready", 503, "not_ready") for _ in ("GET", "HEAD")),
    ]
    text = well.app.metrics.text().decode()
    assert 'anomaly_requests_total{method="HEAD",route="/health/ready",status="200"} 1.0' in text.splitlines()


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_lines_hold_no_values_and_no_control_characters(serve: Serve, capfd: CapFd, log_format: str) -> None:
    told = lines(serve, capfd, log_format)
    assert len(told) == 4
    text = "".join(told)
    assert "s3cr3t" not in text
    assert "hidden" not in text
    assert "4987654" not in text
    assert all(" " <= character <= "~" for character in text)


def test_events_are_lines_of_the_same_form(serve: Serve, capfd: CapFd, tmp_path: Path) -> None:
    serve(models_dir=tmp_path)
    event = json.loads(capfd.readouterr().err.splitlines()[0])
    assert (event["level"], event["event"][:10]) == ("warning", "no API key")


def test_a_service_without_a_model_says_so_once_for_each_reason(serve: Serve, capfd: CapFd, tmp_path: Path) -> None:
    def told() -> list[tuple[str, str, str]]:
        events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        warned = [event for event in events if event["event"] == "nothing to score with"]
        assert all((event["level"], event["folder"]) == ("warning", str(tmp_path / "models")) for event in warned)
        return [(event["model"], event["published"], event["reason"]) for event in warned]

    clients = [serve(models_dir=tmp_path / "models", model=model) for model in (None, "tiny")]
    nowhere = "The folder of the models is not there."
    assert told() == [("any", "none", nowhere), ("tiny", "none", nowhere)]
    publish(tmp_path / "models", "other")
    for client in clients * 2:
        client.run(client.app.registry.refresh())
    assert told() == [("tiny", "other", "Model 'tiny' is not published yet.")]
    publish(tmp_path / "models")
    for client in clients:
        client.run(client.app.registry.refresh())
    assert told() == []
    assert clients[1].score({"records": [GOOD]})["model"] == "tiny"


def test_a_reader_of_the_log_that_is_gone_stops_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(log_requests=True)

    def gone(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("service.log.os.write", gone)
    for _ in range(3):
        client.score({"records": [GOOD]})
    client.app.requests.close()
    assert "anomaly_log_lines_dropped_total 3.0" in client.app.metrics.text().decode().splitlines()


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    """As Node.js and some supervisors make it: a reader that is late for 64 KiB is no reader that is gone."""
    ours, theirs = os.pipe()
    for end in (ours, theirs):
        os.set_blocking(end, False)

    async def work() -> bytes:
        lines, text, n = RequestLog("json", theirs), b"", 3000
        for i in range(n):
            lines.write(f"r-{i}", "POST", '"/score"', 200, seconds=0.1)
        async with asyncio.timeout(20):
            while text.count(b"\n") < n:
                await asyncio.sleep(0.01)
                with suppress(BlockingIOError):
                    text += os.read(ours, 1 << 16)
        for i in range(n):
            lines.write(f"r-{i}", "POST", '"/score"', 200, seconds=0.1)
        await until(lambda: not select.select([], [theirs], [], 0)[1])  # the pipe is full
        lines.close()  # while nobody reads
        assert lines.dropped == n - os.read(ours, 1 << 20).count(b"\n")
        return text

    text = asyncio.run(work())
    assert [json.loads(line)["request_id"] for line in text.splitlines()] == [f"r-{i}" for i in range(3000)]
    os.close(ours)
    os.close(theirs)


def test_an_event_waits_for_no_reader() -> None:
    """One that has stopped, as a stuck driver of logs, must not stop the event loop, which tells most of them."""
    ours, theirs = os.pipe()
    held = os.write(theirs, b"-" * fcntl.fcntl(theirs, fcntl.F_GETPIPE_SZ))  # it is full, and makes its writers wait
    lines = RequestLog("json", theirs)
    log.configure("json", lines)
    most = MAX_EVENTS + 10
    telling = threading.Thread(target=lambda: [log.event(logging.WARNING, f"event {i}") for i in range(most)], daemon=True)
    telling.start()
    telling.join(20)
    assert not telling.is_alive()
    while held:
        held -= len(os.read(ours, held))
    text = b""
    while text.count(b"\n") < most - lines.dropped:
        text += os.read(ours, 1 << 16)
    assert 9 <= lines.dropped <= 10  # one may be with the thread already
    assert [json.loads(line)["event"] for line in text.splitlines()] == [f"event {i}" for i in range(most - lines.dropped)]
    os.write(theirs, b"-" * fcntl.fcntl(theirs, fcntl.F_GETPIPE_SZ))
    before = lines.dropped
    log.event(logging.WARNING, "while it is open")
    lines.close()  # while nobody reads
    log.event(logging.WARNING, "and afterwards")
    assert lines.dropped == before + 2
    log.configure("json")
    os.close(ours)
    os.close(theirs)


def test_a_task_in_the_background_that_ends_is_told(serve: Serve, capfd: CapFd, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("s3cr3t")

    monkeypatch.setattr("service.activity.Activity.tick_for_ever", lambda _: fails())
    client = serve()
    client.run(asyncio.sleep(0.01))
    text = capfd.readouterr().err
    told = next(event for event in map(json.loads, text.splitlines()) if event["event"] == "a task in the background ended")
    assert (told["level"], told["error"]) == ("error", "ZeroDivisionError")
    assert "test_log.py" in told["at"]
    assert "s3cr3t" not in text


def test_workers_write_lines_whole_as_many_as_a_pipe_takes_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes write to the same one: theirs must not come in between."""
    ours, theirs = os.pipe()
    pieces, write = list[bytes](), os.write
    monkeypatch.setattr("service.log.multiprocessing.parent_process", os.getppid)  # this is a worker
    monkeypatch.setattr("service.log.os.write", lambda descriptor, piece: pieces.append(bytes(piece)) or write(descriptor, piece))
    lines = RequestLog("json", theirs)
    told = ["x" * size + "\n" for size in (10, 5000, *[300] * 40)]
    lines._put(told)
    lines.close()
    assert b"".join(pieces).decode() == "".join(told)
    # the last line of a piece ends there, but for one that is longer than a piece
    assert [len(piece) for piece in pieces] == [11, select.PIPE_BUF, 905 + 10 * 301, *[13 * 301] * 2, 4 * 301]
    os.close(ours)
    os.close(theirs)


def test_what_a_connection_refuses_by_itself_has_its_line_and_count(bundle_dir: Path) -> None:
    with serving(bundle_dir, head_seconds="0.2", request_seconds="0.4") as server:
        answers = [
            server.ask(b"nonsense\r\n\r\n"),
            server.ask(b"POST /sco"),  # a head that does not go on
            server.ask(POST + b"Content-Length: 100\r\n\r\n{"),  # a body that does not, on the short way
            server.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),  # and on the long one
            server.ask(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n"),
        ]
        text = metrics(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stderr is not None
        lines = [json.loads(line) for line in server.process.stderr.read().splitlines()]
    statuses = [400, 408, 408, 408, 431]
    assert [status for status, _, _ in answers] == statuses
    told = [line for line in lines if line["event"] == "request"]
    assert [(line["request_id"], line["status"]) for line in told] == [
        (document["request_id"], status) for status, _, document in answers
    ]
    assert all(0 <= line["ms"] < 20_000 for line in told)
    assert told[1]["ms"] >= 200
    assert [line["code"] for line in told] == ["invalid_http", *["request_timeout"] * 3, "head_too_large"]
    assert {line["client"] for line in told} == {"127.0.0.1"}
    assert [line.get("model") for line in told] == [None, None, "tiny", "tiny", None]
    for code, n in (("invalid_http", 1), ("request_timeout", 3), ("head_too_large", 1)):
        assert f'anomaly_errors_total{{code="{code}"}} {n}.0' in text.splitlines()
    for line in (
        'anomaly_requests_total{method="OTHER",route="other",status="408"} 1.0',
        'anomaly_requests_total{method="POST",route="/score",status="408"} 2.0',
    ):
        assert line in text.splitlines()


def test_a_request_of_the_short_way_has_its_own_counts_in_its_line(bundle_dir: Path) -> None:
    with serving(bundle_dir) as server:
        assert server.ask(request(json.dumps({"records": [ODD, GOOD, GOOD]}).encode(), b""))[0] == 200
        assert server.ask(request(b"{", b""))[0] == 400
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stderr is not None
        lines = [json.loads(line) for line in server.process.stderr.read().splitlines()]
    told, refused = [line for line in lines if line["event"] == "request"]
    assert (told["model"], told["records"], told["anomalies"]) == ("tiny", 3, 1)
    assert not told.keys() & {"code", "client"}
    assert (refused["code"], refused["model"], refused["client"]) == ("invalid_json", "tiny", "127.0.0.1")
    assert "records" not in refused


def test_a_path_is_cut_in_its_line_whichever_way_its_request_goes(bundle_dir: Path) -> None:
    body = json.dumps({"records": [GOOD]}).encode()
    with serving(bundle_dir) as server:
        for path in (b"/models/%b/score" % (b"a" * 9000), b"/%b" % (b"a" * 9000)):
            assert server.ask(request(body, b"").replace(b" /score ", b" %b " % path))[0] == 404
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stderr is not None
        lines = [json.loads(line) for line in server.process.stderr.read().splitlines()]
    assert [len(line["path"]) for line in lines if line["event"] == "request"] == [200, 200]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_every_format_of_records_has_one_line_without_a_value(serve: Serve, capfd: CapFd, log_format: str) -> None:
    client = serve(log_requests=True, log_format=log_format)
    for path, _, body, headers, _ in WAYS:
        client.post(path, content=body, headers={"content-type": "application/json", **headers}).raise_for_status()
    client.app.requests.close()
    told = capfd.readouterr().err.splitlines()[2:]  # after those of the start
    assert len(told) == len(WAYS)
    for line in told:
        assert "tiny" in line
        said = re.sub(r'[\d:T-]+\.\d{3}(Z| ms)|"ms":[\d.]+', "", line)  # without its own times, which may be 12.5, too
        assert not re.search(r"12\.5|2026-03-02T14:30:00|\bde\b", said)
