"""What one process of the service is made of, whichever way a request comes in."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from service import log
from service.activity import Activity
from service.auth import Keys
from service.background import Background
from service.batching import Batcher
from service.errors import Problem, internal_error
from service.heads import Heads
from service.limits import Permits, Room
from service.live import Live
from service.metrics import Metrics, method_label
from service.registry import Registry
from service.settings import Settings
from service.shared_metrics import SharedMetrics

if TYPE_CHECKING:
    from service.tracing import Trace, Tracing

BAD, FAULT = 400, 500  # the least status of an error, and of one that is not the client's
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Parts:
    """Settings, keys, models, limits, counts and log. The application is one, of which its endpoints know no more than this."""

    def __init__(self, settings: Settings, tracing: Tracing | None) -> None:
        self.settings, self.tracing = settings, tracing
        self.keys = Keys(settings)
        self.metrics = Metrics()
        self.activity = Activity(self.metrics)
        self.registry = Registry(settings, self.metrics)
        self.shared_metrics = SharedMetrics.among(self.metrics)
        self.permits, self.room = Permits(settings.queue_rows), Room(max(settings.held_bytes, settings.max_body_bytes))
        self.metrics.queue_rows = lambda: self.permits.taken
        self.metrics.held_bytes = lambda: self.room.taken
        self.inline_bytes = min(settings.inline_bytes, settings.max_body_bytes)  # a body up to this size is never over the limit
        self.batcher, self.background = Batcher(), Background(self.permits)
        self.heads = Heads()
        self.keys.changed = self.heads.forget
        self.requests = log.RequestLog(settings.log_format, on=settings.log_requests)
        self.metrics.log_lines_dropped = lambda: self.requests.dropped
        self.started_at = time.monotonic()
        self.draining = False
        self.refuse_unfinished: Callable[[], None] = lambda: None  # called when the time that requests have at the end is over
        self._ids = map(f"{os.urandom(6).hex()}-%x".__mod__, itertools.count(1))

    def request_id(self, headers: Mapping[bytes, bytes]) -> str:
        """The caller's, if it sent a sane one, or a new one."""
        sent = headers.get(b"x-request-id")
        return next(self._ids) if sent is None or not REQUEST_ID.fullmatch(sent) else sent.decode()

    def problem(self, error: Exception, request_id: str) -> Problem:
        """What the client learns of an error, counted; of one that is no Problem, the log learns the class and place."""
        if not isinstance(error, Problem):
            log.fault(error, request_id=request_id)
            error = internal_error()
        error.__traceback__ = None  # else its frames, which hold it, keep the body in memory until a garbage collection
        self.metrics.errors[error.code] += 1
        return error

    def count(
        self,
        route: str,
        method: str,
        path: str,
        status: int,
        request_id: str,
        began: float,
        live: Live | None = None,
        scored: log.Scored | None = None,
        trace: Trace | None = None,
        code: str | None = None,
        client: tuple[str, int] | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Counts, traces and logs a request that has had its answer; `path` as log.quoted gives it, `live` if it came as far,
        `code` of its error, `client` as ASGI has it, `quiet`: without a line.
        """
        self.metrics.requests[route, method_label(method), status] += 1
        if live is not None:
            live.counts.requests[status] += 1
        seconds, trace_id = perf_counter() - began, None
        if trace is not None and self.tracing is not None:
            trace_id = self.tracing.end(trace, route, method, status, began, request_id, scored)
        if quiet:
            return
        error = None if status < BAD and code is None else _error(status, code, None if scored else live, client)
        self.requests.write(request_id, method, path, status, seconds=seconds, scored=scored, trace_id=trace_id, error=error)


def _error(status: int, code: str | None, live: Live | None, client: tuple[str, int] | None) -> dict[str, str]:
    """What the log tells of a request that failed: whose fault it is to mend, so of a 4xx who sent it."""
    told = {} if code is None else {"code": code}
    if live is not None:
        told |= {"model": live.name, "version": live.version}
    if BAD <= status < FAULT and client is not None:
        told["client"] = client[0]
    return told
