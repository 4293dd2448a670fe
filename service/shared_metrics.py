"""The metrics of several worker processes as one: each writes what it has counted to a file, and whichever is asked adds them up.

The files lie in a folder of memory that `serve` makes for its workers. A place in it, a lock and a file, belongs to one process;
that of a process which died goes to the next one, which counts on from there: so no counter ever goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import logging
import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service import log
from service.metrics import Metrics, replaced_family
from service.settings import SettingsError

FOLDER = "_ANOMALY_WORKERS"  # the environment variable by which `serve` tells its workers of the folder; no setting
MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there is made by mkdtemp, for this user alone
WRITE_SECONDS = 1.0
RETAINED = 8  # versions no longer loaded of which a process goes on to tell: others may still have them
AMOUNTS = (
    "anomaly_queue_rows",
    "anomaly_held_bytes",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
)
SUMMED_GAUGES = frozenset(AMOUNTS)  # of any other gauge the largest value is told
Labels = tuple[tuple[str, str], ...]
Families = dict[str, tuple[str, str, dict[tuple[str, Labels], float]]]  # by name: help, type, value by sample and labels


@contextmanager
def shared_folder() -> Iterator[None]:
    """A folder for the workers that are started inside, gone afterwards. Raises SettingsError where none can be had."""
    try:
        folder = tempfile.mkdtemp(prefix="anomaly-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    except OSError:
        raise SettingsError(
            f"several workers need a folder that they can write their metrics to: neither {MEMORY} nor a temporary one is "
            "there; mount a tmpfs on /tmp, or set TMPDIR"
        ) from None
    os.environ[FOLDER] = folder
    try:
        yield
    finally:
        del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


def write_replaced(n: int) -> None:
    """Tells for the supervisor, which answers no request, how many workers it has replaced. Raises OSError."""
    path = Path(os.environ[FOLDER], "supervisor.json")
    path.with_suffix(".lock").touch()
    _write(path, _families([replaced_family(n)]))


def is_left_alone() -> bool:
    """Whether this process is a worker whose supervisor is gone, without having ended it."""
    supervisor = multiprocessing.parent_process()
    return supervisor is not None and not supervisor.is_alive()


class SharedMetrics:
    """One process among its like. Counts are read on the event loop, files written and read in a thread."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._folder, self._metrics = folder, metrics
        metrics.retained = RETAINED
        self._lock, self._path = _take_place(folder)
        self._base = {name: told for name, told in _read(self._path).items() if told[1] != "gauge"}
        self._gauges: Families = {}  # as last looked at, written or not
        self._one_at_a_time = asyncio.Lock()
        self._failing = False

    @classmethod
    def among(cls, metrics: Metrics) -> SharedMetrics | None:
        """This process as one of those that `serve` started, or None where it is the only one."""
        folder = os.environ.get(FOLDER)
        return cls(Path(folder), metrics) if folder else None

    async def close(self) -> None:
        """Writes for the last time, and leaves the place to another process."""
        with contextlib.suppress(OSError):  # `serve` may have removed the folder by now
            await self.write()
        os.close(self._lock)
        if is_left_alone():  # then nobody else removes it
            shutil.rmtree(self._folder, ignore_errors=True)

    async def write(self) -> None:
        """Writes what this process has counted by now. Raises OSError."""
        async with self._one_at_a_time:
            told = _families(self._metrics.families())
            self._gauges = {name: family for name, family in told.items() if family[1] == "gauge"}
            writing = asyncio.ensure_future(asyncio.to_thread(_write, self._path, add([self._base, told])))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:  # its thread goes on, and none may begin to write beside it
                await asyncio.wait([writing])
                raise

    async def text(self) -> bytes:
        """The Prometheus text of all workers; its own numbers are of now, the others' at most WRITE_SECONDS old.

        Its own are written first: who is asked next then tells no smaller ones. For the same reason counters stand still where
        they cannot be written; its own gauges are of now even then.
        """
        await self._try_to_write()
        return await asyncio.to_thread(_text_of_all, self._folder, self._path, self._gauges)

    async def write_for_ever(self) -> None:
        """Writes every WRITE_SECONDS, whether or not it can."""
        while True:
            await self._try_to_write()
            await asyncio.sleep(WRITE_SECONDS)

    async def _try_to_write(self) -> None:
        """Writes; where it cannot, logs once why."""
        try:
            await self.write()
            self._failing = False
        except OSError as error:
            if not self._failing:
                reason = error.strerror or type(error).__name__
                log.event(logging.WARNING, "the metrics of this worker cannot be written for the others", error=reason)
            self._failing = True


def add(every: Iterable[Families]) -> Families:
    """Families summed sample by sample; of gauges that are no amounts, the largest."""
    total: Families = {}
    for families in every:
        for name, (documentation, kind, samples) in families.items():
            values = total.setdefault(name, (documentation, kind, {}))[2]
            largest = kind == "gauge" and name not in SUMMED_GAUGES
            for key, value in samples.items():
                values[key] = max(values.get(key, value), value) if largest else values.get(key, 0.0) + value
    return total


class _Told(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, (documentation, kind, samples) in self._families.items():
            family = Metric(name, documentation, kind)
            for (sample, labels), value in samples.items():
                family.add_sample(sample, dict(labels), value)
            yield family


def _text_of_all(folder: Path, own: Path, gauges: Families) -> bytes:
    """The text of what the files hold; of the own one, `gauges` are newer."""
    every = [gauges]
    for path in sorted(folder.glob("*.json")):
        families = _read(path)
        if path == own or not _is_taken(path.with_suffix(".lock")):  # of a process that is gone what it counted remains
            families = {name: told for name, told in families.items() if told[1] != "gauge"}
        every.append(families)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(add(every)))
    return generate_latest(registry)


def _families(collected: Iterable[Any]) -> Families:
    return {
        family.name: (
            family.documentation,
            family.type,
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for sample in family.samples
                if not math.isnan(sample.value)  # a gauge that has nothing to tell, yet
            },
        )
        for family in collected
    }


def _read(path: Path) -> Families:
    if not path.exists():
        return {}
    return {
        name: (documentation, kind, {(sample, tuple(map(tuple, labels))): value for sample, labels, value in samples})
        for name, documentation, kind, samples in json.loads(path.read_bytes())
    }


def _write(path: Path, families: Families) -> None:
    told = [
        (name, documentation, kind, [(sample, labels, value) for (sample, labels), value in samples.items()])
        for name, (documentation, kind, samples) in families.items()
    ]
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(told))
    beside.replace(path)


def _take_place(folder: Path) -> tuple[int, Path]:
    """The first place that no living process has: its lock, held while this one lives, and its file."""
    for place in itertools.count():
        path = folder / f"{place}.json"
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        if _lock(lock):
            return lock, path
        os.close(lock)  # a living process has it, or one looks at this moment whether any does: then it stays free
    raise AssertionError


def _is_taken(path: Path) -> bool:
    lock = os.open(path, os.O_RDWR)
    try:
        return not _lock(lock, fcntl.LOCK_SH)  # others may look at the same time
    finally:
        os.close(lock)


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether nobody else holds what is in the way of this lock; then it is held until the file is closed."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
