"""Whether rows of a table are copies of others: then held-out records have trained, and the threshold is too low."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature, column_slices

SHARE = 0.02  # of the rows that are copies, and of a key's values that repeat, from which it matters
KEY = 0.3  # of the rows, of the distinct ones where values are fine: as many values has a key at least, to tell them apart
ALONE = 0.5  # of a key's values that repeat where it is the only column, so that nothing else can differ
SEVERAL = 3  # columns, of more than which halves are keys, too
FINE = 0.05  # of the places on the grid of a column's least step, of which fine values take no more
ENOUGH = 50  # values, to tell how fine a column is
PRIME = np.uint64(0x100000001B3)


def warning(x: NDArray[np.float32], features: Sequence[Feature]) -> str | None:
    """What the user should know of normal records x (N, C) of which many are copies, or None.

    Where rows repeat by themselves, as those of a few categories do, new records are copies, too, and nothing is wrong. So some
    key is looked for, a column or half of them, of which hardly any two rows have the same value but such as are alike in all
    other columns, too, more often than chance makes them so. Where each row has many copies, no column is left that hardly
    repeats; then a key is one whose numbers are too fine to repeat by themselves.
    """
    whole = _digests(x)
    is_copy = np.ones(len(x), np.bool_)
    is_copy[np.unique(whole, return_index=True)[1]] = False
    least = max(1, SHARE * len(x))
    if is_copy.sum() < least:
        return None
    columns = [list(range(at.start, at.stop)) for at in column_slices(features)]
    keys = [(f"column {feature.name} hardly repeats", own) for feature, own in zip(features, columns, strict=True)]
    if len(features) > SEVERAL:
        keys += [
            ("they hardly repeat in half of the columns", [place for own in columns[half::2] for place in own]) for half in (0, 1)
        ]
    for told, key in keys:
        there = ~np.isnan(x[:, key]).all(1)
        repeated = int((is_copy & there).sum())
        if repeated >= least and _is_copied(x[there], whole[there], key, KEY * len(x[there])):
            return _told(repeated, len(x), told)
    for feature, key in zip(features, columns, strict=True):
        if feature.kind != "numeric" or feature.integer:
            continue
        there = ~np.isnan(x[:, key[0]])
        repeated = int((is_copy & there).sum())
        if repeated < least or not _is_fine(x[there, key[0]]):
            continue
        if _is_copied(x[there], whole[there], key, KEY * len(np.unique(whole[there]))):
            return _told(repeated, len(x), f"the numbers of column {feature.name} are too fine to repeat by themselves")
    return None


def _told(repeated: int, n: int, although: str) -> str:
    return (
        f"{repeated:,} of {n:,} normal rows are copies of others, although {although}: "
        "unless new records are copies of these rows as often, too many of them are flagged; remove the copies"
    )


def _is_fine(values: NDArray[np.float32]) -> bool:
    """Whether the numbers (n,) lie thinly on the grid of their least step, so that two are seldom the same by chance.

    Asked of the middle half of the distinct ones: a long tail is thin on any grid.
    """
    distinct = np.unique(values.astype(np.float64))
    middle = distinct[len(distinct) // 4 : len(distinct) - len(distinct) // 4]
    if len(middle) < ENOUGH:
        return False
    return bool(len(middle) * np.diff(middle).min() <= FINE * (middle[-1] - middle[0]))


def _is_copied(x: NDArray[np.float32], whole: NDArray[np.uint64], key: Sequence[int], least: float) -> bool:
    """Whether rows x (N, C) that are alike in the key's columns are alike as a whole, more often than chance makes them so.

    least: of how many values a key has to be.
    """
    _, of_key, count = np.unique(_digests(x[:, key]), return_inverse=True, return_counts=True)
    if len(count) < least:
        return False
    rest = np.delete(x, key, axis=1)
    distinct = np.unique(np.column_stack([of_key.astype(np.uint64), whole]), axis=0)[:, 0].astype(int)
    repeated = count > 1
    copied = repeated & (np.bincount(distinct, minlength=len(count)) == 1)  # all rows of this value are the same row
    if not rest.shape[1]:
        return bool(copied.sum() >= ALONE * len(count)) and (len(key) > 1 or _is_fine(x[:, 0]))
    _, alike = np.unique(_digests(rest), return_counts=True)
    chance = float(((alike / len(x)) ** 2).sum())
    return bool(copied.sum() >= SHARE * len(count) and copied.sum() > (1 + chance) / 2 * repeated.sum())


def _digests(x: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(N,) the same number for the same row (Fowler, Noll & Vo), and hardly ever for another."""
    found = np.full(len(x), 0xCBF29CE484222325, np.uint64)
    for column in x.T:
        found = (found ^ np.ascontiguousarray(column).view(np.uint32)) * PRIME
    return found
