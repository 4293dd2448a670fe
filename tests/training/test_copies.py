"""Copies of rows, columns that float32 flattens, datetimes of which nothing varies: each is said."""

from pathlib import Path

import numpy as np
import pytest

from service.manifest import Feature
from service.sources import TableError
from training.data import read_dataset
from training.table import copies

AMOUNT, COLOUR = Feature(name="amount", kind="numeric"), Feature(name="colour", kind="categorical", categories=("a", "b", "c"))


def written(path: Path, **columns: object) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    return path


def test_copies_are_told_where_rows_do_not_repeat_by_themselves() -> None:
    random = np.random.default_rng(0)
    amount, colour = random.normal(size=1000), random.integers(0, 3, 1000)
    x = np.column_stack([amount, colour]).astype(np.float32)
    x[::7, 0] = np.nan
    assert copies.warning(x, [AMOUNT, COLOUR]) is None
    few = np.concatenate([x, x[:10]])
    assert copies.warning(few, [AMOUNT, COLOUR]) is None
    twice = np.concatenate([x, x[100:400]])
    told = copies.warning(twice, [AMOUNT, COLOUR])
    assert told
    assert told.startswith("257 of 1,300 normal rows are copies of others, although column amount hardly repeats")


def test_what_repeats_by_itself_is_no_copy() -> None:
    random = np.random.default_rng(0)
    x = np.column_stack([random.integers(0, 20, 2000), random.integers(0, 3, 2000)]).astype(np.float32)
    assert copies.warning(x, [AMOUNT, COLOUR]) is None


def test_copies_are_seen_by_whatever_column_tells_rows_apart() -> None:
    random = np.random.default_rng(0)
    codes = tuple(map(str, range(1000)))
    features = [Feature(name="at", kind="datetime"), Feature(name="code", kind="categorical", categories=codes), AMOUNT]
    at = [random.integers(*between, 1000) for between in ((0, 24), (0, 7), (1, 13))]
    x = np.column_stack([*at, random.permutation(1000), random.normal(size=1000)]).astype(np.float32)
    twice = np.concatenate([x, x[:300]])
    assert "column code hardly repeats" in (copies.warning(twice, features) or "")
    assert "column code hardly repeats" in (copies.warning(twice[:, :4], features[:2]) or "")


def test_copies_are_seen_by_columns_that_tell_rows_apart_together() -> None:
    random = np.random.default_rng(0)
    digits = [Feature(name=f"d{k}", kind="categorical", categories=tuple("0123456789")) for k in range(16)]
    x = random.integers(0, 10, (800, 16)).astype(np.float32)
    assert copies.warning(x, digits) is None
    assert "half of the columns" in (copies.warning(np.concatenate([x, x]), digits) or "")
    log = [Feature(name="at", kind="datetime"), *digits[:3]]
    y = np.column_stack(
        [random.uniform(0, 24, 900), random.integers(0, 7, 900), random.integers(1, 13, 900), x[:100, :3].repeat(9, 0)]
    )
    thrice = np.concatenate([y, y, y]).astype(np.float32)
    assert "column at hardly repeats" in (copies.warning(thrice, log) or "")


@pytest.mark.parametrize("times", [2, 4, 20])
def test_rows_that_all_have_many_copies_are_told(times: int) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(600, 2)).round(6).astype(np.float32)
    copied = random.permutation(rows.repeat(random.integers(times, times + 2, 600), axis=0))
    numbers = [AMOUNT, AMOUNT.model_copy(update={"name": "weight"})]
    assert f"{len(copied) - 600:,} of {len(copied):,} normal rows are copies" in (copies.warning(copied, numbers) or "")
    assert "copies" in (copies.warning(copied[:, :1], numbers[:1]) or "")


@pytest.mark.parametrize("step", [0.1, 5 / 1024, 1 / 3])
def test_one_number_that_follows_from_another_makes_no_copies_of_coarse_ones(step: float) -> None:
    number = np.random.default_rng(0).normal(500, 100, 20_000).round() * step
    x = np.column_stack([number, number * 1.8 + 32]).astype(np.float32)
    assert copies.warning(x, [AMOUNT, AMOUNT.model_copy(update={"name": "weight"})]) is None


