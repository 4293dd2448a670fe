"""A load that does not wait for answers: requests leave when their time has come, on whatever connection is free (an open
loop); or, without a rate, as many as there are connections are always under way (a closed one)."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CLOSE = b"connection: close"
EXPIRY = 3.0  # seconds after which a client does not use an idle connection again: less than the service's 5
LIVE_EVERY = 0.05  # seconds


@dataclass
class Seen:
    """What a load has seen of a service. Seconds are from when a request had its time to the last byte of its answer."""

    seconds: float = 0.0
    offered: int = 0
    answers: list[tuple[int, float, float]] = field(default_factory=list)  # status, when it was whole, seconds it took
    live: list[float] = field(default_factory=list)  # seconds of each /health/live
    faults: Counter[str] = field(default_factory=Counter)
    lost: list[float] = field(default_factory=list)  # when requests had left, as perf_counter has it, that got no answer

    def rate(self, status: int) -> float:
        """Answers a second with this status, of those that came while the load lasted."""
        return sum(told == status and at <= self.seconds for told, at, _ in self.answers) / self.seconds

    def p99_ms(self, *statuses: int) -> float:
        """Within which 99 % of the answers with these statuses came; 0 where there were none."""
        every = [took for status, _, took in self.answers if status in statuses]
        return 1e3 * float(np.quantile(every, 0.99)) if every else 0.0


class Connection:
    """One request after another."""

    def __init__(self, port: int, poll: select.epoll) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.began = self.sent = self.ended = 0.0
        self.live = self.answered = self.last = False
        self._left, self._told, self._end, self._poll, self._blocked = memoryview(b""), b"", -1, poll, False
        poll.register(self.socket, select.EPOLLIN)

    def send(self, request: bytes, began: float) -> None:
        """Begins a request, which had its time then."""
        self.began, self.answered = began, False
        self._left, self._told, self._end = memoryview(request), b"", -1
        self.send_on()
        self.sent = perf_counter()

    def send_on(self) -> None:
        """Sends what the socket takes."""
        with contextlib.suppress(BlockingIOError):
            self._left = self._left[self.socket.send(self._left) :]
        if self._blocked != bool(self._left):
            self._blocked = bool(self._left)
            self._poll.modify(self.socket, select.EPOLLIN | (select.EPOLLOUT if self._blocked else 0))

    def receive(self) -> bytes | None:
        """The answer, once it is whole. Raises ConnectionError where there will be none."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionAbortedError
        self._told += part
        if self._end < 0:
            head = self._told.find(b"\r\n\r\n")
            if head < 0:
                return None
            length = LENGTH.search(self._told, 0, head)
            self._end = head + 4 + (int(length[1]) if length else 0)
            self.last = CLOSE in self._told[:head].lower()
        self.answered = len(self._told) >= self._end
        return self._told if self.answered else None

    def free(self) -> bool:
        """Whether it can take the next request: an answer may come before the whole request has left."""
        return self.answered and not self._left

    def close(self) -> None:
        """Ends it."""
        self._poll.unregister(self.socket)
        self.socket.close()


class Load:
    """One load on a service."""

    def __init__(self, port: int, requests: Sequence[bytes], rate: float | None, connections: int, seed: int) -> None:
        self._port, self._requests, self._rate, self._most = port, requests, rate, connections
        self._draw, self._poll, self.seen = random.Random(seed), select.epoll(), Seen()
        self._connections, self._free = dict[int, Connection](), list[Connection]()
        self._due = deque[float]()  # when each of them had its time
        self._turn = 0
        self.ended = False  # set by whoever wants it to end

    def run(self, seconds: float) -> Seen:
        """Offers requests for so long, or until it is ended, waits for all their answers, and meanwhile asks /health/live."""
        began = now = next_at = live_at = perf_counter()
        end = began + seconds
        while now < end or self._due or len(self._free) < len(self._connections):
            if self.ended:
                end = min(end, now)
            if now > end + 60:
                self.seen.faults["no answer in 60 s"] += len(self._connections) - len(self._free) + len(self._due)
                break
            if self._rate is None:
                self._due.extend([now] * (self._most - len(self._connections) + len(self._free) if now < end else 0))
            while self._rate is not None and next_at <= now and next_at < end:
                self._due.append(now)
                next_at += self._draw.expovariate(self._rate)
            try:
                if live_at <= now < end:
                    asking = self._open()
                    asking.live = True
                    asking.send(LIVE, now)
                    live_at = now + LIVE_EVERY
                self._send()
            except ConnectionRefusedError:  # nobody listens any more
                self.ended = True
                self._due.clear()
            wait = min(next_at, live_at) if self._rate is not None else live_at
            self._receive(max(0.0, min(wait, now + 0.05) - perf_counter()), began)
            now = perf_counter()
        self.seen.seconds = end - began
        for connection in self._connections.values():
            connection.close()
        self._poll.close()
        return self.seen

    def _open(self) -> Connection:
        connection = Connection(self._port, self._poll)
        self._connections[connection.socket.fileno()] = connection
        return connection

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        if connection in self._free:
            self._free.remove(connection)
        connection.close()

    def _send(self) -> None:
        while self._due and (self._free or len(self._connections) < self._most):
            connection = self._free.pop() if self._free else self._open()
            if connection.answered and perf_counter() - connection.ended > EXPIRY:  # the service may be closing it by now
                self._drop(connection)
                continue
            connection.send(self._requests[self._turn % len(self._requests)], self._due.popleft())
            self._turn += 1
            self.seen.offered += 1

    def _receive(self, seconds: float, began: float) -> None:
        for descriptor, event in self._poll.poll(seconds):
            connection = self._connections[descriptor]
            try:
                if event & select.EPOLLOUT:
                    connection.send_on()
                answer = connection.receive() if event & ~select.EPOLLOUT else None
            except OSError as error:
                if connection not in self._free:  # else it was idle for too long
                    self.seen.faults[type(error).__name__] += 1
                    self.seen.lost.append(connection.sent)
                self._drop(connection)
                continue
            if answer:
                self._note(connection, answer, perf_counter(), began)
            if answer and connection.last:
                self._drop(connection)
            elif connection.free():
                connection.ended = perf_counter()
                self._free.append(connection)

    def _note(self, connection: Connection, answer: bytes, now: float, began: float) -> None:
        status, took = int(answer[9:12]), now - connection.began
        if connection.live:
            self.seen.live.append(took)
            if status != 200:
                self.seen.faults[f"/health/live: {status}"] += 1
            return
        self.seen.answers.append((status, now - began, took))
        self.look(status, answer, connection.began, now)
        if status != 200 and b"retry-after: " not in answer:
            self.seen.faults[f"a {status} without Retry-After"] += 1

    def look(self, status: int, answer: bytes, began: float, now: float) -> None:
        """For who wants to see each answer: its bytes, and when its request began and ended, as perf_counter has it."""

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """In a thread, for as long as the context lasts; then `seen` is whole."""
        thread = threading.Thread(target=self.run, args=(1e9,))
        thread.start()
        try:
            yield
        finally:
            self.ended = True
            thread.join()


def offer(port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Seen:
    """So many requests a second, at random moments (Poisson)."""
    return Load(port, requests, rate, 1_000, seed).run(seconds)


def saturate(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Seen:
    """As many requests as so many clients get answers to, one after another each."""
    return Load(port, requests, None, connections, 0).run(seconds)
