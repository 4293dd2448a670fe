"""Hostile bundles against a running service: each refused with a reason, and the old version gives its scores throughout."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import httpx

from service.bundle import current_version, read_bundle
from service.manifest import CURRENT, MANIFEST
from service.settings import Settings
from tests.service.client import Client
from tests.torture.hostile import KINDS, Make, garble
from tests.torture.runs import Outcome, torture

EXAMPLE = Path(__file__).parents[2] / "models" / "example"
OLD = EXAMPLE / current_version(EXAMPLE.parent, "example")
HOSTILE = "20990101T000000Z-hostile"  # a name without digits of a hash, so that it is not refused for that alone
BODY = {"records": [{}, {"amount": 1e6}], "explain": "all"}


@torture("a hostile bundle is refused with its reason, the old one serving throughout", suite=28, full=2_000)
def hostile_bundles(count: int, seed: int, folder: Path) -> Outcome:
    """Every tenth one is also tried in a process of its own, as it would be by default."""
    outcome, reasons = Outcome(), Counter[str]()
    models = folder / "models"
    shutil.copytree(OLD, models / "example" / OLD.name)
    (models / "example" / CURRENT).write_text(OLD.name)
    clients = [
        Client(
            Settings(
                models_dir=models, admin_keys=("root",), provider="cpu", reload_seconds=0, trial_seconds=s, log_requests=False
            )
        )
        for s in (0, 30)
    ]
    before = clients[0].score(BODY)
    try:
        for number in range(count):
            draw = random.Random(f"{seed}-{number}")
            kind: Make = KINDS[number % len(KINDS)]
            hostile = models / "example" / HOSTILE
            if kind.__name__ in ("flip", "truncate"):  # of the manifest, too: found by the version's name
                hostile = hostile.with_name(f"20990101T000000Z-{OLD.name[-6:]}")
            copy(OLD, hostile)
            kind(hostile, draw)
            (models / "example" / CURRENT).write_text(hostile.name)
            client = clients[number % 10 == 0]
            told = client.post("/models/example/reload", headers={"X-API-Key": "root"})
            holds = told.status_code == 409 and told.json()["code"] == "bundle_refused" and len(told.json()["detail"]) > 20
            if told.status_code == 200:
                if kind is garble:  # bytes that nobody reads, such as a node's name
                    holds = client.score(BODY)["results"] == before["results"]
                (models / "example" / CURRENT).write_text(OLD.name)
                client.post("/models/example/reload", headers={"X-API-Key": "root"})
            outcome.check(holds, f"{number} {kind.__name__}: {told.status_code} {told.text[:200]}")
            outcome.check(client.score(BODY) == before, f"{number} {kind.__name__}: another score")
            reasons[reason(told)] += 1
            shutil.rmtree(hostile)
    finally:
        for client in clients:
            client.close()
    assert read_bundle(OLD)
    outcome.tried //= 2
    outcome.figures = {"different_reasons": len(reasons)}
    return outcome


def copy(good: Path, hostile: Path) -> None:
    """A folder whose files are the good one's until they are rewritten."""
    hostile.mkdir()
    for path in good.iterdir():
        os.link(path, hostile / path.name) if path.stat().st_dev == hostile.stat().st_dev else shutil.copy(path, hostile)
    assert (hostile / MANIFEST).exists()


def reason(told: httpx.Response) -> str:
    """The reason without what differs from case to case."""
    return "".join(letter for letter in str(told.json().get("detail", told.status_code)) if not letter.isdigit())[-60:]
