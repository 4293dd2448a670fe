"""Fixtures of the service's tests: applications in process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.service.client import Client

Serve = Callable[..., Client]


@pytest.fixture
def serve(bundle_dir: Path) -> Iterator[Serve]:
    """Makes applications with the settings given; by default of the tiny bundle, without polling."""
    clients = []

    def make(**settings: Any) -> Client:
        client = Client(
            Settings(
                **{
                    "models_dir": bundle_dir,
                    "reload_seconds": 0.0,
                    "trial_seconds": 0.0,
                    "provider": "cpu",
                    "log_requests": False,
                    **settings,
                }
            )
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def service(bundle_dir: Path) -> Iterator[Client]:
    """One application for all tests of a file that only ask it."""
    client = Client(Settings(models_dir=bundle_dir, reload_seconds=0.0, provider="cpu", log_requests=False))
    yield client
    client.close()
