"""Whether rows resemble those before them, as in a time series: then records held out at random are no test of later ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature, column_slices
from training.table.whole_numbers import is_epoch

LEAST = 200  # values of a column, below which nothing is said of it
OTHERS = 30  # of them that are not its most frequent one
LAG_1 = 0.5  # rank correlation of successive values, from which it matters
LAGS = (2, 4, 16, 32)  # rows, over one of which a column must move farther than over one
FEW = 100  # times a lag that a table is long at least: in a shorter one too many pairs reach from one block into the next
FARTHER = 0.57  # share of rows for which it does; a half where rows are in no order within a block
CERTAIN = 4.0  # standard deviations
ONE_WAY = 0.9  # of a column's steps, from which the table is sorted by it, or several such tables are
EVEN = 0.5  # of the mean step, to which the steps of a clock differ at most
RESTARTS = 100  # times that a column begins again, from which it is a clock, such as the hour, however uneven its steps
SELDOM = 10  # rows from change to change, on average, of a column in blocks
DRIFT = 0.5  # distance of Kolmogorov and Smirnov between the first and the last fifth
TELLS = 100  # steps of float32: whole numbers that differ by less than so many on average become equal
PARTS = 8  # of the rows, in most of which a column that drifts moves
CREEP = 3.0  # standard errors of the median of these moves
CELLS, MOST = 1 << 22, 50_000  # values, and rows of one column, that are looked at: the first, and as many spread over all
SHOWN = 3  # columns
AGAIN = 0.02  # of the rows, in which a machine that takes its turn has another at once
SORTS = 8  # columns that may be of machines which take turns, the first ones

Values = NDArray[np.float32]


def warning(x: NDArray[np.float32], features: Sequence[Feature]) -> str | None:
    """What the user should know of records x (N, C), in the order of the table, that resemble the rows before them; or None.

    Asked of columns of numbers. A table that is sorted, or in blocks of sorts of records, has such columns, too, and nothing is
    wrong. So nothing is said of a table that is sorted by a number, unless that is a clock, or so seldom another one that the
    rows in between are blocks, such as those of a month; and otherwise not only must successive values be alike, but within a
    block the next one be closer than a later one, which the order of a time series makes so. The same is asked of the rows of
    each category or whole number, since machines may take turns. Where the rows are not in groups of a category or number, the
    first and the last ones are compared, too.
    """
    most = max(1_000, min(MOST, CELLS // max(1, x.shape[1])))
    first, spread = x[:most], x[:: max(1, -(-len(x) // most))]
    columns = [
        (feature, first[:, at.start], spread[:, at.start]) for feature, at in zip(features, column_slices(features), strict=True)
    ]
    sorts = [column for feature, column, _ in columns if feature.kind in ("categorical", "boolean")]
    ids = [column for feature, column, _ in columns if feature.kind == "numeric" and feature.integer]
    sorting = [column for feature, column, _ in columns if _is_sorted_by(feature, column[~np.isnan(column)])]
    if not all(len(_changes(column)) * SELDOM <= len(first) for column in sorting):
        return None
    sorts += sorting
    orders = [(np.arange(len(first)), _blocks(sorts, len(first)), 1)]
    for sort in [column for column in (*sorts, *ids) if _has_rows_enough(column)][:SORTS]:
        order = np.argsort(sort, kind="stable")
        orders.append((order, _blocks([column[order] for column in (*sorts, sort)], len(first)), len(np.unique(sort))))
    grouped = bool(sorting) or any(_is_in_groups(feature, column) for feature, _, column in columns)
    alike: dict[str, float] = {}
    moved: dict[str, float] = {}
    for feature, column, throughout in columns:
        values, of_all = column[~np.isnan(column)], throughout[~np.isnan(throughout)]
        if feature.kind != "numeric" or not _varies(values) or _goes_one_way(values):
            continue
        successive = max(_resemblance(column[order], block, machines) for order, block, machines in orders)
        if successive >= LAG_1:
            alike[feature.name] = successive
        elif not grouped and (distance := _drift(of_all)) >= DRIFT and _creeps(of_all):
            moved[feature.name] = distance
    if not alike and not moved:
        return None
    if alike:
        found = f"rows resemble the rows before them, most of all in {_named(alike)}"
    else:
        found = f"the last rows differ from the first ones, most of all in {_named(moved)}"
    return (
        f"{found}: if they are in the order of time, later records may be flagged more often than alpha says, most of all if "
        "there are fewer than 500: evaluate on a later table, fit often on recent rows, and leave out columns that wander or "
        "write their changes instead; if they are only sorted, shuffle them before the fit"
    )


def _named(found: dict[str, float]) -> str:
    """The columns in which it is most so."""
    names = sorted(found, key=lambda name: -found[name])
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"column{'s' * (len(names) > 1)} {', '.join(names[:SHOWN])}{more}"


def _varies(values: Values) -> bool:
    """Whether there are values enough, and enough of them beside the most frequent one, that chance puts few side by side."""
    return len(values) >= LEAST and len(values) - int(np.unique(values, return_counts=True)[1].max()) >= OTHERS


def _has_rows_enough(sort: Values) -> bool:
    """Whether a column may say which machine a row is of: several values, of which most have rows enough to be looked at."""
    return 1 < len(np.unique(sort)) <= len(sort) // (FEW * min(LAGS))


def _resemblance(column: Values, block: NDArray[np.intp], machines: int) -> float:
    """The correlation of the ranks of successive values; 0 where within a block the next one is no closer than later ones.

    machines: whose rows are one after another; each must have rows enough.
    """
    there = ~np.isnan(column)
    values = column[there]
    successive = _lag_1(values)
    lags = [lag for lag in LAGS if len(values) >= FEW * lag * machines]
    near = successive >= LAG_1 and any(_is_farther(values, block[there], lag) for lag in lags)
    return successive if near else 0.0


def _lag_1(values: Values) -> float:
    """The correlation of the ranks of successive values."""
    rank = _ranks(values)
    return float(rank[1:] @ rank[:-1] / (rank @ rank))


def _ranks(values: Values) -> NDArray[np.float64]:
    """(n,) ranks, those of equal values at their mean, less the mean of all."""
    _, of_value, count = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[of_value]
    return np.asarray(rank - rank.mean())


def _is_farther(values: Values, block: NDArray[np.intp], lag: int) -> bool:
    """Whether the value `lag` rows on differs more than the next one, in rows of one block; were they in no order: as often."""
    same = block[lag:] == block[:-lag]
    near, far = np.abs(values[1 : len(values) - lag + 1] - values[:-lag])[same], np.abs(values[lag:] - values[:-lag])[same]
    if not len(near):
        return False
    share = float((far > near).mean() + (far >= near).mean()) / 2
    return bool(share >= max(FARTHER, 0.5 + CERTAIN / 2 / np.sqrt(len(near))))


def _drift(values: Values) -> float:
    """The largest difference between the cumulative shares of the first and the last fifth; 0 where chance may make it."""
    fifth = len(values) // 5
    if not fifth:  # every so many rows are looked at, and few of these have a value
        return 0.0
    first, last = np.sort(values[:fifth]), np.sort(values[-fifth:])
    every = np.concatenate([first, last])
    shares = [np.searchsorted(part, every, "right") / fifth for part in (first, last)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    return distance if fifth * distance**2 > CERTAIN**2 else 0.0


def _creeps(values: Values) -> bool:
    """Whether values go on moving throughout, and not in some jumps from block to block: by the median of PARTS of the rows."""
    parts = [np.array_split(part, 2) for part in np.array_split(_ranks(values), PARTS)]
    moves = np.array([second.mean() - first.mean() for first, second in parts])
    errors = [np.sqrt(first.var() / len(first) + second.var() / len(second)) for first, second in parts]
    middle = np.median(moves)
    error = max(np.median(errors), 1.4826 * np.median(np.abs(moves - middle)))
    return bool(abs(middle) > CREEP * 1.2533 * error / np.sqrt(PARTS))


def _goes_one_way(values: Values) -> bool:
    """Whether nearly all steps that are any go the same way."""
    steps = np.diff(values)
    up, down = int((steps > 0).sum()), int((steps < 0).sum())
    return max(up, down) >= ONE_WAY * (up + down)


def _is_sorted_by(feature: Feature, values: Values) -> bool:
    """Whether the table is sorted by a column of numbers that is not the time, nor counts the rows, up or down."""
    if feature.kind != "numeric" or not _varies(values) or not _goes_one_way(values):
        return False
    steps = np.diff(values)
    if _has_rows_enough(values) and np.count_nonzero(steps == 0) < AGAIN * len(steps):
        return False  # the numbers of machines that take turns, each once: sorted by them, rows of each would be together
    restarts = steps < 0 if np.count_nonzero(steps > 0) > np.count_nonzero(steps < 0) else steps > 0
    close = np.abs(steps).mean() < TELLS * np.spacing(np.abs(values).max())
    is_count = not restarts.any() and (close or (steps != 0).all())
    counts = feature.integer and (is_count or is_epoch(float(values.min()), float(values.max())))
    onward = steps[~restarts]
    return not (counts or np.count_nonzero(restarts) >= RESTARTS or onward.std() < EVEN * abs(onward.mean()))


def _is_in_groups(feature: Feature, column: Values) -> bool:
    """Whether the rows of a category follow each other."""
    values = column[~np.isnan(column)]
    if feature.kind not in ("categorical", "boolean") or not len(values):
        return False
    return bool(0 < np.count_nonzero(np.diff(values)) < 2 * len(np.unique(values)))


def _blocks(columns: Sequence[Values], n: int) -> NDArray[np.intp]:
    """(n,) a number for each run of rows in which columns that seldom change do not."""
    begins = np.zeros(n, np.bool_)
    for changes in map(_changes, columns):
        if len(changes) * SELDOM <= n:
            begins[changes] = True
    return np.cumsum(begins)


def _changes(column: Values) -> NDArray[np.intp]:
    """The rows in which a column has another value than in the row before."""
    return np.flatnonzero(np.diff(np.nan_to_num(column, nan=-1.0)) != 0) + 1
