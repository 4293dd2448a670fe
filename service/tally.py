"""What was found in a table that was scored: counted batch by batch, told in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from service.encoding import Limits
from service.manifest import Manifest
from service.tables import Fault, TableBatch

MOST = 5  # lines of what is odd, and of what kept rows from being scored
WORDS = {
    "unknown_category": "a category that training did not see",
    "out_of_range": "out of the range that training saw",
    "missing": "missing, as never in training",
}
CHANGED = "another value than the only one that training had"


class Tally:
    """Counts of one table."""

    def __init__(self, manifest: Manifest, alpha: float | None) -> None:
        """Nothing counted yet; alpha: that of this table, or the bundle's."""
        self._limits = Limits(manifest.features)
        self._alpha = manifest.alpha if alpha is None else alpha
        self.scored = self._flagged = 0
        self._odd: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[tuple[str, str]] = Counter()

    def count(self, batch: TableBatch, is_anomaly: NDArray[np.bool_]) -> None:
        """Counts the rows of a batch that were scored, of which is_anomaly (n,) tells the flagged ones."""
        self.scored += len(is_anomaly)
        self._flagged += int(np.count_nonzero(is_anomaly))
        self._odd.update({(column, WORDS[code]): n for (column, code), n in self._limits.count(batch.x).items()})
        self._odd.update({(column, CHANGED): int(there.sum()) for column, there in batch.changed.items() if there.any()})

    def leave_out(self, faults: Iterable[Fault]) -> None:
        """Counts rows that were not scored, by what kept them from it."""
        self._faults.update(faults)

    def lines(self) -> Iterator[str]:
        """The rows without a score, and why; the flagged share, and what is odd most often. Nothing of no rows."""
        left_out = self._faults.total()
        rows = self.scored + left_out
        if left_out:
            yield f"not scored {left_out:,} of {rows:,} rows ({_share(left_out, rows)}): their column error says why"
            yield from _most(self._faults, rows)
        if self.scored:
            share = _share(self._flagged, self.scored)
            yield f"flagged {self._flagged:,} of {self.scored:,} rows ({share}) at alpha {self._alpha:g}"
            yield from _most(self._odd, self.scored)


def _most(found: Counter[tuple[str, str]], rows: int) -> Iterator[str]:
    """What was found most often, (column, words), and in how many of the rows: MOST lines at most. First comes what is found of
    columns that never changed, since these have no part in any score.
    """
    most = sorted(found.most_common(), key=lambda one: one[0][1] != CHANGED)
    shown = most if len(most) <= MOST else most[: MOST - 1]
    for (column, words), n in shown:
        yield f"  {column}: {words}, in {n:,} row{'' if n == 1 else 's'} ({_share(n, rows)})"
    if len(shown) < len(most):
        yield f"  and {len(most) - len(shown)} others"


def _share(n: int, rows: int) -> str:
    return f"{100 * n / rows:.3g} %"
