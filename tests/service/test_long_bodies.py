"""Long bodies are read a block of records at a time; what they are read as is the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import records
from service.bundle import read_bundle
from service.errors import Problem
from service.manifest import Feature
from service.records import BLOCK, LONG, Batch, Reader
from tests.service.client import Client
from tests.service.tiny_bundle import GOOD, NUMBERS, ODD, publish

BODIES: list[Any] = [
    {"records": [GOOD, ODD, {}, {"amount": None, "country": "a:b"}] * 300, "alpha": 0.05},
    {"records": [GOOD] * (2 * BLOCK), "explain": "all"},
    {"records": [GOOD]},
    {"records": []},
    {"records": [GOOD] * 3001},
    {"records": [GOOD, {"amount": 1e39}]},
    {"records": [GOOD, {"at": "yesterday"}]},
    {"records": [GOOD, {"unknown": 1}]},
    {"records": [GOOD], "columns": {"amount": [1]}},
    {"columns": {"amount": [1.5] * 600, "country": ["at", None, "xx"] * 200}},
    {"columns": {"amount": [1, 2], "country": ["at"]}},
    [],
]
TEXTS = [
    b'{"records":[{"amount":1,"amount":2}]}',
    b'{"records":[{"amount":1},{"country":"a:b","country":"c"}]}',
    b'{"records":[{"amount":1},{"amount":NaN}]}',
    b'{"records":[{"amount":1},]}',
    b'{"records":[{"amount":1}],"records":[{"amount":2}]}',
]


def told(reader: Reader, body: bytes) -> Any:
    try:
        batch: Batch = reader.read(body)
    except Problem as problem:
        return problem.code, problem.detail, problem.errors
    places = list(range(len(batch.x)))
    options = batch.columnar, batch.normal, batch.alpha, batch.fdr, batch.explain
    return batch.x.tobytes(), repr(batch.columns(places)), len(batch.rows), options


USUAL: list[Any] = [
    {"records": [GOOD]},
    {"records": [GOOD, GOOD], "explain": "all", "alpha": 0.5},
    {"records": [{**GOOD, "amount": 1}]},  # a whole number stays one
    {"records": [{**GOOD, "amount": 1.0}]},
    {"records": [{**GOOD, "amount": 10**19}]},
    {"records": [{**GOOD, "amount": -1}]},
    {"records": [{**GOOD, "amount": 5_000}]},
    {"records": [{**GOOD, "amount": 5_000.5}]},
    {"records": [{**GOOD, "amount": 3.5e38}]},
    {"records": [{**GOOD, "count": 1.5}]},
    {"records": [{**GOOD, "level": 10.0}]},
    {"records": [{**GOOD, "level": 99}]},
    {"records": [{**GOOD, "level": None}]},
    {"records": [{**GOOD, "country": "nowhere"}]},
    {"records": [{**GOOD, "country": "a:b"}]},
    {"records": [{**GOOD, "online": 1}]},
    {"records": [{**GOOD, "at": ""}]},
    {"records": [{**GOOD, "at": "yesterday"}]},
    {"records": [{**GOOD, "note": "x"}]},
    {"records": [{key: value for key, value in GOOD.items() if key != "amount"}]},
    {"records": [GOOD, {**GOOD, "amount": 1e30}]},
    {"columns": {key: [value] for key, value in GOOD.items()}},
]


@pytest.mark.parametrize("body", USUAL, ids=range(len(USUAL)))
@pytest.mark.parametrize("options", [{}, {"dropped": ("note",)}, {"dropped": {"note": "y"}}], ids=["all", "dropped", "constant"])
def test_a_short_body_is_read_alike_whether_or_not_it_is_first_read_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], body: Any
) -> None:
    reader = Reader(read_bundle(publish(tmp_path, **options)).manifest, 3000)
    usual = told(reader, json.dumps(body).encode())
    monkeypatch.setattr(records, "SHORT", 0)
    assert told(reader, json.dumps(body).encode()) == usual


@pytest.mark.parametrize("twice", [b'"amount":3', b'"note":"y"'])
def test_a_key_that_stands_twice_is_found_where_a_column_that_training_left_out_is_missing(tmp_path: Path, twice: bytes) -> None:
    reader = Reader(read_bundle(publish(tmp_path, dropped=("note", "alarm"))).manifest, 3000)
    body = json.dumps({"records": [{**GOOD, "note": "x"} if b"note" in twice else GOOD]}).encode()
    assert reader.read(body).normal
    with pytest.raises(Problem, match="twice"):
        reader.read(body.replace(b"}]}", b"," + twice + b"}]}"))


@pytest.mark.parametrize(
    ("low", "high"), [(1e19, None), (None, -1e19), (9.3e18, 9.4e18), (1e39, 2e39), (0.25, 0.75), (None, None)]
)
@pytest.mark.parametrize("value", [1, 0.5, 2**63 - 1, 2**63, -(2**64), 1e19, -1e19, 9.35e18, 3e38])
def test_whatever_the_range_of_a_number_it_is_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float | None, high: float | None, value: float
) -> None:
    features = (Feature(name="a", kind="numeric", low=low, high=high), Feature(name="b", kind="categorical"))
    reader = Reader(read_bundle(publish(tmp_path, features=NUMBERS)).manifest.model_copy(update={"features": features}), 3000)
    body = json.dumps({"records": [{"a": value, "b": "null"}]}).encode()
    usual = told(reader, body)
    monkeypatch.setattr(records, "SHORT", 0)
    assert told(reader, body) == usual


def test_a_category_beyond_64_bits_is_one_as_any_other(tmp_path: Path) -> None:
    code = Feature(name="code", kind="categorical", integer=True, categories=(1, 2**63))
    reader = Reader(read_bundle(publish(tmp_path, features=(code,))).manifest, 3000)
    for value, place in ((1, 0), (2**63, 1), (2, 2)):
        assert reader.read(json.dumps({"records": [{"code": value}]}).encode()).x.tolist() == [[place]]


@pytest.mark.parametrize("body", [*(json.dumps(body).encode() for body in BODIES), *TEXTS], ids=range(len(BODIES) + len(TEXTS)))
@pytest.mark.parametrize("options", [{}, {"features": NUMBERS}, {"dropped": ("note",)}], ids=["all kinds", "numbers", "dropped"])
def test_a_body_is_read_alike_at_once_and_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], body: bytes
) -> None:
    if "features" in options:
        body = body.replace(b'"amount"', b'"f0"').replace(b'"count"', b'"f1"')
    reader = Reader(read_bundle(publish(tmp_path, **options)).manifest, 3000)
    at_once = told(reader, body)
    monkeypatch.setattr(records, "LONG", 0)
    assert told(reader, body) == at_once


def test_a_long_body_is_answered_as_its_records_are_alone(service: Client) -> None:
    rows = [{**GOOD, "amount": float(amount), "count": None if amount % 7 else 3} for amount in range(10_000)]
    text = json.dumps({"records": rows})
    assert len(text) > LONG
    answer = service.score(text.encode())["results"]
    random = np.random.default_rng(0)
    for place in random.choice(len(rows), 40, replace=False).tolist():
        assert service.score({"records": [rows[place]]})["results"] == [answer[place]]
