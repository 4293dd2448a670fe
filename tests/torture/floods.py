"""Far too much at once: bodies of 100 MB, what inflates to more, chunks without end, each of which is a 413; and large bodies on
many connections. The memory stays."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.torture.placements import NAME
from tests.torture.probed import serving, until
from tests.torture.raw import Answer, Connection, post, run
from tests.torture.runs import Outcome, torture

HUGE, BOMB, CHUNKS = 100_000_000, 1 << 28, 1_000_000
PIECE = b" " * (1 << 20)
AT_ONCE = 4
BODY_LIMIT, GROWTH = 16 << 20, 2 << 20
ROOM = 64 << 20  # bytes of bodies that may be held in `hoards`
NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"
TARGETS = (
    *(("/score", "application/json"), (f"/v2/models/{NAME}/infer", "application/json")),
    *(("/score", NDJSON), (f"/models/{NAME}/score", ARROW)),
)
Pieces = list[bytes]


@torture("bodies of 100 MB, gzip bombs, 1,000,000 chunks: 413, under 2 MiB growth of memory", suite=3, full=300)
def floods(count: int, seed: int, folder: Path) -> Outcome:
    """A third of each kind, after a few that make what is made once. The client sends on, whatever it is told."""
    outcome, kinds = Outcome(), (huge(), bomb(), chunks())
    allowed = GROWTH if count >= 100 else BODY_LIMIT  # after a few, memory that serves for good is still being taken

    async def work(port: int, numbers: range) -> None:
        for start in range(numbers.start, numbers.stop, AT_ONCE):
            some = range(start, min(start + AT_ONCE, numbers.stop))
            answers = await asyncio.gather(*(insisting(port, kinds[number % 3], number // 3) for number in some))
            for number, answer in zip(some, answers, strict=True):
                holds = answer is not None and answer.status == 413 and b"body_too_large" in answer.body
                outcome.check(holds, f"{number}: {answer}")

    with serving(folder, queue_rows=1_000_000) as served:  # gzip is counted before it is inflated: none is to be a 429
        run(work(served.port, range(min(count, 36))))
        before = served.resident()
        run(work(served.port, range(count)))
        until(lambda: served.resident() - before < allowed, 5)
        growth = served.resident() - before
        outcome.check(growth < allowed, f"{growth} bytes more memory")
        outcome.check(run(scores(served.port)), "it does not score afterwards")
    outcome.figures = {"growth_bytes": growth}
    return outcome


@torture(
    "half of a large body on each of 300 connections: no more memory than for those that there is room for", suite=30, full=300
)
def hoards(count: int, seed: int, folder: Path) -> Outcome:
    """Each sends half of the largest body, and no more. Those for whom there is no room are told so; small requests go on."""
    outcome, half = Outcome(), BODY_LIMIT // 2

    async def work(port: int) -> int:
        connections = [await Connection.open(port) for _ in range(count)]
        try:
            for number, connection in enumerate(connections):
                target, content_type = TARGETS[number % len(TARGETS)]
                head = (
                    f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {BODY_LIMIT}\r\n\r\n"
                )
                connection.send(head.encode() + b" " * half)
                while connection.transport.get_write_buffer_size():  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.001)
            async with asyncio.timeout(30):  # whose body came to be one too many is not said
                while sum(bool(connection.buffer) for connection in connections) < count - ROOM // half:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            for number, connection in enumerate(connections):
                told = await connection.answer(10) if connection.buffer else None
                outcome.check(told is None or told.status == 429, f"{number}: {told}")
            outcome.check(await scores(port), "it does not score a small request meanwhile")
            return served.resident()
        finally:
            for connection in connections:
                connection.abort()

    with serving(folder, held_bytes=ROOM) as served:
        run(scores(served.port))
        before = served.resident()
        growth = run(work(served.port)) - before
        outcome.check(growth < ROOM + BODY_LIMIT, f"{growth} bytes more memory")
        until(lambda: served.resident() - before < BODY_LIMIT, 5)
        outcome.check(served.resident() - before < BODY_LIMIT, f"{served.resident() - before} bytes more memory afterwards")
    outcome.figures = {"growth_bytes": growth}
    return outcome


def huge() -> Callable[[int], tuple[str, Pieces]]:
    """Bodies of which the length is told, and those in chunks, in turn."""
    plain = [PIECE] * (HUGE // len(PIECE)) + [PIECE[: HUGE % len(PIECE)]]
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in plain] + [b"0\r\n\r\n"]
    return lambda turn: ("Transfer-Encoding: chunked", framed) if turn % 2 else (f"Content-Length: {HUGE}", plain)


def bomb() -> Callable[[int], tuple[str, Pieces]]:
    """260 KB of gzip that inflate to 256 MiB."""
    squeeze = zlib.compressobj(9, wbits=31)
    packed = b"".join([*(squeeze.compress(PIECE) for _ in range(BOMB // len(PIECE))), squeeze.flush()])
    return lambda _: (f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}", [packed])


def chunks() -> Callable[[int], tuple[str, Pieces]]:
    """Chunks of 20 bytes, for every other request with an extension each; their sum is above the limit."""
    few = 10_000
    kinds = [[b"14\r\n%b\r\n" % PIECE[:20] * few], [b"14;a=b\r\n%b\r\n" % PIECE[:20] * few]]
    return lambda turn: ("Transfer-Encoding: chunked", kinds[turn % 2] * (CHUNKS // few) + [b"0\r\n\r\n"])


async def insisting(port: int, kind: Callable[[int], tuple[str, Pieces]], turn: int) -> Answer | None:
    """The answer to an attack that is not turned away with a 429 before it is looked at."""
    while (answer := await attack(port, kind, turn)) is not None and answer.status == 429:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.05)
    return answer


async def attack(port: int, kind: Callable[[int], tuple[str, Pieces]], turn: int) -> Answer | None:
    """Sends all of it, as fast as it is taken, and returns the answer."""
    (target, content_type), (framing, pieces) = TARGETS[turn // 2 % len(TARGETS)], kind(turn)
    connection = await Connection.open(port)
    connection.send(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n".encode())
    for piece in pieces:
        while connection.transport.get_write_buffer_size() > len(PIECE) and not connection.closed:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.001)
        if not connection.closed:
            connection.send(piece)
    try:
        return await connection.answer(60)
    finally:
        connection.abort()


async def scores(port: int) -> bool:
    """Whether it answers an ordinary request."""
    connection = await Connection.open(port)
    answer = await connection.insist(post(b'{"records": [{}]}'))
    connection.close()
    return answer.status == 200
