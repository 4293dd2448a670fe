"""What would be said of a record if one of its values were not known: each in turn, by the same graph.

A contribution says what a score is made of. Where values contradict each other, all of them have a part in it, and which of them
is wrong shows better by what the record would be without it: with the one that is, normal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.session import SLICE, Answers


class WhatIf(NamedTuple):
    """Of N records, each once without each of its F features: as it would be scored with a missing value there."""

    score: NDArray[np.float32]  # (N, F)
    p_value: NDArray[np.float64]  # (N, F)
    expected: NDArray[np.float32]  # (N, C) of each feature without itself: what the other values tell of it, in the units of x

    def of(self, records: slice) -> WhatIf:
        """What is said of these records."""
        return WhatIf(self.score[records], self.p_value[records], self.expected[records])


def without_each(
    run: Callable[[NDArray[np.float32]], Answers], x: NDArray[np.float32], widths: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The scores (N, F) and what is expected (N, C) as WhatIf has them, of x (N, C), whose features take so many columns each.

    `run` is asked for about SLICE rows at a time, so that memory does not grow with N.
    """
    features, columns = len(widths), x.shape[1]
    owner = np.repeat(np.arange(features), widths)  # (C,)
    own = owner == np.arange(features)[:, None]  # (F, C)
    score, expected = np.empty((len(x), features), np.float32), np.empty_like(x)
    step = max(1, SLICE // features)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        lacking = np.where(own, np.float32(np.nan), x[part, None, :])  # (n, F, C)
        answers = run(lacking.reshape(-1, columns))
        score[part] = answers.score.reshape(-1, features)
        expected[part] = answers.expected.reshape(-1, features, columns)[:, owner, np.arange(columns)]
    return score, expected
