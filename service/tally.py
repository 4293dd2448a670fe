"""What was found in a table that was scored: counted batch by batch, told in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.encoding import Limits
from service.manifest import Manifest
from service.tables import Batch

MOST = 5  # lines of what is odd
CONSTANT = "constant_changed"
WORDS = {
    "unknown_category": "a category that training did not see",
    "out_of_range": "out of the range that training saw",
    "missing": "missing, as never in training",
    CONSTANT: "another value than the only one that training had",
}


class Tally:
    """Counts of one table."""

    def __init__(self, manifest: Manifest, alpha: float | None) -> None:
        """Nothing counted yet; alpha: that of this table, or the bundle's."""
        self._limits = Limits(manifest.features)
        self._alpha = manifest.alpha if alpha is None else alpha
        self._rows = self._flagged = 0
        self._odd: Counter[tuple[str, str]] = Counter()

    def count(self, batch: Batch, is_anomaly: NDArray[np.bool_]) -> None:
        """Counts the rows of a batch, of which is_anomaly (n,) tells the flagged ones."""
        self._rows += len(is_anomaly)
        self._flagged += int(np.count_nonzero(is_anomaly))
        self._odd.update(self._limits.count(batch.x))
        self._odd.update({(column, CONSTANT): n for column, n in batch.changed.items() if n})

    def lines(self) -> Iterator[str]:
        """The flagged share, and what is odd most often; nothing of no rows."""
        if not self._rows:
            return
        yield f"flagged {self._flagged:,} of {self._rows:,} rows ({self._share(self._flagged)}) at alpha {self._alpha:g}"
        odd = self._odd.most_common()
        shown = odd if len(odd) <= MOST else odd[: MOST - 1]
        for (column, code), n in shown:
            yield f"  {column}: {WORDS[code]}, in {n:,} row{'' if n == 1 else 's'} ({self._share(n)})"
        if len(shown) < len(odd):
            yield f"  and {len(odd) - len(shown)} others, in as many rows or fewer"

    def _share(self, n: int) -> str:
        return f"{100 * n / self._rows:.3g} %"
