import gzip
import hashlib
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.arrow import PLACEHOLDERS
from service.encoding import encode_text
from service.manifest import Dropped, Feature
from service.tables import TableError, open_table
from training.config import Config
from training.data import check_fit, read_dataset, read_for_evaluation, split
from training.options import MOST
from training.table import kinds as kinds_module
from training.table import strays
from training.table.summary import lines


@pytest.fixture
def table(tmp_path):
    def write(columns, name="table.csv"):
        path = tmp_path / name
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def refused(path, **options):
    with pytest.raises(TableError) as caught:
        read_dataset(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


def only(path, **options):
    """The one feature of a table whose other column is `n`."""
    dataset = read_dataset(path, **options)
    (feature,) = (feature for feature in dataset.features if feature.name != "n")
    return feature


N = [0.5, 1.5, 2.5, 3.5]
RISES = "column n rises from row to row, as an identifier does; if it is one, pass --drop n"
REMEDY = "correct it, leave it empty if it is unknown, or pass --categorical"


class TestKinds:
    @pytest.mark.parametrize(
        ("cells", "feature"),
        [
            ([1, 2, "", 4], Feature(name="a", kind="numeric", integer=True, low=1, high=4, missing_rate=0.25)),
            ([1, 2.5, " 3", "NA"], Feature(name="a", kind="numeric", low=1, high=3, missing_rate=0.25)),
            ([0, 1, 1, 0], Feature(name="a", kind="numeric", integer=True, low=0, high=1)),
            (["x", "y", "y", "z"], Feature(name="a", kind="categorical", categories=("y", "x", "z"))),
            (["x", "", "null", "y"], Feature(name="a", kind="categorical", categories=("x", "y"), missing_rate=0.5)),
            (["12", "A3", "B4", "12"], Feature(name="a", kind="categorical", categories=("12", "A3", "B4"))),
            (["yes", "no", "", "No"], Feature(name="a", kind="boolean", missing_rate=0.25)),
            (["N", "F", "N", "N"], Feature(name="a", kind="categorical", categories=("N", "F"))),
            (["T", "F", "N", "F"], Feature(name="a", kind="categorical", categories=("F", "N", "T"))),
            (["True", "False", "True", "1"], Feature(name="a", kind="boolean")),
            (
                ["2026-11-23", "", "23.11.2026 14:05", "2026-11-24T00:00:00Z"],
                Feature(name="a", kind="datetime", missing_rate=0.25),
            ),
            (["Y", "", "", "Y"], Feature(name="a", kind="boolean", missing_rate=0.5)),
        ],
    )
    def test_inferred(self, table, cells, feature):
        assert only(table({"n": N, "a": cells})) == feature

    @pytest.mark.parametrize(
        ("cells", "kind", "feature"),
        [
            (
                [3, 1, 3, ""],
                "categorical",
                Feature(name="a", kind="categorical", integer=True, categories=(3, 1), missing_rate=0.25),
            ),
            (["3.0", "1", "3", 1], "categorical", Feature(name="a", kind="categorical", integer=True, categories=(1, 3))),
            (["007", "7", "7", "7"], "categorical", Feature(name="a", kind="categorical", categories=("7", "007"))),
            (["1.5", "x", "1.5", "x"], "categorical", Feature(name="a", kind="categorical", categories=("1.5", "x"))),
            (["yes", "no", "no", "no"], "categorical", Feature(name="a", kind="categorical", categories=("no", "yes"))),
            ([0, 1, "0.0", "1"], "boolean", Feature(name="a", kind="boolean")),
        ],
    )
    def test_asked_for(self, table, cells, kind, feature):
        assert only(table({"n": N, "a": cells}), kinds={"a": kind}) == feature

    def test_text_with_some_numbers_first_is_still_text(self, table):
        cells = [*range(2_000), *(f"x{i % 7}" for i in range(18_000))]
        feature = only(table({"n": range(20_000), "a": cells}))
        assert feature.kind == "categorical"
        assert feature.categories[0] == "x0"
        assert "7" in feature.categories

    def test_datetimes_after_many_empty_cells_are_datetimes(self, table):
        days = [f"2026-{1 + i % 12:02}-{1 + i % 28:02} {i % 24:02}:00" for i in range(300)]
        assert only(table({"n": np.arange(2_000) % 7, "a": [""] * 1_700 + days})).kind == "datetime"

    def test_numbers_after_few_texts_are_a_mistake_in_the_texts(self, table):
        path = table({"n": range(20_000), "a": ["oops"] * 90 + [""] * 8_200 + list(range(11_710))})
        assert refused(path) == f"FILE, row 1 (line 2), column a: not a number, as 90 of 11,800 values ('oops'); {REMEDY} a"

    def test_parquet_types_say_what_a_column_is(self, tmp_path):
        columns = {
            "whole": pa.array([1, 2, None, 4], pa.int32()),
            "real": pa.array([1.5, float("nan"), 3.0, 4.0], pa.float32()),
            "text": ["1", "2", "2", None],
            "coded": pa.array(["a", "b", "b", "a"]).dictionary_encode(),
            "flag": [True, False, None, True],
            "time": pa.array([0, 1, 2, 3 * 10**9], pa.timestamp("ns")),
            "empty": pa.nulls(4),
        }
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        dataset = read_dataset(tmp_path / "t.parquet")
        assert dataset.features == (
            Feature(name="whole", kind="numeric", integer=True, low=1, high=4, missing_rate=0.25),
            Feature(name="real", kind="numeric", low=1.5, high=4, missing_rate=0.25),
            Feature(name="text", kind="categorical", categories=("2", "1"), missing_rate=0.25),
            Feature(name="coded", kind="categorical", categories=("a", "b")),
            Feature(name="flag", kind="boolean", missing_rate=0.25),
            Feature(name="time", kind="datetime"),
        )
        assert Dropped(column="empty", reason="no values") in dataset.dropped

    def test_parquet_integers_as_categories(self, tmp_path):
        pq.write_table(pa.table({"n": N, "a": [5, 3, 5, None]}), tmp_path / "t.parquet")
        assert only(tmp_path / "t.parquet", kinds={"a": "categorical"}).categories == (5, 3)

    @pytest.mark.parametrize("codes", [[301, 200, 301, None], [1, 0, 1, None]])
    def test_a_dictionary_of_whole_numbers_is_a_category(self, tmp_path, codes):
        """As pandas writes its categories, also where another file of the table has plain numbers."""
        declared = pa.array(codes).dictionary_encode()
        for name, column in (("a", pa.array(codes)), ("b", declared)):
            pq.write_table(pa.table({"n": N, "a": column}), tmp_path / f"{name}.parquet")
        expected = Feature(name="a", kind="categorical", integer=True, categories=(codes[0], codes[1]), missing_rate=0.25)
        dataset = read_dataset(tmp_path / "b.parquet")
        assert dataset.features[1] == only(tmp_path) == expected
        np.testing.assert_array_equal(dataset.x[:, 1], np.array([0, 1, 0, np.nan], np.float32))
        assert only(tmp_path / "b.parquet", kinds={"a": "numeric"}).kind == "numeric"

    def test_whole_numbers_that_float64_does_not_tell_apart_are_no_categories(self, table, tmp_path):
        """As texts they stay what they are; in Parquet they are refused."""
        large = 2**53
        cells = [large, large + 1, large + 2, large] * 3
        read = only(table({"n": N * 3, "a": cells}), kinds={"a": "categorical"})
        assert read.categories == (str(large), str(large + 1), str(large + 2))
        pq.write_table(pa.table({"n": N * 3, "a": cells}), tmp_path / "t.parquet")
        assert "whole numbers beyond 2^53" in refused(tmp_path / "t.parquet", kinds={"a": "categorical"})
        pq.write_table(pa.table({"n": N * 3, "a": [1.5, 2.0, 3.0, 1.5] * 3}), tmp_path / "t.parquet")
        assert "not only whole numbers" in refused(tmp_path / "t.parquet", kinds={"a": "categorical"})

    def test_categories_beyond_the_most_frequent_are_unknown(self, table, monkeypatch):
        monkeypatch.setattr(kinds_module, "MOST_CATEGORIES", 2)
        path = table({"n": range(7), "a": ["b", "b", "a", "a", "a", "c", "d"]})
        dataset = read_dataset(path)
        assert dataset.features[1].categories == ("a", "b")
        assert dataset.x[:, 1].tolist() == [1, 1, 0, 0, 0, 2, 2]
        assert dataset.warnings == ("column a: 4 categories; those beyond the 2 most frequent are unknown",)


class TestAlmostNumbers:
    """A column that is not what most of its values are is told of, with a remedy; what is said to last holds none of them."""

    @staticmethod
    def told(path, **options):
        dataset = read_dataset(path, **options)
        assert all(value not in warning for warning in dataset.warnings for value in dataset.strays.values())
        return dataset

    @pytest.mark.parametrize("mark", sorted(PLACEHOLDERS))
    def test_marks_of_a_missing_number_or_datetime_are_missing(self, table, mark):
        rows = range(200)
        numbers = [mark if i % 5 == 0 else i % 90 for i in rows]
        times = [mark if i % 5 == 0 else f"2026-01-{i % 28 + 1:02}" for i in rows]
        dataset = self.told(table({"n": [i % 7 for i in rows], "a": numbers, "b": times}))
        assert [feature.kind for feature in dataset.features[1:]] == ["numeric", "datetime"]
        assert [feature.missing_rate for feature in dataset.features[1:]] == pytest.approx([0.2, 0.2])
        assert dataset.warnings == ()
        np.testing.assert_array_equal(np.isnan(dataset.x[:, 1]), [i % 5 == 0 for i in rows])

    @pytest.mark.parametrize("mark", ["?", "-", "#N/A"])
    def test_a_category_may_be_called_as_they_are(self, table, mark):
        path = table({"n": range(20_000), "a": [mark] * 9_000 + ["x", "y"] * 5_500})
        assert only(path).categories == (mark, "x", "y")
        assert only(table({"n": N, "a": [mark, "", mark, ""]})).categories == (mark,)

    @pytest.mark.parametrize("stray", ["12,34", "1,234.00", "1.234,5", "1 234", "12%", "$5", "-5 €", "12 EUR"])
    def test_numbers_in_another_notation(self, tmp_path, stray):
        path = tmp_path / "t.csv"
        path.write_text("n;a\n" + "".join(f"{i % 7};{stray if i % 20 == 0 else i % 90}\n" for i in range(200)))
        dataset = self.told(path)
        (warning,) = dataset.warnings
        found = "95 % of its values are plain numbers and 10 are not (10 of them are numbers written in another way)"
        assert warning.startswith(f"column a: {found}, so it is a category now; {strays.PLAIN}")
        assert warning.endswith("or pass --categorical a")
        assert dataset.strays == {"a": repr(stray)}

    def test_a_whole_column_of_decimal_commas(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("n;a\n" + "".join(f"{i % 7};{i % 9},5\n" for i in range(200)))
        dataset = self.told(path)
        assert dataset.warnings[0].startswith("column a: 0 % of its values are plain numbers and 200 are not (200 of them")
        assert dataset.strays == {"a": "'0,5', '1,5', '2,5'"}

    def test_values_that_are_no_numbers_at_all(self, table):
        cells = [["lost", "broken", "off", "odd"][i % 4] if i % 10 == 0 else i % 90 for i in range(400)]
        dataset = self.told(table({"n": [i % 7 for i in range(400)], "a": cells}))
        (warning,) = dataset.warnings
        assert warning.startswith(
            "column a: 90 % of its values are plain numbers and 40 are not, so it is a category now; correct"
        )
        assert dataset.strays == {"a": "'lost', 'off'"}

    def test_what_means_no_value_is_neither_a_number_nor_a_stray(self):
        assert strays.find("a", "numbers", Counter({"1": 40, "?": 50, "x": 60})) is None  # 40 of 100
        for mode, cells in (("numbers", {"1": 40}), ("datetimes", {"2026-01-01": 40, "": 5})):
            found = strays.find("a", mode, Counter({**cells, "?": 50, "x": 10}))
            assert (found.fitting, found.others) == (40, Counter({"x": 10}))

    def test_amounts_with_blanks_around_them_are_amounts_too(self):
        assert strays.find("a", "numbers", Counter({"1": 5, "  12,5\t": 3, "x": 1})).amounts == 3

    def test_a_long_value_is_shown_cut(self):
        assert strays.shown({"x" * 100: 1}) == repr("x" * strays.WIDEST + "...")

    def test_datetimes_with_strays(self, table):
        cells = ["soon" if i % 10 == 0 else f"2026-01-{i % 28 + 1:02}" for i in range(400)]
        dataset = self.told(table({"n": [i % 7 for i in range(400)], "a": cells}))
        assert dataset.warnings[0].startswith(
            "column a: 90 % of its values are plain datetimes and 40 are not, so it is a category"
        )

    def test_columns_that_would_be_left_out_for_their_notation_are_refused(self, tmp_path):
        path, rows = tmp_path / "t.csv", range(300)
        path.write_text("n;a;b;c\n" + "".join(f"{i % 7};{i},5;{i / 4};{i % 50}.{i:03},25 €\n" for i in rows))
        message = refused(path)
        assert message.startswith("FILE: columns a, c: numbers written in another way ('0,5', '1,5', '10,5'), of which nothing")
        assert message.endswith("no % and no currency; or name each of them in --drop or --categorical")
        assert [feature.name for feature in read_dataset(path, drop=["a", "c"]).features] == ["n", "b"]
        kept = read_dataset(path, kinds={"a": "categorical", "c": "categorical"}).features
        assert [feature.kind for feature in kept] == ["numeric", "categorical", "numeric", "categorical"]

    @pytest.mark.parametrize(
        "cell",
        ["612 345 {:03}", "30.123.{:03}", "+49 89 {}", "No. {}", "{},5 of 7", "1 May, {}", "T{}", "{}/25"],
    )
    def test_telephones_identifiers_and_words_are_left_out_as_ever(self, table, cell):
        cells = [f'"{cell.format(i)}"' for i in range(300)]
        dataset = read_dataset(table({"n": [i % 7 for i in range(300)], "a": cells}))
        assert [dropped.column for dropped in dataset.dropped] == ["a"]

    def test_a_few_numbers_in_another_notation_are_told_how_to_write_them(self, table):
        message = refused(table({"n": range(1_000), "a": ['"1,016.44"' if i % 200 == 7 else i for i in range(1_000)]}))
        found = "not a number, as 5 of 1,000 values ('1,016.44')"
        assert message == f"FILE, row 8 (line 9), column a: {found}; {strays.PLAIN}; or pass --categorical a"

    def test_categories_that_blanks_alone_tell_apart(self, table):
        dataset = self.told(table({"n": range(8), "a": ["DE", "DE ", " AT", "AT", "FR", " US", "FR", "DE"]}))
        assert dataset.features[1].categories == ("DE", "FR", " AT", " US", "AT", "DE ")
        assert dataset.warnings[0].startswith("column a: 2 of its categories differ from another one only by blanks around them")

    def test_codes_with_a_few_numbers_and_what_was_asked_for_are_no_matter(self, table):
        rows = range(200)
        path = table({"n": [i % 7 for i in rows], "a": [f"A{i % 9}" if i % 3 else i % 9 for i in rows], "b": ["5%", "6"] * 100})
        assert self.told(path, kinds={"b": "categorical"}).warnings == ()

    def test_a_summary_has_a_line_a_kind_and_the_values_that_did_not_fit(self, table):
        rows = range(200)
        columns = {"n": [i % 7 for i in rows], "m": [i % 5 or "" for i in rows], "c": ["x", "y"] * 100, "same": [1] * 200}
        told = list(lines(self.told(table({**columns, "a": ["5%" if i % 9 else i for i in rows]}))))
        assert told[:3] == ["numeric: n, m (20 % missing)", "categorical: c, a", "left out: column 'same': constant"]
        assert told[3].startswith("warning: column a: 11.5 % of its values are plain numbers and 177 are not")
        assert told[4:] == ["what did not fit in column a: '5%'"]


class TestCodes:
    """Whole numbers that are written as no amount is: with leading zeros, or with a plus where none has a minus."""

    @pytest.mark.parametrize(
        "cells",
        [
            [f"{i % 60:05}" for i in range(400)],
            [f"+49{i % 60}" for i in range(400)],
            [f"0{i % 60}" if i % 20 == 0 else f"{1 + i % 60}" for i in range(400)],
            [f"{i % 60:05}" for i in range(200)] + ["-", ""] * 100,
        ],
    )
    def test_they_are_categories_and_told_of(self, table, cells):
        dataset = read_dataset(table({"n": N * 100, "a": cells}))
        assert dataset.features[1].kind == "categorical"
        assert not dataset.features[1].integer
        assert set(dataset.features[1].categories) <= {*cells}
        assert dataset.warnings[0].startswith("column a: its numbers have leading zeros or plus signs")
        assert only(table({"n": N * 100, "a": cells}), kinds={"a": "numeric"}).kind == "numeric"

    @pytest.mark.parametrize(
        "cells",
        [
            [f"{i % 9 - 4:+}" for i in range(400)],
            [f"{i % 9}.50" for i in range(400)],
            ["0" + str(i / 7) for i in range(400)],
            [i % 3 * 10 for i in range(400)],
            ["007", *(i % 90 for i in range(399))],
        ],
        ids=["signs", "fractions", "padded fractions", "zeros", "one in a hundred"],
    )
    def test_numbers_stay_numbers(self, table, cells):
        assert only(table({"n": N * 100, "a": cells})).kind == "numeric"

    @pytest.mark.parametrize("codes", [[200, 301, 404, 500], [10, 70, 300], [1, 2, 7, 40, 80]])
    def test_few_numbers_with_gaps_between_them_may_be_codes(self, table, codes):
        path = table({"n": N * 100, "a": (codes * 400)[:400]})
        dataset = read_dataset(path)
        assert dataset.features[1].kind == "numeric"
        read = f"{len(codes)} whole numbers with gaps between them, read as amounts"
        assert dataset.warnings == (f"column a: {read}; if these are codes, pass --categorical a",)
        for kind in ("numeric", "categorical"):
            assert not read_dataset(path, kinds={"a": kind}).warnings

    @pytest.mark.parametrize(
        "numbers",
        [
            range(20, 70, 5),
            [1, 2, 3, 5, 8, 9],
            [10, 20, 30, 50, 80, 100],
            [5, 10, 20, 50, 100, 200, 1000],
            [64, 128, 256, 512, 4096],
            [0, 3, 90, 700],
            [6, 12, 24, 36, 60],
            [1, 1000],
            [*range(1, 42, 2), 900],
            [3] * 200 + [4] * 190 + [950],
        ],
        ids=["steps", "counts", "tens", "coins", "powers of two", "from 0", "months", "two", "many", "a rare one"],
    )
    def test_other_numbers_are_not_asked_about(self, table, numbers):
        assert not read_dataset(table({"n": N * 100, "a": ([*numbers] * 400)[:400]})).warnings

    def test_where_nearly_every_row_has_another_they_are_an_identifier(self, table):
        (dropped,) = read_dataset(table({"n": N * 100, "a": [f"{i:06}" for i in range(400)]})).dropped
        assert dropped == Dropped(column="a", reason="400 distinct texts in 400 rows: an identifier, or free text")


class TestDateOrder:
    """The order of day and month in dates with slashes: once for a column, from what its numbers tell."""

    @staticmethod
    def dates(form):
        return [form.format(day=i % 28 + 1, month=i % 12 + 1) for i in range(120)]

    @pytest.mark.parametrize(("form", "day_first"), [("{day:02}/{month:02}/2026", True), ("{month}/{day}/2026 14:05", False)])
    def test_it_is_that_which_the_numbers_tell_for_every_cell(self, table, form, day_first):
        read = [read_dataset(table({"a": self.dates(form), "n": range(120)})) for form in (form, "2026-{month:02}-{day:02}")]
        assert [dataset.features[0].day_first for dataset in read] == [day_first, None]
        assert [dataset.warnings for dataset in read] == [(RISES,), (RISES,)]
        np.testing.assert_array_equal(read[0].x[:, 1:], read[1].x[:, 1:])

    def test_a_column_that_contradicts_itself_is_refused_with_both_places(self, table):
        cells = ["2026-01-01", "03/04/2026", "23/11/2026", "11/23/2026"] * 9
        message = refused(table({"a": cells, "n": range(36)}))
        found = "FILE, row 3 (line 4), column a: a date with the day first, and one with the month first in FILE, row 4"
        assert message == f"{found}; write all as 2026-11-23, or pass --drop a"

    def test_one_that_tells_nothing_is_read_with_the_month_first_and_warned_of(self, table):
        dataset = read_dataset(table({"a": ["03/04/2026", "05/06/2026"] * 9, "n": N[:2] * 9}))
        assert dataset.features[0].day_first is False
        assert dataset.x[:2, 2].tolist() == [3, 5]
        assert "column a: dates with slashes, such as 03/04/2026, are read with the month first" in dataset.warnings[0]

    def test_without_slashes_there_is_none(self, table):
        assert only(table({"n": N, "a": ["2026/11/23", "23.11.2026", "2026-11-24", ""]})).day_first is None


class TestDropped:
    def test_columns_of_no_use_are_left_out_with_the_reason(self, table):
        rows = 300
        columns = {
            "n": np.arange(rows) % 7,
            "constant": ["x"] * rows,
            "same": [5.0] * rows,
            "nothing": [""] * rows,
            "id": [f"user{i}" for i in range(rows)],
            "unwanted": np.arange(rows) % 5,
            "sometimes": ["x", ""] * (rows // 2),
        }
        dataset = read_dataset(table(columns), drop=["unwanted"])
        assert [feature.name for feature in dataset.features] == ["n", "sometimes"]
        assert {dropped.column: dropped.reason for dropped in dataset.dropped} == {
            "constant": "constant",
            "same": "constant",
            "nothing": "no values",
            "id": "300 distinct texts in 300 rows: an identifier, or free text",
            "unwanted": "left out by --drop",
        }

    def test_of_a_constant_its_value_is_kept_as_records_have_it(self, table, tmp_path):
        rows = 300
        columns = {
            "text": " x",
            "code": "007",
            "truth": "TRUE",
            "whole": "230.0",
            "number": 0.1,
            "asked": "5",
            "yes": "Yes",
            "flag": "yes",
            "when": "2026-03-02 14:05",
        }
        expected = {**columns, "truth": True, "whole": 230, "asked": 5, "flag": True, "when": None}
        csv = table({"n": np.arange(rows) % 7, **{name: [value] * rows for name, value in columns.items()}})
        dataset = read_dataset(csv, kinds={"asked": "categorical", "flag": "boolean"})
        kept = {dropped.column: dropped.value for dropped in dataset.dropped}
        assert [(name, type(value), value) for name, value in kept.items()] == [
            (name, type(value), value) for name, value in expected.items()
        ]
        typed = {"n": np.arange(rows) % 7, "text": ["5"] * rows, "truth": [False] * rows, "big": [2.0**60] * rows}
        pq.write_table(pa.table(typed), tmp_path / "t.parquet")
        kept = {dropped.column: dropped.value for dropped in read_dataset(tmp_path / "t.parquet").dropped}
        assert [(name, type(value), value) for name, value in kept.items()] == [
            ("text", str, "5"),
            ("truth", bool, False),
            ("big", float, 2.0**60),
        ]

    @pytest.mark.parametrize(("rows", "kind"), [(19, "categorical"), (20, None), (58, None)])
    def test_in_a_small_table_texts_that_all_differ_are_an_identifier(self, table, rows, kind):
        dataset = read_dataset(table({"n": np.arange(rows) % 7, "id": [f"u{i}" for i in range(rows)]}))
        assert [feature.kind for feature in dataset.features[1:]] == ([kind] if kind else [])
        if not kind:
            assert dataset.dropped[0].reason == f"{rows} distinct texts in {rows} rows: an identifier, or free text"
        again = ["u1", *(f"u{i}" for i in range(1, rows))]
        assert len(read_dataset(table({"n": np.arange(rows) % 7, "id": again})).features) == 2

    def test_a_number_that_rises_with_the_rows_is_warned_of(self, table):
        dataset = read_dataset(table({"n": np.arange(200) % 3, "id": range(200)}))
        assert len(dataset.warnings) == 1
        assert "--drop id" in dataset.warnings[0]

    def test_a_number_that_rises_in_each_file_alone_is_no_identifier(self, table, tmp_path):
        for name, first in (("a", 0), ("b", -100)):
            table({"n": np.arange(200) % 7, "a": range(first, first + 200)}, f"{name}.csv")
        assert read_dataset(tmp_path).warnings == ()

    def test_asked_for_identifiers_stay(self, table):
        path = table({"n": np.arange(300) % 7, "id": [f"u{i}" for i in range(300)]})
        assert len(only(path, kinds={"id": "categorical"}).categories) == 300


class TestRows:
    def test_labelled_rows_are_kept_aside(self, table):
        path = table({"a": [1, 2, 900, 3, 4], "c": ["x", "x", "odd", "y", "y"], "label": ["ok", "ok", "bad", "ok", "worse"]})
        dataset = read_dataset(path, label="label", normal="ok")
        assert dataset.x.tolist() == [[1, 0], [2, 0], [3, 1]]
        assert dataset.anomalies_x.tolist() == [[900, 2], [4, 1]]  # odd was never seen among the normal
        assert dataset.rows.tolist() == [1, 2, 4]
        assert dataset.features[0].high == 3
        assert dataset.sources == (("table.csv", hashlib.sha256(path.read_bytes()).hexdigest()),)

    @pytest.mark.parametrize("normal", ["0", "0.0"])
    def test_labels_that_are_numbers(self, table, tmp_path, normal):
        path = table({"a": [1, 2, 3], "label": [0, 0, 1]})
        pq.write_table(pa.table({"a": [1, 2, 3], "label": [0.0, 0.0, 1.0]}), tmp_path / "t.parquet")
        for data in (path, tmp_path / "t.parquet"):
            assert len(read_dataset(data, label="label", normal=normal).x) == 2

    @pytest.mark.parametrize("normal", ["False", "false", "FALSE"])
    @pytest.mark.parametrize("written", [("False", "True"), ("false", "true")])
    def test_labels_that_are_booleans(self, table, tmp_path, normal, written):
        path = table({"a": [1, 2, 3], "label": [written[0], written[0], written[1]]})
        pq.write_table(pa.table({"a": [1, 2, 3], "label": [False, False, True]}), tmp_path / "t.parquet")
        feature = Feature(name="a", kind="numeric")
        for data in (path, tmp_path / "t.parquet"):
            assert len(read_dataset(data, label="label", normal=normal).x) == 2
            assert read_for_evaluation(data, (feature,), "label", normal)[1].tolist() == [False, False, True]

    def test_a_normal_that_no_row_has_is_refused_with_what_there_is(self, table):
        path = table({"a": range(90), "label": [f"kind {i % 9}" for i in range(90)]})
        found = "'kind 0', 'kind 1', 'kind 2', 'kind 3', 'kind 4', ..."
        message = f"FILE: no row whose label is ok (--normal); there are {found}; "
        assert refused(path, label="label", normal="ok").startswith(message)
        with pytest.raises(TableError) as caught:
            read_for_evaluation(path, (Feature(name="a", kind="numeric"),), "label", "ok")
        assert str(caught.value).replace(str(path), "FILE") == message + "false alarms are counted on normal records"

    def test_folder_gz_and_mixed_formats(self, table, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        table({"a": [1, 2], "b": ["x", "y"]}, "folder/1.csv")
        (folder / "2.csv.gz").write_bytes(gzip.compress(b"b,a\ny,3\n"))
        pq.write_table(pa.table({"a": [4], "b": ["y"]}), folder / "3.parquet")
        for data in (folder, str(folder / "*")):
            dataset = read_dataset(data)
            assert dataset.x.tolist() == [[1, 1], [2, 0], [3, 0], [4, 0]]
            assert dataset.rows.tolist() == [1, 2, 3, 4]
            assert [name for name, _ in dataset.sources] == ["1.csv", "2.csv.gz", "3.parquet"]

    def test_places_count_all_rows_of_all_files_and_batches(self, table, tmp_path):
        (tmp_path / "folder").mkdir()
        labels = np.where(np.arange(20_000) % 7, "ok", "bad")
        table({"a": range(12_000), "label": labels[:12_000]}, "folder/1.csv")
        table({"a": range(12_000, 20_000), "label": labels[12_000:]}, "folder/2.csv")
        dataset = read_dataset(tmp_path / "folder", label="label", normal="ok")
        np.testing.assert_array_equal(dataset.rows, dataset.x[:, 0] + 1)

    def test_what_trains_is_what_is_scored(self, table):
        rng = np.random.default_rng(0)
        path = table(
            {"a": rng.normal(size=300), "b": rng.choice(["x", "y", ""], 300), "c": ["2026-11-23 14:05", "", "2026-01-02"] * 100}
        )
        dataset = read_dataset(path)
        scored = np.concatenate([batch.x for batch in open_table(path, dataset.features)])
        np.testing.assert_array_equal(dataset.x, scored)

    def test_evaluation_reads_every_row_in_order(self, table):
        path = table({"a": [1, 2, 900], "label": ["ok", "bad", "ok"], "more": [1, 2, 3]})
        x, is_anomaly = read_for_evaluation(path, (Feature(name="a", kind="numeric"),), "label", "ok")
        assert x.tolist() == [[1], [2], [900]]
        assert is_anomaly.tolist() == [False, True, False]

    def test_evaluation_needs_the_features(self, table):
        with pytest.raises(TableError, match="no column b, which the model needs"):
            read_for_evaluation(table({"a": [1], "label": [1]}), (Feature(name="b", kind="numeric"),), "label", "1")


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ("", {}, "FILE: the file is empty"),
            ("a,b\n", {}, "FILE: no rows below the header; a table of records is needed"),
            ("a,b\n1,2\n", {}, "FILE: one row only; a model needs many more"),
            ("a,a\n1,2\n", {}, "FILE: duplicate header: column 2 is called a as one before it; rename one of them"),
            (
                "a,b\n1,2\n3\n",
                {},
                "FILE, row 2 (line 3): 1 cells where the header has 2; put cells that hold ',' or a line's end in quotes",
            ),
            (
                "a,b\n1,2\n3,inf\n",
                {},
                "FILE, row 2 (line 3), column b: an infinite value, or one beyond float32; correct it or leave it empty",
            ),
            (
                "a,b\n1,2\n3,-1e39\n",
                {},
                "FILE, row 2 (line 3), column b: an infinite value, or one beyond float32; correct it or leave it empty",
            ),
            ("a,b\n1,2\n3,4\n", {"label": "c", "normal": "0"}, "FILE: --label c: no such column; the columns are a, b"),
            ("a,b\n1,2\n3,4\n", {"drop": ["c"]}, "FILE: --drop c: no such column; the columns are a, b"),
            ("a,b\n1,2\n3,4\n", {"kinds": {"c": "categorical"}}, "FILE: --categorical c: no such column; the columns are a, b"),
            (
                "a,b\n1,2\n3,4\n",
                {"drop": ["a"], "kinds": {"a": "numeric"}},
                "FILE: column a cannot be a feature and be left out; give one option for it",
            ),
            (
                "a,b\n1,2\n3,4\n",
                {"label": "b", "normal": "0"},
                "FILE: no row whose b is 0 (--normal); there are '2', '4'; normal records are what a model learns from",
            ),
            ("a,b\n1,0\n3,4\n", {"label": "b", "normal": "0"}, "FILE: one row of normal records only; a model needs many more"),
            (
                "a,b\n1,0\n3,\n4,0\n",
                {"label": "b", "normal": "0"},
                "FILE, row 2 (line 3), column b: no label; fill it in or remove the row",
            ),
            ("a,b\n1,1\n1,1\n", {}, "FILE: no column holds anything to learn from (constant); check the data"),
            (
                "a,b\n1,x\n2,y\n",
                {"kinds": {"b": "numeric"}},
                f"FILE, row 1 (line 2), column b: not a number, as 2 of 2 values ('x', 'y'); {REMEDY} b",
            ),
            (
                "a,b\n1,2\n2,y\n",
                {"kinds": {"b": "boolean"}},
                "FILE, column b: not only true, false, yes, no, 1 and 0; use --categorical",
            ),
            (
                "a,b\n1,2026-01-01\n2,x\n",
                {"kinds": {"b": "datetime"}},
                f"FILE, row 2 (line 3), column b: not a datetime, as 1 of 2 values ('x'); {REMEDY} b",
            ),
        ],
    )
    def test_csv(self, tmp_path, content, options, message):
        path = tmp_path / "table.csv"
        path.write_text(content)
        assert refused(path, **options) == message

    def test_a_stray_text_among_numbers(self, table):
        cells = list(range(1_000))
        cells[16] = "secret"
        message = refused(table({"n": range(1_000), "amount": cells}))
        assert message == f"FILE, row 17 (line 18), column amount: not a number, as 1 of 1,000 values ('secret'); {REMEDY} amount"

    def test_a_stray_is_told_with_the_first_place(self, table, tmp_path):
        table({"n": np.arange(500) % 7, "a": [*range(499), "x"]}, "a.csv")
        table({"n": np.arange(500) % 7, "a": ["y", *range(499)]}, "b.csv")
        assert refused(tmp_path).startswith("FILE/a.csv, row 500 (line 501), column a: not a number, as 2 of 1,000 values")

    def test_a_bad_cell_among_the_anomalies(self, table):
        path = table({"a": [1, 2, "x"], "label": [0, 0, 1]})
        message = refused(path, label="label", normal="0")
        assert message.startswith("FILE, row 3 (line 4), column a: not a number")

    @pytest.mark.parametrize(
        ("what", "cells"),
        [("numbers", range(300)), ("datetimes", [f"2026-11-{1 + i % 28:02}" for i in range(300)])],
        ids=["numbers", "datetimes"],
    )
    @pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
    def test_numbers_or_datetimes_in_one_file_and_text_in_another(self, table, tmp_path, what, cells, first, second):
        table({"n": range(300), "a": cells}, f"{first}.csv")
        table({"n": range(300), "a": ["x", "y", "z"] * 100}, f"{second}.csv")
        message = refused(tmp_path)
        assert message.startswith(f"column a: {what} in FILE/{first}.csv and text in FILE/{second}.csv; write both alike")
        assert only(tmp_path, kinds={"a": "categorical"}).kind == "categorical"

    @pytest.mark.parametrize("every", [2, 9])
    @pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
    def test_a_file_of_which_some_cells_are_datetimes_is_one_of_text(self, table, tmp_path, every, first, second):
        cells = ["x" if i % every else f"2026-11-{1 + i % 28:02}" for i in range(300)]
        table({"n": range(300), "a": cells}, f"{first}.csv")
        table({"n": range(300), "a": ["x", "y", "z"] * 100}, f"{second}.csv")
        dataset = read_dataset(tmp_path)
        assert dataset.features[1].categories[0] == "x"
        assert dataset.strays == {}

    def test_types_that_differ_between_files(self, tmp_path):
        pq.write_table(pa.table({"n": N, "a": N}), tmp_path / "a.parquet")
        pq.write_table(pa.table({"n": N, "a": ["x", "y", "x", "y"]}), tmp_path / "b.parquet")
        assert refused(tmp_path).startswith("column a: numbers in FILE/a.parquet and texts in FILE/b.parquet")

    @pytest.mark.parametrize("mark", ["NA", "null", " "])
    def test_a_label_that_is_missing_is_none(self, table, mark):
        message = refused(table({"a": [1, 2, 3], "b": ["ok", mark, "ok"]}), label="b", normal="ok")
        assert message == "FILE, row 2 (line 3), column b: no label; fill it in or remove the row"
        if mark.strip():  # unless it is what normal rows are called
            assert len(read_dataset(table({"a": [1, 2, 3], "b": [mark, "x", mark]}), label="b", normal=mark).x) == 2

    @pytest.mark.parametrize(
        ("normal", "same", "other"),
        [
            ("10", ["10.0", " 10", "+10"], "1_0"),
            ("9007199254740992", ["9007199254740992"], "9007199254740993"),
            ("--5", ["--5"], "-5"),
            ("true", ["True", "TRUE"], "1"),
        ],
    )
    def test_labels_are_the_same_as_numbers_and_no_further(self, table, normal, same, other):
        cells = [normal, *same, other]
        dataset = read_dataset(table({"a": range(len(cells)), "b": cells}), label="b", normal=normal)
        assert (len(dataset.x), len(dataset.anomalies_x)) == (1 + len(same), 1)

    def test_a_label_of_a_nested_type_is_refused_in_words(self, tmp_path):
        pq.write_table(pa.table({"n": N, "b": [{"x": 1}] * 4}), tmp_path / "t.parquet")
        assert "column b cannot be the label" in refused(tmp_path / "t.parquet", label="b", normal="1")

    def test_the_index_that_pandas_writes_is_left_out(self, tmp_path):
        pq.write_table(pa.table({"n": N, "__index_level_0__": [7, 3, 5, 1]}), tmp_path / "t.parquet")
        assert read_dataset(tmp_path / "t.parquet").dropped == (
            Dropped(column="__index_level_0__", reason="the index of a pandas table"),
        )

    def test_types_that_are_no_features(self, tmp_path):
        pq.write_table(pa.table({"n": N, "a": [[1], [2], [3], [4]]}), tmp_path / "t.parquet")
        message = "FILE, column a: neither numbers, texts, booleans nor dates; use --drop a"
        assert refused(tmp_path / "t.parquet") == message
        assert len(read_dataset(tmp_path / "t.parquet", drop=["a"]).features) == 1
        assert "it cannot be categorical" in refused(tmp_path / "t.parquet", drop=["a"], kinds={"n": "categorical"})


@pytest.mark.parametrize("nets", [2, MOST["nets"]])
def test_the_folds_of_as_many_nets_as_may_be_have_numbers_of_their_own(nets):
    assert sorted(set(split(2_000, 0, 0.2, nets).tolist())) == [-1, *range(nets)]


def test_the_latent_terms_name_is_not_given_twice(table):
    dataset = read_dataset(table({"n": N * 9, "_kl": [0.5, 1, 2, 2] * 9}))
    check_fit(dataset, Config())
    with pytest.raises(TableError, match=r"column _kl: with --score elbo this is the name of the latent term; rename the column"):
        check_fit(dataset, Config(score="elbo"))


class TestSplit:
    @given(st.integers(16, 500), st.integers(0, 5), st.floats(0.0, 0.5), st.integers(1, 4))
    def test_disjoint_and_even(self, n, seed, share, folds):
        part = split(n, seed, share, folds)
        assert part.dtype == np.int8
        assert part.shape == (n,)
        sizes = [int((part == fold).sum()) for fold in range(folds)]
        held = int((part == -1).sum())
        assert held + sum(sizes) == n
        assert abs(held - n * share) <= 0.5
        assert max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(part, split(n, seed, share, folds))

    def test_another_seed_is_another_split(self):
        assert (split(100, 0, 0.2, 4) != split(100, 1, 0.2, 4)).any()

    def test_the_largest_number_of_float32_is_one_however_it_is_written(self, table):
        cells = ["3.4028235e+38", *range(1, 20)]
        dataset = read_dataset(table({"n": list(range(20)), "a": cells}))
        assert dataset.x[0, 1] == np.finfo(np.float32).max

    @pytest.mark.parametrize(("n", "share", "folds"), [(1, 0.2, 1), (8, 0.2, 4), (7, 0, 4), (0, 0.2, 1)])
    def test_too_few(self, n, share, folds):
        with pytest.raises(TableError, match=f"{n} normal rows are too few: (\\d+) are needed") as refused:
            split(n, 0, share, folds)
        needed = int(re.search(r"(\d+) are needed", str(refused.value))[1])
        split(needed, 0, share, folds)
        with pytest.raises(TableError):
            split(needed - 1, 0, share, folds)


@given(st.lists(st.sampled_from(["1", "2.5", "x", "", "NA", "yes", "2026-11-23"]), min_size=2, max_size=30))
def test_whatever_is_understood_is_encoded_without_an_error(tmp_path_factory, cells):
    from arro3.core import Array, DataType

    path = tmp_path_factory.mktemp("any") / "table.csv"
    path.write_text("n,a\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    dataset = read_dataset(path)
    assert dataset.x.shape[0] == len(cells)
    for feature in dataset.features[1:]:
        assert encode_text(feature, Array(cells, DataType.string()))[1] == []


@pytest.mark.parametrize(
    "values",
    [
        ["Feb 04, 2017", "May 4, 2018", "Jun 14, 2019", "Dec 31, 2020"],
        ["04-Feb-2017", "05-Mar-2017", "06-Apr-18", "7 May 2019"],
        ["2017-02", "2017-03", "2018-11"],
        ["13:28", "00:05", "7:45"],
        ["13:28:01", "00:05:59", "07:45:00"],
        ["02/04/17 13:28", "12/31/17 0:05", "1/1/18 7:45"],
        ["02/04/17", "12/20/17", "1/1/18"],
        ["04.02.17 13:28", "31.12.17 0:05", "1.1.18 07:45:01"],
        ["Mar-25", "Apr-25", "May-25"],
        ["March 2025", "Apr. 2025", "may 2025"],
    ],
    ids=" ".join,
)
def test_times_in_a_form_that_is_not_read_are_told(tmp_path, values):
    rows = "".join(f"{values[i % len(values)]!r},{i % 7}\n" for i in range(300)).replace("'", '"')
    (tmp_path / "t.csv").write_text(f"at,n\n{rows}")
    (told,) = read_dataset(tmp_path / "t.csv").warnings
    assert told.startswith("column at is a category now; its values look like times in a form that is not read")
    assert not read_dataset(tmp_path / "t.csv", kinds={"at": "categorical"}).warnings


def test_numbers_with_their_unit_are_told_also_where_the_column_is_left_out(tmp_path):
    columns = {
        "size": lambda i: f"{i % 40}MB",
        "heat": lambda i: f"{i % 9 - 4} \N{DEGREE SIGN}C",
        "price": lambda i: f"{i}.5 pcs",
    }
    rows = "".join(",".join(make(i) for make in columns.values()) + f",{i % 7}\n" for i in range(300))
    (tmp_path / "t.csv").write_text(f"{','.join(columns)},n\n{rows}")
    told = read_dataset(tmp_path / "t.csv").warnings
    assert [one.split(";")[0] for one in told] == [
        "column size is a category now",
        "column heat is a category now",
        "column price is left out",
    ]
    assert all("numbers with their unit" in one for one in told)


@pytest.mark.parametrize(
    "values", [["12A", "12B", "7C"], ["2WD", "4WD", "AWD"], ["A1", "B2", "C3"], ["Mon 1", "x", "y"], ["1:1", "2:1"]]
)
def test_codes_are_no_times_and_no_numbers(tmp_path, values):
    (tmp_path / "t.csv").write_text("code,n\n" + "".join(f"{values[i % len(values)]},{i % 7}\n" for i in range(300)))
    assert not read_dataset(tmp_path / "t.csv").warnings
