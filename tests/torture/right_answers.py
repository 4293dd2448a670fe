"""A record's score is the same wherever it stands, and always a number; nobody's answer depends on anybody else's request."""

from __future__ import annotations

import asyncio
import csv
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq

from tests.torture.placements import KINDS, NAME, WAYS, Record, Scores, as_records, as_table, dumped, extreme, ordinary
from tests.torture.probed import MODELS, ROOT, serving
from tests.torture.raw import Answer, Connection, post, run
from tests.torture.runs import Outcome, torture

CLIENTS = 32
LARGEST = 400
BAD: tuple[tuple[bytes, int, str], ...] = (
    (b'{"records": [{"amount": "x"}]}', 422, "invalid_records"),
    (b'{"records": [{"amount": 1e39}]}', 422, "invalid_records"),
    (b'{"records": [{"amount": NaN}]}', 400, "invalid_json"),
    (b'{"records": [{"amount": 1, "amount": 2}]}', 400, "duplicate_key"),
    (b'{"records": []}', 422, "invalid_request"),
    (b"{", 400, "invalid_json"),
)


@torture("one record, one score, bit for bit: alone, in any batch and form, 32 clients at once", suite=1_500, full=50_000)
def placements(count: int, seed: int, folder: Path) -> Outcome:
    outcome, pool = Outcome(), ordinary(1_000, seed)
    requests: dict[str, int] = {}

    async def client(port: int, number: int, alone: Scores, left: list[int]) -> None:
        draw, connection = random.Random(f"{seed}-{number}"), await Connection.open(port)
        while left[0] > 0:
            n = 1 if draw.random() < 0.9 else draw.randint(2, LARGEST)
            left[0] -= n
            places = [draw.randrange(len(pool)) for _ in range(n)]
            way = draw.choice(WAYS)
            sent, read = way([pool[place] for place in places])
            answer = await connection.insist(sent)
            if answer.status != 200:
                outcome.check(False, f"{way.__name__} of {n}: {answer.status} {answer.body[:200]!r}")
                continue
            same = [np.array_equal(told, known[places]) for told, known in zip(read(answer), alone, strict=True)]
            outcome.check(all(same), f"{way.__name__} of {n}: other scores for {places[:5]}")
            outcome.tried += n - 1
            requests[way.__name__] = requests.get(way.__name__, 0) + 1
            if answer.headers.get("connection") == "close":
                connection.close()
                connection = await Connection.open(port)
        connection.close()

    async def work(port: int) -> None:
        alone = await one_by_one(port, pool)
        left = [count]
        await asyncio.gather(*(client(port, number, alone, left) for number in range(CLIENTS)))

    with serving(folder) as served:
        run(work(served.port))
    outcome.figures = {"requests": sum(requests.values()), "forms": len(requests)}
    return outcome


