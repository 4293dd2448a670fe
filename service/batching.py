"""From a batch of records to the body of its answer; and many small ones together, in one run of the graph.

A run of the graph costs far more to begin than to go on. So the small requests that came in the same turn of the event loop are
scored in one run: no timer, nobody waits for others to come. A request that cannot be scored fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic, perf_counter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.batch import Batch, Change
from service.calibration import UnsupportedAlphaError, rounded_up
from service.detector import Scores
from service.errors import FieldError, Problem, not_scorable
from service.limits import too_late
from service.live import Live

MAX_ROWS = 256  # in one run on the event loop, which /health waits for
LEAST = 1024  # bytes that the smallest request counts for: it costs as much as four records more
STEADY = 128 << 10  # bytes a turn when too much comes: some 15 ms of work
SCARCE = 64 << 10  # bytes a turn when far more is refused than taken: a refusal takes time as well, and waits for the turn
MOST_REFUSED = 3  # times what is taken; more is far more
BURST = 512 << 10  # bytes a turn otherwise
OVERLOADED = 0.1  # seconds of full turns that are no burst any more; and by which others must prevail to end it
IDLE = 0.01  # seconds without work that end an overload


@dataclass(slots=True)
class Answer:
    """The body of a 200, and what it cost."""

    body: bytes
    records: int
    anomalies: int
    began: float  # when scoring began
    inference: float  # seconds
    head: int = 0  # bytes of JSON before the tensors of a binary answer


@dataclass(slots=True)
class Observed:
    """What the metrics learn of a run. Counted on the event loop, wherever it ran."""

    score: NDArray[np.float32]
    p_value: NDArray[np.float64]
    anomalies: int
    warnings: dict[str, int]


def answered(
    body: bytes, scores: Scores, began: float, inference: float, warnings: dict[str, int], head: int = 0
) -> tuple[Answer, Observed]:
    """A body and what it says, for the client and for the metrics."""
    anomalies = int(np.count_nonzero(scores.is_anomaly))
    return (
        Answer(body, len(scores.score), anomalies, began, inference, head),
        Observed(scores.score, scores.p_value, anomalies, warnings),
    )


def answer(live: Live, batch: Batch, *, lines: bool = False) -> tuple[Answer, Observed]:
    """The answer to one request, or as `lines` to a block of a stream. Raises the Problem that says why there is none."""
    began = perf_counter()
    scores = score(live, batch)
    inference = perf_counter() - began
    body, warnings = live.writer.lines(batch, scores) if lines else live.writer.write(batch, scores)
    note(live, batch, scores)
    return answered(body, scores, began, inference, warnings)


def answer_together(live: Live, batches: Sequence[Batch]) -> tuple[list[Answer], Observed]:
    """The answers to several requests of records, all with the default options, from one run."""
    began = perf_counter()
    rows = [row for batch in batches for row in batch.rows]
    joined = Batch(np.concatenate([batch.x for batch in batches]), rows, False, all(batch.normal for batch in batches))
    if not joined.normal:
        joined.changed = _changed(batches)
    scores = score(live, joined)
    inference = perf_counter() - began
    results, warnings = live.writer.records(joined, scores)
    note(live, joined, scores)
    head, flags, answers, start = live.writer.head(scores), scores.is_anomaly.tolist(), [], 0
    for batch in batches:
        stop = start + len(batch.rows)
        body = b"%b[%b]}" % (head, b",".join(results[start:stop]))
        answers.append(Answer(body, stop - start, sum(flags[start:stop]), began, inference))
        start = stop
    return answers, Observed(scores.score, scores.p_value, sum(flags), warnings)


def _changed(batches: Sequence[Batch]) -> list[Change]:
    """What has changed in batches of records, by the rows of all of them."""
    starts = accumulate((len(batch.rows) for batch in batches), initial=0)
    return [
        (start + row, column, code) for start, batch in zip(starts, batches, strict=False) for row, column, code in batch.changed
    ]


def count(live: Live, observed: Observed) -> None:
    """Counts a run."""
    live.counts.count(observed.score, observed.p_value, observed.anomalies, observed.warnings)


def score(live: Live, batch: Batch) -> Scores:
    """The scores of a batch, by which health knows the model to work. Raises the 422 of an unsupported alpha."""
    try:
        scores = live.detector.score(batch.x, batch.alpha, batch.fdr, batch.explain)
    except UnsupportedAlphaError as error:
        problem = FieldError("alpha", f"must be at least {rounded_up(error.smallest)}")
        raise Problem("unsupported_alpha", f"{error}.", [problem], smallest_alpha=error.smallest) from None
    except Exception:
        live.failed = True  # /health will ask the model itself before it says that all is well
        live.counts.failed_batches += 1  # here, not on the event loop: the batch that fails has no Observed
        raise
    live.scored_at, live.failed = monotonic(), False
    return scores


def note(live: Live, batch: Batch, scores: Scores) -> None:
    """Leaves what is to be answered to those who look at live records. Of a run that is refused they learn nothing: its records
    may be scored again, each request's alone.
    """
    if live.shadow is not None:
        live.shadow.offer(batch.x, scores.p_value)
    live.watch.note(batch.x, scores.score)
    if len(scores.explained):
        live.latest.note(batch.x, scores)


def score_finite(live: Live, batch: Batch) -> Scores:
    """As score and note, for an answer that has no way to leave a score out. Raises the 422 of records without a finite
    one, too."""
    scores = score(live, batch)
    if not np.isfinite(scores.score).all():
        raise not_scorable([f"records[{row}]" for row in np.flatnonzero(~np.isfinite(scores.score))])
    note(live, batch, scores)
    return scores


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
    for waiting, answer in zip(taken, answers, strict=True):
        waiting.waiter.set_result(answer)


def _answer(waiting: Waiting) -> None:
    try:
        told, observed = answer(waiting.live, waiting.batch)
    except Exception as error:  # noqa: BLE001 - whoever waits learns of it
        waiting.waiter.set_exception(error)
    else:
        count(waiting.live, observed)
        waiting.waiter.set_result(told)
