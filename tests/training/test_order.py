"""Rows that resemble the rows before them are told, and rows that are only sorted, or in blocks, are not."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.manifest import Feature
from tests.training.test_copies import written
from training.data import read_dataset
from training.table import order

N = 3_000


def numbers(k: int) -> list[Feature]:
    return [Feature(name=f"n{place}", kind="numeric") for place in range(k)]


def category(levels: int) -> Feature:
    return Feature(name="sort", kind="categorical", categories=tuple(map(str, range(levels))))


def series(phi: float, k: int, seed: int = 0) -> NDArray[np.float64]:
    """(N, k) stationary autoregressions of first order."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(N, k)) * np.sqrt(1 - phi**2)
    steps[0] = random.normal(size=k)
    for row in range(1, N):
        steps[row] += phi * steps[row - 1]
    return steps


def told(x: NDArray[np.float64], features: list[Feature]) -> str:
    return order.warning(x.astype(np.float32), features) or ""


@pytest.mark.parametrize("phi", [0.9, 0.99, 0.999])
def test_a_time_series_is_told_and_its_rows_in_another_order_are_not(phi: float) -> None:
    random = np.random.default_rng(1)
    x = series(phi, 3) @ random.normal(size=(3, 8)) + 0.1 * random.normal(size=(N, 8))
    x[random.random(x.shape) < 0.1] = np.nan
    assert told(x, numbers(8)).startswith("rows resemble the rows before them, most of all in columns")
    assert not told(random.permutation(x), numbers(8))


def test_the_series_of_several_machines_one_after_another_are_told() -> None:
    machine = np.repeat(np.arange(10), N // 10)
    x = series(0.9, 4) + 3 * np.random.default_rng(1).normal(size=(10, 4))[machine]
    assert "rows resemble the rows before them" in told(np.column_stack([x, machine]), [*numbers(4), category(10)])


@pytest.mark.parametrize("sort", [category(12), Feature(name="id", kind="numeric", integer=True)], ids=["named", "numbered"])
def test_the_series_of_machines_that_take_turns_are_told(sort: Feature) -> None:
    random = np.random.default_rng(1)
    x = np.concatenate([series(0.9, 4, seed)[:250] + 3 * random.normal(size=4) for seed in range(12)])
    machine = np.repeat(np.arange(12), 250)
    turns = np.arange(N).reshape(12, 250).T.ravel()
    table = np.column_stack([x, machine])[turns]
    assert "rows resemble the rows before them" in told(table, [*numbers(4), sort])
    assert not told(table[:, :4], numbers(4)), "nothing says whose rows they are"
    for each in range(12):  # the same machines, each of whose rows are in no order
        table[each::12, :4] = random.permutation(table[each::12, :4])
    assert not told(table, [*numbers(4), sort])


HOURS = np.arange(N)
CALENDARS = {  # what a table of hourly rows has beside its sensors
    "month": HOURS // 730 + 1,
    "day of the month": HOURS // 24 % 30 + 1,
    "day of the year": HOURS // 24 + 1,
    "week": HOURS // 168 + 1,
    "hour": HOURS % 24,
    "year and month": 202_500 + HOURS // 730,
    "batch": HOURS // 500,
    "an hour now and then": np.random.default_rng(2).integers(0, 24, N).reshape(-1, 15).copy(),
}
CALENDARS["an hour now and then"].sort(axis=1)
INTEGER = Feature(name="calendar", kind="numeric", integer=True)


@pytest.mark.parametrize("calendar", CALENDARS)
def test_a_series_with_a_calendar_is_told(calendar: str) -> None:
    """The table is sorted by it, as by the amount of a payment, but the rows in between are not."""
    random, column = np.random.default_rng(1), CALENDARS[calendar].reshape(N, 1)
    x = series(0.98, 3) @ random.normal(size=(3, 8)) + 0.1 * random.normal(size=(N, 8))
    assert "rows resemble the rows before them" in told(np.hstack([x, column]), [*numbers(8), INTEGER])
    follows = 0.5 * column / column.std() + random.normal(size=(N, 8))  # of the calendar, and of nothing else
    assert not told(np.hstack([follows, column]), [*numbers(8), INTEGER])


def test_days_of_a_month_a_row_each_are_a_clock() -> None:
    random, day = np.random.default_rng(1), np.arange(N).reshape(N, 1) % 30 + 1
    x = series(0.98, 3) + 0.1 * random.normal(size=(N, 3))
    for rows in (400, N):
        assert "rows resemble the rows before them" in told(np.hstack([x, day])[:rows], [*numbers(3), INTEGER])


@pytest.mark.parametrize("levels", [5, 50, 250])
def test_a_table_that_is_sorted_by_a_whole_number_of_many_rows_each_is_not_told(levels: int) -> None:
    random = np.random.default_rng(0)
    rank = np.sort(random.integers(0, levels, N))
    x = np.column_stack([3 * rank / levels + random.normal(size=N), -rank + random.normal(size=N), random.normal(size=N), rank])
    assert not told(x, [*numbers(3), INTEGER])


def test_a_column_that_wanders_is_named_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    columns = {"level": np.cumsum(random.normal(size=500)).round(4), "noise": random.normal(size=500).round(4)}
    warnings = read_dataset(written(tmp_path / "t.csv", **columns)).warnings
    assert [warning.split(":")[0] for warning in warnings] == ["rows resemble the rows before them, most of all in column level"]


def test_a_drift_under_noise_is_told() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(10_000, 3))
    x[:, 1] += np.linspace(0, 3, len(x))
    assert told(x, numbers(3)).startswith("the last rows differ from the first ones, most of all in column n1")


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_blocks_of_sorts_of_records_are_not_told(levels: int) -> None:
    random = np.random.default_rng(0)
    sort = np.sort(random.integers(0, levels, N))
    x = random.normal(size=(N, 4)) + 3 * random.normal(size=(levels, 4))[sort]
    assert not told(x, numbers(4))
    assert not told(np.column_stack([x, sort]), [*numbers(4), category(levels)])


