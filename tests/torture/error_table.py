"""Every case of refusals.py against the served process; and the rows that need a service in a state of its own."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from tests.service import tiny_bundle
from tests.service.tiny_bundle import GOOD
from tests.torture import refusals
from tests.torture.probed import Probed, serving
from tests.torture.raw import Answer, Connection, post, request, run
from tests.torture.refusals import LIMIT, RECORDS, SECRET, Case
from tests.torture.runs import Outcome, torture

NEEDED = {401: "www-authenticate", 405: "allow", 429: "retry-after", 503: "retry-after"}
LARGE = post(json.dumps({"records": [GOOD] * 4000, "explain": "all"}).encode())


@torture("each row of the error table over raw sockets, request smuggling and floods of headers included", suite=150, full=150)
def error_table(count: int, seed: int, folder: Path) -> Outcome:
    outcome, models = Outcome(), folder / "models"
    tiny_bundle.publish(models)
    limits = {"head_seconds": 1, "request_seconds": 2, "max_body_bytes": LIMIT, "max_records": RECORDS}
    with serving(folder / "a", models, api_keys="right", admin_keys="root", **limits) as served:

        async def all_at_once() -> None:
            cases = refusals.every()
            wrong = await asyncio.gather(*(attempt(served.port, case) for case in cases))
            for case, first in zip(cases, wrong, strict=True):
                # on a busy machine all at once may be too many: who is told so comes again
                fault = await attempt(served.port, case) if first.startswith("429 ") else first
                outcome.check(not fault, f"{case.name}: {fault}")
            again = await ask_alone(served.port, refusals.scored(refusals.BODY))
            outcome.check(again.status == 200, f"afterwards: {again}")

        run(all_at_once())
        outcome.check("internal_error" not in served.log(), "a fault of ours")
        outcome.check(SECRET not in served.log(), "a value in the log")
    (folder / "none").mkdir()
    with serving(folder / "b", folder / "none") as served:
        for name, sent in {"no model": post(b'{"records": [{}]}'), "not ready": request("GET", "/health/ready")}.items():
            outcome.check(not (fault := run(attempt(served.port, Case(name, sent, 503, "not_ready")))), f"{name}: {fault}")
    with serving(folder / "c", models, queue_rows=1) as served:
        answers: list[Answer] = run(several(served.port, LARGE, 8))
        refused = [answer for answer in answers if answer.status == 429]
        outcome.check(len(refused) > 0 and all(answer.status in (200, 429) for answer in answers), "no full queue")
        for answer in refused:
            outcome.check(not (fault := check(answer, Case("full", LARGE, 429, "queue_full"))), f"full: {fault}")
    with serving(folder / "d", models) as served:
        ends = Case("ends", post(refusals.BODY), 503, "shutting_down", closes=True)
        outcome.check(not (fault := run(at_its_end(served, ends))), f"ends: {fault}")
    outcome.figures = {"smuggling": len(list(refusals.smuggled()))}
    return outcome


async def attempt(port: int, case: Case) -> str:
    """What is wrong with the answer to a case; nothing, if all is right."""
    connection = await Connection.open(port)
    connection.send(case.sent)
    try:
        answer = await connection.answer()
        if answer is None:
            return f"no answer, {bytes(connection.buffer)[:100]!r}"
        fault = check(answer, case)
        if case.closes and not fault:
            more = await connection.answer()  # None: the connection has ended
            fault = "" if more is None and not connection.buffer else f"answered twice: {more or connection.buffer}"
    except TimeoutError:
        fault = "no answer, or no end, in time"
    finally:
        connection.close()
    return fault


def check(answer: Answer, case: Case) -> str:
    """What is wrong with an answer that is to be an error of this status and code."""
    text = answer.body.decode()
    if answer.status != case.status or answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status} {answer.headers} {text[:300]}"
    document = json.loads(text)
    if (document["status"], document["code"]) != (case.status, case.code) and document["status"] != "unavailable":
        return text[:300]
    if document["request_id"] != answer.headers["x-request-id"]:
        return "two ids"
    if SECRET in text or "271828" in text or "Traceback" in text:
        return f"tells too much: {text[:300]}"
    needed = NEEDED.get(case.status)
    return f"no {needed}" if needed and not answer.headers.get(needed) else ""


async def at_its_end(served: Probed, case: Case) -> str:
    """What is wrong with the first refusal on a connection that goes on asking while the service ends."""
    connection = await Connection.open(served.port)
    assert (await connection.ask(case.sent)).status == 200
    served.process.send_signal(signal.SIGTERM)
    while (answer := await connection.ask(case.sent)).status == 200:
        pass
    return check(answer, case) or ("" if await connection.answer() is None else "the connection goes on")


async def ask_alone(port: int, sent: bytes) -> Answer:
    """One request on a connection of its own."""
    connection = await Connection.open(port)
    try:
        return await connection.ask(sent)
    finally:
        connection.close()


async def several(port: int, sent: bytes, n: int) -> list[Answer]:
    """The answers to a request, sent n times at once."""
    return list(await asyncio.gather(*(ask_alone(port, sent) for _ in range(n))))
