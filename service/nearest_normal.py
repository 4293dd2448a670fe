"""How little a number would have to change for its record not to be flagged: what a person asks next, and can check by /score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STEPS = 20  # halvings: of the 2^32 numbers of float32 as many are left as differ by one part in 2,000

Flagged = Callable[[NDArray[np.float32]], NDArray[np.bool_]]  # of records (M, C) which are (M,)


def nearest_normal(
    flagged: Flagged, x: NDArray[np.float32], column: NDArray[np.intp], normal: NDArray[np.float32], whole: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(M,) the number nearest to that in `column` (M,) of flagged records x (M, C), on the way to `normal` (M,), with which a
    record is not flagged, as it is not with `normal` itself. whole: (M,) whether only whole numbers make sense.

    By bisection over the numbers of float32, in their order: as close to 3 as to 3e9, whatever the scale. If there are several
    such numbers on the way, it is one of them; to be unflagged, that is checked.
    """
    rows, numbers = np.arange(len(x)), x.copy()
    odd, usual, found = _order(x[rows, column]), _order(normal), normal
    for _ in range(STEPS):
        middle = (odd + usual) // 2
        tried = _number(middle)
        tried = np.where(whole, np.rint(tried), tried)
        numbers[rows, column] = tried
        still = flagged(numbers)
        odd, usual, found = np.where(still, middle, odd), np.where(still, usual, middle), np.where(still, found, tried)
    return found


def _order(numbers: NDArray[np.float32]) -> NDArray[np.int64]:
    """The place of each among all numbers of float32."""
    bits = np.ascontiguousarray(numbers).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits + 2**31))


def _number(place: NDArray[np.int64]) -> NDArray[np.float32]:
    """The number of float32 that has this place."""
    return np.where(place >= 0, place, -place - 2**31).astype(np.int32).view(np.float32)
