"""What would be said of a record if a value were not known, or were what the others tell: each in turn, by the same graph.

A contribution says what a score is made of. Where values contradict each other, all of them have a part in it, and which of them
is wrong shows better by what the record would be without it: with the one that is, normal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.session import SLICE, Answers

Run = Callable[[NDArray[np.float32]], Answers]


class WhatIf(NamedTuple):
    """Of N records, each with each of its F features in turn missing, and as expected by the others."""

    score: NDArray[np.float32]  # (N, F) where it is missing
    p_value: NDArray[np.float64]  # (N, F)
    expected: NDArray[np.float32]  # (N, C) of each feature without itself: what the other values tell of it, in the units of x
    expected_score: NDArray[np.float32]  # (N, F) where it is that; NaN where nothing that has a name is expected
    expected_p_value: NDArray[np.float64]  # (N, F)
    normal_at: NDArray[np.float32]  # (N, C) the number nearest to its own with which it is not flagged; NaN where none is known

    def of(self, records: slice) -> WhatIf:
        """What is said of these records."""
        scores, others = (
            (self.score[records], self.p_value[records]),
            (self.expected_score[records], self.expected_p_value[records]),
        )
        return WhatIf(*scores, self.expected[records], *others, self.normal_at[records])


def without_each(run: Run, x: NDArray[np.float32], widths: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scores (N, F) and what is expected (N, C) as WhatIf has them, of x (N, C), whose features take so many columns each."""
    owner = np.repeat(np.arange(len(widths)), widths)  # (C,)
    score, expected = np.empty((len(x), len(widths)), np.float32), np.empty_like(x)
    for part, answers in _with_each(run, x, np.full_like(x, np.nan), owner):
        score[part] = answers.score.reshape(-1, len(widths))
        expected[part] = answers.expected.reshape(-1, len(widths), len(owner))[:, owner, np.arange(len(owner))]
    return score, expected


def with_each(run: Run, x: NDArray[np.float32], other: NDArray[np.float32], widths: list[int]) -> NDArray[np.float32]:
    """(N, F) the scores of x (N, C) with each feature in turn as in `other` (N, C)."""
    owner = np.repeat(np.arange(len(widths)), widths)
    score = np.empty((len(x), len(widths)), np.float32)
    for part, answers in _with_each(run, x, other, owner):
        score[part] = answers.score.reshape(-1, len(widths))
    return score


def _with_each(
    run: Run, x: NDArray[np.float32], other: NDArray[np.float32], owner: NDArray[np.intp]
) -> Iterator[tuple[slice, Answers]]:
    """The answers to records, F for each; about SLICE rows at a time, so that memory does not grow with N."""
    own = owner == np.arange(int(owner[-1]) + 1)[:, None]  # (F, C)
    step = max(1, SLICE // len(own))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        yield part, run(np.where(own, other[part, None, :], x[part, None, :]).reshape(-1, len(owner)))
