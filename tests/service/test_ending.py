"""Connections and processes that end lose nothing that was sent before anybody could know."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from service import batching, direct, runs, scoring
from service.app import create_app
from service.http_protocol import LimitedProtocol
from service.server import Server
from service.settings import Settings
from tests.service.client import until
from tests.service.test_direct import request
from tests.service.test_http_protocol import BODY, DEADLINE, POST, WHOLE, read_answer, serving
from tests.service.test_shared_metrics import wait_for
from tests.service.tiny_bundle import GOOD, publish

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
LATER = Settings.idle_seconds + 1.0
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(("workers", "idle"), [("1", True), ("1", False), ("2", False)])
def test_what_was_sent_before_the_signal_is_answered(bundle_dir: Path, workers: str, idle: bool) -> None:
    """On a connection that is open, and on one that nobody has accepted yet."""
    with serving(bundle_dir, "--workers", workers, shutdown_seconds="5") as server, ExitStack() as stack:
        opened = [stack.enter_context(closing(open_when_ready(server.port))) for _ in range(3)]
        every = stopped(server.process.pid)
        try:
            connections = opened if idle else [stack.enter_context(closing(server.connect())) for _ in range(3)]
            for connection in connections:
                connection.sendall(WHOLE)
            server.process.send_signal(signal.SIGTERM)
        finally:
            for process in every:
                os.kill(process, signal.SIGCONT)
        for connection in connections:
            status, headers, _ = read_answer(connection)
            assert status in (200, 503)
            assert headers.get("connection") == "close" or status == 200
        assert server.process.wait(DEADLINE) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_of_a_service_manager_looks_for_new_versions_and_ends_nothing(tmp_path: Path, workers: str) -> None:
    publish(tmp_path)
    with (
        serving(tmp_path, "--workers", workers, reload_seconds="0") as server,
        closing(open_when_ready(server.port)) as connection,
    ):
        newer = publish(tmp_path, version="20990102T000000Z-made01").name
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            server.process.send_signal(number)

        def is_taken_up() -> bool:
            connection.sendall(WHOLE)
            status, _, document = read_answer(connection)
            assert status == 200
            return bool(document["version"] == newer)

        wait_for(is_taken_up)


def test_a_worker_that_is_stopped_keeps_nobody_from_ending(bundle_dir: Path) -> None:
    with serving(bundle_dir, "--workers", "2", shutdown_seconds="1") as server:
        open_when_ready(server.port).close()
        began = time.monotonic()
        os.kill(children(server.process.pid)[-1], signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0
        assert time.monotonic() - began < DEADLINE / 2


def open_when_ready(port: int) -> socket.socket:
    """A connection on which a request has been answered."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        except ConnectionRefusedError:  # the port is bound; the workers listen when they are ready
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            connection.sendall(HEALTH)
            assert read_answer(connection)[0] == 200
            return connection


def children(parent: int) -> list[int]:
    """The workers of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent
            if ours and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return sorted(found)


def stopped(process: int) -> list[int]:
    """Stops a process and its workers."""
    every = [process, *children(process)]
    for one in every:
        os.kill(one, signal.SIGSTOP)
    return every


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_comes_after_the_signal_is_refused_and_does_not_wait(bundle_dir: Path, workers: str) -> None:
    with (
        serving(bundle_dir, "--workers", workers, shutdown_seconds="60") as server,
        closing(open_when_ready(server.port)) as busy,
    ):
        busy.sendall(POST + b"Content-Length: 100\r\n\r\n{")  # keeps a worker from ending
        server.process.send_signal(signal.SIGTERM)

        def is_refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE).close()
            except ConnectionRefusedError:
                return server.process.poll() is None
            return False

        wait_for(is_refused)


def test_a_worker_that_loads_its_models_or_ends_does_not_hang(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its supervisor would kill it: the first before it has begun, the second before what it has accepted is answered."""
    clock = [0.0]
    monkeypatch.setattr("service.server.time", SimpleNamespace(monotonic=lambda: clock[0]))
    app = create_app(Settings(models_dir=bundle_dir, provider="cpu", reload_seconds=0.0, log_requests=False))
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, http=LimitedProtocol, log_config=None))
    start, stop = app.registry.start, app.registry.stop

    async def slow_start() -> None:
        clock[0] += 10  # as a graph takes that is optimized when it is loaded
        await start()

    async def slow_stop() -> None:
        for _ in range(3):
            clock[0] += 10
            await until(lambda: not server.hangs())
        await stop()

    async def work() -> None:
        await server.startup()
        assert server.started
        assert not server.hangs()
        await server.on_tick(0)
        assert not server.hangs()
        clock[0] += 10
        assert server.hangs()
        await server.shutdown()

    monkeypatch.setattr(app.registry, "start", slow_start)
    monkeypatch.setattr(app.registry, "stop", slow_stop)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    asyncio.run(work())
    assert clock == [50.0]  # it was started, and it was ended


