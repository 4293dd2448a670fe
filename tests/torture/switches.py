"""Versions that change under load, and loads of versions that go wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from bisect import bisect_right
from pathlib import Path
from time import perf_counter
from typing import Any

from service import promotion
from service.bundle import current_version, list_versions
from tests.service.tiny_bundle import GOOD, publish
from tests.torture.load import Load
from tests.torture.overload import request
from tests.torture.runs import Outcome, torture
from tests.torture.served import ADMIN, ROOT, Served, served, wait_for

CLIENTS = 32
A_SWITCH = 100  # requests at least for each
SCORE = 36.0  # of GOOD by the tiny bundle's graph, which a reader can check by hand
SCALES = {f"2026010{scale}T000000Z-made0{scale}": float(scale) for scale in (1, 2, 3, 4)}
ONE = request([GOOD])
FLAT_MIB = 32.0
# In the process that tries a bundle: it hangs, or asks for more memory than it may have.
FAULTY_TRIAL = """
import pathlib, resource, sys, time
if "service.trial" in sys.orig_argv:
    real = resource.setrlimit
    def limit(which, limits):
        real(which, limits)
        if which == resource.RLIMIT_AS:
            time.sleep(1e6) if pathlib.Path(__file__).with_name("hang").exists() else bytearray(64 << 30)
    resource.setrlimit = limit
"""


class Clients(Load):
    """Clients that note which version has scored each of their requests, and what the score was."""

    def __init__(self, port: int) -> None:
        super().__init__(port, [ONE], None, CLIENTS, 0)
        self.told: list[tuple[float, float, int, str, float]] = []  # began, ended, status, version, score

    def look(self, status: int, answer: bytes, began: float, now: float) -> None:
        document: dict[str, Any] = json.loads(answer[answer.index(b"\r\n\r\n") :]) if status == 200 else {}
        score = document["results"][0]["score"] if document else 0.0
        self.told.append((began, now, status, document.get("version", ""), score))


@torture("versions switched under 32 clients: no request fails, each has the score of its version", suite=10, full=1_000)
def version_switches(count: int, seed: int, folder: Path) -> Outcome:
    """By POST and by poll in turns; one in twenty with a trial, as by default. A case is a request."""
    models, outcome = folder / "models", Outcome()
    for version, scale in SCALES.items():
        publish(models, version=version, scale=scale)
    phases = {"post": (0, 0, count * 50 // 100), "poll": (0.1, 0, count * 45 // 100), "trial": (0, 30, count * 5 // 100)}
    for phase, (reload_seconds, trial_seconds, switches) in phases.items():
        if not switches:
            continue
        settings = {"reload_seconds": reload_seconds, "trial_seconds": trial_seconds}
        with served(models, folder / phase, log_requests="false", **settings) as server:
            server.wait_until_ready()
            switch(server, models, switches, random.Random(f"{seed}-{phase}"), outcome, phase)
    return outcome


def switch(server: Served, models: Path, switches: int, draw: random.Random, outcome: Outcome, phase: str) -> None:
    """Switches so many times, and checks each answer that was given meanwhile."""
    current = current_version(models, "tiny")
    versions, began, ended = [current], [0.0], [0.0]  # of each switch: its version, when it began, when it was told to be done
    clients = Clients(server.port)
    warm, mib = switches // 5, 0.0
    with clients.going_on():
        for number in range(switches):
            enough = len(clients.told) + A_SWITCH
            before, began_at = current, perf_counter()
            current = change(models, current, draw, by_command=number % 100 == 7)
            versions.append(current)
            began.append(began_at)
            if phase == "poll":
                wait_for(lambda: server.ask("GET", "/health")[1]["version"] == current, f"{current} instead of {before}")  # noqa: B023
            else:
                told = server.ask("POST", "/models/tiny/reload", b"", ADMIN)
                outcome.check(told == (200, {"name": "tiny", "version": current}), f"reload: {told}")
            ended.append(perf_counter())
            wait_for(lambda: len(clients.told) >= enough, "requests")  # noqa: B023
            if number == warm:
                mib = server.mib()
    for start, end, status, version, score in clients.told:
        possible = versions[bisect_right(ended, start) - 1 : bisect_right(began, end)]
        right = status == 200 and version in possible and score == SCORE * SCALES[version]
        outcome.check(right, f"{phase}: {status} {version} {score}, where {possible} were possible")
    outcome.check(not clients.seen.faults, f"{phase}: {dict(clients.seen.faults)}")
    grown = server.mib() - mib
    if switches > 100:
        outcome.check(grown < FLAT_MIB, f"{phase}: {grown:.0f} MiB more after {switches} switches")
    outcome.figures[f"{phase}_grown_mib"] = round(grown, 1)
    outcome.figures[f"{phase}_slowest_ms"] = round(1e3 * max(end - start for start, end, *_ in clients.told), 1)


def change(models: Path, current: str, draw: random.Random, *, by_command: bool) -> str:
    """Promotes a version, or rolls back; now and then by the command that a person types. The version that is now CURRENT."""
    versions = list_versions(models, "tiny")
    back = current != versions[0] and draw.random() < 0.5
    target = draw.choice([version for version in versions if version != current])
    if by_command:
        words = ["rollback", "tiny"] if back else ["promote", "tiny", target]
        command = [sys.executable, "-m", "service", *words, "--models-dir", str(models)]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    elif back:
        promotion.rollback(models, "tiny")
    else:
        promotion.promote(models, "tiny", target)
    return current_version(models, "tiny")


@torture("a load that hangs, or asks for too much memory, is refused and costs no request", suite=1, full=20)
def faulty_loads(count: int, seed: int, folder: Path) -> Outcome:
    """One that eats memory and one that hangs, in turns, in the process that tries it."""
    models, outcome, (old, new, *_) = folder / "models", Outcome(), SCALES
    publish(models, version=old)
    publish(models, version=new, scale=2.0, current=False)
    (folder / "sitecustomize.py").write_text(FAULTY_TRIAL)
    with served(models, folder / "log", reload_seconds=0, trial_seconds=3, PYTHONPATH=folder) as server:
        server.wait_until_ready()
        promotion.promote(models, "tiny", new)
        for number in range(count):
            fault, reason = (("eat", "ended a process of its own"), ("hang", "within 3 s"))[number % 2]
            (folder / "hang").touch() if fault == "hang" else (folder / "hang").unlink(missing_ok=True)
            clients = Clients(server.port)
            with clients.going_on():
                status, told = server.ask("POST", "/models/tiny/reload", b"", ADMIN)
            outcome.check(status == 409 and reason in told["detail"], f"{fault}: {status} {told}")
            wrong = [one for one in clients.told if one[2:] != (200, old, SCORE)]
            outcome.check(not wrong and not clients.seen.faults, f"{fault}: {wrong[:3]} {dict(clients.seen.faults)}")
            outcome.check(len(clients.told) > CLIENTS, f"{fault}: {len(clients.told)} answers meanwhile")
    return outcome
