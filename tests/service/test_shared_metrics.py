"""What several workers have counted is told as one, whichever of them is asked and whatever becomes of them."""

import asyncio
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import shared_metrics
from service.metrics import Metrics
from service.settings import SettingsError
from service.shared_metrics import FOLDER, SharedMetrics, shared_folder, write_replaced
from service.supervisor import AGAIN_SECONDS
from tests.service.conftest import Serve
from tests.service.test_http_protocol import BODY, DEADLINE, WHOLE, read_answer, serving

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
VERSION = "20260101T000000Z-made01"
MODEL = {"model": "tiny", "version": VERSION}


def samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def told(worker: SharedMetrics, name: str, **labels: str) -> float | None:
    return samples(asyncio.run(worker.text()).decode()).get((name, frozenset(labels.items())))


def one(folder: Path, records: int = 0) -> tuple[Metrics, SharedMetrics]:
    metrics = Metrics()
    metrics.served = lambda: [("tiny", VERSION, "surprise", "CPUExecutionProvider")]
    count(metrics, records)
    return metrics, SharedMetrics(folder, metrics)


def count(metrics: Metrics, records: int) -> None:
    if records:
        metrics.counts("tiny", VERSION).count(np.full(records, 2.5, np.float32), np.full(records, 0.3), 1, {"missing": records})
    metrics.stages["total"].observe(np.array([0.01]))


def die(worker: SharedMetrics) -> None:
    """As the end of its process would."""
    os.close(worker._lock)


def test_workers_that_were_replaced_are_told_by_their_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (_, a), (_, b) = one(tmp_path), one(tmp_path)
    assert told(a, "anomaly_workers_replaced_total") == 0
    for n in (1, 2):
        write_replaced(n)
        assert [told(worker, "anomaly_workers_replaced_total") for worker in (a, b)] == [n, n]


def test_counts_are_summed_and_gauges_by_their_rule(tmp_path: Path) -> None:
    (first, a), (second, b) = one(tmp_path, 3), one(tmp_path, 4)
    first.queue_rows, second.queue_rows = lambda: 10, lambda: 5
    asyncio.run(a.write())
    for name, labels, value in (
        ("anomaly_records_total", {**MODEL, "outcome": "normal"}, 5),
        ("anomaly_records_total", {**MODEL, "outcome": "anomaly"}, 2),
        ("anomaly_batches_total", {**MODEL, "outcome": "scored"}, 2),
        ("anomaly_warnings_total", {**MODEL, "code": "missing"}, 7),
        ("anomaly_score_bucket", {**MODEL, "le": "2"}, 0),
        ("anomaly_score_bucket", {**MODEL, "le": "3"}, 7),
        ("anomaly_score_count", MODEL, 7),
        ("anomaly_score_sum", MODEL, 17.5),
        ("anomaly_request_seconds_count", {"stage": "total"}, 2),
        ("anomaly_queue_rows", {}, 15),
        ("anomaly_model_info", {**MODEL, "score_kind": "surprise", "provider": "CPUExecutionProvider"}, 1),
    ):
        assert told(b, name, **labels) == value, name


def test_of_one_process_the_text_is_the_same(tmp_path: Path) -> None:
    metrics, worker = one(tmp_path, 3)
    mine, alone = samples(asyncio.run(worker.text()).decode()), samples(metrics.text().decode())
    assert mine.keys() == alone.keys()
    assert mine["process_resident_memory_bytes", frozenset()] > 1e6
    changing = {name for name, _ in mine if name.startswith("process_")}
    assert {key: n for key, n in mine.items() if key[0] not in changing} == {
        key: n for key, n in alone.items() if key[0] not in changing
    }


def test_whoever_is_asked_next_tells_no_less(tmp_path: Path) -> None:
    (first, a), (second, b) = one(tmp_path, 1), one(tmp_path, 1)
    seen = []
    for metrics, worker in [(first, a), (second, b)] * 10:
        count(metrics, 2)
        seen.append(told(worker, "anomaly_score_count", **MODEL) or 0)
    assert seen == sorted(seen)
    assert seen[-1] == 42


