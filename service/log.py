"""One line for each request and event, JSON or text, on standard error. No line holds a record's value, and none can be forged:
what a client sent is written as a JSON string, in which a newline is two characters."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import multiprocessing
import os
import select
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from queue import SimpleQueue
from typing import Any

from service.settings import LogFormat

FLUSH_SECONDS = 0.05
WAIT_MS = 500
MAX_WAITING = 100_000  # lines; a reader of the log that has stopped must not stop the service, nor fill its memory
MAX_EVENTS = 1_000
END_SECONDS = 1.0  # for what is left to be written at the end of the process; a reader that has stopped gets no more
logger = logging.getLogger("service")
Scored = tuple[str, str, int, int]  # model, version, records, anomalies


class RequestLog:
    """The lines of requests: gathered on the event loop, written by a thread, so that a slow reader costs no request any time.

    The lines of events go the same way, from whichever thread they come.
    """

    def __init__(self, log_format: LogFormat, descriptor: int = 2, on: bool = True) -> None:
        self._json, self._descriptor, self._on = log_format == "json", descriptor, on
        self._requests: list[tuple[Any, ...]] = []  # the arguments of _line
        self._queue: SimpleQueue[tuple[list[str], Callable[[], None]] | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._milli, self._begin = 0, ""  # the time of the last line, in ms, and how lines of then begin
        self._writing = self._ending = self._given_up = False
        self._too_many = self._unread = 0  # lines: counted on the event loop, and by whoever writes
        self._events, self._lost_events, self._lock = 0, 0, threading.Lock()  # that wait; that were too many
        # Several processes on one pipe: what is written at once is not mixed with another's up to so many bytes.
        self._piece = select.PIPE_BUF if multiprocessing.parent_process() is not None and _is_pipe(descriptor) else 0

    @property
    def dropped(self) -> int:
        """Lines that are not in the log."""
        return self._too_many + self._lost_events + self._unread + (self._events if self._given_up else 0)

    def write(
        self,
        request_id: str,
        method: str,
        path: str,
        status: int,
        *,
        seconds: float,
        scored: Scored | None = None,
        trace_id: str | None = None,
        error: Mapping[str, str] | None = None,
    ) -> None:
        """Adds a request's line; `path` as `quoted` gives it, and method, too, free of control characters. `error`: what else
        the line of one tells, by its names.
        """
        if not self._on:
            return
        waiting = self._requests
        if not waiting and not self._writing:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)
        if len(waiting) < MAX_WAITING:
            waiting.append((time.time(), request_id, method, path, status, seconds, scored, trace_id, error))
        else:
            self._too_many += 1

    def event(self, line: str) -> None:
        """Adds the line of an event. In any thread, which does not wait."""
        with self._lock:
            if self._events >= MAX_EVENTS:
                self._lost_events += 1
                return
            self._events += 1
        if self._ending:
            self._put([line])
            self._event_is_done()
        else:
            self._submit([line], self._event_is_done)

    def _event_is_done(self) -> None:
        with self._lock:
            self._events -= 1

    def _submit(self, lines: list[str], done: Callable[[], None]) -> None:
        """Has lines written by the thread, in their turn, which then calls `done`."""
        with self._lock:
            if self._writer is None:
                # a daemon, which keeps no process from ending whose reader has stopped
                self._writer = threading.Thread(target=self._work, name="log", daemon=True)
                self._writer.start()
                atexit.register(self.close)
        self._queue.put((lines, done))

    def _work(self) -> None:
        while (given := self._queue.get()) is not None:
            lines, done = given
            self._put(lines)
            done()

    def _line(
        self,
        now: float,
        request_id: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        scored: Scored | None,
        trace_id: str | None,
        error: Mapping[str, str] | None,
    ) -> str:
        milli = int(now * 1000)
        if milli != self._milli:  # at full load many lines have the same
            stamp = f"{_stamp(milli // 1000)}.{milli % 1000:03d}Z"
            begin = f'{{"time":"{stamp}","level":"info","event":"request","request_id":"' if self._json else f"{stamp} info "
            self._milli, self._begin = milli, begin
        if self._json:
            more = "" if scored is None else ',"model":"{}","version":"{}","records":{},"anomalies":{}'.format(*scored)
            more += "" if trace_id is None else f',"trace_id":"{trace_id}"'
            more += "" if error is None else "".join(f',"{name}":{quoted(text)}' for name, text in error.items())
            line = f'{self._begin}{request_id}","method":"{method}","path":{path},"status":{status},"ms":{seconds * 1000:.3f}'
            return f"{line}{more}}}\n"
        more = "" if trace_id is None else f" trace_id={trace_id}"
        more += "" if scored is None else " model={} version={} records={} anomalies={}".format(*scored)
        more += "" if error is None else "".join(f" {name}={quoted(text)}" for name, text in error.items())
        return f"{self._begin}{method} {path} {status} {seconds * 1000:.3f} ms request_id={request_id}{more}\n"

    def _flush(self) -> None:
        if self._requests and not self._writing:
            lines, self._writing = self._take(), True
            loop = asyncio.get_running_loop()
            self._submit(lines, lambda: _call_on(loop, self._written))

    def _written(self) -> None:
        self._writing = False
        if self._requests:  # not at once: under load that would be a change of threads for each request
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _take(self) -> list[str]:
        requests, self._requests = self._requests, []
        return [self._line(*request) for request in requests]

    def _put(self, lines: list[str]) -> None:
        text, at = "".join(lines).encode(), 0
        whole = memoryview(text)
        try:
            if self._given_up:
                raise TimeoutError
            while at < len(text):
                # as many whole lines as fit in a piece; of a longer one, a part
                end = (text.rfind(b"\n", at, at + self._piece) + 1 or at + self._piece) if self._piece else len(text)
                try:
                    at += os.write(self._descriptor, whole[at:end])
                except BlockingIOError:  # whoever made the pipe wants no writer to wait; this thread does nothing else
                    self._wait()
        except OSError:  # nobody reads the log any more; the service goes on
            self._unread += text.count(b"\n", at)

    def _wait(self) -> None:
        """Until there is room again. Raises TimeoutError where there is none and the service ends."""
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while not room.poll(WAIT_MS):
            if self._ending:
                raise TimeoutError

    def close(self) -> None:
        """Writes what is left, as far as somebody reads it."""
        if self._ending:
            return
        self._ending = True
        rest = self._take()
        if self._writer is None:
            self._put(rest)
            return
        atexit.unregister(self.close)
        self._submit(rest, lambda: None)
        self._queue.put(None)
        self._writer.join(END_SECONDS)
        if self._writer.is_alive():  # in the middle of a line that nobody takes
            self._given_up = True
            self._unread += len(rest)


def _call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(function)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def quoted(text: str, longest: int = 200) -> str:
    """A client's text as a JSON string in printable ASCII, cut to so many characters."""
    return encode_basestring_ascii(text[:longest])  # what json.dumps takes long to come to


