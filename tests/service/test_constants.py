"""Columns that had one value only in training: another value is warned of, in every form that has warnings."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arro3.core import Array

from service.bundle import read_bundle
from service.constants import constants, differs
from service.manifest import Dropped, Scalar
from service.records import Reader
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.test_metrics import value
from tests.service.tiny_bundle import GOOD, NUMBERS, ODD, publish

CONSTANTS: dict[str, Scalar | None] = {"alarm": 0, "note": None, "status": "OK", "volt": 230.0, "on": True}
USUAL = {**GOOD, "alarm": 0, "note": "a:b", "status": "OK", "volt": 230, "on": True}
FAULT = {**GOOD, "alarm": 1, "note": "c", "status": "FAULT", "volt": 0, "on": False}
WARNED = [
    {"feature": "alarm", "code": "out_of_range"},
    {"feature": "status", "code": "unknown_category"},
    {"feature": "volt", "code": "out_of_range"},
    {"feature": "on", "code": "out_of_range"},
]


@pytest.fixture
def client(serve: Serve, tmp_path: Path) -> Client:
    publish(tmp_path, dropped=CONSTANTS)
    return serve(models_dir=tmp_path)


def as_lines(client: Client, records: list[Any]) -> list[Any]:
    body = b"\n".join(json.dumps(record).encode() for record in records)
    answer = client.post("/score", content=body, headers={"content-type": "application/x-ndjson"})
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_record_with_another_value_has_the_score_of_one_without_and_a_warning(client: Client) -> None:
    for records in ([FAULT], [USUAL, FAULT, {**ODD, "alarm": 2}]):
        bare = [{name: value for name, value in record.items() if name not in CONSTANTS} for record in records]
        results, expected = (client.score({"records": given})["results"] for given in (records, bare))
        assert as_lines(client, records) == results
        assert [one.pop("warnings") for one in results] == (
            [WARNED] if len(records) == 1 else [[], WARNED, [*expected[2]["warnings"], WARNED[0]]]
        )
        assert results == [{name: value for name, value in one.items() if name != "warnings"} for one in expected]
    model = {"model": "tiny", "version": client.app.registry.default().version}
    told = client.get("/models/tiny").text.replace(" ", "")
    assert '{"column":"alarm","reason":"constant","value":0}' in told, "a whole number stays one"
    # Twice, as JSON and as lines: three in the first pair; then four and the one of ODD, which has one of its own, besides.
    assert value(client, "anomaly_warnings_total", code="out_of_range", **model) == 2 * (3 + 3 + 2) + 1
    assert value(client, "anomaly_warnings_total", code="unknown_category", **model) == 2 * (1 + 1 + 1) + 1


def test_the_slow_way_and_long_bodies_find_the_same(tmp_path: Path) -> None:
    manifest = read_bundle(publish(tmp_path, dropped=CONSTANTS)).manifest
    reader = Reader(manifest, 100_000)
    records = [USUAL, FAULT] * 700
    long = json.dumps({"records": records}).encode() + b" " * (1 << 20)
    slow = json.dumps({"records": [*records, {**GOOD, "note": [1]}]}).encode()
    found = [(row, one["feature"], one["code"]) for row in range(1, 1400, 2) for one in WARNED]
    for body in (long, slow):
        batch = reader.read(body)
        assert sorted(batch.changed) == sorted(found)
        assert not batch.normal
    lines = [json.dumps(record).encode() for record in (USUAL, FAULT)]
    for odd in ([], [b'{"note": {"a": 1}, "alarm": [0]}']):
        batch = reader.read_lines([*lines, *odd], 5)
        assert [one for one in batch.changed if one[0] == 1] == [(1, one["feature"], one["code"]) for one in WARNED]
        assert [one for one in batch.changed if one[0] == 2] == [(2, "alarm", "out_of_range")] * len(odd)


def test_requests_that_are_scored_together_keep_their_own(client: Client) -> None:
    async def together() -> list[Any]:
        bodies = ([USUAL], [FAULT], [USUAL, FAULT])
        return await asyncio.gather(*(client.http.post("/score", json={"records": records}) for records in bodies))

    answers = [answer.json()["results"] for answer in client.run(together())]
    assert [[one["warnings"] for one in results] for results in answers] == [[[]], [WARNED], [[], WARNED]]


def test_nothing_is_looked_at_where_no_value_is_known(tmp_path: Path) -> None:
    manifest = read_bundle(publish(tmp_path, features=NUMBERS, dropped=("alarm",))).manifest
    batch = Reader(manifest, 10).read(b'{"records": [{"f0": 1, "f1": 1, "f2": 1, "f3": 1, "alarm": 1}]}')
    assert batch.normal


SAME = [
    (0, [0, 0.0, -0.0, False, None, "0", " 0.0 ", "", "NA", "?"]),
    (230.1, [230.1, float(np.float32(230.1)), "230.1"]),
    (True, [True, 1, "true", "Yes", "1", "", None]),
    ("OK", ["OK", None, "", "NA", "null"]),
    ("yes", ["yes", True]),
    ("007", ["007"]),
]
OTHERS = [
    (0, [1, 1e-9, "1", "FAULT", True, 1e39, 10**20, -(10**30), 10**400, [0]]),
    (230.1, [230.2, "FAULT"]),
    (True, [False, 0, 2, "no", "maybe"]),
    ("OK", ["ok", "OK ", 5, False, {"OK": 1}]),
    ("yes", ["no", False, 1]),
    ("007", ["7", 7]),
]


@pytest.mark.parametrize(("other", "cases"), [(False, SAME), (True, OTHERS)])
def test_what_another_value_is(other: bool, cases: list[tuple[Scalar, list[Any]]]) -> None:
    for constant, values in cases:
        assert [differs(constant, value) for value in values] == [other] * len(values), constant


@pytest.mark.parametrize(("other", "cases"), [(False, SAME), (True, OTHERS)])
def test_cells_of_a_file_are_other_values_where_those_of_records_are(other: bool, cases: list[tuple[Scalar, list[Any]]]) -> None:
    for constant, values in cases:
        (known,) = constants([Dropped(column="a", reason="constant", value=constant)])
        for kinds in ((str, type(None)), (bool,), (int, float)):
            own = [value for value in values if type(value) in kinds and (type(value) is not int or abs(value) < 2**53)]
            array = Array.from_arrow(pa.array([float(one) if kinds[0] is int else one for one in own], _type(kinds[0])))
            assert known.changes(array).tolist() == [other] * len(own), (constant, own)


def _type(kind: type) -> pa.DataType:
    return {str: pa.string(), bool: pa.bool_(), int: pa.float64()}[kind]
