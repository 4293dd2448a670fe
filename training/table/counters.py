"""Columns of numbers that never fall from row to row, as counters and meters do: what comes later lies beyond the table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature, column_slices

LEAST = 100  # steps upwards, and different numbers: of years, ages and grades by which a table is sorted there are fewer
ROWS = 100  # of a machine, on average, with which it is looked at alone
MACHINES, MOST = 8, 50_000  # columns that may say which machine a row is of, and rows that are looked at for them: the first

Values = NDArray[np.float32]


def warnings(x: NDArray[np.float32], features: Sequence[Feature], told: Collection[str]) -> list[str]:
    """What to say of columns of records x (N, C), in the order of the table, that never fall; nothing of those told of already.

    Machines may take turns, so that the same is asked of the rows of each category.
    """
    columns = [(feature, x[:, at.start]) for feature, at in zip(features, column_slices(features), strict=True)]
    sorts = [(feature.name, column[:MOST]) for feature, column in columns if feature.kind in ("categorical", "boolean")]
    machines = [(name, np.argsort(sort, kind="stable"), sort) for name, sort in sorts if _has_rows_enough(sort)][:MACHINES]
    found = []
    for feature, column in columns:
        if feature.kind != "numeric" or feature.name in told:
            continue
        if _never_falls(column, np.zeros_like(column)):
            found.append(_warning(feature.name, "row to row"))
            continue
        of = next((name for name, order, sort in machines if _never_falls(column[:MOST][order], sort[order])), None)
        if of is not None:
            found.append(_warning(feature.name, f"row to row of the same {of}"))
    return found


def _warning(name: str, where: str) -> str:
    found = f"column {name} never falls from {where}, as counters and meters do, whose later values lie beyond this table"
    return f"{found}: write its changes instead, or pass --drop {name}, unless the rows are only sorted by it"


def _has_rows_enough(sort: Values) -> bool:
    return 1 < len(np.unique(sort)) <= len(sort) // ROWS


def _never_falls(column: Values, block: Values) -> bool:
    """Whether no value (N,) is below the one before in its block (N,), and enough are above."""
    there = ~np.isnan(column)
    values, block = column[there], block[there]
    steps = np.diff(values)[block[1:] == block[:-1]]
    return not np.any(steps < 0) and int(np.count_nonzero(steps > 0)) >= LEAST < len(np.unique(values))
