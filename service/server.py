"""Runs the application in uvicorn, with the limits of service.http_protocol."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Mapping
from logging import ERROR, WARNING
from typing import Any, cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from service import log
from service.app import Service, check_start
from service.http_protocol import LINGER_SECONDS, LINGER_TURNS, LimitedProtocol
from service.settings import PREFIX, Settings, SettingsError, service_links
from service.workers import is_left_alone, shared_folder

CANNOT_START = 2
START_SECONDS = 60.0  # that a worker may take to start, on a machine that does other things
HANGS_SECONDS, TURN_SECONDS = 3.0, 0.1
AGAIN_SECONDS = 5.0  # between the starts of a worker that ends before it has answered: the reason may be there to stay
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


class Worker(multiprocess.Process):
    """One of several processes. While it starts, which may take longer than an answer to a ping, it is let alone."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._began: float | None = None  # when it was first asked; None again when it has answered
        self._asked = self._has_started = False
        self._started = time.monotonic()

    def is_alive(self, timeout: float = 5) -> bool:
        """Whether it runs, and answers."""
        if not self.process.is_alive():  # one that never started is not replaced at once
            soon = time.monotonic() - self._started < AGAIN_SECONDS
            return soon and not self._has_started and self.exitcode != STARTUP_FAILURE
        if self._asked and self._began is None:
            answer = self._healthcheck(timeout)
            self._has_started = self._has_started or answer is True
            return answer is not None
        if not self._asked:
            self._asked, self._began = True, time.monotonic()
            self.parent_conn.send(b"ping")
        if self.parent_conn.poll():
            self._has_started, self._began = self.parent_conn.recv(), None
        return self._began is None or time.monotonic() - self._began <= START_SECONDS

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """What the process does. A setting that cannot be used any more, as a file of keys that is gone, is told in one line."""
        try:
            super().target(sockets)
        except SettingsError as error:
            log.event(ERROR, str(error))
            raise SystemExit(1) from None

    def pong(self) -> None:
        """Answers a ping, in a thread of the worker; but not for an event loop that hangs, which this thread would outlive."""
        self.child_conn.recv()
        if not self.server.hangs():
            self.child_conn.send(self.server.started)

    @property
    def server(self) -> Server:
        """What it runs."""
        if self._server is None:
            self._server = Server(self.config)
        return cast(Server, self._server)


def _ending(exit_code: int) -> str:
    """How a process ended, of which multiprocessing tells a signal as a negative number."""
    return f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code} ({signal.strsignal(-exit_code)})"


class Supervisor(multiprocess.Multiprocess):
    """uvicorn's: starts the workers, replaces one that has died, or that does not answer its ping."""

    def run(self) -> None:
        """Until a signal."""
        multiprocess.Process = Worker  # type: ignore[misc] # uvicorn has no other way to tell which
        super().run()

    def terminate_all(self) -> None:
        """Lets go of the port, too: else the system would go on connecting clients, whom no worker accepts any more."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def handle_hup(self) -> None:
        """Has each worker look for new versions; uvicorn's would replace them, and wait for each. One that starts ignores it."""
        for worker in self.processes:
            if worker.process.is_alive():
                os.kill(cast(int, worker.pid), signal.SIGHUP)

    def keep_subprocess_alive(self) -> None:
        """Replaces those that have died or do not answer, and logs how each ended."""
        before = list(self.processes)
        ran = {worker.pid for worker in before if worker.process.is_alive()}
        super().keep_subprocess_alive()
        for worker, successor in zip(before, self.processes, strict=True):
            if successor is not worker:
                how = "it did not answer and was killed" if worker.pid in ran else _ending(worker.exitcode or 0)
                log.event(WARNING, "worker replaced", pid=str(worker.pid), by=str(successor.pid), reason=how)

    def join_all(self) -> None:
        """Waits for the workers, and kills one that is not gone after the grace, as one that is stopped never would be."""
        end = time.monotonic() + (self.config.timeout_graceful_shutdown or 0) + 1
        for worker in self.processes:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
        super().join_all()


def serve(settings: Settings, overrides: Mapping[str, str]) -> int:
    """Serves until a signal, and returns the exit code; `overrides`: settings by name, for this and the worker processes."""
    for name, value in overrides.items():
        os.environ[PREFIX + name.upper()] = value
    _open_standard_streams()
    log.configure(settings.log_format)
    links = service_links(os.environ)
    if links:
        log.event(WARNING, f"{min(links)} is Kubernetes' and no setting: ignored, as all that it sets for a Service of that name")
    _allow_connections()
    # Sent by habit to have logs reopened or settings read, these would end the process; SIGHUP has a use once it serves.
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
    config = uvicorn.Config(
        "service.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=LimitedProtocol,
        ws="none",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=settings.idle_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    try:
        if settings.workers == 1:
            Server(config).run()
            return 0
        check_start(settings)  # of which each worker would else fail by itself
        requests = log.RequestLog(settings.log_format)
        log.configure(settings.log_format, requests)
        try:
            with shared_folder():
                workers = Supervisor(config, sockets=[config.bind_socket()])
                workers.run()
        finally:
            requests.close()
    except SystemExit:  # uvicorn's way to say that it could not start; the log says why
        return CANNOT_START
    return CANNOT_START if any(process.exitcode == STARTUP_FAILURE for process in workers.processes) else 0


def _open_standard_streams() -> None:
    """Where the caller has closed them, whatever is opened next would have their numbers, and get the lines of the log."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the least number that is free


def _allow_connections() -> None:
    """As many connections as the system allows: the usual 1,024 are few where clients are slow."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems say more than they give
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def settings_for(arguments: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The environment's settings with those that the command line names, and the latter as text. Raises SettingsError."""
    overrides = {name: str(value) for name, value in arguments.items() if value is not None}
    merged = {**os.environ, **{PREFIX + name.upper(): value for name, value in overrides.items()}}
    return Settings.read(merged), overrides
