"""Runs the application in uvicorn, with the limits of service.http_protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service import log
from service.http_protocol import LimitedProtocol
from service.settings import PREFIX, Settings
from service.workers import shared_folder

CANNOT_START = 2


def serve(settings: Settings, overrides: Mapping[str, str]) -> int:
    """Serves until a signal, and returns the exit code; `overrides`: settings by name, for this and the worker processes."""
    for name, value in overrides.items():
        os.environ[PREFIX + name.upper()] = value
    log.configure(settings.log_format)
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
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    try:
        if settings.workers == 1:
            uvicorn.Server(config).run()
            return 0
        with shared_folder():
            workers = Multiprocess(config, sockets=[config.bind_socket()])
            workers.run()
    except SystemExit:  # uvicorn's way to say that it could not start; the log says why
        return CANNOT_START
    return CANNOT_START if any(process.exitcode == STARTUP_FAILURE for process in workers.processes) else 0


def settings_for(arguments: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The environment's settings with those that the command line names, and the latter as text. Raises SettingsError."""
    overrides = {name: str(value) for name, value in arguments.items() if value is not None}
    merged = {**os.environ, **{PREFIX + name.upper(): value for name, value in overrides.items()}}
    return Settings.read(merged), overrides