def test_one_that_is_cancelled_while_it_writes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a process: nobody writes beside its thread."""
    _, worker = one(tmp_path, 1)
    writing, go_on, write, at_once = threading.Event(), threading.Event(), shared_metrics._write, list[int]()

    def slow(path: Path, families: Any) -> None:
        at_once.append(1)
        writing.set()
        assert go_on.wait(20)
        assert len(at_once) == 1
        write(path, families)
        at_once.pop()

    monkeypatch.setattr(shared_metrics, "_write", slow)

    async def work() -> None:
        first = asyncio.create_task(worker.write())
        await asyncio.to_thread(writing.wait, 20)
        first.cancel()
        second = asyncio.create_task(worker.write())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(work())
    assert told(worker, "anomaly_score_count", **MODEL) == 1


def test_what_a_dead_worker_counted_remains_and_the_next_one_counts_on(tmp_path: Path) -> None:
    (first, a), (_, b) = one(tmp_path, 3), one(tmp_path, 4)
    first.queue_rows = lambda: 10
    assert told(a, "anomaly_queue_rows") == 10
    die(a)
    assert (told(b, "anomaly_score_count", **MODEL), told(b, "anomaly_queue_rows")) == (7, 0)
    for births in range(1, 4):
        _, c = one(tmp_path, 1)
        assert told(c, "anomaly_score_count", **MODEL) == told(b, "anomaly_score_count", **MODEL) == 7 + births
        die(c)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_the_gauges_of_a_dead_worker_are_not_its_heirs(tmp_path: Path) -> None:
    first, a = one(tmp_path, 3)
    first.queue_rows = lambda: 10
    asyncio.run(a.write())
    die(a)
    _, b = one(tmp_path, 1)
    assert (told(b, "anomaly_score_count", **MODEL), told(b, "anomaly_queue_rows")) == (4, 0)


def test_a_version_that_one_worker_no_longer_has_keeps_its_counts(tmp_path: Path) -> None:
    (first, a), (_, b) = one(tmp_path, 3), one(tmp_path, 4)
    asyncio.run(b.write())
    first.forget("tiny", VERSION)
    assert told(a, "anomaly_score_count", **MODEL) == 7
    count(first, 2)  # it is loaded again
    assert told(a, "anomaly_score_count", **MODEL) == 9
    for i in range(40):
        first.counts("tiny", f"v{i}")
        first.forget("tiny", f"v{i}")
    assert len(first.retired) < 10


def test_the_service_tells_what_the_others_counted(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    client = serve()
    for _ in range(2):
        client.post("/score", content=BODY)
    client.run(client.app.shared_metrics.write())
    text = samples(serve().get("/metrics").text)
    assert text["anomaly_reloads_total", frozenset({("model", "tiny"), ("result", "loaded")})] == 2
    assert text["anomaly_reloads_total", frozenset({("model", "tiny"), ("result", "refused")})] == 0
    assert text["anomaly_errors_total", frozenset({("code", "internal_error")})] == 0
    assert text["anomaly_model_requests_total", frozenset({*MODEL.items(), ("outcome", "answered")})] == 2


def test_the_last_counts_of_a_worker_that_ends_in_order_are_told(tmp_path: Path) -> None:
    (first, a), (_, b) = one(tmp_path, 3), one(tmp_path, 4)
    asyncio.run(a.write())
    count(first, 5)
    asyncio.run(a.close())
    assert told(b, "anomaly_score_count", **MODEL) == 12


def test_a_folder_that_cannot_be_written_to_is_told_once(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr("service.shared_metrics.WRITE_SECONDS", 0.001)
    client = serve()
    real, tries = Path.replace, []

    def full(path: Path, target: Path) -> Path:
        tries.append(path)
        raise OSError(28, "No space left on device")

    async def tried() -> None:
        async with asyncio.timeout(DEADLINE):
            while len(tries) < 3:
                client.app.metrics.errors["queue_full"] += 1
                await asyncio.sleep(0.001)

    _, other = one(tmp_path)
    queue_full = ("anomaly_errors_total", frozenset({("code", "queue_full")}))
    before = samples(client.get("/metrics").text)[queue_full]
    monkeypatch.setattr("service.shared_metrics.Path.replace", full)
    client.run(tried())
    client.app.permits.taken = 7
    for _ in range(2):
        now = samples(client.get("/metrics").text)
        assert now[queue_full] == before == told(other, "anomaly_errors_total", code="queue_full")  # none goes back
        assert now["anomaly_queue_rows", frozenset()] == 7
    assert client.get("/health").status_code == 200
    monkeypatch.setattr("service.shared_metrics.Path.replace", real)
    assert client.get("/metrics").status_code == 200
    lines = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert lines.count("the metrics of this worker cannot be written for the others") == 2  # by each


def test_without_a_place_to_write_the_service_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("service.shared_metrics.tempfile.mkdtemp", none)
    with pytest.raises(SettingsError, match="TMPDIR"), shared_folder():
        raise AssertionError


def test_without_a_folder_of_memory_there_is_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.shared_metrics.MEMORY", tmp_path / "none")
    with shared_folder():
        folder = Path(os.environ[FOLDER])
        assert folder.is_dir()
    assert not folder.exists()


class Asked:
    """A served process with several workers: each call is a connection of its own, which any of them may take."""

    def __init__(self, port: int) -> None:
        self._port, self.sent, self.seen = port, 0, list[float]()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[str, str]:
        """Which worker answered, by the first part of its request ids, and the body."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == 200, text
            return str(answer.headers["x-request-id"]).split("-")[0], text
        finally:
            connection.close()

    def score(self) -> str:
        """Which worker scored a record."""
        worker, _ = self.ask("POST", "/score", BODY)
        self.sent += 1
        return worker

    def total(self) -> tuple[str, float]:
        """Which worker told its sum of the records, and the sum."""
        worker, text = self.ask("GET", "/metrics")
        total = sum(value for (name, _), value in samples(text).items() if name == "anomaly_records_total")
        self.seen.append(total)
        return worker, total


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while True:
        with suppress(ConnectionError, HTTPException):  # nobody listens yet, or no longer
            if condition():
                return
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def workers_of(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def folder_of(worker: int) -> Path:
    environment = dict(line.split("=", 1) for line in Path(f"/proc/{worker}/environ").read_text().split("\0") if "=" in line)
    return Path(environment[FOLDER])


def test_two_processes_tell_the_sum_and_go_on_where_one_is_killed(bundle_dir: Path) -> None:
    """Also that several workers serve on one port at all, and end in order."""
    with serving(bundle_dir, "--workers", "2", log_requests="false") as server:
        asked, scored, telling = Asked(server.port), set[str](), set[str]()

        def tells_all() -> bool:
            worker, total = asked.total()
            if total == asked.sent:
                telling.add(worker)
            return len(telling) == 2

        wait_for(lambda: scored.add(asked.score()) or len(scored) == 2)
        wait_for(tells_all)
        assert telling == scored
        victim = workers_of(server.process.pid)[0]
        folder = folder_of(victim)
        assert folder.stat().st_mode & 0o777 == 0o700
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: scored.add(asked.score()) or len(scored) == 3)
        telling.clear()
        wait_for(tells_all)
        assert samples(asked.ask("GET", "/metrics")[1])["anomaly_workers_replaced_total", frozenset()] == 1
        assert asked.seen == sorted(asked.seen)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0
        assert not folder.exists()
        assert server.process.stderr is not None
        (told,) = [line for line in map(json.loads, server.process.stderr) if line["event"] == "worker replaced"]
        assert (told["level"], told["pid"], told["reason"]) == ("warning", str(victim), "signal 9 (Killed)")