@torture("over HTTP and from a file, CSV or Parquet, a record has the same score", suite=100, full=10_000)
def files(count: int, seed: int, folder: Path) -> Outcome:
    outcome, made = Outcome(), ordinary(count, seed + 1)
    for record in made:  # as text, a cell of such a name is missing, or has no line of its own
        record.update({name: value for name, value in record.items() if value not in ("null", "")})
    with (folder / "data.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(KINDS)
        writer.writerows([as_cell(record.get(name)) for name in KINDS] for record in made)
    pq.write_table(as_table(made), folder / "data.parquet")
    with serving(folder / "a") as served:
        batches = [made[start : start + 500] for start in range(0, count, 500)]
        told = run(in_order(served.port, [as_records(batch) for batch in batches]))
    expected = [np.concatenate(column) for column in zip(*told, strict=True)]
    for name in ("data.csv", "data.parquet"):
        out = folder / f"{name}.scores.csv"
        command = [sys.executable, "-m", "service", "score", str(folder / name), "--model", NAME, "--models-dir", str(MODELS)]
        environment = {**os.environ, "ANOMALY_PROVIDER": "cpu"}
        subprocess.run([*command, "--output", str(out)], check=True, capture_output=True, cwd=ROOT, env=environment)
        with out.open() as stream:
            rows = list(csv.DictReader(stream))
        score = np.array([row["score"] for row in rows], np.float32)
        p_value = np.array([row["p_value"] for row in rows], np.float64)
        for place in range(count):
            same = score[place] == expected[0][place] and p_value[place] == expected[1][place]
            outcome.check(bool(same), f"{name}, row {place}: {score[place]} and {expected[0][place]}: {made[place]}")
    return outcome


@torture("no accepted request gets a score that is no number, at the edges of float32", suite=300, full=20_000)
def float32_edges(count: int, seed: int, folder: Path) -> Outcome:
    outcome, bases, statuses = Outcome(), ordinary(200, seed + 2), {200: 0, 422: 0}

    async def client(port: int, number: int) -> None:
        connection = await Connection.open(port)
        for turn in range(number, count, CLIENTS):
            draw = random.Random(f"{seed}-{turn}")
            record, way = extreme(draw, draw.choice(bases)), draw.choice(WAYS)
            if way.__name__ == "as_arrow" and any(abs(value) > 1e308 for value in record.values() if isinstance(value, int)):
                way = as_records  # too large for a float64, of which the table is made
            sent, read = way([record])
            answer = await connection.insist(sent)
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            fits = all(math.isfinite(np.float32(value)) for value in numbers(record))
            if answer.status == 200:
                holds = fits and all(np.isfinite(column).all() for column in read(answer)) and b"NaN" not in answer.body
                if way.__name__ in ("as_records", "explained", "zipped", "in_chunks"):
                    holds = holds and all_numbers(orjson.loads(answer.body)["results"][0])
            else:
                code = json.loads(answer.body)["code"]
                holds = answer.status == 422 and code == ("not_scorable" if fits else "invalid_records")
            outcome.check(holds, f"{turn} {way.__name__} {record}: {answer.status} {answer.body[:200]!r}")
        connection.close()

    async def work(port: int) -> None:
        await asyncio.gather(*(client(port, number) for number in range(CLIENTS)))

    with serving(folder) as served, np.errstate(over="ignore"):
        run(work(served.port))
    outcome.figures = {"accepted": statuses[200], "refused": statuses[422]}
    return outcome


@torture("bad requests beside good ones change nothing, and nobody sees what others sent", suite=200, full=10_000)
def neighbours(count: int, seed: int, folder: Path) -> Outcome:
    outcome, pool = Outcome(), ordinary(50, seed + 3)
    tagged = [{**record, "device": "someone else"} for record in pool]  # an unknown device, as each tag is

    async def client(port: int, number: int, known: Scores, turns: int) -> None:
        draw, connection = random.Random(f"{seed}-{number}"), await Connection.open(port)
        for turn in range(turns):
            tag = f"tag-{number}-{turn}-"
            kind = draw.random()
            if kind < 0.15:  # leaves in the middle of its body, or while it is scored
                sent = post(dumped({"records": [pool[0]]}))
                connection.send(sent[: draw.randrange(len(sent) - 200, len(sent) + 1)])
                await asyncio.sleep(0)
                connection.abort()
                connection = await Connection.open(port)
                outcome.tried += 1
                continue
            if kind < 0.4:
                body, status, code = draw.choice(BAD)
                answer = await connection.insist(post(body, X_Request_ID=tag))
                holds = answer.status == status and json.loads(answer.body)["code"] == code
                outcome.check(holds and mine(answer, tag), f"{tag}: {answer}")
                continue
            places = [draw.randrange(len(pool)) for _ in range(draw.choice([1, 1, 1, 3]))]
            made: list[Any] = [{**pool[place], "device": f"{tag}{place}"} for place in places]
            if kind < 0.5:  # one bad record among good ones fails them all, and is named
                bad = draw.randrange(len(made))
                made[bad] = {**made[bad], "amount": "not a number"}
                answer = await connection.insist(post(dumped({"records": made}), X_Request_ID=tag))
                errors = json.loads(answer.body).get("errors", [])
                holds = answer.status == 422 and [error["loc"] for error in errors] == [f"records[{bad}].amount"]
                outcome.check(holds and mine(answer, tag), f"{tag}: {answer}")
                continue
            body = {"records": made} if kind < 0.75 else {"records": made, "explain": "all"}
            answer = await connection.insist(post(dumped(body), X_Request_ID=tag))
            holds = answer.status == 200 and mine(answer, tag) and right(answer, known, places)
            outcome.check(holds, f"{tag}: {answer.status} {answer.body[:300]!r}")
        connection.close()

    async def work(port: int) -> None:
        known = await one_by_one(port, tagged)
        await asyncio.gather(*(client(port, number, known, -(-count // CLIENTS)) for number in range(CLIENTS)))

    with serving(folder) as served:
        run(work(served.port))
        outcome.check("internal_error" not in served.log(), "a fault of ours")
    return outcome


def mine(answer: Answer, tag: str) -> bool:
    """Whether an answer is to the request with this tag, and holds nobody else's."""
    text = answer.body.decode()
    return answer.headers["x-request-id"] == tag and text.count("tag-") == text.count(tag)


def right(answer: Answer, known: Scores, places: list[int]) -> bool:
    """Whether it has the scores of these records."""
    results = orjson.loads(answer.body)["results"]
    told = [(np.float32(one["score"]), one["p_value"]) for one in results]
    return told == [(known[0][place], known[1][place]) for place in places]


def all_numbers(result: dict[str, Any]) -> bool:
    """Whether all figures of a result are numbers."""
    figures = [result[name] for name in ("score", "p_value", "elbo", "reconstruction_error")]
    figures += [part["contribution"] for part in result["contributions"] or []]
    return all(isinstance(figure, float | int) and math.isfinite(figure) for figure in figures)


def numbers(record: Record) -> list[float]:
    """The numbers of a record as float64, infinite where they do not fit it."""
    return [
        float(value) if abs(value) < 10**308 else math.inf for name, value in record.items() if KINDS[name] == "numeric" and value
    ]


async def one_by_one(port: int, made: list[Record]) -> Scores:
    """The scores of records that are sent alone."""
    told = await in_order(port, [as_records([record]) for record in made])
    score, p_value = zip(*told, strict=True)
    return np.concatenate(score), np.concatenate(p_value)


async def in_order(port: int, asked: list[Any]) -> list[Scores]:
    """What the answers to requests say, each sent when the one before has its answer."""
    connection, told = await Connection.open(port), []
    for sent, read in asked:
        answer = await connection.insist(sent)
        assert answer.status == 200, answer
        told.append(read(answer))
    connection.close()
    return told


def as_cell(value: Any) -> str:
    """A value as CSV has it."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
