"""One process of the service: uvicorn's server, which accepts connections at its own pace, and ends without losing any."""

from __future__ import annotations

import asyncio
import errno
import math
import select
import signal
import socket
import time
from logging import WARNING
from typing import Any, cast

import uvicorn

from service import log
from service.app import Service
from service.http_protocol import LINGER_SECONDS, LINGER_TURNS, LimitedProtocol
from service.shared_metrics import is_left_alone

HANGS_SECONDS, TURN_SECONDS = 3.0, 0.1
ACCEPTED_A_TURN = 128  # connections, at some 0.1 ms each
PACE, PAUSE = 4e-4, 1e-3  # seconds a connection of those that several workers share, and that the others have to wake up


class Server(uvicorn.Server):
    """uvicorn's, which leaves connections waiting to be accepted: under load for long, and at its end for ever.

    libuv accepts one connection a turn of the event loop, and a turn may take as long as 256 records to score. Where there are
    several workers, it is not asked at all: the first to wake up would take all of a client's connections, one a turn, and leave
    the others idle for as long as the client keeps them.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts what waits at every turn, beside libuv or, of sockets that are shared with other workers, at a pace."""
        self.ticked_at = math.inf  # until the loop turns for the first time
        self._shared = bool(sockets)
        self._due = 1 if sockets else ACCEPTED_A_TURN
        await super().startup([] if sockets else None)
        cast(Service, self.config.loaded_app).refuse_unfinished = self._refuse_unfinished
        self._loop = asyncio.get_running_loop()
        self._told_at = -math.inf  # when it was last said that there are too many connections
        self._tasks = set[asyncio.Task[Any]]()
        self._listening = [listener.dup() for server in self.servers for listener in server.sockets]
        for shared in sockets or ():
            shared.listen(self.config.backlog)
            self._listening.append(shared.dup())
        for listener in self._listening:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)
        self._loop.add_signal_handler(signal.SIGHUP, self._look_for_versions)

    def _look_for_versions(self) -> None:
        """What a reload is to a service manager; by default the signal would end the process at once."""
        looking = self._loop.create_task(cast(Service, self.config.loaded_app).registry.look())
        self._tasks.add(looking)
        looking.add_done_callback(self._tasks.discard)

    def _accept(self, listener: socket.socket) -> None:
        self._take(listener, self._due)
        if self._shared:  # sleeps: who looks again at once may keep the others from waking up
            self._loop.remove_reader(listener)
            self._loop.call_later(PAUSE, self._look_again, listener, time.monotonic())

    def _look_again(self, listener: socket.socket, left: float) -> None:
        if listener.fileno() >= 0:  # not closed by now
            waited = time.monotonic() - left  # longer than the pause where much is scored
            self._due = min(ACCEPTED_A_TURN, max(1, int(waited / PACE))) if _is_waiting(listener) else 1
            self._loop.add_reader(listener, self._accept, listener)

    def _take(self, listener: socket.socket, most: int) -> None:
        try:
            for _ in range(most):
                connection, _ = listener.accept()
                connection.setblocking(False)
                opening = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
                self._tasks.add(opening)
                opening.add_done_callback(self._opened)
        except OSError as error:  # none is left; or it is gone by now; or there are too many: the next turn sees to it
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._tell_of_too_many()

    def _tell_of_too_many(self) -> None:
        """Once a minute at most."""
        now = time.monotonic()
        if now - self._told_at > 60.0:
            self._told_at = now
            log.event(WARNING, "too many open connections: raise the limit of open files (ulimit -n)")

    def _opened(self, opening: asyncio.Task[Any]) -> None:
        self._tasks.discard(opening)
        if not opening.cancelled():
            opening.exception()  # of a client that has gone meanwhile, which is nobody's fault

    def _protocol(self) -> LimitedProtocol:
        return LimitedProtocol(self.config, self.server_state, self.lifespan.state)

    def _refuse_unfinished(self) -> None:
        for connection in list(self.server_state.connections):
            cast(LimitedProtocol, connection).refuse_unfinished()

    async def on_tick(self, counter: int) -> bool:
        """Notes that the event loop turns: it is asked for this ten times a second. A worker ends when its supervisor is gone."""
        self.ticked_at = time.monotonic()
        if is_left_alone():
            self.should_exit = True
        return await super().on_tick(counter)

    def hangs(self) -> bool:
        """Whether the event loop does not turn any more."""
        return self.started and time.monotonic() - self.ticked_at > HANGS_SECONDS

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts them first: what they have sent gets the 503 that says so."""
        cast(Service, self.config.loaded_app).draining = True
        turning = asyncio.create_task(self._note_turns())
        for _ in range(LINGER_TURNS):
            await asyncio.sleep(LINGER_SECONDS)
        for listener in self._listening:
            self._take(listener, ACCEPTED_A_TURN)
            self._loop.remove_reader(listener)
            listener.close()
        await super().shutdown(sockets)
        turning.cancel()

    async def _note_turns(self) -> None:
        """As on_tick, which is asked no more once the server ends: a worker that takes its time for that does not hang."""
        while True:
            self.ticked_at = time.monotonic()
            await asyncio.sleep(TURN_SECONDS)


def _is_waiting(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    now = select.poll()
    now.register(listener, select.POLLIN)
    return bool(now.poll(0))
