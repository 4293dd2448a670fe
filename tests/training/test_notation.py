"""How values are written: separators of thousands, minus signs, numbers as texts, dates and booleans in several ways."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.tables import TableError
from training.data import Dataset, read_dataset
from training.table import strays
from training.table.summary import lines

from .test_copies import written

N = 300
DRAW = np.random.default_rng(3)
X = DRAW.normal(size=N).round(4)
AMOUNTS = (10_000 * DRAW.lognormal(-2, 1.5, N)).astype(int) + 1


def read(path: Path, cells: object, **options: object) -> Dataset:
    return read_dataset(written(path / "t.csv", a=cells, x=X), **options)


def refused(path: Path, **options: object) -> str:
    with pytest.raises(TableError) as caught:
        read_dataset(path, **options)
    return str(caught.value).replace(str(path), "FILE")


class TestThousands:
    def test_dots_between_them_are_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "t.csv", a=[f"{n:,}".replace(",", ".") for n in AMOUNTS], x=X)
        message = refused(path)
        found = "each dot stands before three digits, and what has none is below 1,000, as where dots separate thousands"
        assert message == f"FILE, column a: {found}; write them as 1234, or pass --numeric a if they are decimal points"
        assert read_dataset(path, kinds={"a": "numeric"}).features[0].high < 1_000

    @pytest.mark.parametrize(
        "cells",
        [
            [f"{n / 1_000:.3f}" for n in AMOUNTS + 1_000],
            [f"{n / 1_000:.3f}" if n > 700 else "0" for n in AMOUNTS + 1_000],
            [f"{n / 1_000:g}" for n in AMOUNTS],
            [f"{n / 1_000:.3f}" if n > 1_000 else "0.5" if n > 100 else n for n in AMOUNTS],
            [f"{n / 1_000:.3f}" if n > 1_000 else n + 999 for n in AMOUNTS],
            ["2.413", "920", "17", "5", "", "-"] * 50,
            AMOUNTS % 1_000,
        ],
        ids=["all have three", "or 0", "without zeros at the end", "a fraction", "above a thousand", "one alone", "no dots"],
    )
    def test_other_numbers_are_what_they_are(self, tmp_path: Path, cells: list[object]) -> None:
        assert read(tmp_path, cells).features[0].kind == "numeric"


class TestNegative:
    @pytest.mark.parametrize("form", ["{}-", "({})", "\N{MINUS SIGN}{}", "(${}.00)"])
    def test_a_minus_written_in_another_way_is_that_of_an_amount(self, tmp_path: Path, form: str) -> None:
        path = written(tmp_path / "t.csv", a=[form.format(n) if i % 3 else n for i, n in enumerate(AMOUNTS)], x=X)
        assert refused(path).endswith(
            f"of which nothing could be learned; {strays.PLAIN}; or name each of them in --drop or --categorical"
        )
        (warning,) = read(tmp_path, [form.format(n % 40) if i % 3 else n % 40 for i, n in enumerate(AMOUNTS)]).warnings
        assert f"so it is a category now; {strays.PLAIN}" in warning

    @pytest.mark.parametrize("text", ["5-10", "(a)", "()", "-", "--", "(5", "-(5)", "5--", "A-", "<5"])
    def test_what_is_none(self, text: str) -> None:
        assert strays.count_amounts({text: 1}) == 0


class TestTexts:
    """Numbers that a Parquet file holds as texts."""

    @staticmethod
    def table(path: Path, cells: list[str | None]) -> Path:
        pq.write_table(pa.table({"a": pa.array(cells, pa.string()), "x": X}), path / "t.parquet")
        return path / "t.parquet"

    @pytest.mark.parametrize("form", ["{:.2f}", "€{:,.2f}", "{:.1f}%"])
    def test_amounts_that_would_be_left_out_are_refused(self, tmp_path: Path, form: str) -> None:
        path = self.table(tmp_path, [form.format(n / 7) for n in AMOUNTS])
        message = refused(path)
        assert message.startswith("FILE: column a: numbers stored as texts ('")
        assert message.endswith("write them as numbers in the file; or name each of them in --drop or --categorical")
        assert len(read_dataset(path, drop=["a"]).features) == 1

    def test_few_of_them_are_a_category_and_told_of(self, tmp_path: Path) -> None:
        path = self.table(tmp_path, [f"{n % 30}.90" if n % 9 else None for n in AMOUNTS])
        told = (
            "column a: its texts are numbers, so it is a category now; write them as numbers in the file; or pass --categorical a"
        )
        assert read_dataset(path).warnings == (told,)
        assert not read_dataset(path, kinds={"a": "categorical"}).warnings

    @pytest.mark.parametrize("form", ["{}", "{:07}", "+49{}", "AB{}", "612 345 {}", "30.123.{}"])
    def test_codes_are_left_out_as_ever(self, tmp_path: Path, form: str) -> None:
        dataset = read_dataset(self.table(tmp_path, [form.format(100 + i) for i in range(N)]))
        assert [dropped.column for dropped in dataset.dropped] == ["a"]
        assert not dataset.warnings

    def test_asked_to_be_numbers_they_are_refused_with_what_to_do(self, tmp_path: Path) -> None:
        message = refused(self.table(tmp_path, ["1.5"] * N), kinds={"a": "numeric"})
        assert message == "FILE, column a: holds texts; it cannot be numeric; cast it in the file, or do without --numeric a"


def test_all_columns_of_types_that_are_no_features_are_named_at_once(tmp_path: Path) -> None:
    columns = {"x": X, "lists": [[1.0]] * N, "bytes": [b"a"] * N, "spans": pa.array([5] * N, pa.duration("s"))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = "columns lists, bytes, spans: neither numbers, texts, booleans nor dates"
    assert refused(tmp_path / "t.parquet") == f"FILE, {found}; use --drop lists bytes spans"
    assert len(read_dataset(tmp_path / "t.parquet", drop=["lists", "bytes", "spans"]).features) == 1


class TestTimes:
    @pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
    @pytest.mark.parametrize("fraction", [0, 0.5])
    def test_numbers_that_look_like_times(self, tmp_path: Path, unit: float, fraction: float) -> None:
        at = DRAW.integers(1_600_000_000, 1_700_000_000, N)
        (warning,) = read(tmp_path, [f"{int(t) * int(unit) + fraction}" if fraction else int(t) * int(unit) for t in at]).warnings
        assert warning.startswith("column a: its numbers look like times since 1970")

    def test_whole_numbers_that_look_like_dates(self, tmp_path: Path) -> None:
        days = np.datetime64("1990-03-31") + DRAW.integers(0, 12_000, N)
        (warning,) = read(tmp_path, [str(day).replace("-", "") for day in days]).warnings
        assert warning.startswith("column a: its whole numbers look like dates without dashes")
        assert "write it as 2026-11-23" in warning

    def test_other_numbers_of_eight_digits_do_not(self, tmp_path: Path) -> None:
        for low, high in ((20_240_101, 20_249_999), (18_990_101, 20_240_101), (10_000_000, 99_000_000)):
            assert not any("dates" in told for told in read(tmp_path, [low, high, *DRAW.integers(low, high, N - 2)]).warnings)

    @pytest.mark.parametrize("text", ["13.10.1", "0.1.12", "1.10.2024", "40/10/24", "May", "Marc-123"])
    def test_texts_that_are_none(self, text: str) -> None:
        assert strays.unread(Counter({text: 5, f"{text} ": 5, f" {text}": 5})) is None


class TestWords:
    @pytest.mark.parametrize(
        ("words", "found"),
        [
            (["Motor", "motor", "MOTOR", "Home", "home"], "3 of its categories differ from another one only by capital letters"),
            (["a", "A", "a ", "b"], "2 of its categories differ from another one only by blanks around them and capital letters"),
        ],
    )
    def test_categories_that_are_written_in_several_ways(self, tmp_path: Path, words: list[str], found: str) -> None:
        assert read(tmp_path, np.resize(words, N)).warnings == (f"column a: {found}; write those alike that mean the same",)

    def test_a_boolean_that_is_written_in_several_ways(self, tmp_path: Path) -> None:
        cells = np.resize(["yes", "no", "0", "1", "TRUE", "false"], N)
        (warning,) = read(tmp_path, cells).warnings
        assert warning.startswith("column a: its categories look like a boolean that is written in several ways")
        assert not read(tmp_path, cells, kinds={"a": "boolean"}).warnings
        assert not read(tmp_path, cells, kinds={"a": "categorical"}).warnings

    @pytest.mark.parametrize("words", [["N", "F"], ["T", "F", "N"], ["yes", "No", "Yes"], ["True", "false", "1", "TRUE"]])
    def test_codes_and_booleans_are_not_told_of(self, tmp_path: Path, words: list[str]) -> None:
        assert not read(tmp_path, np.resize(words, N)).warnings


def test_a_column_that_holds_a_few_values_is_not_told_to_hold_none(tmp_path: Path) -> None:
    for gaps, share in ((N - 1, "99.6 %"), (N - 3, "99 %"), (60, "20 %")):
        told = next(lines(read(tmp_path, [""] * gaps + list(X[gaps:]))))
        assert told == f"numeric: a ({share} missing), x"
