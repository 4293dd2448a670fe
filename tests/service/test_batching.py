"""Small requests are scored together, and none notices the others."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from service.batching import LEAST, MAX_ROWS, Batcher
from service.limits import NEVER
from service.runs import answer_together
from tests.service.client import Client, check_problem, until
from tests.service.conftest import Serve
from tests.service.test_tabular import stream
from tests.service.tiny_bundle import GOOD, ODD, publish

BODIES: list[dict[str, Any]] = [
    {"records": [GOOD]},
    {"records": [ODD, GOOD]},
    {"records": [{}]},
    {"records": [ODD], "explain": "none"},
    {"records": [GOOD], "alpha": 0.5},
    {"columns": {"amount": [1, 2]}},
    {"records": [{"amount": "wrong"}]},
    {"records": [{"amount": 3.4e38, "count": 3.4e38}]},
]


def at_once(client: Client, bodies: list[Any], path: str = "/score") -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        return await asyncio.gather(*(client.http.post(path, json=body) for body in bodies))

    answers: list[httpx.Response] = client.run(ask())
    return answers


def told(answer: httpx.Response) -> Any:
    return answer.status_code, {name: value for name, value in answer.json().items() if name != "request_id"}


def test_requests_at_once_get_the_answers_that_they_get_alone(service: Client) -> None:
    alone = [told(service.post("/score", json=body)) for body in BODIES]
    assert [status for status, _ in alone] == [200] * 6 + [422] * 2
    for order in (range(8), reversed(range(8)), [0, 1, 2] * 5, [7, 0, 1], [0] * (MAX_ROWS + 10)):
        places = list(order)
        assert [told(answer) for answer in at_once(service, [BODIES[i] for i in places])] == [alone[i] for i in places]


def test_only_what_is_answered_is_noted_and_that_once(serve: Serve, models_dir: Path) -> None:
    shadow = "20260102T000000Z-made02"
    publish(models_dir, version=shadow, current=False)
    client = serve(models_dir=models_dir, shadow=("tiny", shadow))
    live, extreme = client.app.registry.default(), {"amount": 3.4e38, "count": 3.4e38}
    client.run(until(lambda: live.shadow is not None))
    answers = at_once(client, [{"records": [ODD]}, {"records": [extreme]}, {"records": [GOOD, ODD]}])
    assert [answer.status_code for answer in answers] == [200, 422, 200]
    table = stream(pa.table({name: [value] for name, value in extreme.items()}))
    for kind, body in (("x-ndjson", json.dumps(extreme).encode()), ("vnd.apache.arrow.stream", table)):
        answer = client.post("/score", content=body, headers={"content-type": f"application/{kind}"})
        check_problem(answer, 422, "not_scorable")
    live.watch.digest()
    assert (live.counts.records, live.watch.records, len(live.latest.documents())) == (3, 3, 2)
    comparison = client.app.metrics.comparisons["tiny", live.version, shadow]
    client.run(until(lambda: sum(comparison.results.values()) >= 3))  # in the order in which they were noted
    assert sum(comparison.results.values()) == 3


def rows_of_runs(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    detector, sizes = client.app.registry.default().detector, list[int]()
    real = detector.score
    monkeypatch.setattr(detector, "score", lambda x, *more: sizes.append(len(x)) or real(x, *more))
    return sizes


def test_a_run_has_so_many_rows_at_most(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """/health waits for a run: what more came in the same turn is scored in the next."""
    client = serve()
    sizes = rows_of_runs(client, monkeypatch)
    at_once(client, [{"records": [GOOD]}] * (MAX_ROWS + 100))
    assert sum(sizes) == MAX_ROWS + 100
    assert max(sizes) <= MAX_ROWS


def test_what_is_left_for_the_next_turn_counts_there(service: Client) -> None:
    live = service.app.registry.default()
    batch = live.reader.read(json.dumps({"records": [GOOD]}).encode())

    async def two_turns() -> list[int]:
        batcher, waiting = Batcher(), list[int]()
        futures = [asyncio.get_running_loop().create_future() for _ in range(MAX_ROWS + 100)]
        for future in futures:
            batcher.submit(live, batch, future, NEVER, batcher.admit(100))
        for _ in range(2):
            await asyncio.sleep(0)
            waiting.append(batcher._bytes)
        await asyncio.gather(*futures)
        return waiting

    assert service.run(two_turns()) == [100 * LEAST, 0]


def test_of_requests_in_one_run_each_is_told_its_own_counts(service: Client) -> None:
    live = service.app.registry.default()
    batches = [live.reader.read(json.dumps({"records": records}).encode()) for records in ([ODD], [GOOD], [ODD, GOOD, ODD])]
    answers, observed = answer_together(live, batches)
    assert [(answer.records, answer.anomalies) for answer in answers] == [(1, 1), (1, 0), (3, 2)]
    assert observed.anomalies == 3


def test_requests_at_once_are_scored_in_one_run(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    sizes = rows_of_runs(client, monkeypatch)
    at_once(client, [{"records": [GOOD]}] * 20)
    assert sum(sizes) == 20
    assert len(sizes) < 5


def test_a_model_that_fails_once_fails_no_neighbour(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    detector = client.app.registry.default().detector
    real = detector.score

    def fail_on_the_odd(x: Any, *more: Any) -> Any:
        if (x[:, 0] > 1000).any():
            raise RuntimeError
        return real(x, *more)

    monkeypatch.setattr(detector, "score", fail_on_the_odd)
    answers = at_once(client, [{"records": [GOOD]}, {"records": [ODD]}, {"records": [GOOD]}])
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert client.post("/score", json={"records": [GOOD]}).status_code == 200


def test_a_caller_that_gives_up_leaves_nobody_waiting(service: Client) -> None:
    async def give_up() -> Any:
        tasks = [asyncio.create_task(service.http.post("/score", json={"records": [GOOD]})) for _ in range(9)]
        for _ in range(30):
            await asyncio.sleep(0)
            tasks[4].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = service.run(give_up())
    assert [isinstance(answer, httpx.Response) and answer.status_code == 200 for answer in answers] == [True] * 4 + [False] + [
        True
    ] * 4


def test_models_do_not_mix(serve: Serve, models_dir: Any) -> None:
    publish(models_dir, "double", scale=2.0)
    client = serve(models_dir=models_dir)

    async def ask() -> list[httpx.Response]:
        names = ["tiny", "double"] * 6
        return await asyncio.gather(*(client.http.post(f"/models/{name}/score", json={"records": [GOOD]}) for name in names))

    answers = [answer.json() for answer in client.run(ask())]
    assert [(answer["model"], answer["results"][0]["score"]) for answer in answers] == [("tiny", 36.0), ("double", 72.0)] * 6


def test_a_model_that_raises_is_told_to_whoever_waits_for_it(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    live = client.app.registry.default()
    monkeypatch.setattr(live.detector, "score", lambda *_: 1 / 0)

    async def ask() -> BaseException | None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        batcher, body = client.app.batcher, b'{"records":[{"amount":1}]}'
        batcher.submit(live, live.reader.read(body), future, NEVER, batcher.admit(len(body)))
        await asyncio.wait([future])
        return future.exception()

    assert isinstance(client.run(ask()), ZeroDivisionError)