@pytest.fixture
def server(bundle_dir: Path) -> Iterator[uvicorn.Server]:
    """uvicorn with this protocol in a thread, whose connections a test can look at as the sweep does."""
    app = create_app(Settings(models_dir=bundle_dir, provider="cpu", reload_seconds=0.0, log_requests=False))
    words: Any = {"proxy_headers": False, "interface": "asgi3", "ws": "none", "log_config": None}
    words["timeout_keep_alive"] = Settings.idle_seconds
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, http=LimitedProtocol, **words))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + DEADLINE
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield server
    server.should_exit = True
    thread.join(DEADLINE)


@pytest.mark.parametrize("sent", [WHOLE, HEALTH])
def test_an_idle_connection_is_closed_only_at_a_second_look(
    server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """For either way to an answer: what came before the first look has been read by then."""
    monkeypatch.setattr("service.http_protocol.SWEEP_SECONDS", 3600.0)  # nobody looks but this test
    with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=DEADLINE) as connection:

        def done(work: Callable[[LimitedProtocol], None]) -> None:
            """Returns when it has been: else what is sent next might be read before."""
            (protocol,) = connections(server)
            ended = threading.Event()
            protocol.loop.call_soon_threadsafe(lambda: (work(protocol), ended.set()))
            assert ended.wait(DEADLINE)

        def ask() -> None:
            connection.sendall(sent)
            assert read_answer(connection)[0] == 200
            if sent is HEALTH:
                done(LimitedProtocol.timeout_keep_alive_handler)  # as uvicorn's timer does, after the long way alone

        def look(later: float) -> None:
            done(lambda protocol: protocol.check_time(protocol.loop.time() + later))

        ask()
        look(LATER)
        time.sleep(0.01)  # the loop's clock tells milliseconds: else both answers may be of one
        ask()
        look(LATER)
        look(LATER + 0.5)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("way", [WHOLE, CHUNKED], ids=["short", "long"])
def test_the_time_that_a_client_takes_to_send_is_none_of_the_service(
    server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch, way: bytes
) -> None:
    late = [0.0]
    for module in (direct, scoring, batching, runs):
        monkeypatch.setattr(module, "perf_counter", lambda: time.perf_counter() + late[0])
    with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=DEADLINE) as connection:
        connection.sendall(way[:-9])
        end = time.monotonic() + DEADLINE
        while not any(protocol.cycle for protocol in connections(server)):  # until its head has been read
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.05)
        late[0] = 1e6  # seconds
        connection.sendall(way[-9:])
        status, headers, _ = read_answer(connection)
    assert status == 200
    assert float(headers["server-timing"].rpartition("=")[2]) < 1e6  # milliseconds


