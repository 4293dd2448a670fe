"""The bend of a column is chosen by its shape, and by nothing else."""

import numpy as np
import pytest

from training.shape import AROUND, FROM, bend_of, counts_in_decades, middle_and_spread

DRAW = np.random.default_rng(5)
SKEWED = DRAW.lognormal(3, 1.5, 4_000)
BELL = DRAW.normal(50, 4, 4_000)


def bend(column):
    (origin,), (unit,) = bend_of(column[:, None])
    return origin, unit


def test_a_bell_bends_around_its_median():
    origin, unit = bend(BELL)
    assert origin == np.median(BELL)
    assert unit == pytest.approx(AROUND[0] * middle_and_spread(BELL[:, None])[1][0])


def test_a_skewed_column_bends_from_its_least_value():
    origin, unit = bend(SKEWED)
    assert origin == SKEWED.min()
    assert unit < FROM[0] * middle_and_spread(SKEWED[:, None])[1][0]


def test_many_records_at_the_least_value_are_not_torn_from_the_rest():
    """Where a fifth of a skewed column is 0, a bend from 0 on would put a gulf between 0 and all else."""
    column = np.where(DRAW.random(len(SKEWED)) < 0.2, 0.0, SKEWED)
    assert bend(column)[0] == np.median(column) != 0


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e9])
def test_the_choice_is_the_same_in_any_unit(factor):
    for column in (BELL, SKEWED):
        origin, unit = bend(column)
        assert bend(column * factor) == pytest.approx((origin * factor, unit * factor), rel=1e-9)


@pytest.mark.parametrize(
    ("column", "is_count"),
    [
        (np.floor(DRAW.lognormal(2, 3, 4_000)), True),
        (np.where(DRAW.random(4_000) < 0.9, 0, np.floor(DRAW.lognormal(8, 1, 4_000))), True),
        (DRAW.lognormal(2, 3, 4_000), False),
        (-np.floor(DRAW.lognormal(2, 3, 4_000)), False),
        (np.floor(DRAW.normal(1_000, 10, 4_000)), False),
        (DRAW.integers(0, 2, 4_000).astype(float), False),
        (np.append(np.zeros(3_999), 1e9), False),
        (np.append(np.floor(DRAW.lognormal(2, 3, 3_980)), np.full(20, -1.0)), True),
        (np.append(np.floor(DRAW.lognormal(2, 3, 3_800)), DRAW.lognormal(2, 3, 200)), False),
    ],
    ids=[
        *("bytes", "mostly none", "not whole", "negative", "large but alike", "yes or no", "one large value"),
        *("a few are -1, for none", "one in twenty is not whole"),
    ],
)
def test_what_counts_in_decades(column, is_count):
    assert counts_in_decades(column[:, None]).tolist() == [is_count]
    holed = np.append(column, [np.nan] * 100)
    assert counts_in_decades(holed[:, None]).tolist() == [is_count]


def test_missing_values_have_no_part_in_it():
    holed = np.concatenate([SKEWED, np.full(500, np.nan)])
    assert bend(holed) == bend(SKEWED)


@pytest.mark.parametrize(
    "column", [np.full(50, 7.0), np.array([0.0] * 49 + [1.0]), np.arange(2.0)], ids=["constant", "one", "two"]
)
def test_columns_of_hardly_any_value_have_a_bend_that_is_finite(column):
    origin, unit = bend(column)
    assert np.isfinite([origin, unit]).all()
    assert unit > 0


def test_no_columns_at_all():
    assert [part.shape for part in bend_of(np.zeros((5, 0)))] == [(0,), (0,)]
