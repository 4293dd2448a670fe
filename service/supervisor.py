"""Several processes of the service on one port: uvicorn's supervisor, which tells how each ended and loses nobody at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from logging import WARNING
from typing import cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from service import log
from service.server import Server
from service.shared_metrics import write_replaced

START_SECONDS = 60.0  # that a worker may take to start, on a machine that does other things
AGAIN_SECONDS = 5.0  # between the starts of a worker that ends before it has answered: the reason may be there to stay


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

    replaced = 0  # workers so far

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
                self.replaced += 1
                how = "it did not answer and was killed" if worker.pid in ran else _ending(worker.exitcode or 0)
                log.event(WARNING, "worker replaced", pid=str(worker.pid), by=str(successor.pid), reason=how)
                with contextlib.suppress(OSError):  # a full disk; the log has it
                    write_replaced(self.replaced)

    def join_all(self) -> None:
        """Waits for the workers, and kills one that is not gone after the grace, as one that is stopped never would be."""
        end = time.monotonic() + (self.config.timeout_graceful_shutdown or 0) + 1
        for worker in self.processes:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
        super().join_all()