def test_workers_end_with_their_supervisor(bundle_dir: Path) -> None:
    """However it ended: workers that nobody replaces or stops would keep the port."""
    with serving(bundle_dir, "--workers", "2", log_requests="false") as server:
        asked, started = Asked(server.port), set[str]()
        wait_for(lambda: started.add(asked.score()) or len(started) == 2)
        workers = workers_of(server.process.pid)
        folder = folder_of(workers[0])
        server.process.kill()
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
        assert not folder.exists()


def test_the_connections_of_one_client_are_shared_out(bundle_dir: Path) -> None:
    """Though all are opened at once, before anything is asked: a client that keeps them keeps both workers busy."""
    with serving(bundle_dir, "--workers", "2", log_requests="false") as server:
        asked = Asked(server.port)
        started = set[str]()
        wait_for(lambda: started.add(asked.score()) or len(started) == 2)

        def are_shared() -> bool:
            with ExitStack() as stack:
                connections = [stack.enter_context(server.connect()) for _ in range(16)]
                for connection in connections:
                    connection.sendall(WHOLE)
                answered = Counter(read_answer(connection)[1]["x-request-id"].split("-")[0] for connection in connections)
            return len(answered) == 2 and min(answered.values()) >= 4

        assert sum(are_shared() for _ in range(12)) >= 5  # a worker may have to wait for a processor


