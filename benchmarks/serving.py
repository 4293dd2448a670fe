"""The speed of the service over HTTP, as ratios to what runs beside it: only those travel from one machine to another.

    python benchmarks/serving.py                                            about 6 minutes
    python benchmarks/serving.py --quick --models-dir .demo/serving         a minute; keeps its model for the next run

Trains a model of 30 numeric features, then loads, one after another in every round, with wrk on another core than the servers':
the service, with its defaults but for wide limits and with an API key; a bare ASGI echo of as many bytes; plain FastAPI around
the same graph (both in benchmarks/beside.py); and runs the graph alone in this process, on one thread: the model's limit.
Also measured: the first answer after the start, memory, /health and a single record beside bodies of 10,000, two workers beside
one, and a Parquet file through `python -m service score`. Medians over the rounds; the last line is one JSON object.
Needs Linux, two cores, and wrk (a package of that name). Whatever else runs on the machine spoils the figures: others_busy.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from beside import NAMES
from numpy.typing import NDArray

from service.bundle import Bundle, current_version, read_bundle
from service.session import Session

HERE, ROOT = Path(__file__).parent, Path(__file__).parent.parent
JSON, ARROW, KEY = "application/json", "application/vnd.apache.arrow.stream", "bench-key"
CORES = sorted(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
LIMITS = {"MAX_RECORDS": "20000", "MAX_BODY_BYTES": str(64 << 20), "QUEUE_ROWS": "200000", "API_KEYS": KEY, "PROVIDER": "cpu"}
SCRIPT = """
local file, bodies, at = io.open(os.getenv("BODIES"), "rb"), {}, 0
for size in file:read("*l"):gmatch("%d+") do bodies[#bodies + 1] = file:read(tonumber(size)) end
wrk.method, wrk.headers = "POST", {["Content-Type"] = os.getenv("KIND"), ["X-API-Key"] = os.getenv("KEY")}
request = function() at = at % #bodies + 1; return wrk.format(nil, nil, nil, bodies[at]) end
done = function(all, latency)
  local wrong = all.errors.status + all.errors.connect + all.errors.read + all.errors.timeout
  io.write(string.format("\\nRESULT [%d, %d, %d, %d, %d]\\n",
    all.requests, wrong, all.duration, latency:percentile(50), latency:percentile(99)))
end
"""
Cell = dict[str, float]


@dataclass
class Load:
    """A workload: bodies of so many records, posted in turn on so many connections."""

    name: str
    rows: int
    connections: int
    plain: str | None  # its path on the plain application; None: that has nothing like it
    bodies: list[bytes]
    kind: str = JSON


class Server:
    """A process in a process session of its own, so that its workers are found, too."""

    def __init__(self, name: str, words: Sequence[str], environment: dict[str, str], cores: set[int], log: Path) -> None:
        self.name, self.port, self._log, self._began = name, _free_port(), log, time.perf_counter()
        command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", *words, "--port", str(self.port)]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ANOMALY_")}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**clean, **environment}, stdout=out, stderr=out, start_new_session=True
            )

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = JSON) -> tuple[int, bytes]:
        """Status and body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": kind, "X-API-Key": KEY})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def wait(self, path: str, body: bytes) -> float:
        """Seconds from the start of the process to its first 200."""
        while self.process.poll() is None and time.perf_counter() - self._began < 60:
            try:
                if self.ask("POST", path, body)[0] == 200:
                    return time.perf_counter() - self._began
            except OSError:
                time.sleep(0.005)
        raise SystemExit(f"{self.name} did not start:\n{self._log.read_text()[-2000:]}")

    def used(self) -> tuple[float, float]:
        """Its CPU seconds, and its resident MiB."""
        seconds = pages = 0.0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:  # it has just ended
                continue
            if int(fields[3]) == self.process.pid:
                seconds, pages = seconds + (int(fields[11]) + int(fields[12])) / TICKS, pages + int(fields[21])
        return seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def load(self, load: Load, folder: Path, seconds: float, connections: int | None = None) -> Cell:
        """What wrk sees of it."""
        path = {"service": "/score", "plain": load.plain}.get(self.name, f"/{load.name}")
        body_file, script = folder / f"{load.name}.bodies", folder / "post.lua"
        if not body_file.exists():
            body_file.write_bytes(" ".join(str(len(body)) for body in load.bodies).encode() + b"\n" + b"".join(load.bodies))
            script.write_text(SCRIPT)
        before = self.used()[0]
        words = ["wrk", "-t1", f"-c{connections or load.connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script)]
        environment = {**os.environ, "BODIES": str(body_file), "KIND": load.kind, "KEY": KEY}
        url = f"http://127.0.0.1:{self.port}{path}"
        done = subprocess.run(
            ["taskset", "-c", str(CORES[-1]), *words, url], env=environment, capture_output=True, text=True, check=True
        )
        line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
        answers, failed, us, p50, p99 = json.loads(line.removeprefix("RESULT "))
        if failed or not answers:
            raise SystemExit(f"{self.name} {load.name}: {failed} of {answers} requests failed\n{self._log.read_text()[-2000:]}")
        cpu = 1e6 * (self.used()[0] - before) / answers
        return {"per_s": 1e6 * answers / us, "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "cpu_us": cpu}


def main() -> None:
    """Measures everything, prints a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, help="keep the model here, and use the one that is here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file-rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="one round, a second a cell, a file of 100,000 rows")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.file_rows = 1, min(options.file_rows, 100_000)
    if not shutil.which("wrk") or len(CORES) < 2:
        parser.error("this needs wrk and two cores")
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(options, Path(name), (options.models_dir or Path(name) / "models").resolve())))


def measure(options: argparse.Namespace, folder: Path, models: Path) -> dict[str, float]:
    """Every figure by its name."""
    bundle = train(folder, models)
    session, loads, seconds = Session(bundle.files["scorer.onnx"], len(NAMES), "cpu"), make_loads(), 1.0 if options.quick else 3.0
    single, bulk = loads["single_1"], loads["records_10000"]
    shared = {f"ANOMALY_{name}": value for name, value in {**LIMITS, "MODELS_DIR": str(models), "MODEL": "bench"}.items()}
    (folder / "answers").mkdir()
    (folder / "scorer.onnx").write_bytes(bundle.files["scorer.onnx"])
    told: dict[str, float] = {}

    def service(workers: int = 1, cores: int = 1) -> Any:
        return running("service", ["service", "serve", "--workers", str(workers)], shared, set(CORES[:cores]), folder)

    def beside(name: str) -> Any:
        words = ["uvicorn", "--factory", f"beside:{name}", "--app-dir", str(HERE), "--no-access-log", "--log-level", "warning"]
        environment = {"ANSWERS": str(folder / "answers"), "GRAPH": str(folder / "scorer.onnx")}
        return running(name, words, environment, set(CORES[:1]), folder)

    starts = []
    for _ in range(2 * options.rounds):
        with service() as server:
            starts.append(server.wait("/score", single.bodies[0]))
    told["start_s"] = statistics.median(starts)
    busy = _busy()
    with service() as server, beside("plain") as plain:
        server.wait("/score", single.bodies[0])
        plain.wait("/score", single.bodies[0])
        for load in loads.values():
            (folder / "answers" / load.name).write_bytes(server.ask("POST", "/score", load.bodies[0], load.kind)[1])
        with beside("echo") as echo:
            echo.wait("/single_1", b"")
            told |= compare(loads, (server, echo, plain), session, folder, options.rounds, seconds)
        for name, method, path, body in (("health", "GET", "/health", b""), ("single", "POST", "/score", single.bodies[0])):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                under_way = pool.submit(server.load, bulk, folder, 4 * seconds, 1)
                times = list(probe(server, method, path, body, under_way.done))
            told[f"{name}_beside_bulk_p99_ms"] = 1e3 * float(np.quantile(times, 0.99))
        told["resident_mib"] = server.used()[1]
    rates = []
    for workers in (1, 2):
        with service(workers, 2) as server:
            server.wait("/score", single.bodies[0])
            cells = [server.load(loads["single_64"], folder, seconds) for _ in range(options.rounds)]
            rates.append(statistics.median(cell["per_s"] for cell in cells))
            told[f"workers_{workers}_cpu_us"] = statistics.median(cell["cpu_us"] for cell in cells)
    told["workers_2_vs_1"] = rates[1] / rates[0]
    told |= score_file(folder, models, session, options.file_rows)
    told["others_busy"] = round(busy(), 2)
    for name, value in told.items():
        print(f"{name:42} {value:12.3f}")
    return {name: round(value, 3) for name, value in told.items()}


def compare(
    loads: dict[str, Load], servers: Sequence[Server], session: Session, folder: Path, rounds: int, seconds: float
) -> dict[str, float]:
    """The service's ratios to the others, each within a round; their medians over the rounds."""
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        for load in loads.values():
            cells = {
                s.name: s.load(load, folder, seconds if load.rows < 10_000 else 8.0)
                for s in servers
                if s.name != "plain" or load.plain
            }
            own, echo, plain = cells["service"], cells["echo"], cells.get("plain")
            found = {"per_s": own["per_s"], "p99_ms": own["p99_ms"], "cpu_us": own["cpu_us"]}
            if plain is not None:
                found["rate_vs_plain"] = own["per_s"] / plain["per_s"]
            if load.rows == 1:
                found |= {f"{key}_vs_echo": own[key] / echo[key] for key in ("per_s", "p50_ms", "p99_ms", "cpu_us")}
            else:
                found["rate_vs_graph_alone"] = own["per_s"] * load.rows / graph_alone(session, load.rows)
            if load.name == "explain_all_1000":
                found["cost_vs_flagged"] = ratios["records_1000_per_s"][-1] / own["per_s"]
            for key, value in found.items():
                ratios.setdefault(f"{load.name}_{key}", []).append(value)
    return {name: statistics.median(values) for name, values in ratios.items()}


def graph_alone(session: Session, rows: int) -> float:
    """Rows a second of the graph, in calls of so many rows, on one thread of the servers' core."""
    x, times, end = make_rows(rows, 1).astype(np.float32), list[float](), time.perf_counter() + 0.5
    os.sched_setaffinity(0, {CORES[0]})
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        session.run(x, explain=False)
        times.append(time.perf_counter() - began)
    os.sched_setaffinity(0, set(CORES))
    return rows / statistics.median(times)


def probe(server: Server, method: str, path: str, body: bytes, done: Callable[[], bool]) -> Iterator[float]:
    """Seconds of a request every 20 ms, each on a connection of its own, until it is done."""
    while not done():
        began = time.perf_counter()
        status, said = server.ask(method, path, body)
        if status != 200:
            raise SystemExit(f"{method} {path} beside bulk: {status} {said[:200]!r}")
        yield time.perf_counter() - began
        time.sleep(0.02)


def score_file(folder: Path, models: Path, session: Session, rows: int) -> dict[str, float]:
    """`python -m service score` of a Parquet file, against reading the file plus the graph alone; and its memory."""
    data, parse = folder / "table.parquet", list[float]()
    part = pa.table(dict(zip(NAMES, make_rows(100_000, 2).T.copy(), strict=True)))
    with pq.ParquetWriter(data, part.schema) as writer:
        for _ in range(max(1, rows // len(part))):
            writer.write_table(part)
    for _ in range(3):
        began = time.perf_counter()
        for batch in pq.ParquetFile(data).iter_batches(8192, use_threads=False):
            np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1).astype(np.float32)
        parse.append(time.perf_counter() - began)
    n = max(1, rows // len(part)) * len(part)
    limit = min(parse) + n / graph_alone(session, 10_000)
    words = [
        "-m",
        "service",
        "score",
        str(data),
        "--model",
        "bench",
        "--models-dir",
        str(models),
        "--output",
        str(folder / "out.parquet"),
    ]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()  # what wait4 tells counts this process's own, too
        peak = max([peak, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit("python -m service score failed")
    return {"file_rows_per_s": n / seconds, "file_vs_parse_and_graph": limit / seconds, "file_peak_mib": peak}


def train(folder: Path, models: Path) -> Bundle:
    """The model, fitted with the product's own command unless it is there."""
    if not (models / "bench" / "CURRENT").exists():
        table = folder / "train.csv"
        np.savetxt(table, make_rows(20_000, 0), "%.6g", ",", header=",".join(NAMES), comments="")
        words = ["-m", "training", "fit", str(table), "--model", "bench", "--models-dir", str(models)]
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return read_bundle(models / "bench" / current_version(models, "bench"))


def make_rows(n: int, seed: int) -> NDArray[np.float64]:
    """(n, 30) correlated numbers of 6 digits, on scales from 0.1 to 1,000, always from the same source."""
    world, random = np.random.default_rng(11), np.random.default_rng(seed + 100)
    mix, scale = world.normal(size=(5, len(NAMES))), 10 ** world.uniform(-1, 3, len(NAMES))
    values = (np.tanh(random.normal(size=(n, 5)) @ mix / 2) + 0.2 * random.normal(size=(n, len(NAMES)))) * scale
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)


def make_loads() -> dict[str, Load]:
    """The workloads by name."""
    pool = make_rows(20_000, 1)

    def records(rows: int, count: int, **more: str) -> list[bytes]:
        tables = (pool[i * rows : (i + 1) * rows].tolist() for i in range(count))
        return [json.dumps({"records": [dict(zip(NAMES, row, strict=True)) for row in t], **more}).encode() for t in tables]

    def columns(rows: int, count: int) -> list[bytes]:
        tables = (pool[i * rows : (i + 1) * rows].T.tolist() for i in range(count))
        return [json.dumps({"columns": dict(zip(NAMES, table, strict=True))}).encode() for table in tables]

    stream = BytesIO()
    table = pa.table(dict(zip(NAMES, pool[:10_000].T.copy(), strict=True)))
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    single = records(1, 4096)
    loads = [Load(f"single_{n}", 1, n, "/score", single) for n in (1, 16, 64)]
    for rows, connections in ((1_000, 4), (10_000, 2)):
        loads.append(Load(f"records_{rows}", rows, connections, "/score", records(rows, 2)))
        loads.append(Load(f"columns_{rows}", rows, connections, "/columns", columns(rows, 2)))
    loads.append(Load("explain_all_1000", 1_000, 4, None, records(1_000, 2, explain="all")))
    loads.append(Load("arrow_10000", 10_000, 2, None, [stream.getvalue()], ARROW))
    return {load.name: load for load in loads}


@contextmanager
def running(name: str, words: Sequence[str], environment: dict[str, str], cores: set[int], folder: Path) -> Iterator[Server]:
    """A server, ended at the end."""
    server = Server(name, words, environment, cores, folder / f"{name}.log")
    try:
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.process.kill()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _busy() -> Callable[[], float]:
    """Asked again later: the share of the machine's CPU time since then that went to others than this process's children."""

    def now() -> tuple[float, float, float]:
        fields = [float(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        own = os.times()
        return sum(fields) / TICKS, (sum(fields) - fields[3] - fields[4]) / TICKS, sum(own[:4])

    then = now()

    def since() -> float:
        whole, worked, own = (after - before for after, before in zip(now(), then, strict=True))
        return max(0.0, worked - own) / whole

    return since


if __name__ == "__main__":
    main()