@pytest.mark.parametrize("files", [1, 3])
def test_sorted_tables_are_not_told(files: int) -> None:
    random = np.random.default_rng(0)
    amount = np.sort(random.lognormal(3, 1, N))
    x = np.column_stack([amount, 0.02 * amount + 0.01 * random.normal(size=N), random.normal(size=N)])
    assert not told(np.concatenate([x[start::files] for start in range(files)]), numbers(3))


@pytest.mark.parametrize("files", [20, 30])
def test_many_tables_that_are_sorted_by_a_whole_number_are_not_told(files: int) -> None:
    random = np.random.default_rng(0)
    amount = np.concatenate([np.sort(random.integers(1, 101, N // files)) for _ in range(files)])
    x = np.column_stack([amount, 0.02 * amount + 0.2 * random.normal(size=N), random.normal(size=N)])
    assert not told(x, [Feature(name="a", kind="numeric", integer=True), *numbers(2)])


@pytest.mark.parametrize("sorts", [12, 60])
@pytest.mark.parametrize("blocks", [2, 5])
def test_tables_one_after_another_whose_records_have_a_category_are_not_told(sorts: int, blocks: int) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        x = random.normal(size=(N, 2)) + 3 * np.repeat(random.permutation(blocks), N // blocks)[:, None]
        age = random.integers(20, 20 + sorts, N)
        assert not told(np.column_stack([x, age]), [*numbers(2), Feature(name="age", kind="numeric", integer=True)])
        assert not told(np.column_stack([x, age - 20]), [*numbers(2), category(sorts)])


def test_rows_in_no_order_are_not_told() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        x = np.column_stack([random.lognormal(0, 3, (300, 4)), random.poisson(0.1, (300, 4)), random.normal(size=(300, 4))])
        x[:, 8:][random.random((300, 4)) < 0.5] = np.nan
        assert not told(x, numbers(12))


@pytest.mark.parametrize("unit", [1, 1_000])
def test_an_epoch_may_be_a_time(tmp_path: Path, unit: int) -> None:
    random = np.random.default_rng(0)
    columns = {"at": unit * (1_600_000_000 + np.cumsum(random.integers(1, 10**5, 300))), "a": random.normal(size=300).round(4)}
    warnings = read_dataset(written(tmp_path / "t.csv", **columns)).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("column at: its numbers look like times since 1970, in seconds or parts of one")
    columns["at"] = columns["at"] // 10
    assert not any("1970" in warning for warning in read_dataset(written(tmp_path / "t.csv", **columns)).warnings)


def test_a_column_that_hardly_any_of_the_rows_looked_at_has_is_no_fault() -> None:
    x = np.random.default_rng(0).normal(size=(60_000, 2))
    x[::2, 1] = np.nan
    assert told(x, numbers(2)) == ""


@pytest.mark.parametrize("first", [1, 100_000_001, 1_760_000_000_000_000], ids=["small", "large", "microseconds"])
@pytest.mark.parametrize("step", [1, -1])
def test_what_counts_the_rows_does_not_hide_that_they_are_a_time_series(first: int, step: int) -> None:
    count = first + step * np.arange(N) + (N if step < 0 else 0)
    x = np.column_stack([count, series(0.95, 2)])
    assert "n0" in told(x, [Feature(name="id", kind="numeric", integer=True), *numbers(2)])
