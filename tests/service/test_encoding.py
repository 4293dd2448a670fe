import json
import math
from datetime import date, datetime, timedelta, timezone

import numpy as np
import orjson
import pyarrow as pa
import pytest
from arro3.compute import cast, dictionary_encode
from arro3.core import Array, DataType
from hypothesis import given
from hypothesis import strategies as st

from service import datetimes
from service.arrow import PLACEHOLDERS
from service.encoding import MISSING, Limits, decode, encode, encode_arrow, encode_checked, encode_text
from service.manifest import Feature

AMOUNT = Feature(name="amount", kind="numeric", low=0, high=100)
COUNT = Feature(name="count", kind="numeric", integer=True, low=0, high=9, missing_rate=0.1)
COUNTRY = Feature(name="country", kind="categorical", categories=("de", "at", "fr"))
LEVEL = Feature(name="level", kind="categorical", integer=True, categories=(7, 3, 5))
ONLINE = Feature(name="online", kind="boolean")
TIME = Feature(name="time", kind="datetime")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def cells(*values: str | None) -> Array:
    return Array(values, DataType.string())


def same(*encoded: object) -> None:
    """Each encoder gave the same columns, bit for bit, and no error."""
    first, *rest = encoded
    assert first[1] == []
    for other in rest:
        assert other[1] == []
        assert other[0].shape == first[0].shape
        assert other[0].dtype == first[0].dtype == np.float32
        np.testing.assert_array_equal(other[0].view(np.uint32), first[0].view(np.uint32))


class TestSameByJsonCsvAndArrow:
    @given(st.lists(st.none() | st.floats(-1e38, 1e38) | st.integers(-(2**60), 2**60)))
    def test_numbers(self, values):
        wide = [None if value is None else float(value) for value in values]
        text = cells(*(None if value is None else json.dumps(value) for value in values))
        same(encode(AMOUNT, values), encode_text(AMOUNT, text), encode_arrow(AMOUNT, Array(wide, DataType.float64())))

    @given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
    def test_whole_numbers(self, values):
        text = cells(*(None if value is None else str(value) for value in values))
        same(encode(COUNT, values), encode_text(COUNT, text), encode_arrow(COUNT, Array(values, DataType.int64())))

    @given(st.lists(st.none() | st.sampled_from(["de", "at", "fr", "xx", "NA", "De", "ü"])))
    def test_categories(self, values):
        array = cells(*values)
        same(encode(COUNTRY, values), encode_checked(COUNTRY, values), encode_text(COUNTRY, array), encode_arrow(COUNTRY, array))

    @given(st.lists(st.none() | st.integers(0, 9)))
    def test_integer_categories(self, values):
        text = cells(*(None if value is None else str(value) for value in values))
        floats = cells(*(None if value is None else f"{value}.0" for value in values))
        typed = Array(values, DataType.int16())
        same(encode(LEVEL, values), encode_text(LEVEL, text), encode_text(LEVEL, floats), encode_arrow(LEVEL, typed))

    @given(st.lists(st.none() | st.booleans()))
    def test_booleans(self, values):
        text = cells(*(None if value is None else str(value) for value in values))
        whole = Array([None if value is None else int(value) for value in values], DataType.uint8())
        typed = Array(values, DataType.bool())
        same(encode(ONLINE, values), encode_text(ONLINE, text), encode_arrow(ONLINE, typed), encode_arrow(ONLINE, whole))

    @given(st.lists(st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), max_size=40))
    def test_datetimes(self, values):
        texts = [None if value is None else value.isoformat() for value in values]
        stamps = Array.from_arrow(pa.array(values, pa.timestamp("us")))
        same(encode(TIME, texts), encode_text(TIME, cells(*texts)), encode_arrow(TIME, stamps), encode_arrow(TIME, cells(*texts)))


