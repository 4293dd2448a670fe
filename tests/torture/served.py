"""A real `python -m service serve`, with its log in a file."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from service.bundle import current_version
from service.manifest import CURRENT

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "models" / "example"
DEADLINE = 60.0
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
ADMIN = {"X-API-Key": "root"}


class Served:
    """The process (with several workers: their supervisor) and the port that it listens on."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log, self.port = process, log, 0

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def find_port(self) -> None:
        """Waits for the line that tells it."""
        wait_for(lambda: self.process.poll() is not None or self._told_port(), "a port in the log")
        self.port = self._told_port()
        assert self.port, f"the service ended with {self.process.poll()}:\n{self.log()[-2000:]}"

    def _told_port(self) -> int:
        found = re.search(r"running on http://127.0.0.1:(\d+)", self.log())
        return int(found[1]) if found else 0

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and document of one answer, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if "json" in answer.headers["Content-Type"] else content.decode()
        finally:
            connection.close()

    def answers(self, path: str, status: int = 200) -> bool:
        """Whether a GET gets this status; False while nobody listens."""
        try:
            return self.ask("GET", path)[0] == status
        except OSError:
            return False

    def wait_until_ready(self) -> None:
        """Waits for its first 200 of /health/ready."""
        wait_for(lambda: self.process.poll() is not None or self.answers("/health/ready"), "the service to be ready")
        assert self.process.poll() is None, self.log()[-2000:]

    def mib(self) -> float:
        """Its resident memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_MIB

    def cpu_seconds(self) -> float:
        """What it has used of the CPU."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def workers(self) -> list[int]:
        """The processes that it has started and that are there, but for multiprocessing's own."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # it has just ended
                continue
        return sorted(found)


@contextmanager
def served(models: Path, log: Path, *words: str, port: int = 0, writes: bool = True, **settings: object) -> Iterator[Served]:
    """A service of these models, ended at the end; settings by name, other variables in capitals.

    Where it may not write, each write to a file fails, as on a full disk.
    """
    environment = {
        **os.environ,
        "ANOMALY_PROVIDER": "cpu",
        "ANOMALY_ADMIN_KEYS": ADMIN["X-API-Key"],
        **{name if name.isupper() else f"ANOMALY_{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--models-dir", str(models), *words]
    if not writes:
        command = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    server = Served(process, log)
    server.port = port
    try:
        if not port:
            server.find_port()
        yield server
    finally:
        if process.poll() is None:
            workers = server.workers()
            process.kill()
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port that nobody listens on, and that no connection is given before the service takes it."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def publish_example(models: Path) -> Path:
    """A models folder with the tracked example; the folder of the model."""
    version = current_version(EXAMPLE.parent, "example")
    shutil.copytree(EXAMPLE / version, models / "example" / version)
    (models / "example" / CURRENT).write_text(version)
    return models / "example"


def wait_for(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> float:
    """The seconds until the condition held. Raises AssertionError where it does not in time."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)
    return time.monotonic() - began
