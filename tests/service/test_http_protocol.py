"""The served process on real sockets: what only a socket can show."""

import json
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.http_protocol import LimitedProtocol
from tests.service import gpu
from tests.service.tiny_bundle import GOOD
from tests.torture.probed import serving as probed
from tests.torture.probed import until

BODY = json.dumps({"records": [GOOD]}).encode()
POST = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
HEAD_SECONDS, REQUEST_SECONDS = 1.0, 2.0
DEADLINE = 30


class Server:
    """A served process and the port that it said it listens on."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def connect(self) -> socket.socket:
        """A connection, whose reads end after the deadline."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def ask(self, sent: bytes) -> tuple[int, dict[str, str], Any]:
        """One request on a connection of its own: status, headers, document."""
        with self.connect() as connection:
            connection.sendall(sent)
            return read_answer(connection)


@contextmanager
def serving(models_dir: Path, *words: str, **settings: str) -> Iterator[Server]:
    environment = {
        **os.environ,
        "ANOMALY_PROVIDER": "cpu",
        **{f"ANOMALY_{name.upper()}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--models-dir", str(models_dir), *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                found = re.search(r"running on http://127.0.0.1:(\d+)", line)
                if found:
                    break
            else:
                raise AssertionError(f"the service ended with {process.wait()}")
            yield Server(process, int(found[1]))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(bundle_dir: Path) -> Iterator[Server]:
    with serving(
        bundle_dir, head_seconds=str(HEAD_SECONDS), request_seconds=str(REQUEST_SECONDS), max_body_bytes="100000"
    ) as started:
        yield started


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and document of the next answer on a connection."""
    text = b""
    while b"\r\n\r\n" not in text:
        part = connection.recv(65536)
        assert part, f"closed after {text!r}"
        text += part
    head, body = text.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, json.loads(body)


def check_refusal(answer: tuple[int, dict[str, str], Any], status: int, code: str) -> None:
    assert (answer[0], answer[2]["code"], answer[2]["status"]) == (status, code, status)
    assert answer[1]["content-type"] == "application/problem+json"
    assert answer[1]["x-request-id"] == answer[2]["request_id"]


def test_a_whole_request_is_answered_and_the_connection_stays(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(WHOLE)
            status, headers, document = read_answer(connection)
            assert (status, document["model"]) == (200, "tiny")
            assert "server" not in headers


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"".join(WHOLE.replace(b"Host: x", b"X-Request-ID: r%d" % i) for i in range(5)))
        text = b""
        while text.count(b"HTTP/1.1 200") < 5 or not text.endswith(b"]}"):
            text += connection.recv(65536)
        assert [int(i) for i in re.findall(rb"x-request-id: r(\d)", text)] == [0, 1, 2, 3, 4]


def test_what_does_not_arrive_is_a_408(server: Server) -> None:
    """Nothing at all, half a head, half a body, or either behind a whole request: all wait at once."""
    halves = (
        b"",
        b"POST /sco",
        POST,
        POST + b"X-Slow: ",
        POST + b"Content-Length: 100\r\n\r\n{",
        WHOLE + WHOLE[:-1],
        WHOLE + POST,
    )
    began = time.monotonic()
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in halves]
        for connection, sent in zip(connections, halves, strict=True):
            connection.sendall(sent)
            if sent.startswith(WHOLE):
                assert read_answer(connection)[0] == 200
        assert select.select(connections, [], [], DEADLINE)[0]
        assert time.monotonic() - began >= HEAD_SECONDS
        for connection in connections:
            check_refusal(read_answer(connection), 408, "request_timeout")
            assert connection.recv(1) == b""


def test_a_drop_at_a_time_does_not_buy_more_time(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(POST + b"Content-Length: 100000\r\n\r\n")
        connection.settimeout(0.1)
        text = b""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                connection.sendall(b" ")
                text += connection.recv(65536)
                break
            except TimeoutError:
                continue
        assert b" 408 " in text


def test_an_idle_connection_between_requests_may_wait(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(WHOLE)
        assert read_answer(connection)[0] == 200
        connection.settimeout(HEAD_SECONDS + 1.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(DEADLINE)
        connection.sendall(WHOLE)
        assert read_answer(connection)[0] == 200


@pytest.mark.parametrize("ends", [True, False])
def test_a_head_that_is_too_large_is_a_431(server: Server, ends: bool) -> None:
    flood = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 100) for i in range(400))
    check_refusal(server.ask(POST + flood + (b"Content-Length: 0\r\n\r\n" if ends else b"")), 431, "head_too_large")
    check_refusal(server.ask(b"GET /" + b"a" * 40_000 + (b" HTTP/1.1\r\n\r\n" if ends else b"")), 431, "head_too_large")


def test_a_head_just_small_enough_passes(server: Server) -> None:
    filler = b"X-Filler: " + b"a" * 30_000 + b"\r\n"
    assert server.ask(POST + filler + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)[0] == 200
    large = b'{"records": [' + b"{}," * 20_000 + b"{}]}"
    assert server.ask(POST + b"Content-Length: %d\r\n\r\n" % len(large) + large)[0] == 413  # by records, not by its head


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Server) -> None:
    check_refusal(server.ask(POST + b"Content-Length: 100001\r\n\r\n"), 413, "body_too_large")
    with server.connect() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(11):
            connection.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        check_refusal(read_answer(connection), 413, "body_too_large")


def test_a_limit_below_the_size_that_is_scored_at_once_holds(bundle_dir: Path) -> None:
    """Whichever way the body comes, and where its head came before."""
    small, large = json.dumps({"records": [{}]}).encode(), json.dumps({"records": [GOOD] * 100}).encode()
    with serving(bundle_dir, max_body_bytes="1024", log_requests="false") as server:
        for path in (b"/score", b"/models/tiny/score"):
            for framed in (lambda body: POST + b"Content-Length: %d\r\n\r\n" % len(body) + body, chunked):
                for body, status in ((small, 200), (large, 413), (large, 413)):
                    answer = server.ask(framed(body).replace(b"/score", path))
                    assert answer[0] == status
                    if status == 413:
                        check_refusal(answer, 413, "body_too_large")


def test_chunked_bodies_are_answered(server: Server) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    assert server.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)[0] == 200


def test_100_continue_is_sent_only_for_bodies_that_are_wanted(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(BODY)
        assert read_answer(connection)[0] == 200
    check_refusal(server.ask(POST + b"Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n"), 413, "body_too_large")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /score HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /score HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /score HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /score HTTP/1.1\r\nX Y: z\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_no_http_is_a_400(server: Server, sent: bytes) -> None:
    check_refusal(server.ask(sent), 400, "invalid_http")


def chunked(body: bytes, trailer: bytes = b"") -> bytes:
    return POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)


def counted(server: Server, line: str) -> float:
    with server.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b""
        while more := connection.recv(65536):
            text += more
    found = re.search(rf"^{re.escape(line)} (\S+)$", text.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("split", [False, True])
def test_a_wish_for_another_protocol_is_not_granted_and_smuggles_nothing_in(server: Server, split: bool) -> None:
    wish = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    inner = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as connection:
        for body, code in ((BODY, 200), (inner, 400), (BODY, 200)):
            head = wish + b"Content-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head if split else head + body)
            if split:
                time.sleep(0.01)  # two packets
                connection.sendall(body)
            status, _, document = read_answer(connection)
            assert status == code
            assert document.get("code") == (None if code == 200 else "invalid_json")
        connection.sendall((wish + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY) * 3)
        text = b""
        while text.count(b"HTTP/1.1 200") < 3 or not text.endswith(b"]}"):
            text += connection.recv(65536)


def test_lines_after_the_last_chunk_are_no_headers(server: Server) -> None:
    assert server.ask(chunked(BODY, b"Content-Encoding: gzip\r\nContent-Type: text/plain\r\n"))[0] == 200
    with server.connect() as connection:
        connection.sendall(chunked(BODY)[:-2])
        with suppress(OSError):  # it may end while more is sent
            for _ in range(100):
                connection.sendall(b"X-A: " + b"a" * 65536 + b"\r\n")
        check_refusal(read_answer(connection), 431, "head_too_large")


def test_what_is_refused_is_not_answered_before_what_came_earlier(server: Server) -> None:
    for first in (WHOLE, chunked(BODY)):
        for bad in (b"nonsense\r\n\r\n", b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n", chunked(BODY)[:-5] + b"zz\r\n"):
            with server.connect() as connection:
                connection.sendall(first + bad)
                status, _, document = read_answer(connection)
                assert (status, document["model"]) == (200, "tiny")
                with suppress(ConnectionResetError):
                    assert connection.recv(12) in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431")


def test_one_request_has_one_answer(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(POST + b"Content-Length: 100001\r\n\r\n")
        check_refusal(read_answer(connection), 413, "body_too_large")
        assert connection.recv(65536) == b""  # the body is late, and has had its answer


def test_refusals_of_the_connection_itself_are_counted_and_logged(bundle_dir: Path, tmp_path: Path) -> None:
    with probed(tmp_path, bundle_dir, log_requests=True) as served:
        server = Server(served.process, served.port)
        check_refusal(server.ask(b"GET /a\x01 HTTP/1.1\r\n\r\n"), 400, "invalid_http")
        check_refusal(server.ask(b"GET /" + b"a" * 40_000), 431, "head_too_large")
        assert counted(server, 'anomaly_errors_total{code="invalid_http"}') == 1
        assert counted(server, 'anomaly_errors_total{code="head_too_large"}') == 1
        assert counted(server, 'anomaly_requests_total{method="OTHER",route="other",status="431"}') == 1
        until(lambda: '"status":431' in served.log())
        line = next(json.loads(line) for line in served.log().splitlines() if '"status":431' in line)
        assert line["path"] == "-"


def test_a_client_that_does_not_take_its_answer_is_left(bundle_dir: Path, tmp_path: Path) -> None:
    with probed(tmp_path, bundle_dir, request_seconds=1) as served:
        until(lambda: served.descriptors() > 10)
        before = served.descriptors()
        body = json.dumps({"records": [GOOD] * 9000, "explain": "all"}).encode()
        head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        with socket.socket() as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.connect(("127.0.0.1", served.port))
            own.sendall(head + body)
            assert until(lambda: served.descriptors() > before)
            assert until(lambda: served.descriptors() <= before)
        assert Server(served.process, served.port).ask(WHOLE)[0] == 200


def test_a_client_that_takes_enough_in_time_is_not_too_slow() -> None:
    left = [1_000_000]
    protocol: Any = LimitedProtocol.__new__(LimitedProtocol)
    protocol._untaken, protocol._request_seconds = None, 10.0
    protocol.transport = SimpleNamespace(get_write_buffer_size=lambda: left[0])
    protocol.flow = SimpleNamespace(resume_writing=lambda: None)
    for now in range(0, 100, 9):  # on average 1,138 bytes a second
        assert not protocol._too_slow(float(now))
        left[0] -= 10_240
    assert not protocol._too_slow(108.0)
    left[0] -= 10_239
    assert protocol._too_slow(119.0)
    protocol.resume_writing()  # it has taken nearly all: what comes next has its own time
    assert not protocol._too_slow(120.0)


def test_pipelining_clients_that_vanish_are_no_fault_of_ours(bundle_dir: Path, tmp_path: Path) -> None:
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" + chunked(BODY) + WHOLE
    with probed(tmp_path, bundle_dir, request_seconds=1) as served:
        until(lambda: served.descriptors() > 10)
        before = served.descriptors()
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", served.port)) as own:
                own.sendall(asked * 60)
        assert until(lambda: served.descriptors() <= before)
        assert Server(served.process, served.port).ask(WHOLE)[0] == 200
        assert '"error"' not in served.log()


def test_clients_that_vanish_leave_nothing_behind(server: Server) -> None:
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for cut in range(0, len(WHOLE), 7):
        with server.connect() as connection:
            connection.sendall(WHOLE[:cut])
    end = time.monotonic() + DEADLINE
    while len(list(descriptors.iterdir())) > before + 5 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(list(descriptors.iterdir())) <= before + 5  # clients of other tests may still be there, or gone
    assert server.ask(WHOLE)[0] == 200


def test_a_signal_ends_the_process_in_order_and_loses_nothing(bundle_dir: Path) -> None:
    with serving(bundle_dir) as server, server.connect() as connection, server.connect() as idle:
        connection.sendall(WHOLE[:-1])
        assert server.ask(b"GET /health HTTP/1.1\r\n\r\n")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        connection.sendall(WHOLE[-1:])
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert server.process.wait(DEADLINE) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_keeps_it_from_starting_is_told_without_a_traceback(bundle_dir: Path, workers: str) -> None:
    command = [sys.executable, "-m", "service", "serve", "--models-dir", str(bundle_dir), "--workers", workers]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([*command, "--port", port], capture_output=True, text=True, check=False, timeout=DEADLINE)
    told = f"python -m service serve: cannot listen on 127.0.0.1, port {port}: address already in use; choose another "
    assert (ended.returncode, ended.stderr.startswith(told), len(ended.stderr.splitlines())) == (2, True, 1)


@gpu.absent
@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_a_gpu_asking_for_one_is_an_error_at_start(bundle_dir: Path, workers: str) -> None:
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--models-dir", str(bundle_dir), "--workers", workers]
    environment = {**os.environ, "ANOMALY_PROVIDER": "cuda"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert (ended.returncode, "provider cuda" in ended.stderr, "Traceback" in ended.stderr) == (2, True, False)


def test_the_plain_uvicorn_command_serves_the_same_application(bundle_dir: Path) -> None:
    environment = {**os.environ, "ANOMALY_PROVIDER": "cpu", "ANOMALY_MODELS_DIR": str(bundle_dir)}
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--port", "0", "--no-use-colors"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = next(found[1] for line in process.stderr if (found := re.search(r"running on http://127.0.0.1:(\d+)", line)))
            assert Server(process, int(port)).ask(WHOLE)[0] == 200
        finally:
            process.kill()


def reset(connection: socket.socket) -> None:
    """Ends a connection without a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_connections_that_wait_are_accepted_together(bundle_dir: Path) -> None:
    """Else each would have a turn of the event loop, and a run of the graph, of its own."""
    with serving(bundle_dir, log_requests="false") as server, ExitStack() as stack:
        server.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(50):
                reset(server.connect())
            connections = [stack.enter_context(server.connect()) for _ in range(200)]
            for connection in connections:
                connection.sendall(WHOLE)
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert {read_answer(connection)[0] for connection in connections} == {200}
        with server.connect() as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        server.process.terminate()
        assert server.process.stderr is not None
        assert all(line.startswith("{") for line in server.process.stderr)
    runs = next(line for line in text.splitlines() if line.startswith("anomaly_batches_total") and 'outcome="scored"' in line)
    assert float(runs.split()[-1]) < 50


def test_connections_that_cannot_be_accepted_for_want_of_descriptors_are_told_once(bundle_dir: Path) -> None:
    with serving(bundle_dir, log_requests="false") as server, ExitStack() as stack:
        _, most = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (64, most))
        for _ in range(100):
            stack.enter_context(server.connect())
        assert server.process.stderr is not None
        assert any("too many open connections" in line for line in server.process.stderr)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (most, most))

        def answers() -> bool:
            with suppress(ConnectionError):  # libuv closes all that wait when it finds no descriptor, perhaps still this one
                return bool(server.ask(WHOLE)[0] == 200)
            return False

        assert until(answers)
        server.process.terminate()
        assert not any("too many open connections" in line for line in server.process.stderr)