class TestJson:
    @pytest.mark.parametrize(
        ("feature", "value", "message"),
        [
            (AMOUNT, True, "not a number"),
            (AMOUNT, "1", "not a number"),
            (AMOUNT, [1], "not a number"),
            (AMOUNT, 1e39, "does not fit float32 (infinite or too large)"),
            (AMOUNT, -math.inf, "does not fit float32 (infinite or too large)"),
            (AMOUNT, 10**400, "does not fit float32 (infinite or too large)"),
            (AMOUNT, FLOAT32_MAX * 1.0000001, "does not fit float32 (infinite or too large)"),
            (COUNTRY, 1, "not a text"),
            (COUNTRY, False, "not a text"),
            (LEVEL, 2.5, "not a whole number"),
            (LEVEL, True, "not a whole number"),
            (LEVEL, "7", "not a whole number"),
            (ONLINE, 1, "not true or false"),
            (ONLINE, "true", "not true or false"),
            (TIME, "today", "not a datetime such as 2026-11-23T14:05:00"),
            (TIME, 1763906700, "not a datetime such as 2026-11-23T14:05:00"),
            (TIME, "", "not a datetime such as 2026-11-23T14:05:00"),
        ],
    )
    def test_a_bad_value_is_refused_and_missing(self, feature, value, message):
        columns, bad = encode(feature, [None, value, None])
        assert bad == [(1, message)]
        assert np.isnan(columns).all()

    def test_all_errors_at_once_in_order(self):
        columns, bad = encode(AMOUNT, [1, "a", 1e39, True, 2])
        assert [row for row, _ in bad] == [1, 2, 3]
        np.testing.assert_array_equal(columns[:, 0], np.array([1, np.nan, np.nan, np.nan, 2], np.float32))

    def test_codes(self):
        assert encode(COUNTRY, ["fr", "xx", None, ""])[0][:, 0].tolist()[:2] == [2, 3]
        assert encode(LEVEL, [5, 3.0, 4])[0][:, 0].tolist() == [2, 1, 3]

    def test_the_largest_float32_fits(self):
        assert encode(AMOUNT, [FLOAT32_MAX, -FLOAT32_MAX])[1] == []

    @pytest.mark.parametrize("feature", [AMOUNT, COUNTRY, LEVEL, ONLINE, TIME])
    def test_none_and_no_values(self, feature):
        assert encode(feature, [])[0].shape == (0, feature.width)
        assert np.isnan(encode(feature, [None] * 20)[0]).all()
        assert np.isnan(encode_text(feature, cells(None, None))[0]).all()
        assert encode_text(feature, cells())[0].shape == (0, feature.width)


class TestCsv:
    @pytest.mark.parametrize("token", sorted(MISSING))
    @pytest.mark.parametrize("feature", [AMOUNT, COUNTRY, LEVEL, ONLINE, TIME])
    def test_missing_tokens(self, feature, token):
        columns, bad = encode_text(feature, cells(token, None))
        assert bad == []
        assert np.isnan(columns).all()

    @pytest.mark.parametrize("token", sorted(PLACEHOLDERS))
    def test_placeholders_are_missing_numbers_and_datetimes_and_no_missing_categories(self, token):
        for feature in (AMOUNT, LEVEL, TIME):
            columns, bad = encode_text(feature, cells(token, f" {token}"))
            assert bad == []
            assert np.isnan(columns).all()
        named = Feature(name="a", kind="categorical", categories=("x", token))
        for feature, code in ((named, 1), (COUNTRY, 3)):
            same(encode(feature, [token]), encode_text(feature, cells(token)), encode_arrow(feature, cells(token)))
            assert encode(feature, [token])[0].tolist() == [[code]]
        assert encode_text(ONLINE, cells(token))[1] == [(0, "not true or false")]

    @pytest.mark.parametrize("text", [" 2", "2 ", "2", "2.0", "+2", "2e0", "\t2", "02"])
    def test_numbers_with_blanks_and_signs(self, text):
        assert encode_text(AMOUNT, cells(text, "1"))[0][:, 0].tolist() == [2, 1]

    @pytest.mark.parametrize("text", ["1,5", "1_0", "0x10", "x", "--1", "1 2", "٣"])
    def test_no_numbers(self, text):
        assert encode_text(AMOUNT, cells("1", text))[1] == [(1, "not a number")]

    @pytest.mark.parametrize("text", ["inf", "-Infinity", "1e39", "1e400", " inf"])
    def test_infinity(self, text):
        assert encode_text(AMOUNT, cells(text))[1] == [(0, "does not fit float32 (infinite or too large)")]

    def test_a_category_is_its_text_with_its_blanks(self):
        for blank in (" de", "de ", " "):
            same(encode(COUNTRY, [blank]), encode_text(COUNTRY, cells(blank)), encode_arrow(COUNTRY, cells(blank)))
            assert encode(COUNTRY, [blank])[0].tolist() == [[3]]

    def test_booleans(self):
        texts = cells("true", "FALSE", " Yes", "no", "T", "f", "y", "N", "1", "0", "1.0", "0.0")
        assert encode_text(ONLINE, texts)[0][:, 0].tolist() == [1, 0] * 6
        assert encode_text(ONLINE, cells("maybe", "2"))[1] == [(0, "not true or false"), (1, "not true or false")]

    def test_integer_categories(self):
        assert encode_text(LEVEL, cells("2.5", "x", "7"))[1] == [(0, "not a whole number"), (1, "not a number")]


