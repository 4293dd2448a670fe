"""service.client, against a real server on a socket."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from starlette.types import Receive, Scope, Send

from service import client_retries
from service.app import create_app
from service.client import Answer, AsyncClient, Client, Retries, ServiceError
from service.client_answers import Place, decoded
from service.client_retries import Wait
from service.client_tables import BYTES, split
from service.settings import Settings
from tests.service.serving import serving
from tests.service.tiny_bundle import GOOD, ODD

ROOT = Path(__file__).parents[2]


class Moody:
    """The service behind a gateway that, as often as it was told to, answers something else first."""

    def __init__(self, settings: Settings) -> None:
        self.service = create_app(settings)
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.scored = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""
        if scope["type"] == "http" and scope["method"] == "POST" and self.refusals:
            status, headers = self.refusals.pop(0)
            await receive()
            head = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": b"<html>no</html>"})
            return
        self.scored += scope["type"] == "http" and scope["method"] == "POST"
        await self.service(scope, receive, send)


@pytest.fixture(scope="module")
def gateway(bundle_dir: Path) -> Moody:
    settings = Settings(
        models_dir=bundle_dir, provider="cpu", reload_seconds=0, log_requests=False, api_keys=("k1",), max_records=500
    )
    return Moody(settings)


@pytest.fixture(scope="module")
def address(gateway: Moody) -> Iterator[str]:
    with serving(gateway) as url:
        yield url


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, key="k1") as made:
        yield made


def test_answers_are_typed(client: Client) -> None:
    answer = client.score([GOOD, ODD])
    assert (answer.model, answer.alpha, len(answer.results)) == ("tiny", 0.01, 2)
    assert [result.is_anomaly for result in answer.results] == [False, True]
    assert answer.results[0].contributions is None
    reasons = answer.results[1].contributions
    assert reasons is not None
    assert (reasons[0].feature, reasons[0].value) == ("amount", 100000.0)
    assert sum(reason.contribution for reason in reasons) == pytest.approx(answer.results[1].score, rel=1e-5)
    assert {warning.code for warning in answer.results[1].warnings} == {"out_of_range", "unknown_category"}


def test_an_explanation_tells_what_would_be_without_each_value(address: str, client: Client) -> None:
    answer = client.explain([GOOD, ODD], alpha=0.05)
    first = answer.results[1].contributions[0]
    assert (answer.alpha, first.feature) == (0.05, "amount")
    without = client.score([{**ODD, "amount": None}], explain="all").results[0]
    assert (first.if_missing.score, first.if_missing.p_value) == (without.score, without.p_value)
    assert all(one.if_missing is None for one in client.score([ODD]).results[0].contributions)

    async def work() -> Answer:
        async with AsyncClient(address, key="k1", model="tiny") as other:
            return await other.explain([GOOD, ODD], alpha=0.05)

    assert asyncio.run(work()) == answer


@pytest.mark.parametrize("name", ["..", ".", "", "x/../tiny", "tiny?x=1", "tiny#", "a b", "../../score"])
def test_what_is_no_name_of_a_model_asks_no_other(client: Client, name: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ValueError, match="is no name of a model or version"):
            make("http://localhost", model=name)
        with pytest.raises(ValueError, match="is no name of a model or version"):
            make("http://localhost", model="tiny", version=name)
    with pytest.raises(ValueError, match="is no name of a model or version"):
        client.model(name)


def test_columns_model_and_health(client: Client) -> None:
    told = client.score_columns({"amount": [1.0, 1e5], "country": ["de", None]}, alpha=0.05)
    assert (told.alpha, told.results.is_anomaly) == (0.05, [False, True])
    model = client.model("tiny")
    assert [feature.kind for feature in model.features][:3] == ["numeric", "numeric", "categorical"]
    assert client.health().version == model.version == told.version


def test_any_number_of_records_goes_in_batches_as_they_come(client: Client, gateway: Moody) -> None:
    taken = 0

    def records() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for place in range(1_050):
            taken += 1
            yield {**GOOD, "amount": float(place)}

    before, answers = gateway.scored, client.score_batches(records(), size=500, explain="none")
    first = next(answers)
    assert taken == 500
    sizes = [len(answer.results) for answer in (first, *answers)]
    assert sizes == [500, 500, 50]
    assert gateway.scored - before == 3


def test_an_async_client_has_several_requests_under_way_and_keeps_their_order(address: str, client: Client) -> None:
    records = [{**GOOD, "amount": float(place)} for place in range(100)]
    meant = [result.score for result in client.score(records).results]

    async def score() -> list[float]:
        async with AsyncClient(address, key="k1", model="tiny") as made:
            assert (await made.health()).model == (await made.model("tiny")).name == "tiny"
            assert (await made.score_columns({"amount": [1.0]})).results.is_anomaly == [False]
            answers = made.score_batches(records, size=7, at_once=4)
            return [result.score async for answer in answers for result in answer.results]

    assert asyncio.run(score()) == meant


def test_an_error_is_an_exception_with_code_and_places(client: Client) -> None:
    with pytest.raises(ServiceError, match=r"records\[1\]\.amount: not a number") as caught:
        client.score([GOOD, {"amount": "12"}])
    error = caught.value
    assert (error.status, error.code) == (422, "invalid_records")
    assert [place.loc for place in error.errors] == ["records[1].amount"]
    assert error.request_id


def test_a_wrong_key_is_not_retried(address: str) -> None:
    with Client(address, key="nonsense") as client, pytest.raises(ServiceError) as caught:
        client.score([GOOD])
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")


def test_it_waits_as_long_as_retry_after_says(client: Client, gateway: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("service.client.time.sleep", waited.append)
    gateway.refusals = [(429, {"retry-after": "7"}), (503, {"retry-after": "3"}), (502, {})]
    assert len(client.score([GOOD]).results) == 1
    assert waited[:2] == [7, 3]
    assert 0 < waited[2] < 1


def test_an_async_client_retries_as_well(address: str, gateway: Moody) -> None:
    gateway.refusals = [(429, {"retry-after": "0"}), (503, {"retry-after": "0"})]

    async def score() -> int:
        async with AsyncClient(address, key="k1") as made:
            return len((await made.score([GOOD])).results)

    assert asyncio.run(score()) == 1
    assert gateway.refusals == []


def test_it_gives_up_in_the_end_and_tells_what_answered(address: str, gateway: Moody) -> None:
    gateway.refusals = [(502, {}) for _ in range(3)]
    with Client(address, key="k1", retries=Retries(times=2, first=0.001)) as client, pytest.raises(ServiceError) as caught:
        client.score([GOOD])
    assert (caught.value.status, caught.value.code) == (502, "unknown")
    assert gateway.refusals == []


def test_a_wait_longer_than_allowed_is_not_begun() -> None:
    def wait(retry_after: str, left: float, *, last: bool = False) -> tuple[bool, float]:
        one = Wait(0.1, left, last=last)
        return one.again(httpx.Response(503, headers={"Retry-After": retry_after})), one.seconds

    assert wait("30", 60) == (True, 30)
    assert wait("61", 60)[0] is False
    assert wait("0", 60, last=True)[0] is False
    assert wait("soon", 60) == (True, 0.1)
    again, seconds = wait(format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True), 60)
    assert again
    assert 10 < seconds <= 20
    assert wait(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 60) == (True, 0)


def test_waits_grow_and_end() -> None:
    waits = list(client_retries.Retries(times=3, first=0.1).waits())
    assert [wait.last for wait in waits] == [False, False, False, True]
    assert all(0.05 * 2**place <= wait.seconds <= 0.1 * 2**place for place, wait in enumerate(waits))
    assert next(client_retries.Retries(seconds=0).waits()).last


def test_a_service_that_is_not_there_is_an_httpx_error_after_the_retries() -> None:
    with Client("http://127.0.0.1:9", retries=Retries(times=1, first=0.001)) as client, pytest.raises(httpx.ConnectError):
        client.score([GOOD])


def test_a_table_goes_in_parts_and_comes_back_whole(client: Client, gateway: Moody) -> None:
    table = pa.table({"amount": [float(place) for place in range(1_200)], "country": ["de"] * 1_200})
    before = gateway.scored
    scores = pa.table(client.score_table(table, size=500, alpha=0.05))
    assert gateway.scored - before == 3
    assert scores.column_names == ["score", "p_value", "is_anomaly"]
    told = client.score_columns({"amount": table["amount"].to_pylist()[:500], "country": ["de"] * 500}).results
    assert scores["p_value"].to_pylist()[:500] == told.p_value
    with pytest.raises(TypeError, match="does not speak Arrow"):
        client.score_table([1])
    with pytest.raises(ValueError, match="no rows"):
        client.score_table(table.slice(0, 0))


def test_bad_arguments_are_told_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="name the model"):
        Client("http://127.0.0.1:9", version="v1")
    with Client("http://127.0.0.1:9") as client, pytest.raises(ValueError, match="1 is the least"):
        next(client.score_batches([GOOD], size=0))


def test_it_needs_nothing_of_the_server() -> None:
    heavy = {
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "numpy",
        "orjson",
        "prometheus_client",
        "arro3",
        "onnxruntime",
        "torch",
    }
    code = f"import service.client, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_values_of_numpy_and_pandas_are_those_of_python(client: Client) -> None:
    """As the records of `frame.to_dict("records")`, and of rows of arrays and databases, have them."""
    moment = datetime(2026, 3, 2, 14, 30)
    made: list[dict[str, Any]] = [
        {"amount": np.float64(12.5), "count": np.int64(3), "country": np.str_("de"), "online": np.True_},
        {"at": pd.Timestamp(moment)},
        {"amount": Decimal("12.5"), "count": np.uint8(3), "level": np.int32(20), "at": moment},
        {"amount": np.float32(12.5), "count": np.longdouble(3), "at": np.datetime64("2026-03-02T14:30", "ns")},
        {"amount": np.float64("nan"), "count": None, "at": pd.NaT, "country": pd.NA},
        {"at": pd.Timestamp("2026-03-02T14:30:00.123456789+05:00")},
        {"at": np.datetime64("NaT")},
    ]
    meant = [
        {"amount": 12.5, "count": 3, "country": "de", "online": True},
        {"at": moment.isoformat()},
        {"amount": 12.5, "count": 3, "level": 20, "at": moment.isoformat()},
        {"amount": 12.5, "count": 3, "at": moment.isoformat()},
        {},
        {"at": "2026-03-02T14:30:00.123456"},
        {},
    ]
    assert client.score(made).results == client.score(meant).results
    columns = {"amount": [np.float64(1), Decimal("2.5")]}
    assert client.score_columns(columns).results == client.score_columns({"amount": [1.0, 2.5]}).results
    for odd in (np.array([1.0]), pd.Timedelta(1), object()):
        with pytest.raises(TypeError, match="is no value of a record"):
            client.score([{"amount": odd}])


def test_a_frame_is_sent_without_an_index_that_has_no_name(client: Client) -> None:
    frame = pd.DataFrame({"amount": [1.0, 1e5, 2.0, 1e5], "country": ["de", "at", None, "fr"]})
    filtered = frame[[True, True, False, True]]
    assert "__index_level_0__" in pa.table(filtered).column_names
    assert pa.table(client.score_table(filtered))["is_anomaly"].to_pylist() == [False, True, True]
    with pytest.raises(ServiceError, match=r"columns\.row"):
        client.score_table(filtered.rename_axis("row"))


def test_a_wide_table_is_split_by_bytes_too() -> None:
    numbers = np.random.default_rng(0).random((300, 10_000))
    wide = pa.table({f"f{place}": column for place, column in enumerate(numbers)} | {"text": ["x"] * 10_000})
    long = pa.table({"text": ["y" * (BYTES + 1), "z"] + ["w" * 1000] * 10_000})
    assert len(list(split(wide, 10_000))) == 3
    for whole in (wide, long):
        bodies, counts = zip(*split(whole, 10_000), strict=True)
        assert sum(counts) == whole.num_rows
        parts = [pa.ipc.open_stream(body).read_all() for body in bodies]
        assert pa.concat_tables(parts).cast(whole.schema).equals(whole)
        assert all(len(body) <= BYTES for body, part in zip(bodies, parts, strict=True) if part.num_rows > 1)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), np.float32("inf"), np.float64("inf"), Decimal("NaN")])
def test_an_infinite_number_is_refused_and_not_sent_as_missing(client: Client, value: Any) -> None:
    with pytest.raises(ValueError, match=r"records\[1\]\.amount: .* has no score"):
        client.score([GOOD, {"amount": value}])
    with pytest.raises(ValueError, match=r"columns\.amount\[2\]: .* has no score"):
        client.score_columns({"amount": [1.0, None, value]})


def test_bytes_are_refused_and_not_sent_as_base64(client: Client) -> None:
    with pytest.raises(TypeError, match=r"records\[0\]\.country: bytes are no value"):
        client.score([{"country": b"de"}])


def test_hours_and_days_of_numpy_are_datetimes(client: Client) -> None:
    made = [{"at": np.datetime64("2026-03-02T14", "h")}, {"at": np.datetime64("2026-03-02", "D")}]
    meant = [{"at": "2026-03-02T14:00:00"}, {"at": "2026-03-02T00:00:00"}]
    assert client.score(made).results == client.score(meant).results


def test_an_address_that_is_none_is_told_at_once() -> None:
    with Client("localhost:8000", retries=Retries(times=5, first=100)) as client, pytest.raises(httpx.UnsupportedProtocol):
        client.score([GOOD])


def test_an_error_goes_through_a_pool_of_processes(client: Client) -> None:
    with pytest.raises(ServiceError) as raised:
        client.score([{"zz": 1}])
    again = pickle.loads(pickle.dumps(raised.value))
    assert (vars(again), str(again)) == (vars(raised.value), str(raised.value))
    assert "records[0].zz" in str(again)


def test_places_are_those_in_all_that_was_given(client: Client) -> None:
    records = [GOOD] * 23 + [{**GOOD, "amount": "x"}]
    with pytest.raises(ServiceError) as raised:
        list(client.score_batches(records, size=10))
    assert [place.loc for place in raised.value.errors] == ["records[23].amount"]
    amounts = [1.0] * 23 + [float("inf")]
    with pytest.raises(ServiceError) as raised:
        client.score_table(pa.table({"amount": amounts}), size=10)
    assert [place.loc for place in raised.value.errors] == ["columns.amount[23]"]
    odd = ServiceError(422, "c", "d", "r", [Place("columns.a[7][3]", "m"), Place("records[3].a[7]", "m"), Place("alpha", "m")])
    assert [place.loc for place in odd.shifted(10).errors] == ["columns.a[7][13]", "records[13].a[7]", "alpha"]


def test_headers_of_ones_own_take_no_key_away(address: str) -> None:
    with Client(address, key="k1", headers={"X-Request-Timeout-Ms": "60000"}) as made:
        assert made.score([GOOD]).results


def test_an_alpha_that_is_too_small_names_the_smallest(client: Client) -> None:
    with pytest.raises(ServiceError, match="unsupported_alpha") as raised:
        client.score([GOOD], alpha=1e-6)
    assert raised.value.smallest_alpha == 1 / 200


@pytest.mark.parametrize("of", [np.array, pd.Series, pl.Series, tuple])
def test_columns_may_be_of_numpy_pandas_and_polars(client: Client, of: Any) -> None:
    told = client.score_columns({"amount": of([1.0, 1e6])}, explain="all")
    assert told.results == client.score_columns({"amount": [1.0, 1e6]}, explain="all").results


@pytest.mark.parametrize("body", [b"<html>", b'{"model": "m"', b"{}"])
def test_a_200_of_something_in_between_is_an_error_of_the_service(body: bytes) -> None:
    with pytest.raises(ServiceError) as raised:
        decoded(body, Answer)
    assert (raised.value.status, raised.value.code) == (200, "unknown")
