"""Processes that are told to end, that die, that stop; and a world that does not notice the difference."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter

from tests.service.tiny_bundle import GOOD, publish
from tests.torture.overload import request
from tests.torture.runs import Outcome, torture
from tests.torture.served import DEADLINE, Served, free_port, served, wait_for
from tests.torture.switches import CLIENTS, ONE, SCORE, Clients

AT_ONCE = 6
GRACE = 2  # seconds
LATE = 5.0  # seconds after the grace that a busy machine may need to end a process
REPLACED = 15.0  # seconds
LARGE = request([GOOD] * 3_000)
# A worker whose event loop hangs from this signal on, while its other threads go on.
HANGS = "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1e6))"
OLD, VERSION = "20260101T000000Z-made00", "20260101T000000Z-made01"
BODY = json.dumps({"records": [GOOD]}).encode()
SLOW = 5.0  # seconds that even a busy machine does not take
HALVES = (b"", b"POST /score HT", ONE[:60], ONE[:-1], LARGE[:-1])  # half a head, the same, half a body on both ways
# A clock that jumps to and fro by years, whoever asks.
JUMPING_CLOCK = """
import itertools, time
real, jumps = time.time, itertools.cycle([0.0, 1e8, -1e8, 3.0, -3.0])
time.time = lambda: real() + next(jumps)
"""


@torture(
    "SIGTERM with work under way: nothing that was accepted is lost, and the process ends within the grace", suite=2, full=100
)
def sigterms(count: int, seed: int, folder: Path) -> Outcome:
    publish(folder / "models")
    outcome, crossed = Outcome(), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for told in pool.map(lambda number: terminate(folder, number, random.Random(f"{seed}-{number}")), range(count)):
            outcome.check(not told[0], "; ".join(told[0]))
            crossed += told[1]
    outcome.figures["closed_as_they_were_sent"] = crossed
    return outcome


def terminate(folder: Path, number: int, draw: random.Random) -> tuple[list[str], int]:
    """One service that is told to end: what went wrong, and how many requests were sent into a closing connection."""
    silent = number % 2 == 0  # whether half a body never gets its other half, so that the grace runs out
    wrong = list[str]()
    with served(folder / "models", folder / f"log{number}", shutdown_seconds=GRACE) as server, ExitStack() as stack:
        server.wait_until_ready()

        def connect(sent: bytes) -> socket.socket:
            connection = stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), DEADLINE)))
            connection.sendall(sent)
            return connection

        idle = connect(ONE)
        wrong += [] if status_of(idle) == 200 else ["a request before was not answered"]
        halves = [connect(sent) for sent in HALVES]
        large = [connect(LARGE) for _ in range(draw.randint(1, 4))]
        clients = Clients(server.port)
        with clients.going_on():
            time.sleep(draw.uniform(0.05, 0.3))  # the moment is drawn
            at = perf_counter()
            server.process.send_signal(signal.SIGTERM)
            small, body = halves[3], halves[4]
            if silent:
                small.sendall(ONE[-1:])
            else:
                for half, rest in ((small, ONE[-1:]), (body, LARGE[-1:])):
                    half.sendall(rest)
            finished = [*large, small] if silent else [*large, small, body]
            wrong += [f"a request under way got {got}" for got in map(status_of, finished) if got != 200]
            clients.ended = True
            wait_for(lambda: server.process.poll() is not None, "the end", GRACE + DEADLINE)
            took = perf_counter() - at
        if took > GRACE + LATE:
            wrong.append(f"the end took {took:.1f} s")
        if server.process.returncode != -signal.SIGTERM:
            wrong.append(f"exit code {server.process.returncode}")
        if "Traceback" in server.log() or '"a request failed"' in server.log():
            wrong.append(server.log()[-1000:])
        wrong += [f"a small request got {status}" for _, _, status, _, _ in clients.told if status not in (200, 503)]
        lost = [f"{1e3 * (at - sent):.0f} ms before the signal" for sent in clients.seen.lost if sent < at]
        wrong += [f"small requests were lost that had been sent {', '.join(lost)}"] if lost else []
    return wrong, len(clients.seen.lost)


def status_of(connection: socket.socket) -> int:
    """The status of a whole answer; 0 where there is none."""
    try:
        with connection.makefile("rb") as stream:
            status, length = int(stream.readline()[9:12] or 0), 0
            while line := stream.readline().strip():
                length = int(line[16:]) if line.lower().startswith(b"content-length: ") else length
            return status if len(stream.read(length)) == length > 0 else 0
    except OSError:
        return 0


@torture(
    "kill -9, SIGSTOP or a hang of a worker of two: only its own requests fail, another is there within 15 s", suite=1, full=9
)
def lost_workers(count: int, seed: int, folder: Path) -> Outcome:
    """Killed, stopped, and hanging in a loop that does not turn, under load."""
    publish(folder / "models")
    (folder / "sitecustomize.py").write_text(HANGS)
    limit = REPLACED if count > 1 else DEADLINE
    outcome, draw, slowest = Outcome(), random.Random(seed), 0.0
    with served(folder / "models", folder / "log", "--workers", "2", PYTHONPATH=folder) as server:
        wait_for(lambda: started(server) == 2, "two workers")
        for number in range(count):
            how = (signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1)[number % 3]
            victim = draw.choice(server.workers())
            clients = Clients(server.port)
            with clients.going_on():
                wait_for(lambda: len(clients.told) > 10 * CLIENTS, "answers")  # noqa: B023
                os.kill(victim, how)
                seconds = wait_for(lambda: started(server) == 3 + number, "a third worker")  # noqa: B023
                slowest = max(slowest, seconds)
                enough = len(clients.told) + 10 * CLIENTS
                wait_for(lambda: len(clients.told) > enough, "answers of both")  # noqa: B023
            lost, failed = len(clients.seen.lost), [one for one in clients.told if one[2:] != (200, VERSION, SCORE)]
            outcome.check(seconds < limit, f"{how.name}: the next worker was there after {seconds:.1f} s")
            outcome.check(victim not in server.workers() and len(server.workers()) == 2, f"{how.name}: {server.workers()}")
            outcome.check(lost <= CLIENTS and not failed, f"{how.name}: {lost} requests lost, {failed[:3]} failed")
        server.process.send_signal(signal.SIGTERM)
        outcome.check(server.process.wait(DEADLINE) == 0, f"exit code {server.process.returncode}")
    outcome.figures["slowest_s"] = round(slowest, 1)
    return outcome


def started(server: Served) -> int:
    """How many workers have come up so far."""
    return server.log().count("Application startup complete")


@torture("no bundle at start, a full disk, a folder that goes, a clock that jumps: not noticed", suite=1, full=5)
def odd_worlds(count: int, seed: int, folder: Path) -> Outcome:
    """At once: no file can be written, the log's disk is full, the clock jumps by years; the models come, go and come back."""
    outcome = Outcome()
    (folder / "sitecustomize.py").write_text(JUMPING_CLOCK)
    for number in range(count):
        models, port = folder / f"models{number}", free_port()
        settings = {"reload_seconds": 0.1, "trial_seconds": 0, "PYTHONPATH": folder}
        with served(models, Path("/dev/full"), port=port, writes=False, **settings) as server:
            wait_for(lambda: server.answers("/health/live"), "life")
            status, told = server.ask("POST", "/score", BODY)
            outcome.check((status, told["code"]) == (503, "not_ready"), f"without a bundle: {status} {told}")
            outcome.check(server.ask("GET", "/health/ready")[0] == 503, "ready without a bundle")
            publish(models, version=OLD)
            server.wait_until_ready()
            clients = Clients(server.port)
            with clients.going_on():
                models.rename(folder / "away")
                enough = len(clients.told) + 10 * CLIENTS
                wait_for(lambda: len(clients.told) > enough, "answers without a folder")  # noqa: B023
                (folder / "away").rename(models)
                publish(models, version=VERSION)
                wait_for(lambda: server.ask("GET", "/health")[1]["version"] == VERSION, "a new version")
            wrong = [one for one in clients.told if one[2] != 200 or one[4] != SCORE]
            outcome.check(not wrong and not clients.seen.faults, f"{wrong[:3]} {dict(clients.seen.faults)}")
            outcome.check(max(clients.seen.live) < SLOW, f"/health/live took {max(clients.seen.live):.1f} s")
    return outcome