class TestArrow:
    @pytest.mark.parametrize(
        "kind",
        [DataType.int8(), DataType.uint64(), DataType.float16(), DataType.float32(), DataType.decimal128(10, 2)],
    )
    def test_kinds_of_numbers(self, kind):
        array = cast(Array([1.0, None, 2.0], DataType.float64()), kind)
        np.testing.assert_array_equal(encode_arrow(AMOUNT, array)[0][:, 0], np.array([1, np.nan, 2], np.float32))

    @pytest.mark.parametrize("kind", [DataType.large_string(), DataType.string_view()])
    def test_kinds_of_texts(self, kind):
        array = cells("fr", None, "de", "xx")
        same(encode(COUNTRY, ["fr", None, "de", "xx"]), encode_arrow(COUNTRY, cast(array, kind)))
        same(encode(COUNTRY, ["fr", None, "de", "xx"]), encode_arrow(COUNTRY, dictionary_encode(array)))

    def test_numbers_in_a_dictionary(self):
        same(encode(COUNT, [1, None, 1]), encode_arrow(COUNT, dictionary_encode(Array([1, None, 1], DataType.int64()))))
        same(encode(LEVEL, [3, None, 8]), encode_arrow(LEVEL, dictionary_encode(Array([3, None, 8], DataType.int64()))))

    def test_a_column_without_any_value(self):
        for feature in (AMOUNT, COUNTRY, ONLINE, TIME):
            assert np.isnan(encode_arrow(feature, Array.from_arrow(pa.nulls(3)))[0]).all()

    def test_wall_time_is_what_the_zone_shows(self):
        noon = [datetime(2026, 11, 23, 14, 5, 30, tzinfo=timezone(timedelta(hours=2)))]
        for unit in ("s", "ms", "us", "ns"):
            stamps = Array.from_arrow(pa.array(noon, pa.timestamp(unit, tz="+02:00")))
            same(encode(TIME, ["2026-11-23 14:05:30"]), encode_arrow(TIME, stamps))
        berlin = Array.from_arrow(pa.array(noon, pa.timestamp("us", tz="Europe/Berlin")))
        same(encode(TIME, ["2026-11-23 13:05:30"]), encode_arrow(TIME, berlin))
        for kind in (pa.date32(), pa.date64()):
            same(encode(TIME, ["2026-11-23"]), encode_arrow(TIME, Array.from_arrow(pa.array([date(2026, 11, 23)], kind))))

    @pytest.mark.parametrize(
        ("feature", "array", "needed"),
        [
            (AMOUNT, cells("1"), "numbers"),
            (AMOUNT, Array([True], DataType.bool()), "numbers"),
            (COUNTRY, Array([1], DataType.int64()), "texts"),
            (LEVEL, cells("7"), "whole numbers"),
            (ONLINE, Array.from_arrow(pa.array([date(2026, 1, 1)])), "booleans"),
            (TIME, Array([1], DataType.int64()), "datetimes"),
        ],
    )
    def test_a_column_of_another_type(self, feature, array, needed):
        columns, bad = encode_arrow(feature, array)
        assert bad == [(0, f"the column is of another type; {needed} are needed")]
        assert columns.shape == (1, feature.width)

    def test_numbers_that_are_no_booleans(self):
        assert encode_arrow(ONLINE, Array([0, 2, None], DataType.int64()))[1] == [(1, "not true or false")]