def test_a_value_that_many_rows_have_makes_no_copies_of_them() -> None:
    random = np.random.default_rng(0)
    amount = np.where(random.random(2000) < 0.4, 0, random.lognormal(3, 1, 2000).round(2))
    x = np.column_stack([amount, random.integers(0, 5, 2000), random.integers(0, 4, 2000)]).astype(np.float32)
    features = [AMOUNT, COLOUR, COLOUR]
    assert copies.warning(x, features) is None
    assert copies.warning(x[:, :1], features[:1]) is None
    one = np.array([[1.0]] * 999 + [[2.0]], np.float32)
    assert copies.warning(one, [AMOUNT]) is None


def test_whole_numbers_that_all_differ_within_a_short_range_number_the_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    columns = {
        "customer": random.permutation(2000) + 100_000,
        "rising": np.arange(2000),
        "cents": random.choice(10_000_000, 2000, replace=False),
        "amount": random.normal(size=2000).round(4),
        "count": random.integers(0, 3000, 2000),
    }
    told = [warning for warning in read_dataset(written(tmp_path / "t.csv", **columns)).warnings if "identifier" in warning]
    assert [warning.split(maxsplit=2)[1].rstrip(":") for warning in told] == ["rising", "customer"]


def test_a_table_says_so(tmp_path: Path) -> None:
    amount = np.random.default_rng(0).normal(size=200).round(6).tolist() * 2
    told = read_dataset(written(tmp_path / "t.csv", amount=amount)).warnings
    assert any("200 of 400 normal rows are copies" in warning for warning in told)


def test_a_column_that_float32_makes_constant_is_dropped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = written(
        tmp_path / "t.csv", a=random.normal(size=50), b=1e9 + random.integers(0, 7, 50), c=random.normal(size=50) * 1e-50
    )
    assert {dropped.column: dropped.reason[:19] for dropped in read_dataset(data).dropped} == dict.fromkeys(
        "bc", "constant in float32"
    )


def test_a_column_whose_range_float32_hardly_has_is_dropped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = written(tmp_path / "t.csv", a=random.normal(size=50), b=random.normal(size=50) * 1e-40)
    (dropped,) = read_dataset(data).dropped
    assert (dropped.column, dropped.reason) == ("b", "all but constant, as its values differ by less than 1e-30: multiply them")


def test_codes_that_float32_does_not_tell_apart_may_be_categories(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    branch = 1_000_000_001 + random.integers(0, 6, 50)
    data = written(tmp_path / "t.csv", a=random.normal(size=50), branch=branch)
    (dropped,) = read_dataset(data).dropped
    assert dropped.reason.endswith("if these are codes, --categorical branch")
    assert len(read_dataset(data, kinds={"branch": "categorical"}).features[1].categories) == 6


def test_values_of_a_single_column_repeat_by_themselves(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(20, 3, (300, 1)).round(1).astype(np.float32)
    assert copies.warning(x, [AMOUNT]) is None
    fine = np.random.default_rng(0).normal(20, 3, (300, 1)).astype(np.float32)
    assert copies.warning(np.repeat(fine, 2, axis=0), [AMOUNT])


def test_a_column_of_few_steps_of_float32_is_warned_of(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    serials, ids = 2.5e9 + random.integers(0, 5000, 300), random.normal(size=300)
    exact = {"year": random.integers(2023, 2025, 300), "zip": random.integers(10_115, 10_120, 300)}  # whole, and below 2^24
    told = read_dataset(written(tmp_path / "t.csv", serial=serials.astype(int), a=ids, **exact)).warnings
    assert len(told) == 1
    assert told[0].startswith("column serial: models compute in float32, which knows numbers of this size in steps of 2.6e+02")


@pytest.mark.parametrize("alone", [True, False])
def test_a_datetime_of_which_nothing_varies_is_dropped(tmp_path: Path, alone: bool) -> None:
    days = [f"2025-01-{day:02d}" for day in (6, 13, 20, 27)] * 25  # Mondays of January
    columns = {"at": days} if alone else {"at": days, "a": np.random.default_rng(0).normal(size=100).round(5)}
    data = written(tmp_path / "t.csv", **columns)
    if alone:
        with pytest.raises(TableError, match="hour, weekday and month"):
            read_dataset(data)
    else:
        assert [(dropped.column, "weekday" in dropped.reason) for dropped in read_dataset(data).dropped] == [("at", True)]