def unread(keys: Path) -> str:
    return f"{keys}: the file of keys cannot be read: No such file or directory"


def test_what_no_worker_could_start_with_ends_the_start(bundle_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "serve", "--workers", "2", "--port", "0", "--models-dir", str(bundle_dir)]
    environment = {**os.environ, "ANOMALY_API_KEYS_FILE": str(tmp_path / "none")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr == f"python -m service serve: {unread(tmp_path / 'none')}\n"


def test_a_worker_that_cannot_start_is_tried_again_now_and_then(bundle_dir: Path, tmp_path: Path) -> None:
    """Its reason is told in a line each time, and the others go on meanwhile."""
    keys = tmp_path / "keys"
    keys.write_text("secret")
    with serving(bundle_dir, "--workers", "2", api_keys_file=str(keys), reload_seconds="60") as server:
        started = set[str]()
        wait_for(lambda: started.add(Asked(server.port).ask("GET", "/health/ready")[0]) or len(started) == 2)
        keys.unlink()
        first, victim = workers_of(server.process.pid)
        os.kill(victim, signal.SIGKILL)
        assert server.process.stderr is not None
        lines = map(json.loads, server.process.stderr)
        told = list[dict[str, str]]()
        while sum(line["event"] == "worker replaced" for line in told) < 2:
            told.append(next(lines))
        assert [line["level"] for line in told if line["event"] == unread(keys)] == ["error"]
        first_try, second_try = (datetime.fromisoformat(line["time"]) for line in told if line["event"] == "worker replaced")
        assert (second_try - first_try).total_seconds() > AGAIN_SECONDS - 1
        assert samples(Asked(server.port).ask("GET", "/metrics")[1])["anomaly_workers_replaced_total", frozenset()] >= 2
        assert {line["reason"] for line in told if line["event"] == "worker replaced"} == {
            "signal 9 (Killed)",
            "exit code 2",
        }
        keys.write_text("secret")
        wait_for(lambda: any(worker not in (first, victim) for worker in workers_of(server.process.pid)))
        assert first in workers_of(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0


def test_a_supervisor_waits_for_no_reader_of_the_log(bundle_dir: Path) -> None:
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "service", "serve", "--workers", "2", "--port", "0", "--models-dir", str(bundle_dir)]
    with subprocess.Popen(command, stderr=theirs) as process:
        try:
            wait_for(lambda: len(workers_of(process.pid)) == 2)
            while select.select([], [theirs], [], 0)[1]:  # the pipe is full, and makes its writers wait
                os.write(theirs, b"-" * select.PIPE_BUF)
            victim = workers_of(process.pid)[0]
            os.kill(victim, signal.SIGKILL)  # its end is told
            wait_for(lambda: len(workers_of(process.pid)) == 2 and victim not in workers_of(process.pid))
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


def test_streams_that_the_caller_closed_are_nobody_else_s(bundle_dir: Path) -> None:
    """What is opened next would have their numbers: the lines of the log went into the pipe of a worker and its supervisor."""
    words = f"-m service serve --workers 2 --port 0 --models-dir {shlex.quote(str(bundle_dir))}"
    command = f"exec 0<&- 1>&- 2>&-; exec {shlex.quote(sys.executable)} {words}"
    with subprocess.Popen(["/bin/sh", "-c", command]) as process:
        try:
            wait_for(lambda: len(workers_of(process.pid)) == 2)
            every = [process.pid, *workers_of(process.pid)]
            for each in every:
                assert [Path(f"/proc/{each}/fd/{number}").readlink() for number in (0, 1, 2)] == [Path("/dev/null")] * 3
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