class TestDatetimes:
    @pytest.mark.parametrize(
        "text",
        [
            "2026-11-23T14:05",
            "2026-11-23 14:05:00",
            "2026-11-23T14:05:00.000",
            "2026-11-23T14:05:00Z",
            "2026-11-23T14:05:00+05:30",
            "2026-11-23 14:05 +0530",
            "2026/11/23 14:05",
            "2026.11.23 14:05",
            "23.11.2026 14:05",
            "11/23/2026 14:05",
            "23/11/2026 14:05",
            "11/23/2026 2:05 PM",
            "20261123T140500",
            "20261123T1405Z",
            " 2026-11-23 14:05",
        ],
    )
    @pytest.mark.parametrize("rows", [1, 100])
    def test_forms(self, text, rows):
        assert (datetimes.parse([text] * rows) == np.datetime64("2026-11-23T14:05:00")).all()

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("2026-11-23 12:05 AM", "2026-11-23T00:05"),
            ("2026-11-23 12:05 PM", "2026-11-23T12:05"),
            ("2026-11-23 1:05 am", "2026-11-23T01:05"),
            ("2026-11-23 11:05 pm", "2026-11-23T23:05"),
            ("2026-11-23 0:05 AM", "NaT"),
            ("2026-11-23T14:05:01.5Z", "2026-11-23T14:05:01.500000"),
            ("2026-11-23T14:05:01,1234567", "2026-11-23T14:05:01.123456"),
            ("2026-02-29", "NaT"),
        ],
    )
    @pytest.mark.parametrize("rows", [1, 100])
    def test_halves_of_a_day_and_fractions_of_a_second(self, text, meant, rows):
        assert set(datetimes.parse([text] * rows).astype(str).tolist()) == {str(np.datetime64(meant, "us"))}

    @given(st.lists(st.dates(date(1000, 1, 1), date(9999, 12, 31)), min_size=1, max_size=40), st.booleans())
    def test_dates_with_slashes_in_the_order_of_a_column(self, dates, day_first):
        texts = [f"{day:%d/%m/%Y}" if day_first else f"{day:%m/%d/%Y}" for day in dates]
        feature = Feature(name="time", kind="datetime", day_first=day_first)
        array = cells(*texts)
        iso = encode(TIME, [day.isoformat() for day in dates])
        same(
            iso, encode(feature, texts), encode_checked(feature, texts), encode_text(feature, array), encode_arrow(feature, array)
        )

    def test_a_slash_puts_the_month_first_and_a_dot_the_day(self):
        assert datetimes.parse(["03/04/2026"])[0] == np.datetime64("2026-03-04")
        assert datetimes.parse(["03.04.2026"])[0] == np.datetime64("2026-04-03")

    @pytest.mark.parametrize(
        "text",
        [
            *("now", "NaT", "2026", "2026-11", "20261123", "1763906700", "14:05", "2026-02-30", "2026-13-01", "0000-01-01"),
            *(
                "2026-11-23T24:00",
                "2026-11-23T14:60",
                "2026-11-23T14:05:60",
                "2026-11-23T1",
                "2026-11-23T14:05\0",
                "2026-11-23\0x",
            ),
            *(
                "2026-11/23",
                "2026-11-23T14:05:00ZZ",
                "23-11-2026",
                "2026-11-23 13:05 PM",
                "٢٠٢٦-11-23",
                "x" * 99,
                "2026-11-23" + " " * 99,
            ),
        ],
    )
    @pytest.mark.parametrize("rows", [1, 100])
    def test_what_is_none(self, text, rows):
        assert np.isnat(datetimes.parse([text] * rows)).all()

    @given(st.lists(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)) | st.text(max_size=25), max_size=15))
    def test_one_by_one_and_all_at_once_are_the_same(self, values):
        texts = [value if isinstance(value, str) else str(value) for value in values]
        many = datetimes.parse(texts + ["2026-11-23"] * datetimes.FEW)[: len(texts)]
        np.testing.assert_array_equal(many, datetimes.parse(texts))

    @given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
    def test_parts(self, value):
        hour, weekday, month = datetimes.columns(datetimes.parse([value.isoformat()]))[0]
        assert (weekday, month) == (value.weekday(), value.month)
        exact = value.hour + value.minute / 60 + (value.second + value.microsecond / 1e6) / 3600
        assert hour == pytest.approx(exact, abs=2e-6)
        assert 0 <= hour <= 24


