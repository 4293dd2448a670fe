"""A served process that tells what it holds: memory, descriptors, tasks, rows that wait, and marked names that it opened."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.torture.served import DEADLINE, ROOT, Served, served

MODELS = ROOT / "models"
MARK = "n4me"  # in the name of a file or folder: who opens or lists it is noted
# Runs at the start of the served process: on SIGUSR2 it writes how many tasks its event loop has; and it notes marked names.
PROBE = """
import asyncio, os, signal, sys
opened = open(os.environ["OPENED_FILE"], "a", buffering=1)
def audit(event, args):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove") and "n4me" in str(args[0]):
        opened.write(repr(args[0]) + "\\n")
sys.addaudithook(audit)
def tell(*_):
    path = os.environ["TASKS_FILE"]
    with open(path + "~", "w") as file:
        file.write(str(len(asyncio.all_tasks())))
    os.rename(path + "~", path)
signal.signal(signal.SIGUSR2, tell)
"""


class Probed:
    """The process and its port."""

    def __init__(self, one: Served, folder: Path) -> None:
        self.process, self.port, self.log = one.process, one.port, one.log
        self._folder = folder

    def resident(self) -> int:
        """Bytes of memory that it holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def tasks(self) -> int:
        """Tasks of its event loop."""
        told = self._folder / "tasks"
        told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR2)
        until(told.exists)
        return int(told.read_text())

    def opened(self) -> list[str]:
        """The marked names that reached the file system."""
        return (self._folder / "opened").read_text().splitlines()

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None


@contextmanager
def serving(folder: Path, models: Path = MODELS, *, log_requests: bool = False, **settings: Any) -> Iterator[Probed]:
    """The service on a port of its own; `settings` by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(PROBE)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    probe = {"PYTHONPATH": path, "TASKS_FILE": folder / "tasks", "OPENED_FILE": folder / "opened"}
    with served(models, folder / "log", log_requests=str(log_requests).lower(), **probe, **settings) as one:
        yield Probed(one, folder)


def until(condition: Callable[[], bool], limit: float = DEADLINE) -> bool:
    """Waits for a condition; whether it came to hold within so many seconds."""
    end = time.monotonic() + limit
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return holds


def many_descriptors() -> None:
    """Lets this process have as many descriptors as the system allows, as the service does."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
