"""Whether rows of a table are copies of others: then held-out records have trained, and the threshold is too low."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature

SHARE = 0.02  # of the rows that are copies, from which it matters
RARELY = 0.5  # of the distinct rows, as many values has a column that hardly repeats by itself
PRIME = np.uint64(0x100000001B3)


def warning(x: NDArray[np.float32], features: Sequence[Feature]) -> str | None:
    """What the user should know of normal records x (N, C) of which many are copies, or None.

    Where all columns repeat by themselves, as categories do, new records are copies, too, and nothing is wrong.
    """
    is_copy = np.ones(len(x), np.bool_)
    is_copy[np.unique(_digests(x), return_index=True)[1]] = False
    place = 0
    for feature in features:
        column, place = x[:, place], place + feature.width
        there = ~np.isnan(column)
        repeated = int((is_copy & there).sum())
        if feature.kind != "numeric" or repeated < max(1, SHARE * len(x)):
            continue
        distinct = column[there & ~is_copy]
        if len(np.unique(distinct)) > RARELY * len(distinct):
            return (
                f"{repeated:,} of {len(x):,} normal rows are copies of others, although column {feature.name} hardly repeats: "
                "unless new records are copies of these rows as often, too many of them are flagged; remove the copies"
            )
    return None


def _digests(x: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(N,) the same number for the same row (Fowler, Noll & Vo), and hardly ever for another."""
    found = np.full(len(x), 0xCBF29CE484222325, np.uint64)
    for column in x.T:
        found = (found ^ np.ascontiguousarray(column).view(np.uint32)) * PRIME
    return found
