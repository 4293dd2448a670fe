"""Many small requests together, in one run of the graph; and too many of them refused.

A run of the graph costs far more to begin than to go on. So the small requests that came in the same turn of the event loop are
scored in one run: no timer, nobody waits for others to come. A request that cannot be scored fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

from service.batch import Batch
from service.errors import Problem
from service.limits import too_late
from service.live import Live
from service.runs import Answer, answer, answer_together, count

MAX_ROWS = 256  # in one run on the event loop, which /health waits for
LEAST = 1024  # bytes that the smallest request counts for: it costs as much as four records more
STEADY = 128 << 10  # bytes a turn when too much comes: some 15 ms of work
SCARCE = 64 << 10  # bytes a turn when far more is refused than taken: a refusal takes time as well, and waits for the turn
MOST_REFUSED = 3  # times what is taken; more is far more
BURST = 512 << 10  # bytes a turn otherwise
OVERLOADED = 0.1  # seconds of full turns that are no burst any more; and by which others must prevail to end it
IDLE = 0.01  # seconds without work that end an overload


class Waiter(Protocol):
    """Who waits for an answer: an asyncio.Future, or whatever else has these of its methods."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: Answer, /) -> None:
        """Takes the answer."""

    def set_exception(self, exception: Exception, /) -> None:
        """Takes what kept it from being given."""


class Waiting(NamedTuple):
    """A request that has been read and is to be scored at the end of this turn of the event loop."""

    live: Live
    batch: Batch
    waiter: Waiter
    deadline: float  # of perf_counter
    cost: int  # bytes


class Batcher:
    """Gathers the small requests of a turn of the event loop, and refuses those that are too many.

    Work is counted in bytes of bodies, which are known before anything is read: JSON and graph cost about as much a byte for few
    and for many features. A burst is let in. Where turns have been too full for OVERLOADED seconds it is no burst any more, and
    a turn takes no more than STEADY: so an answer, and a refusal, waits for two short turns at most.
    """

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._bytes, self._refused, self._limit = 0, 0, BURST  # bytes of this turn
        self._scheduled = False
        self._overloaded = False
        self._against = 0.0  # seconds of turns that say otherwise
        self._turned_at = self._ended_at = 0.0  # when the last turn began to score, and when it ended

    def is_full(self, length: int) -> bool:
        """Whether a body of so many bytes would be refused now; then it counts as refused."""
        cost = length if length > LEAST else LEAST
        full = self._scheduled and self._bytes + cost > self._limit
        if full:
            self._refused += cost
        return full

    def admit(self, length: int) -> int:
        """Lets a body of so many bytes in, before it is read, or raises the 429. Returns what it counts for."""
        cost = length if length > LEAST else LEAST
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._drain)
            now = perf_counter()
            if now - self._ended_at > IDLE:
                self._overloaded, self._against, self._turned_at, self._limit = False, 0.0, now, BURST
        elif self.is_full(length):
            raise too_many()
        self._bytes += cost
        return cost

    def submit(self, live: Live, batch: Batch, waiter: Waiter, deadline: float, cost: int) -> None:
        """Answers a request that was admitted at this cost, at the end of this turn."""
        self._waiting.append(Waiting(live, batch, waiter, deadline, cost))

    def _drain(self) -> None:
        """Scores what waits for the first one's model, MAX_ROWS at most; the rest in the next turn."""
        now = perf_counter()
        self._look(self._bytes > STEADY or self._refused > 0, now - self._turned_at)
        self._turned_at = now
        if self._overloaded:
            self._limit = STEADY if self._refused <= MOST_REFUSED * self._bytes else SCARCE
        else:
            self._limit = BURST
        self._refused = 0
        taken = self._take()
        self._bytes = sum([waiting.cost for waiting in self._waiting])
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._drain)
        together = list[Waiting]()
        for waiting in taken:
            if waiting.waiter.done():  # its client has gone
                continue
            if waiting.deadline < now:
                waiting.waiter.set_exception(too_late())
            elif waiting.batch.usual:
                together.append(waiting)
            else:
                _answer(waiting)
        if len(together) > 1:
            _answer_together(together)
        elif together:
            _answer(together[0])
        self._ended_at = perf_counter()

    def _look(self, full: bool, seconds: float) -> None:
        """Takes into account that a turn of so many seconds was full, or not.

        Full turns in a row make an overload. It ends when turns that are not full have taken more than twice as long as those
        that are: of the short turns of an overload one often takes all that came, and what has bursts has full ones for ever.
        """
        if full != self._overloaded:
            self._against += seconds
        else:
            self._against = max(0.0, self._against - 2 * seconds) if full else 0.0
        if self._against >= OVERLOADED:
            self._overloaded, self._against = not self._overloaded, 0.0

    def _take(self) -> list[Waiting]:
        live, taken, left, rows = self._waiting[0].live if self._waiting else None, list[Waiting](), list[Waiting](), 0
        for waiting in self._waiting:
            if waiting.live is live and rows < MAX_ROWS:
                rows += len(waiting.batch.x)
                taken.append(waiting)
            else:
                left.append(waiting)
        self._waiting = left
        return taken


def too_many() -> Problem:
    """The 429 of a request for which its turn has no room."""
    return Problem("queue_full", "More requests come than can be scored: send again later.", headers={"Retry-After": "1"})


def _answer_together(taken: Sequence[Waiting]) -> None:
    live = taken[0].live
    try:
        answers, observed = answer_together(live, [waiting.batch for waiting in taken])
    except Exception:  # noqa: BLE001 - whose fault it is shows when each is scored alone
        for waiting in taken:
            _answer(waiting)
        return
    count(live, observed)
    for waiting, one in zip(taken, answers, strict=True):
        waiting.waiter.set_result(one)


def _answer(waiting: Waiting) -> None:
    try:
        told, observed = answer(waiting.live, waiting.batch)
    except Exception as error:  # noqa: BLE001 - whoever waits learns of it
        waiting.waiter.set_exception(error)
    else:
        count(waiting.live, observed)
        waiting.waiter.set_result(told)
