"""Cells of a table as JSON values: read as a record, they are what the table's own encoding reads."""

import json
from datetime import date, datetime
from math import isnan
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arro3.core import Array, DataType
from hypothesis import given
from hypothesis import strategies as st

from service.cells import json_values
from service.encoding import encode, encode_arrow, encode_text
from service.manifest import Feature

AMOUNT = Feature(name="amount", kind="numeric")
COUNTRY = Feature(name="country", kind="categorical", categories=("at", "de"))
LEVEL = Feature(name="level", kind="categorical", integer=True, categories=(10, 20))
ONLINE = Feature(name="online", kind="boolean")
AT = Feature(name="at", kind="datetime")
MOMENT = datetime(2026, 3, 2, 14, 30)


def told(feature: Feature, array: Any) -> list[Any]:
    values = json_values(feature, Array.from_arrow(array))
    return [None if type(value) is float and isnan(value) else value for value in values]


@pytest.mark.parametrize(
    ("feature", "cells", "expected"),
    [
        (AMOUNT, ["12", "-3", "12.50", "1e3", " 7 ", "+5", "007", "-0"], [12, -3, 12.5, 1000.0, 7, 5.0, 7.0, 0]),
        (AMOUNT, [None, "NA", "?", "12345678901234567890123"], [None, None, None, 12345678901234567890123]),
        (LEVEL, ["10", "30", "20.0", None], [10, 30, 20.0, None]),
        (COUNTRY, ["de", " de", "?", "NA", None, "007"], ["de", " de", "?", "NA", None, "007"]),
        (ONLINE, ["yes", "0", "TRUE", "NA", None], [True, False, True, None, None]),
        (AT, ["2026-03-02 14:30", "-", None, "02.03.2026"], ["2026-03-02 14:30", None, None, "02.03.2026"]),
    ],
)
def test_cells_of_a_csv_file(feature: Feature, cells: list[str | None], expected: list[Any]) -> None:
    """Numbers are whole or not as JSON tells them apart by how they are written."""
    got = told(feature, pa.array(cells, pa.string()))
    assert (got, [*map(type, got)]) == (expected, [*map(type, expected)])


@pytest.mark.parametrize(
    ("feature", "array", "expected"),
    [
        (AMOUNT, pa.array([1, None], pa.int8()), [1, None]),
        (AMOUNT, pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (AMOUNT, pa.array([0.1, None, 3.0], pa.float32()), [0.1, None, 3.0]),
        (AMOUNT, pa.array([0.5, None], pa.float64()).cast(pa.float16()), [0.5, None]),
        (AMOUNT, pa.array([0.1, float("nan")]), [0.1, None]),
        (AMOUNT, pa.array([12.5, None]).cast(pa.decimal128(9, 2)), [12.5, None]),
        (AMOUNT, pa.nulls(2), [None, None]),
        (AMOUNT, pa.array([5, None]).dictionary_encode(), [5, None]),
        (LEVEL, pa.array([10, None], pa.int32()), [10, None]),
        (ONLINE, pa.array([True, None, False]), [True, None, False]),
        (ONLINE, pa.array([1, None, 0]), [True, None, False]),
        (ONLINE, pa.array(["no", None, "Y"]), [False, None, True]),
        (COUNTRY, pa.array(["de", None]), ["de", None]),
        (COUNTRY, pa.array(["de", None], pa.large_string()), ["de", None]),
        (COUNTRY, pa.array(["a text of more than twelve", None], pa.string_view()), ["a text of more than twelve", None]),
        (COUNTRY, pa.array(["de", None, "de"]).dictionary_encode(), ["de", None, "de"]),
        (AT, pa.array([date(2026, 3, 2), None]), ["2026-03-02", None]),
        (AT, pa.array([MOMENT, None], pa.timestamp("ns")), ["2026-03-02T14:30:00", None]),
        (AT, pa.array([MOMENT.replace(microsecond=50)], pa.timestamp("us")), ["2026-03-02T14:30:00.000050"]),
        (AT, pa.array([MOMENT], pa.timestamp("ms", "Asia/Tokyo")), ["2026-03-02T23:30:00"]),
        (AT, pa.array(["2026-03-02", None]), ["2026-03-02", None]),
    ],
)
def test_values_of_typed_columns(feature: Feature, array: Any, expected: list[Any]) -> None:
    got = told(feature, array)
    assert (got, [*map(type, got)]) == (expected, [*map(type, expected)])
    as_record, bad = encode(feature, json.loads(json.dumps(got)))
    assert not bad
    np.testing.assert_array_equal(as_record, encode_arrow(feature, Array.from_arrow(array))[0])


numbers = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers().map(str) | st.sampled_from(["", "NA", " 3 "])


@given(st.lists(numbers, max_size=8))
def test_a_record_of_cells_is_read_as_the_cells_are(cells: list[str]) -> None:
    array = Array(cells, DataType.string())
    columns, bad = encode_text(AMOUNT, array)
    as_record, as_bad = encode(AMOUNT, json_values(AMOUNT, array))
    np.testing.assert_array_equal(as_record, columns)
    assert as_bad == bad


@given(st.lists(st.none() | st.floats(width=32, allow_infinity=False), max_size=8))
def test_float32_has_its_own_digits_and_stays_what_it_is(values: list[float | None]) -> None:
    array = Array.from_arrow(pa.array(values, pa.float32()))
    got = json_values(AMOUNT, array)
    assert all(np.isnan(value) or float(f"{value:.9g}") == value for value in got)
    np.testing.assert_array_equal(np.array(got, np.float32), np.array(values, np.float32))