@pytest.mark.parametrize(("grace", "workers"), [("1", "1"), ("0", "1"), ("1", "2")])
def test_requests_that_are_cut_off_by_the_end_are_told_so_as_the_log_is(bundle_dir: Path, grace: str, workers: str) -> None:
    """By either way, while their body arrives: a small one, one in chunks, and a large one."""
    large = POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 100_000
    infer = CHUNKED.replace(b"/score", b"/v2/models/tiny/infer")
    with serving(bundle_dir, "--workers", workers, shutdown_seconds=grace) as server, ExitStack() as stack:
        sent = {b"short": WHOLE[:-9], b"chunks": CHUNKED[:-9], b"large": large, b"infer": infer[:-9]}
        connections = [stack.enter_context(closing(open_when_ready(server.port))) for _ in sent]
        for connection, (name, part) in zip(connections, sent.items(), strict=True):
            connection.sendall(part.replace(b"Host: x", b"X-Request-ID: " + name))
        server.process.send_signal(signal.SIGTERM)
        for connection, name in zip(connections, sent, strict=True):
            status, headers, document = read_answer(connection)
            assert (status, document["code"]) == (503, "shutting_down")
            assert (headers["retry-after"], headers["connection"]) == ("5", "close")
            assert document["request_id"] == headers["x-request-id"] == name.decode()
            assert ("error" in document) == (name == b"infer")
            assert connection.recv(1) == b""
        assert server.process.stderr is not None
        lines = [json.loads(line) for line in server.process.stderr]
    cut = {line["request_id"]: (line["status"], line["method"], line["code"]) for line in lines if line.get("status") == 503}
    assert cut == dict.fromkeys(map(bytes.decode, sent), (503, "POST", "shutting_down"))
    assert [line for line in lines if "exception" in line["event"].lower()] == []


def test_a_service_that_ends_says_that_the_connection_does(server: uvicorn.Server) -> None:
    with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=DEADLINE) as connection:
        connection.sendall(HEALTH)
        assert "connection" not in read_answer(connection)[1]
        (protocol,) = connections(server)
        protocol.app.draining = True
        connection.sendall(HEALTH)
        assert read_answer(connection)[1]["connection"] == "close"
        assert connection.recv(1) == b""


def test_an_empty_line_after_a_body_begins_no_request(server: uvicorn.Server) -> None:
    with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=DEADLINE) as connection:
        connection.sendall(WHOLE)
        assert read_answer(connection)[0] == 200
        connection.sendall(b"\r\n")
        connection.sendall(HEALTH)  # by whose answer the line has been read
        assert read_answer(connection)[0] == 200
        connection.sendall(b"\r\n")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert [protocol._since for protocol in connections(server)] == [None]


def test_a_fault_of_ours_while_a_head_is_read_ends_the_connection_and_is_logged(
    server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no invalid request, and nobody is left waiting."""

    def fail(*_: object) -> None:
        raise LookupError("hidden")

    monkeypatch.setattr(direct, "read", fail)
    with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=DEADLINE) as connection:
        connection.sendall(request(b'{"records": [{}]}'))
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    told = [vars(record)["members"] for record in caplog.records if record.message == "a request failed"]
    assert [members["error"] for members in told] == ["LookupError"]
    assert "hidden" not in str(told)


@pytest.mark.parametrize("split", [None, 20])
def test_a_connection_is_not_idle_while_it_is_answered(server: uvicorn.Server, split: int | None) -> None:
    """Neither where the request before was refused in the same packet, nor where its end brought the beginning of this one."""
    lines = b"".join(json.dumps(GOOD).encode() + b"\n" for _ in range(5000))
    head = b"POST /score?explain=all HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
    before = WHOLE if split else request(b"{bad")
    sent = head % len(lines) + lines
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        connection.settimeout(DEADLINE)
        connection.connect(server.servers[0].sockets[0].getsockname())
        connection.sendall(before + sent[:split])
        if split:
            read_answer(connection)
            connection.sendall(sent[split:])
        wait_for(lambda: any(p._since is None and p.cycle and not p.cycle.response_complete for p in connections(server)))
        for later in (60.0, 61.0):
            for protocol in connections(server):
                protocol.loop.call_soon_threadsafe(protocol.check_time, protocol.loop.time() + later)
        text = b""
        while not text.endswith(b"\r\n0\r\n\r\n"):
            text += (part := connection.recv(1 << 16))
            assert part, "cut off"
        assert text.count(b'{"score":') == 5000


def connections(server: uvicorn.Server) -> list[LimitedProtocol]:
    """Those that are open."""
    return [protocol for protocol in list(server.server_state.connections) if isinstance(protocol, LimitedProtocol)]
