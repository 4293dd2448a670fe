"""The columns that scoring adds to a table: score and verdict; where asked for, why, and what kept a row from being scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType, Field

from service.answers import write_warnings
from service.batch import Change, Explain
from service.calibration import SEVERITIES
from service.constants import constants
from service.contributions import Explainer
from service.detector import Detector, Scores
from service.encoding import Limits
from service.tables import BadRows, TableBatch
from service.tally import Tally

SCORES = (
    Field("score", DataType.float32(), nullable=False),
    Field("p_value", DataType.float64(), nullable=False),
    Field("is_anomaly", DataType.bool(), nullable=False),
)
REASONS = tuple(Field(name, DataType.string()) for name in ("severity", "reasons", "warnings"))
ERROR = Field("error", DataType.string())


def fields(explain: Explain, bad_rows: BadRows) -> tuple[Field, ...]:
    """Names and types of the columns. Where bad rows are kept, all may be null, and the last says why they are."""
    scored = SCORES if explain == "none" else SCORES + REASONS
    return scored if bad_rows == "stop" else (*(field.with_nullable(True) for field in scored), ERROR)


class Results:
    """Makes the columns, batch by batch."""

    def __init__(self, detector: Detector, alpha: float | None, explain: Explain, bad_rows: BadRows, tally: Tally) -> None:
        """alpha: that of the table, or the bundle's; the tally counts what is found on the way."""
        self._detector, self._alpha, self._explain, self._tally = detector, alpha, explain, tally
        self._scored, self._keeps = fields(explain, "stop"), bad_rows == "keep"
        self._explainer, self._limits = Explainer(detector.manifest), Limits(detector.manifest.features)
        self._constants = constants(detector.manifest.dropped)

    def of(self, batch: TableBatch) -> list[Array]:
        """The columns of all rows of a batch, as `fields` says. Raises UnsupportedAlphaError."""
        columns = self._score(batch) if len(batch.x) else [Array([], type=field.type) for field in self._scored]
        if not self._keeps:
            return columns
        self._tally.leave_out(batch.faults.values())
        rows = range(len(batch.x) + len(batch.faults))
        if batch.faults:
            place = iter(rows)  # of the next row that was scored, among those
            places = Array([None if row in batch.faults else next(place) for row in rows], type=DataType.int64())
            columns = [compute.take(column, places) for column in columns]
        return [*columns, _texts(batch.faults[row].text if row in batch.faults else None for row in rows)]

    def _score(self, batch: TableBatch) -> list[Array]:
        scores = self._detector.score(batch.x, self._alpha, explain=self._explain)
        self._tally.count(batch, scores.is_anomaly)
        columns = [Array.from_numpy(np.ascontiguousarray(one)) for one in (scores.score, scores.p_value, scores.is_anomaly)]
        return columns if self._explain == "none" else columns + self._reasons(batch, scores)

    def _reasons(self, batch: TableBatch, scores: Scores) -> list[Array]:
        """severity, and as POST /score writes them reasons and warnings, null where there are none."""
        reasons = dict(zip(scores.explained.tolist(), self._explainer.write(batch, scores), strict=True))
        warnings, _ = write_warnings(self._limits, batch.x, self._changes(batch))
        severity = _texts(SEVERITIES[level] for level in scores.severity.tolist())
        return [severity, _decoded(reasons, len(batch.x)), _decoded(warnings, len(batch.x))]

    def _changes(self, batch: TableBatch) -> Iterable[Change]:
        for one in self._constants:
            for row in np.flatnonzero(batch.changed.get(one.column, ())).tolist():
                yield row, one.column, one.code


def _decoded(written: Mapping[int, bytes], n: int) -> Array:
    return _texts(written[row].decode() if row in written else None for row in range(n))


def _texts(texts: Iterable[str | None]) -> Array:
    return Array(list(texts), type=DataType.string())
