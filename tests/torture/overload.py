"""Ten times more than a service can do, for a minute."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.torture.load import Seen, offer, saturate
from tests.torture.runs import Outcome, torture
from tests.torture.served import publish_example, served

TIMES = 10.0
LONG = (
    20  # seconds from which on times are judged, too: a short run is one of the test suite, on a machine that does other things
)


@torture("ten times more requests of 100 records than can be scored", suite=1, full=60)
def overload_small(count: int, seed: int, folder: Path) -> Outcome:
    """On the event loop; `count`: seconds."""
    return overload(100, 4, count, seed, folder)


@torture("ten times more requests of 1,000 records than can be scored", suite=1, full=60)
def overload_large(count: int, seed: int, folder: Path) -> Outcome:
    """In the background thread."""
    return overload(1_000, 8, count, seed, folder)


def overload(rows: int, clients: int, seconds: int, seed: int, folder: Path) -> Outcome:
    """Measures the capacity by so many clients, as many as are refused nothing; then offers 0.8 of it, ten times as much, and 2 s
    later 0.8 again. A second is a case.
    """
    publish_example(folder / "models")
    requests = [request(records(rows, 1000 * seed + i)) for i in range(8)]
    warm, usual = (5.0, 15.0) if seconds >= LONG else (0.3, 0.3)  # of some hundred answers, a p99 is hardly more than the slowest
    with served(folder / "models", folder / "log", log_requests="false") as server:
        cpu = server.cpu_seconds
        server.wait_until_ready()
        saturate(server.port, requests, clients, warm)
        capacity = max(1.0, saturate(server.port, requests, clients, warm).rate(200))
        before = offer(server.port, requests, 0.8 * capacity, usual, seed)
        mib = server.mib()
        worked = cpu()
        over = offer(server.port, requests, TIMES * capacity, seconds, seed)
        share = (cpu() - worked) / seconds
        grown = server.mib() - mib
        offer(server.port, requests, 0.1 * capacity, 2.0 if seconds >= LONG else 0.1, seed)
        after = offer(server.port, requests, 0.8 * capacity, warm, seed)
    told = Outcome(seconds)
    told.figures = figures(capacity, before, over, after, grown) | {"cores_had": round(share, 2)}
    faults = before.faults + over.faults + after.faults
    statuses = {status for status, _, _ in over.answers}
    holds = {f"faults: {dict(faults)}": not faults, f"statuses: {statuses}": statuses <= {200, 429, 503}}
    holds[f"{grown:.0f} MiB more"] = grown < 64
    holds["nothing was scored"] = over.rate(200) > 0
    if seconds >= LONG:
        holds |= in_time(capacity, before, over, after)
    told.failures = [failure for failure, held in holds.items() if not held]
    return told


def figures(capacity: float, before: Seen, over: Seen, after: Seen, grown: float) -> dict[str, float | int | str]:
    """What was seen, for the table."""
    return {
        "capacity_per_s": round(capacity, 1),
        "times_offered": round(over.offered / over.seconds / capacity, 2),
        "goodput_share": round(over.rate(200) / capacity, 2),
        "p99_before_ms": round(before.p99_ms(200), 1),
        "p99_accepted_ms": round(over.p99_ms(200), 1),
        "p99_refused_ms": round(over.p99_ms(429, 503), 1),
        "p99_after_ms": round(after.p99_ms(200), 1),
        "live_slowest_ms": round(1e3 * max(over.live), 1),
        "grown_mib": round(grown, 1),
    }


def in_time(capacity: float, before: Seen, over: Seen, after: Seen) -> dict[str, bool]:
    """What must hold of times and rates, by what is said where it does not."""
    refused, accepted, usual = over.p99_ms(429, 503), over.p99_ms(200), before.p99_ms(200)
    return {
        f"a refusal took {refused:.0f} ms (p99)": refused < 50,
        f"an answer took {accepted:.0f} ms (p99), {usual:.0f} at 0.8 of the capacity": accepted <= 3 * usual,
        f"{over.rate(200):.0f} answers a second of {capacity:.0f}": over.rate(200) >= 0.8 * capacity,
        f"/health/live took {1e3 * max(over.live):.0f} ms": max(over.live) < 0.25,
        f"2 s later {after.p99_ms(200):.0f} ms (p99), {usual:.0f} before": is_normal(before, after),
    }


def is_normal(before: Seen, after: Seen) -> bool:
    """Whether as much of a load is answered as before, and as fast. How much was offered is a matter of chance."""
    share, usual = (seen.rate(200) * seen.seconds / seen.offered for seen in (after, before))
    return share >= 0.9 * usual and after.p99_ms(200) <= 2 * before.p99_ms(200)


def records(rows: int, seed: int) -> list[dict[str, Any]]:
    """Records for the example model."""
    draw = random.Random(seed)
    return [
        {
            "time": f"2025-11-{draw.randint(1, 28):02d}T17:05:00",
            "amount": round(draw.lognormvariate(3, 1), 2),
            "merchant_category": draw.choice(["grocery", "travel", "electronics"]),
            "country": "DE",
            "card_country": "DE",
            "device": draw.choice(["contactless", "chip"]),
            "card_present": True,
            "account_age_days": draw.randint(1, 3_000),
            "distance_from_home_km": round(draw.expovariate(0.2), 1),
            "transactions_24h": draw.randint(0, 4),
            "minutes_since_last": draw.randint(1, 999),
            "credit_limit": 3_100,
        }
        for _ in range(rows)
    ]


def request(rows: list[dict[str, Any]], *lines: bytes) -> bytes:
    """The bytes of a request for their scores."""
    body = json.dumps({"records": rows}).encode()
    head = [b"POST /score HTTP/1.1", b"Host: x", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join([*head, b"", body])