def event(level: int, text: str, **members: str) -> None:
    """Logs something that happened to the service itself."""
    logger.log(level, text, extra={"members": members})


def fault(error: BaseException, what: str = "a request failed", **members: str) -> None:
    """Logs a fault of ours by its class and place alone: an exception's text may hold values of a record."""
    places = [
        f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    event(logging.ERROR, what, **members, error=type(error).__name__, at=" < ".join(reversed(places[-6:])))


class Lines(logging.Formatter):
    """Formats the records of logging in the same way as the requests."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self._json = log_format == "json"

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        members: dict[str, Any] = {
            "time": f"{_stamp(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": _last_line(record.getMessage()),
            **getattr(record, "members", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            members["error"] = type(record.exc_info[1]).__name__
        if self._json:
            return json.dumps(members, default=str)
        told = [members.pop("time"), members.pop("level"), quoted(members.pop("event"), 1000)[1:-1]]
        return " ".join([*told, *(f"{name}={quoted(str(value))}" for name, value in members.items())])


class Events(logging.Handler):
    """Hands the events of logging to whoever writes the lines of requests: so that no thread waits for the log's reader."""

    def __init__(self, requests: RequestLog) -> None:
        super().__init__()
        self._requests = requests

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one."""
        self._requests.event(self.format(record) + "\n")


def configure(log_format: LogFormat, requests: RequestLog | None = None) -> None:
    """Sends the events of the service, of uvicorn, of asyncio and of OpenTelemetry to standard error in this format; where there
    is a log of requests, by way of that.
    """
    handler = logging.StreamHandler(sys.stderr) if requests is None else Events(requests)
    handler.setFormatter(Lines(log_format))
    handler.addFilter(_is_news)
    for name in ("service", "uvicorn", "asyncio", "opentelemetry"):
        there = logging.getLogger(name)
        there.handlers, there.propagate = [handler], False
        there.setLevel(logging.INFO)


def _is_news(record: logging.LogRecord) -> bool:
    """All but what uvicorn says of a request that the end of the process cut off: it has its own line."""
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)


def _last_line(message: str) -> str:
    """What an event says; of a traceback, which uvicorn logs where the application cannot start, the error alone."""
    return message.strip().rsplit("\n", 1)[-1] if message.startswith("Traceback") else message


@lru_cache(1)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