class TestDecode:
    @given(st.floats(width=32, allow_nan=False, allow_infinity=False))
    def test_numbers_come_back_with_float32_digits(self, value):
        back = decode(AMOUNT, encode(AMOUNT, [value])[0][0])
        assert np.float32(back) == np.float32(value)
        assert float(f"{back:.9g}") == back

    @given(st.integers(-(2**24), 2**24))
    def test_whole_numbers_come_back(self, value):
        back = decode(COUNT, encode(COUNT, [value])[0][0])
        assert back == value
        assert type(back) is int

    @pytest.mark.parametrize(
        ("feature", "value"), [(COUNTRY, "at"), (LEVEL, 3), (ONLINE, True), (ONLINE, False), (AMOUNT, None), (TIME, None)]
    )
    def test_labels_come_back(self, feature, value):
        assert decode(feature, encode(feature, [value])[0][0]) == value

    def test_unknown_is_none(self):
        assert decode(COUNTRY, encode(COUNTRY, ["xx"])[0][0]) is None

    def test_datetimes_in_words(self):
        assert decode(TIME, encode(TIME, ["2026-11-24T14:05:29"])[0][0]) == "Tuesday 14:05, November"
        assert decode(TIME, np.array([23.9999, 6.2, 0.6], np.float32)) == "Sunday 00:00, January"


class TestOddities:
    def test_each_kind(self):
        features = (AMOUNT, COUNT, COUNTRY, TIME)
        rows = [
            ([5, 1, "de", "2026-01-01"], []),
            ([101, 1, "xx", "2026-01-01"], [("amount", "out_of_range"), ("country", "unknown_category")]),
            ([None, None, "fr", None], [("amount", "missing"), ("time", "missing")]),
            ([-0.1, 9, None, "2026-01-01"], [("amount", "out_of_range"), ("country", "missing")]),
        ]
        columns = [encode(feature, [row[i] for row, _ in rows])[0] for i, feature in enumerate(features)]
        x = np.concatenate(columns, axis=1)
        assert Limits(features).oddities(x) == [odd for _, odd in rows]

    def test_of_a_manifest(self, tmp_path):
        from service.bundle import read_bundle
        from tests.service import tiny_bundle

        manifest = read_bundle(tiny_bundle.publish(tmp_path)).manifest
        assert Limits(manifest.features).oddities(np.zeros((2, manifest.width), np.float32)) == [[], []]


def test_arrow_values_are_never_written_to():
    array = Array([1.0, 1e39, None], DataType.float64())
    encode_arrow(AMOUNT, array)
    assert array.to_pylist() == [1.0, 1e39, None]


def test_a_whole_number_that_json_has_no_room_for_is_told_as_a_float():
    for value in (2.0**63, 9.539666e19, -(2.0**70), 3.4e38):
        told = decode(COUNT, np.array([value], np.float32))
        assert type(told) is float
        assert np.float32(told) == np.float32(value)
        assert json.loads(orjson.dumps(told)) == told
    assert decode(COUNT, np.array([2.0**62], np.float32)) == 2**62


def test_a_time_outside_the_calendar_is_refused_and_null_is_missing():
    ends = pa.array([2**63 - 1, None, -(2**63) + 1, 0], pa.timestamp("us"))
    columns, bad = encode_arrow(TIME, Array.from_arrow(ends))
    assert [row for row, _ in bad] == [0, 2]
    assert np.isnan(columns[:3]).all()
    assert columns[3].tolist() == [0, 3, 1]
