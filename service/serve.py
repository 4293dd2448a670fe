"""Starts the service: its settings, its port, and one process or several in uvicorn."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Mapping
from logging import WARNING
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service import log
from service.app import CANNOT_START, check_start
from service.http_protocol import LimitedProtocol
from service.server import Server
from service.settings import PREFIX, Settings, SettingsError, service_links
from service.shared_metrics import shared_folder
from service.supervisor import Supervisor


def serve(settings: Settings, overrides: Mapping[str, str]) -> int:
    """Serves until a signal, and returns the exit code; `overrides`: settings by name, for this and the worker processes.

    Raises SettingsError where nobody can listen on the address, or where keys or tracing cannot be had.
    """
    check_address(settings.host, settings.port)
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
    check_start(settings)
    try:
        if settings.workers == 1:
            Server(config).run()
            return 0
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


def check_address(host: str, port: int) -> None:
    """Raises SettingsError where it cannot be listened on: said before a model is loaded, and with the settings to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:  # of a name that is unknown, too
        remedy = "choose another ANOMALY_HOST or ANOMALY_PORT (--host, --port), or end what listens there"
        raise SettingsError(f"cannot listen on {host}, port {port}: {(error.strerror or str(error)).lower()}; {remedy}") from None


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
    options = {PREFIX + name.upper(): "--" + name.replace("_", "-") for name in overrides}
    return Settings.read(merged, options), overrides
