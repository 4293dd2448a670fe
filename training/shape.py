"""The shape of a column of numbers: its middle, its spread, and the bend that suits it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Units of a bend, in spreads, around the median and from the least value on: within one it is about straight.
AROUND, FROM = (30.0, 3.0, 0.6), (3.0, 1.0, 1 / 3)
POINT_MASS = 27.6  # nats by which a bend is less likely for all values being at its origin: a density of 1e-12 there
SPREAD_LEAST = 1e-3  # of the standard deviation: below, the interquartile range says nothing of the spread
STD_LEAST = 1e-9
# Where it counts in decades, so many of a column's values are whole and at least 0 (a few may be -1, for none), and the quantile
# of that level is so many times its median and one.
COUNT_LEVEL, COUNT_SPAN = 0.99, 30.0


def with_a_value(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns (N, W), NaN where missing; one without any value, as a rare one may be in a part of a table, is 0 throughout."""
    return np.where(np.isnan(values).all(0), 0.0, values)


def middle_and_spread(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The median (W,) and spread (W,), the deviation that the quartiles tell, of columns (N, W), NaN where missing.

    Where over half of a column is one value, the quartiles tell nothing: the spread is how far the others are from it.
    """
    if not values.shape[1]:
        return np.zeros(0), np.zeros(0)
    lower, median, upper = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
    spread, away = (upper - lower) / 1.349, np.abs(values - median)
    others = np.array([np.median(column[column > 0]) if (column > 0).any() else 1.0 for column in away.T])
    return median, np.where(spread > SPREAD_LEAST * np.nanstd(values, axis=0), spread, others)


def counts_in_decades(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(W,) which of the columns (N, W), NaN where missing, are whole numbers from 0 on that range over decades, such as bytes.

    Between 0, 1, 10 and 1,000 of these lie like steps, so they are bent from 0 on with a unit of 1: as if by log(1 + x).
    """
    if not values.shape[1]:
        return np.zeros(0, bool)
    whole = np.where(np.isnan(values), np.nan, (values >= 0) & (values == np.floor(values)))
    median, high = np.nanquantile(values, [0.5, COUNT_LEVEL], axis=0)
    return np.asarray((np.nanmean(whole, axis=0) >= COUNT_LEVEL) & (high >= COUNT_SPAN * (median + 1)))


def bend_of(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The origin (W,) and unit (W,) of the bend of columns (N, W), NaN where missing, each chosen by the column's own shape.

    Of a few, that under which its values are likeliest as Gaussian ones: the profile likelihood of Box & Cox (1964), with the
    Jacobian. It bends around the median, or from the least value on, where most of a skewed column lies.
    """
    columns = [column[~np.isnan(column)] for column in values.T]
    chosen = [likeliest(column, *fit) for column, *fit in zip(columns, *middle_and_spread(values), strict=True)]
    return np.array([origin for origin, _ in chosen]), np.array([unit for _, unit in chosen])


def likeliest(column: NDArray[np.float64], median: float, spread: float) -> tuple[float, float]:
    """The origin and unit of the bend of the values (n,) of a column."""
    best, found = -math.inf, (float(median), float(spread))
    for origin, spreads in ((median, AROUND), (column.min(), FROM)):
        # values at the very origin have no density: with many of them, to bend there is to tear them from the rest
        torn = POINT_MASS * (column == origin).mean()
        for unit in (factor * spread for factor in spreads):
            root = 1 + np.abs(column - origin) / unit
            bent = np.sign(column - origin) * (root**0.125 - 1)
            likelihood = -math.log(unit) - 0.875 * np.log(root).mean() - math.log(max(bent.std(), STD_LEAST)) - torn
            if likelihood > best:
                best, found = likelihood, (float(origin), float(unit))
    return found


def most_frequent(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(W,) the commonest value of each column of (n, W)."""
    different = [np.unique(column, return_counts=True) for column in values.T]
    return np.array([value[count.argmax()] for value, count in different])


def commonest(values: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(W,) the share of the commonest value of each column of (n, W), of those that are known (n, W); 1 where none is."""
    columns = (column[has] for column, has in zip(values.T, known.T, strict=True))
    return np.array([np.unique(column, return_counts=True)[1].max() / len(column) if len(column) else 1.0 for column in columns])
