"""A request that has been read and is ready to score, whatever form it came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Explain = Literal["flagged", "all", "none"]
Change = tuple[int, str, str]  # the row, the column, the code of the warning


@dataclass(slots=True)
class Batch:
    """A request, ready to score."""

    x: NDArray[np.float32]  # (N, C)
    rows: Sequence[Sequence[Any]]  # N records of the features' raw values; or, where columnar, a column of N for each feature
    columnar: bool
    normal: bool  # every value is there and within what training saw: nothing to warn of
    alpha: float | None = None
    fdr: float | None = None
    explain: Explain = "flagged"
    changed: Sequence[Change] = ()  # values that differ from the only one that training had in a column
    first: int = 0  # the place of the first row in the request, where the batch is a part of it

    @property
    def usual(self) -> bool:
        """Whether it is of records, with the default options: so that it can be scored together with others."""
        return self.alpha is None and self.fdr is None and self.explain == "flagged" and not self.columnar

    def columns(self, places: list[int]) -> list[list[Any]]:
        """What the client sent in these rows, a list for each feature; None or NaN for missing."""
        if self.columnar:
            return [[values[place] for place in places] for values in self.rows]
        return list(map(list, zip(*[self.rows[place] for place in places], strict=True)))
