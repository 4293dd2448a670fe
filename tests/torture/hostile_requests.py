"""Mutated requests: whatever comes, an answer below 500 that tells no value, from a process that lives."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import orjson

from tests.torture.mutations import SECRET, Sent, as_key, mutated, secrets, strictly_json
from tests.torture.probed import serving
from tests.torture.raw import Answer, Connection, post, run
from tests.torture.runs import Outcome, torture

CLIENTS, PATIENCE = 64, 5.0


@torture("mutated requests: no 5xx, no crash, no value told, no bad JSON taken", suite=600, full=50_000)
def mutated_requests(count: int, seed: int, folder: Path) -> Outcome:
    outcome, statuses, made = Outcome(), Counter[int](), secrets(40, seed)

    async def client(port: int, number: int) -> None:
        connection = await Connection.open(port)
        for turn in range(number, count, CLIENTS):
            sent = mutated(random.Random(f"{seed}-{turn}"), made)
            if connection.closed:
                connection = await Connection.open(port)
            connection.send(sent.data)
            try:
                answer = await connection.answer(PATIENCE, bodyless=sent.data.startswith(b"HEAD "))
            except TimeoutError:
                outcome.check(False, f"{turn}: no answer to {sent.data!r}")
                answer = None
            else:
                statuses[answer.status if answer else 0] += 1
                fault = fault_of(sent, answer)
                outcome.check(not fault, f"{turn}: {fault}: {sent.data[-1000:]!r}: {answer}")
            if answer is None or not sent.framed or answer.headers.get("connection") == "close":
                connection.abort()
                connection = await Connection.open(port)
        connection.close()

    async def work(port: int) -> None:
        await asyncio.gather(*(client(port, number) for number in range(CLIENTS)))
        connection = await Connection.open(port)
        answer = await connection.insist(post(b'{"records": [{}]}', X_API_Key="right"))
        outcome.check(answer.status == 200, f"afterwards: {answer}")

    with serving(folder, log_requests=True, api_keys="right", head_seconds=1, request_seconds=2) as served:
        run(work(served.port))
        log = served.log()
        outcome.check(served.alive() and "a request failed" not in log, f"a fault of ours: {log[-500:]}")
        lines = [orjson.loads(line) for line in log.splitlines()]
        outcome.check(SECRET.decode() not in " ".join(str(line) for line in lines if "path" not in line), "a value in the log")
    outcome.figures = {f"status_{status}": n for status, n in sorted(statuses.items())}
    return outcome


def fault_of(sent: Sent, answer: Answer | None) -> str:
    """What is wrong with an answer."""
    if answer is None:
        return "closed without an answer" if sent.framed else ""
    if answer.status >= 500:
        return "a fault of ours"
    if answer.status >= 400:
        if (SECRET in answer.body or b"271828" in answer.body) and not as_key(sent.data):
            return "tells a value"
        if b"Traceback" in answer.body:
            return "tells too much"
        return "" if answer.headers.get("content-type") == "application/problem+json" else "no problem document"
    if sent.json is not None and not strictly_json(sent.json):
        return "taken, though no JSON"
    return ""
