"""application/vnd.apache.arrow.stream: a table in; score, p_value and is_anomaly out. For whoever has columns already."""

from __future__ import annotations

from io import BytesIO
from time import perf_counter
from typing import Any

import numpy as np
from arro3.core import Array, DataType, Field, RecordBatch, Schema, Table
from numpy.typing import NDArray

from service import ipc, runs
from service.batch import Batch
from service.bodies import inflate
from service.encoding import encode_arrow
from service.errors import MAX_ERRORS, FieldError, Problem
from service.live import Live
from service.manifest import Manifest, column_slices
from service.runs import Answer, Observed
from service.validation import query, records_problem

RESULTS = Schema(
    [
        Field("score", DataType.float32(), nullable=False),
        Field("p_value", DataType.float64(), nullable=False),
        Field("is_anomaly", DataType.bool(), nullable=False),
    ]
)


class Request:
    """A table that came over HTTP, and its answer."""

    def __init__(self, live: Live, body: bytes, limit: int, max_records: int, parameters: bytes, *, gzipped: bool) -> None:
        """Raises the 422 of parameters that do not fit; the body is looked at in `answer`."""
        self._live, self._body, self._limit, self._max_records, self._gzipped = live, body, limit, max_records, gzipped
        self._alpha, self._fdr, _ = query(parameters, ("alpha", "fdr"))
        self.rows = max(1, len(body) // (4 * live.detector.manifest.width))  # about

    def answer(self) -> tuple[Answer, Observed, float, float]:
        """The answer with what the metrics learn of it, when it began, and the seconds of reading. Raises the Problem."""
        began = perf_counter()
        x = read(self._live.detector.manifest, self._bytes(), self._max_records, self._limit)
        batch = Batch(x, (), True, True, self._alpha, self._fdr, "none")
        scoring = perf_counter()
        scores = runs.score_finite(self._live, batch)
        inference = perf_counter() - scoring
        body = write(scores.score, scores.p_value, scores.is_anomaly)
        return *runs.answered(body, scores, scoring, inference, {}), began, scoring - began

    def _bytes(self) -> bytes:
        return inflate(self._body, self._limit) if self._gzipped else self._body


def read(manifest: Manifest, body: bytes, max_records: int, limit: int) -> NDArray[np.float32]:
    """x (N, C) of the stream's N rows; a feature without a column is missing. Raises the Problem that says what is wrong."""
    ipc.check(body, max_records, limit)
    batches = _batches(body)
    names = batches[0].schema.names
    known = {feature.name for feature in manifest.features}
    unknown = [name for name in names if name not in known | {dropped.column for dropped in manifest.dropped}]
    twice = sorted({name for name in names if names.count(name) > 1})
    errors = [FieldError(f"columns.{name[:60]}", "the model has no such feature") for name in unknown]
    errors += [FieldError(f"columns.{name[:60]}", "stands twice in the table") for name in twice]
    if errors:
        raise records_problem(errors, "column")
    x = np.full((sum(batch.num_rows for batch in batches), manifest.width), np.nan, np.float32)
    found: list[tuple[int, FieldError]] = []
    row, slices = 0, column_slices(manifest.features)
    for batch in batches:
        for feature, at in zip(manifest.features, slices, strict=True):
            if feature.name in names:
                columns, bad = _guarded(encode_arrow, feature, batch.column(feature.name))
                x[row : row + batch.num_rows, at] = columns
                places = [(row + place, message) for place, message in bad[:MAX_ERRORS]]
                found += [(place, FieldError(f"columns.{feature.name}[{place}]", message)) for place, message in places]
        row += batch.num_rows
    if found:
        found.sort(key=lambda error: error[0])
        raise records_problem([error for _, error in found])
    return x


def write(score: NDArray[np.float32], p_value: NDArray[np.float64], is_anomaly: NDArray[np.bool_]) -> bytes:
    """The stream of the answers to N records, each (N,)."""
    from arro3.io import write_ipc_stream  # noqa: PLC0415 - most services never need it

    columns = [Array.from_numpy(np.ascontiguousarray(column)) for column in (score, p_value, is_anomaly)]
    out = BytesIO()
    write_ipc_stream(Table.from_batches([RecordBatch.from_arrays(columns, schema=RESULTS)]), out, compression=None)
    return out.getvalue()


def _batches(body: bytes) -> list[RecordBatch]:
    from arro3.io import read_ipc_stream  # noqa: PLC0415 - most services never need it

    batches: list[RecordBatch] = _guarded(lambda: list(read_ipc_stream(BytesIO(body))))
    return batches


def _guarded(function: Any, *args: Any) -> Any:
    """function(*args); the 400 where the Arrow library raises or panics, which it does as a BaseException of its own."""
    try:
        return function(*args)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError | GeneratorExit):
            raise
        raise Problem("invalid_body", "The body is not an Arrow stream that can be read.") from None
