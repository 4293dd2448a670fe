"""The cases of fits.py: python -m tests.torture.forked NAME COUNT SEED FOLDER prints the outcome as its last line."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import training.config
import training.train
from service.bundle import Bundle, current_version, list_versions, read_bundle
from service.manifest import CURRENT, BundleError
from tests.torture.runs import Outcome
from training import example
from training.__main__ import main
from training.publish import publish, stage

OPTIONS = ("--model", "shop", "--score", "reconstruction")  # the smallest graphs
STEPS = 10  # of a net: what is tested is not how well it learns
ELSEWHERE = "import training.config; training.config.Config.steps_for = lambda *given: {steps}"
ENVIRONMENTS = (
    {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "America/St_Johns", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "2"},
    {"TZ": "UTC", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "3", "PYTHONUTF8": "0"},
    {"TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "4", "OMP_NUM_THREADS": "2"},
    {"TZ": "Europe/Berlin", "LC_ALL": "ja_JP.UTF-8", "PYTHONHASHSEED": "5", "HOME": "/nonexistent"},
    {"TZ": "Antarctica/Troll", "LC_ALL": "POSIX", "PYTHONHASHSEED": "6", "PYTHONOPTIMIZE": "1"},
)


class Place:
    """A folder of models with an old version of `shop`, and a table whose fit makes the new one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.models, self.log = folder, folder / "models", folder / "log.txt"
        self.table = folder / "new.csv"
        columns = example.generate(200, seed=2)
        example.write_csv({name: columns[name] for name in ("amount", "credit_limit")}, self.table)
        assert main(self.arguments()) == 0  # in this process: what torch imports late is then there for every fork
        self.new = current_version(self.models, "shop")
        self.bundle = read_bundle(self.models / "shop" / self.new)
        older = stage(self.bundle.manifest.model_copy(update={"warnings": ("the old version",)}), self.bundle.files)
        self.old = publish(older, self.models).name
        self.reset()

    def reset(self) -> None:
        """As before the fit: the old version, and what a killed process left behind."""
        for version in self.versions():
            if version != self.old:
                shutil.rmtree(self.models / "shop" / version)
        (self.models / "shop" / CURRENT).write_text(self.old + "\n")

    def clean(self) -> None:
        """Without what was left behind."""
        self.reset()
        for path in (self.models / "shop").glob(".*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def versions(self) -> list[str]:
        return list_versions(self.models, "shop")

    def arguments(self, *more: str) -> list[str]:
        """Of the command that fits."""
        return ["fit", str(self.table), *OPTIONS, "--models-dir", str(self.models), *more]

    def fit(self, *more: str) -> int:
        """A process that fits, by its id."""
        return fork(lambda: main(self.arguments(*more)), self.log)

    def fault(self) -> str | None:
        """What is not whole, or None."""
        try:
            for version in self.versions():
                read_bundle(self.models / "shop" / version)
        except BundleError as error:
            return str(error)
        if current_version(self.models, "shop") not in self.versions():
            return "CURRENT names none"
        return None if self.old in self.versions() else "the old version is gone"

    def newest(self) -> Bundle:
        return read_bundle(self.models / "shop" / current_version(self.models, "shop"))

    def is_new(self) -> bool:
        """Whether the new bundle is served, byte for byte as it is without faults."""
        return self.newest().files == self.bundle.files and self.newest().manifest == self.bundle.manifest


def fork(work: Callable[[], int | None], log: Path, before: Callable[[], None] | None = None) -> int:
    """The id of a process that does this and ends; what it prints goes to the log."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
        if before:
            before()
        code = work() or 0
    except BaseException as error:  # noqa: BLE001 - the parent reads it
        os.write(2, f"Traceback: {error!r}".encode())
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_fits(count: int, seed: int, folder: Path) -> Outcome:
    outcome, place, draw = Outcome(), Place(folder / "a"), random.Random(seed)
    place.clean()
    began = time.monotonic()
    wait(place.fit())
    usual = time.monotonic() - began
    place.clean()
    killed = resumed = 0
    assemble = training.train.assemble
    for number in range(count):
        # every other one skips the seconds of pure computation, so that more kills meet the writing of nets and bundles
        training.train.assemble = assemble if number % 2 else lambda *given: (place.bundle, None)
        child = place.fit()
        time.sleep(draw.uniform(0, usual if number % 2 else usual / 2))
        os.kill(child, signal.SIGKILL)
        killed += wait(child) == -signal.SIGKILL
        resumed += any((place.models / "shop").glob(".fit-*.npz"))
        fault = place.fault()
        training.train.assemble = assemble  # the rerun is a whole one: its bytes come from the nets that it found
        code = wait(place.fit())
        holds = fault is None and code == 0 and place.fault() is None and place.is_new()
        outcome.check(holds, f"{number}: {fault}; rerun {code}: {place.log.read_text()[-300:]}")
        place.reset()
    outcome.figures = {"killed": killed, "went_on_from_a_checkpoint": resumed}
    return outcome


def os_call(function: Any) -> bool:
    """Whether a function in C asks the system for something."""
    return function.__module__ in ("posix", "_io") or isinstance(getattr(function, "__self__", None), io.IOBase)


def killed_publishing(count: int, seed: int, folder: Path) -> Outcome:
    """At every call, or at `count` of them, evenly spread: killed before it is made, and after."""
    outcome, place = Outcome(), Place(folder / "a")

    def publishing(kill_at: int) -> Callable[[], int]:
        def work() -> int:
            seen = 0

            def profile(frame: Any, event: str, function: Any) -> None:
                nonlocal seen
                if event in ("c_call", "c_return") and os_call(function):
                    seen += 1
                    if seen == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.setprofile(profile)
            publish(place.bundle, place.models)
            sys.setprofile(None)
            (folder / "seen").write_text(str(seen))
            return 0

        return work

    assert wait(fork(publishing(0), place.log)) == 0, place.log.read_text()
    place.clean()
    calls = int((folder / "seen").read_text())
    step = max(1, calls // count)
    for kill_at in range(1, calls + 1, step):
        code = wait(fork(publishing(kill_at), place.log))
        fault = place.fault()
        again = wait(fork(publishing(0), place.log))
        holds = code == -signal.SIGKILL and fault is None and again == 0 and place.fault() is None and place.is_new()
        outcome.check(holds, f"call {kill_at} of {calls}: {code}, {fault}, rerun {again}")
        place.clean()
    outcome.figures = {"calls": calls}
    return outcome


class Disk:
    """Makes the nth call that writes fail, and with `forever` all after it."""

    CALLS = ("fsync", "rename", "replace", "mkdir", "chmod", "fchmod", "open")

    def __init__(self, nth: int, number: int, forever: bool, models: Path) -> None:
        self.nth, self.number, self.forever, self.models, self.seen = nth, number, forever, str(models), 0
        self.seen_file = models.parent / "seen"

    def hit(self) -> None:
        self.seen += 1
        if self.seen == self.nth or (self.forever and self.seen > self.nth > 0):
            raise OSError(self.number, os.strerror(self.number))

    def install(self) -> None:
        """In this process, for good."""
        disk, real_open, real_os_open = self, builtins.open, os.open

        class Written(io.BufferedWriter):
            def write(self, content: Any) -> int:
                disk.hit()
                return super().write(content)

            def flush(self) -> None:
                if not self.closed:
                    disk.hit()
                super().flush()

        def opened(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            inside = isinstance(file, int) or str(file).startswith(self.models)
            if not inside or not set(mode) & set("wax"):
                return real_open(file, mode, *args, **more)
            disk.hit()
            raw = io.FileIO(file, mode.replace("b", ""))
            written = Written(raw)
            return written if "b" in mode else io.TextIOWrapper(written, encoding="utf-8")

        def os_open(path: Any, flags: int, *args: Any, **more: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                disk.hit()
            return real_os_open(path, flags, *args, **more)

        for name in self.CALLS[:-1]:
            setattr(os, name, self.failing(getattr(os, name)))
        builtins.open = io.open = opened  # type: ignore[assignment]
        os.open = os_open

    def failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.hit()
            return real(*args, **more)

        return call


def failing_disks(count: int, seed: int, folder: Path) -> Outcome:
    outcome, place = Outcome(), Place(folder / "a")

    def case(nth: int, number: int, forever: bool) -> int:
        disk = Disk(nth, number, forever, place.models)

        def work() -> int:
            code = main(place.arguments())
            os.write(2, f"\nseen {disk.seen}\n".encode())
            return code

        return wait(fork(work, place.log, disk.install))

    training.train.assemble = lambda *given: (place.bundle, None)  # pure computation: what is tested is all that writes
    place.clean()
    assert case(0, 0, False) == 0, place.log.read_text()
    calls = int(place.log.read_text().rpartition("seen ")[2])
    cases = [
        (nth, number, forever) for nth in range(1, calls + 1) for number in (errno.EIO, errno.ENOSPC) for forever in (False, True)
    ]
    absorbed = 0
    for nth, number, forever in cases[seed % 3 :: max(1, len(cases) // count)]:
        place.clean()
        code = case(nth, number, forever)
        lines = place.log.read_text().rpartition("\nseen ")[0].rstrip().splitlines()
        fault, where = place.fault(), f"call {nth} of {calls}, {errno.errorcode[number]}, {forever=}"
        told = bool(lines) and lines[-1].startswith("training fit: ") and "Traceback" not in "\n".join(lines)
        absorbed += code == 0
        holds = fault is None and (place.is_new() if code == 0 else code == 1 and told)
        again = wait(place.fit())
        holds = holds and again == 0 and place.is_new()
        outcome.check(holds, f"{where}: exit {code}, {fault}, rerun {again}, {lines[-2:]}")
    outcome.figures = {"calls": calls, "without_harm": absorbed}
    return outcome


def two_fits_at_once(count: int, seed: int, folder: Path) -> Outcome:
    outcome, place = Outcome(), Place(folder / "a")
    other = place.log.with_name("other.txt")
    for number in range(count):
        place.clean()
        same = number % 2 == 0
        children = [place.fit()]
        place.log, first = other, place.log
        children.append(place.fit(*([] if same else ["--seed", "1"])))
        place.log = first
        codes = [wait(child) for child in children]
        left = [path.name for path in (place.models / "shop").glob(".*")]
        holds = codes == [0, 0] and place.fault() is None and left == [] and len(place.versions()) in ((2, 3) if same else (3,))
        outcome.check(holds, f"{number}: {codes}, {place.fault()}, {left}, {place.versions()}: {first.read_text()[-200:]}")
    return outcome


def fits_elsewhere(count: int, seed: int, folder: Path) -> Outcome:
    outcome, place = Outcome(), Place(folder / "a")
    (folder / "tools").mkdir()
    (folder / "tools" / "sitecustomize.py").write_text(ELSEWHERE.format(steps=STEPS))
    root = Path(__file__).parents[2]
    for number in range(count):
        there = folder / f"elsewhere {number} é"
        there.mkdir()
        shutil.copy(place.table, there / place.table.name)
        environment = {**os.environ, **ENVIRONMENTS[number % len(ENVIRONMENTS)], "PYTHONPATH": f"{folder / 'tools'}:{root}"}
        command = [sys.executable, "-m", "training", "fit", place.table.name, *OPTIONS]
        done = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, check=False, umask=0o077)
        if done.returncode:
            outcome.check(False, f"{number}: {done.stderr[-500:]}")
            continue
        made = read_bundle(there / done.stdout.splitlines()[-1])
        differs = [name for name in made.files if made.files[name] != place.bundle.files[name]]
        outcome.check(not differs and made.manifest.dump() == place.bundle.manifest.dump(), f"{number}: {differs} differ")
    return outcome


if __name__ == "__main__":
    torch.set_num_threads(1)
    training.config.Config.steps_for = lambda *given: STEPS  # type: ignore[method-assign]
    told = globals()[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    print(json.dumps(asdict(told)))
