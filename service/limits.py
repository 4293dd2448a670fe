"""What a request may cost: room for its body, records, rows in the queue, and how long its client waits for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from time import monotonic
from typing import Self

from service.errors import FieldError, Problem

CLIENT_GONE = 499  # what the log and the metrics say of a request whose client left; nobody receives it
TIMEOUT = b"x-request-timeout-ms"
MILLISECONDS = re.compile(rb"[0-9]{1,9}")
NEVER = float("inf")
CALM, MANY, LASTING = 5, 8, 0.05  # requests; seconds


class ClientGoneError(Exception):
    """The client went away before its answer: nobody is left to give it to."""


class Room:
    """Bytes that requests may take all together: their bodies while they arrive, wait and are read, and answers that no client
    takes. Each has its own limit; without this one, as many of the largest could be held as there are connections.
    """

    def __init__(self, most: int) -> None:
        self.most, self.bodies = most, 0
        self.answers = 0  # as last looked at

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self.bodies + self.answers


class Holding:
    """What the body of one request takes of the room."""

    def __init__(self, room: Room) -> None:
        self._room, self._size = room, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.bodies -= self._size
        self._size = 0

    def take(self, size: int) -> None:
        """Takes so many bytes more, or raises the 429. Where no other request holds any, they are given, however many."""
        room, others = self._room, self._room.taken - self._size
        if others and others + self._size + size > room.most:
            detail = f"Other requests take {others} bytes, and all together may take {room.most}: send again later."
            raise Problem("queue_full", detail, headers={"Retry-After": "1"})
        room.bodies += size
        self._size += size

    def give_back(self, size: int) -> None:
        """Returns so many of the bytes that were taken: they are held no more."""
        self._room.bodies -= size
        self._size -= size


class Permits:
    """Rows that wait for, or are in, the background thread. A permit is tried, never awaited: a full queue says so at once.

    A burst may wait, as many rows as there are permits. Where more than CALM requests have been waiting for LASTING seconds it is
    no burst any more, and no more than MANY may: each waits about as long as it takes to answer so many.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.taken = rows, 0
        self._holders = 0  # requests, and blocks of streams
        self._calm_at = 0.0

    def check(self, rows: int = 1) -> None:
        """Raises the 429 where so many rows more may not wait. One request alone always gets in, whatever its size."""
        if not self.taken:
            return
        if self.taken + rows > self.rows or (self._holders >= MANY and monotonic() - self._calm_at > LASTING):
            raise Problem(
                "queue_full",
                f"{self.taken} rows are waiting and {self.rows} may, or for too long: send again later, or to another replica.",
                headers={"Retry-After": "1"},
            )

    def take(self, rows: int) -> None:
        """Takes permits for so many rows, or raises the 429."""
        self.check(rows)
        self.take_more(rows)

    def take_more(self, rows: int) -> None:
        """Takes permits for the next rows of a request that has been let in: refused halfway, it would have been for nothing."""
        if self._holders <= CALM:
            self._calm_at = monotonic()
        self.taken += rows
        self._holders += 1

    def give_back(self, rows: int) -> None:
        """Returns what was taken."""
        self.taken -= rows
        self._holders -= 1


def deadline(headers: Mapping[bytes, bytes], began: float) -> float:
    """The time by which a request that began then is of use to its client, by its X-Request-Timeout-Ms; raises the 422."""
    sent = headers.get(TIMEOUT)
    if sent is None:
        return NEVER
    if not MILLISECONDS.fullmatch(sent):
        problem = FieldError("X-Request-Timeout-Ms", "must be whole milliseconds, 0 to 999999999")
        raise Problem("invalid_request", "The header X-Request-Timeout-Ms cannot be read.", [problem])
    return began + int(sent) / 1000


def too_late() -> Problem:
    """The 503 of a request whose time is over before anything was computed for it."""
    detail = "The time in X-Request-Timeout-Ms was over before the request could be scored: nothing was computed for it."
    return Problem("deadline_exceeded", detail, headers={"Retry-After": "1"})


def check_records(n: int, most: int) -> None:
    """Raises the 413 where a request has n records, and so many are the most."""
    if n > most:
        raise Problem("too_many_records", f"{n} records, and a request may have {most}: send several requests.")
