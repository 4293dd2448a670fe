"""Clients that are slow, or leave: none keeps a connection beyond its limit, and none leaves anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.torture.placements import NAME, dumped, ordinary
from tests.torture.probed import Probed, many_descriptors, serving, until
from tests.torture.raw import Connection, post, request, run
from tests.torture.runs import Outcome, torture

HEAD, WHOLE = 2, 4  # seconds: ANOMALY_HEAD_SECONDS and ANOMALY_REQUEST_SECONDS
GRACE = 1.0
ESTABLISHED = 1  # as Linux has it in tcp_states.h
START = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = post(dumped({"records": ordinary(3, 0), "explain": "all"}))
LARGE = post(dumped({"records": ordinary(400, 1)}))
PAGES = request("GET", "/") * 100
Client = Callable[[int], Awaitable[tuple[float, float]]]  # of a port: its limit, and how long it was borne


async def silent(port: int) -> tuple[float, float]:
    return HEAD, await borne(await Connection.open(port), b"")


async def half_a_head(port: int) -> tuple[float, float]:
    return HEAD, await borne(await Connection.open(port), START)


async def half_a_body(port: int) -> tuple[float, float]:
    return WHOLE, await borne(await Connection.open(port), START + b"Content-Length: 100\r\n\r\n{")


async def a_byte_a_second(port: int) -> tuple[float, float]:
    return WHOLE, await borne(await Connection.open(port), START + b"Content-Length: 100\r\n\r\n", drip=True)


async def a_head_by_the_byte(port: int) -> tuple[float, float]:
    return HEAD, await borne(await Connection.open(port), b"GET / HTTP/1.1\r\nX-A: ", drip=True)


async def reads_nothing(port: int) -> tuple[float, float]:
    """Asks for megabytes, and takes none of them."""
    return WHOLE, await borne(await deaf(port), PAGES)


async def reads_little(port: int) -> tuple[float, float]:
    """Takes a byte a second of them."""
    return WHOLE, await borne(await deaf(port), PAGES, sip=True)


async def deaf(port: int) -> Connection:
    """A connection that takes nothing by itself, and for which the system takes little."""
    connection = await Connection.open(port, receive_buffer=4096)
    connection.transport.pause_reading()
    return connection


SENDERS: tuple[Client, ...] = (silent, half_a_head, half_a_body, a_byte_a_second, a_head_by_the_byte)
READERS: tuple[Client, ...] = (reads_nothing, reads_little)
KINDS = SENDERS * 3 + READERS


@torture("slow clients, in sending or in taking, end within the limit and a second, others being served", suite=34, full=1_000)
def slow_clients(count: int, seed: int, folder: Path) -> Outcome:
    outcome, slowest = Outcome(), 0.0
    many_descriptors()

    async def served_meanwhile(port: int, slow: asyncio.Future[list[tuple[float, float]]]) -> float:
        connection, longest = await Connection.open(port), 0.0
        while not slow.done():
            began = time.monotonic()
            answer = await connection.insist(BODY)
            longest = max(longest, time.monotonic() - began)
            outcome.check(answer.status == 200, f"an ordinary client: {answer}")
            await asyncio.sleep(0.01)
        connection.close()
        return longest

    async def work(port: int) -> None:
        nonlocal slowest
        chosen = [KINDS[number % len(KINDS)] for number in range(count)]
        making = await seconds_of(port, PAGES) * sum(client in READERS for client in chosen)  # of all that readers ask for
        slow = asyncio.gather(*(client(port) for client in chosen))
        slowest = await served_meanwhile(port, slow)
        for client, (limit, seconds) in zip(chosen, await slow, strict=True):
            most = limit + GRACE + slowest + (making if client in READERS else 0)
            outcome.check(seconds <= most, f"{client.__name__}: {seconds:.1f} s, where {most:.1f} are allowed")

    with serving(folder, head_seconds=HEAD, request_seconds=WHOLE) as served:
        run(work(served.port))
        outcome.check("a request failed" not in served.log(), "a fault of ours")
    outcome.figures = {"slowest_ordinary_ms": round(slowest * 1000)}
    return outcome


@torture("clients that leave at a random byte leave no task, descriptor or queue entry", suite=200, full=10_000)
def disconnects(count: int, seed: int, folder: Path) -> Outcome:
    outcome = Outcome()
    lines = post(b"\n".join(map(dumped, ordinary(600, 2))), "/score?explain=all", "application/x-ndjson")
    form = request("POST", f"/models/{NAME}/report", b"key=" + b"x" * 100, Content_Type="application/x-www-form-urlencoded")
    kinds = [BODY, BODY, BODY, LARGE, lines, BODY * 3, form, request("GET", f"/models/{NAME}") + BODY + LARGE, BODY + lines]

    async def client(port: int, number: int) -> None:
        for turn in range(number, count, 32):
            draw = random.Random(f"{seed}-{turn}")
            sent = draw.choice(kinds)
            connection = await Connection.open(port)
            connection.send(sent[: draw.randrange(len(sent) + 1)] if draw.random() < 0.7 else sent)
            await asyncio.sleep(draw.choice([0, 0, 0.001, 0.01]))
            connection.abort() if draw.random() < 0.5 else connection.close()
            outcome.tried += 1

    async def work(port: int) -> None:
        await asyncio.gather(*(client(port, number) for number in range(32)))

    with serving(folder) as served:
        run(scored(served.port))
        tasks, descriptors = served.tasks(), served.descriptors()
        run(work(served.port))
        until(lambda: served.descriptors() <= descriptors and served.tasks() <= tasks)
        outcome.check(served.descriptors() <= descriptors, f"{served.descriptors()} descriptors, {descriptors} before")
        outcome.check(served.tasks() <= tasks, f"{served.tasks()} tasks, {tasks} before")
        rows = waiting(served)
        outcome.check(rows == 0, f"{rows} rows wait")
        outcome.check(
            "a request failed" not in served.log() and "ASGI" not in served.log(), f"a fault of ours: {served.log()[-800:]}"
        )
        run(scored(served.port))
    outcome.figures = {"tasks": tasks, "descriptors": descriptors}
    return outcome


async def borne(connection: Connection, sent: bytes, *, drip: bool = False, sip: bool = False) -> float:
    """How many seconds a connection is left open, 5 limits at most; with a byte sent, or taken, each second."""
    began = time.monotonic()
    connection.send(sent)
    own = connection.transport.get_extra_info("socket")
    for tick in range(5 * WHOLE * 10):
        await asyncio.sleep(0.1)
        if connection.closed or own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
            break
        if tick % 10 == 9 and drip:
            connection.send(b" ")
        if tick % 10 == 9 and sip:
            with contextlib.suppress(BlockingIOError):
                os.read(own.fileno(), 1)
    spent = time.monotonic() - began
    connection.abort()
    return spent


async def seconds_of(port: int, sent: bytes) -> float:
    """How long the answers to these requests take one who reads them."""
    connection, began = await Connection.open(port), time.monotonic()
    connection.send(sent)
    for _ in range(sent.count(b"\r\n\r\n")):
        await connection.answer()
    connection.close()
    return time.monotonic() - began


def waiting(served: Probed) -> int:
    """Rows in the queue, by its metric."""

    async def ask() -> bytes:
        connection = await Connection.open(served.port)
        answer = await connection.ask(request("GET", "/metrics"))
        connection.close()
        return answer.body

    found = re.search(rb"^anomaly_queue_rows(?:{[^}]*})? (\S+)$", run(ask()), re.MULTILINE)
    assert found
    return int(float(found[1]))


async def scored(port: int) -> None:
    """An ordinary request has its answer."""
    connection = await Connection.open(port)
    assert (await connection.insist(BODY)).status == 200
    connection.close()
