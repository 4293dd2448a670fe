"""application/vnd.apache.arrow.stream: the scores of columns; and no stream, however broken, that ends the process."""

import gzip
import io
import json
import os
import random
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import read_bundle
from service.errors import Problem
from service.tabular import read
from tests.service.client import Client, check_problem
from tests.service.conftest import Serve
from tests.service.test_scoring import records
from tests.service.tiny_bundle import GOOD, ODD, publish

HEADERS = {"content-type": "application/vnd.apache.arrow.stream"}
SCHEMA = pa.schema(
    {
        "amount": pa.float64(),
        "count": pa.int64(),
        "country": pa.string(),
        "level": pa.int64(),
        "online": pa.bool_(),
        "at": pa.string(),
    }
)
AMOUNTS = pa.array([1.5, None, 3, 4, 5])


def stream(table: pa.Table, rows: int | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return out.getvalue()


def post(client: Client, body: bytes, path: str = "/score", **headers: str) -> httpx.Response:
    return client.post(path, content=body, headers={**HEADERS, **headers})


def answered(answer: httpx.Response) -> pa.Table:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == HEADERS["content-type"]
    return pa.ipc.open_stream(answer.content).read_all()


@pytest.mark.parametrize("index", [pa.int8(), pa.uint8()])
def test_a_dictionary_may_have_as_many_texts_as_its_indices_tell_apart(service: Client, index: Any) -> None:
    """One place more stands for null."""
    most = 128 if index == pa.int8() else 256
    texts = ["de", *(f"c{i}" for i in range(1, most))]
    coded = pa.DictionaryArray.from_arrays(pa.array([0, None, most - 1], index), pa.array(texts))
    plain = pa.array(["de", None, texts[-1]])
    with_nulls, same = (answered(post(service, stream(pa.table({"country": column})))) for column in (coded, plain))
    assert with_nulls.equals(same)


@given(st.lists(records, min_size=1, max_size=8), st.integers(1, 4))
@settings(max_examples=60)
def test_a_table_is_scored_as_its_records_are(service: Client, made: list[Any], rows: int) -> None:
    for record in made:
        if "amount" in record and record["amount"] is not None:
            record["amount"] = float(record["amount"])
    expected = service.score({"records": made, "alpha": 0.05})["results"]
    got = answered(post(service, stream(pa.Table.from_pylist(made, SCHEMA), rows), "/score?alpha=0.05"))
    assert got.schema == pa.schema({"score": pa.float32(), "p_value": pa.float64(), "is_anomaly": pa.bool_()}) or [
        str(field.type) for field in got.schema
    ] == ["float", "double", "bool"]
    np.testing.assert_array_equal(got["score"].to_numpy(), np.array([e["score"] for e in expected], np.float32))
    assert got["p_value"].to_pylist() == [e["p_value"] for e in expected]
    assert got["is_anomaly"].to_pylist() == [e["is_anomaly"] for e in expected]


TYPES = {
    "small integers": {"amount": pa.array([1, None, 3, 4, 5], pa.int8())},
    "unsigned": {"amount": pa.array([1, None, 3, 4, 5], pa.uint64())},
    "halves": {"amount": AMOUNTS.cast(pa.float16())},
    "decimals": {"amount": AMOUNTS.cast(pa.decimal128(9, 2))},
    "nulls": {"amount": pa.nulls(5)},
    "large texts": {"country": pa.array(["de", None, "fr", "at", "xx"], pa.large_string())},
    "text views": {"country": pa.array(["de", None, "fr", "at", "a text longer than twelve"], pa.string_view())},
    "a dictionary": {"country": pa.array(["de", None, "fr", "at", "de"]).dictionary_encode()},
    "dates": {"at": pa.array([date(2026, 1, 1)] * 5)},
    "timestamps": {"at": pa.array([datetime(2026, 1, 1)] * 4 + [None], pa.timestamp("ms", "Europe/Paris"))},
    "booleans": {"online": pa.array([True, None, False, True, True])},
    "numbers in a dictionary": {"level": pa.array([10, None, 20, 10, 30]).dictionary_encode()},
    "whole numbers": {"level": pa.array([10, None, 20, 10, 30], pa.int32())},
}


@pytest.mark.parametrize("case", TYPES)
def test_all_types_that_features_have(service: Client, case: str) -> None:
    table = pa.table(TYPES[case])
    got = answered(post(service, stream(table, 2)))
    if case in ("dates", "timestamps", "nulls", "decimals", "halves"):
        assert len(got) == 5
        return
    expected = service.score({"columns": {name: table[name].to_pylist() for name in table.column_names}})["results"]
    np.testing.assert_array_equal(got["score"].to_numpy(), np.array(expected["score"], np.float32))


def test_fdr_and_gzip_and_columns_left_out(serve: Serve, tmp_path: Path) -> None:
    publish(tmp_path, dropped=("id",))
    client = serve(models_dir=tmp_path)
    made = [{**GOOD, "id": "x"}] * 3 + [{**ODD, "id": "y"}]
    body = gzip.compress(stream(pa.Table.from_pylist(made)))
    got = answered(post(client, body, "/score?fdr=0.1", **{"content-encoding": "gzip"}))
    assert got["is_anomaly"].to_pylist() == [r["is_anomaly"] for r in client.score({"records": made, "fdr": 0.1})["results"]]


WHOLE = stream(pa.table({"amount": AMOUNTS}))
BROKEN = {
    "nothing": (b"", 400, "invalid_body"),
    "no stream": (b"no Arrow at all, but long enough", 400, "invalid_body"),
    "JSON": (json.dumps({"records": [GOOD]}).encode(), 400, "invalid_body"),
    "half": (WHOLE[: len(WHOLE) // 2], 400, "invalid_body"),
    "more after it": (WHOLE + b"x", 400, "invalid_body"),
    "two streams": (WHOLE + WHOLE, 400, "invalid_body"),
    "no rows": (stream(pa.table({"amount": pa.array([], pa.float64())})), 422, "invalid_request"),
    "no columns": (stream(pa.table({})), 422, "invalid_request"),
    "compressed": (
        stream(pa.table({"amount": AMOUNTS}), options=pa.ipc.IpcWriteOptions(compression="zstd")),
        415,
        "unsupported_encoding",
    ),
    "an unknown column": (stream(pa.table({"amounts": AMOUNTS})), 422, "invalid_records"),
    "a column twice": (stream(pa.Table.from_arrays([AMOUNTS, AMOUNTS], ["amount"] * 2)), 422, "invalid_records"),
    "lists": (stream(pa.table({"amount": pa.array([[1], [2]])})), 422, "invalid_records"),
    "structs": (stream(pa.table({"amount": pa.array([{"a": 1}])})), 422, "invalid_records"),
    "texts for numbers": (stream(pa.table({"amount": ["1"]})), 422, "invalid_records"),
    "numbers for texts": (stream(pa.table({"country": [1]})), 422, "invalid_records"),
    "too large": (stream(pa.table({"amount": [1e39]})), 422, "invalid_records"),
    "too extreme": (stream(pa.table({"amount": [1, 3.4e38], "count": [1, 3.4e38]})), 422, "not_scorable"),
    "too many rows": (stream(pa.table({"amount": np.zeros(10_001)})), 413, "too_many_records"),
    "long texts many times": (
        stream(pa.table({"at": pa.DictionaryArray.from_arrays(pa.array([0] * 9000), pa.array(["x" * 100_000]))})),
        413,
        "body_too_large",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_tables_that_do_not_fit_are_refused(service: Client, case: str) -> None:
    body, status, code = BROKEN[case]
    check_problem(post(service, body), status, code)
    assert service.app.permits.taken == 0


def test_places_of_errors_are_those_in_the_whole_table(service: Client) -> None:
    table = pa.table({"amount": [1.0] * 5 + [1e39]})
    document = check_problem(post(service, stream(table, 2)), 422, "invalid_records")
    assert [error["loc"] for error in document["errors"]] == ["columns.amount[5]"]


@pytest.mark.parametrize("query", ["explain=all", "alpha=2", "fdr=x"])
def test_parameters_that_do_not_fit_are_a_422(service: Client, query: str) -> None:
    check_problem(post(service, WHOLE, f"/score?{query}"), 422, "invalid_request")


def test_no_broken_stream_ends_the_process(bundle_dir: Path) -> None:
    """Thousands of damaged streams in a child process: each is read or refused, and the child lives to tell."""
    manifest = read_bundle(next(path for path in (bundle_dir / "tiny").iterdir() if path.is_dir())).manifest
    columns = {name: column for case in reversed(TYPES) for name, column in TYPES[case].items()}
    views = pa.array(["de", None, "fr", "at", "a text longer than twelve"], pa.string_view())
    dictionary = pa.array(["de", None, "fr", "at", "de"]).dictionary_encode()
    bodies = [stream(pa.table({**columns, "country": country}), 3) for country in (views, dictionary)]
    texts = [pa.array(["de", "fr", "at"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())]
    few = [stream(pa.table({"country": country})) for country in (*texts, dictionary)]
    cases = [damaged(bodies, random.Random(seed)) for seed in range(4000)]
    cases += [body for given in [*bodies, *few] for body in with_other_lengths(given)]
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = 0
        for body in cases:
            try:
                read(manifest, body, 100, 1 << 20)
            except Problem:
                pass
            except BaseException:  # noqa: BLE001 - panics are no Exceptions
                code = 1
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def with_other_lengths(body: bytes) -> Iterator[bytes]:
    """The stream with each number that may be the length of a buffer one more, which is no whole number of values."""
    for place in range(0, len(body) - 8, 8):
        number = int.from_bytes(body[place : place + 8], "little", signed=True)
        if 0 < number < 1000:
            yield body[:place] + (number + 1).to_bytes(8, "little") + body[place + 8 :]


def damaged(bodies: list[bytes], chance: random.Random) -> bytes:
    """One of the bodies with some bytes changed, or cut."""
    body = bytearray(chance.choice(bodies))
    for _ in range(chance.choice([1, 1, 2, 4])):
        place, kind = chance.randrange(len(body)), chance.random()
        if kind < 0.6:
            body[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif kind < 0.95:
            number = chance.choice([0, 1, -1, 1 << 31, 1 << 62, (1 << 63) - 1, -(1 << 40), chance.randrange(1000)])
            body[place & ~7 : (place & ~7) + 8] = number.to_bytes(8, "little", signed=True)
        else:
            del body[max(place, 8) :]
    return bytes(body)


LEFT_OUT = {  # types that no feature has
    "time": pa.array([1, 2, None], pa.time64("us")),
    "short time": pa.array([1, 2, None], pa.time32("s")),
    "duration": pa.array([1, 2, None], pa.duration("ns")),
    "interval": pa.array([(1, 2, 3), None, (4, 5, 6)], pa.month_day_nano_interval()),
    "binary": pa.array([b"a", None, b"\0bc"]),
    "large binary": pa.array([b"a", None, b"\0bc"], pa.large_binary()),
    "fixed binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "binary views": pa.array([b"a" * 20, None, b"x"], pa.binary_view()),
    "dictionary": pa.array([b"a", b"b", b"a"]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_columns_that_training_left_out_may_have_any_flat_type(serve: Serve, tmp_path: Path, kind: str) -> None:
    publish(tmp_path, dropped=("odd",))
    client, table = serve(models_dir=tmp_path), pa.table({"amount": [1.0, 2.0, 3.0]})
    for rows in (table, table.slice(1)):
        whole = rows.append_column("odd", LEFT_OUT[kind][3 - len(rows) :])
        assert answered(post(client, stream(whole))).equals(answered(post(client, stream(rows))))
    for name in ("amount", "nope"):
        document = check_problem(post(client, stream(pa.table({name: LEFT_OUT[kind]}))), 422, "invalid_records")
        assert document["errors"][0]["loc"].startswith(f"columns.{name}")


def test_a_nested_column_is_named(serve: Serve, tmp_path: Path) -> None:
    publish(tmp_path, dropped=("odd",))
    table = pa.table({"amount": [1.0, 2.0], "odd": [[1], [2, 3]]})
    document = check_problem(post(serve(models_dir=tmp_path), stream(table)), 422, "invalid_records")
    assert [error["loc"] for error in document["errors"]] == ["columns.odd"]
