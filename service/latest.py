"""The latest flagged records of a version, for the page: the last few, and of their values nothing unless the settings say so.

Those whose request asked for no contributions are left out: without values or reasons there would be nothing to look at.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.calibration import SEVERITIES
from service.detector import Scores
from service.encoding import as_written, decode
from service.manifest import Manifest, column_slices

KEPT = 50


class Flagged(NamedTuple):
    """A record that was flagged."""

    place: int  # which one it is since the version was loaded
    at: float  # seconds since 1970
    score: float
    p_value: float
    severity: str
    contributions: NDArray[np.float32]  # (T,)
    x: NDArray[np.float32] | None  # (C,); None where values are not to be kept, as is `expected`
    expected: NDArray[np.float32] | None  # (C,)


class Latest:
    """Keeps at most so many records. Noted in whichever thread scores, read on the event loop: appending is atomic."""

    def __init__(self, manifest: Manifest, kept: int, *, values: bool) -> None:
        self._manifest, self._kept, self._values = manifest, kept, values
        self._records: deque[Flagged] = deque(maxlen=kept)
        self._places = count()

    def note(self, x: NDArray[np.float32], scores: Scores) -> None:
        """Keeps the flagged among the records x (N, C), some of which are explained: the last of them, if there are too many."""
        if not self._kept:
            return
        rows, at = np.flatnonzero(scores.is_anomaly & np.isfinite(scores.score))[-self._kept :], time.time()
        told = np.searchsorted(scores.explained, rows)
        contributions = scores.contributions[told]
        expected = scores.expected[told] if self._values else None
        values = x[rows] if self._values else None
        self._records.extend(
            Flagged(
                next(self._places),
                at,
                float(scores.score[row]),
                float(scores.p_value[row]),
                SEVERITIES[scores.severity[row]],
                contributions[i],
                None if values is None else values[i],
                None if expected is None else expected[i],
            )
            for i, row in enumerate(rows.tolist())
        )

    def documents(self) -> list[dict[str, Any]]:
        """The records as JSON has them, the latest first."""
        return [
            {
                "place": flagged.place,
                "time": round(flagged.at, 3),
                "score": as_written(flagged.score),
                "p_value": flagged.p_value,
                "severity": flagged.severity,
                "contributions": self._contributions(flagged),
            }
            for flagged in reversed(list(self._records))
        ]

    def _contributions(self, flagged: Flagged) -> list[dict[str, Any]]:
        terms: list[dict[str, Any]] = [
            {"feature": name, "contribution": as_written(part)}
            for name, part in zip(self._manifest.terms, flagged.contributions, strict=True)
        ]
        features = self._manifest.features
        for member, columns in (("value", flagged.x), ("expected", flagged.expected)):
            if columns is not None:
                for term, feature, at in zip(terms, features, column_slices(features), strict=False):  # the latent term has none
                    term[member] = decode(feature, columns[at])
        return sorted(terms, key=lambda term: -term["contribution"])
