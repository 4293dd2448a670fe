"""Scores files in bounded memory. score_batch is a pure function of a batch, for whatever maps batches over a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

import numpy as np
from arro3.core import RecordBatch, Schema
from numpy.typing import NDArray

from service.batch import Explain
from service.detector import Detector, open_detector
from service.output import ROW_GROUP, STANDARD, check_output, write_table
from service.results import Results, fields
from service.session import Provider
from service.sources import BATCH_CELLS
from service.tables import BadRows, Table, TableError, open_table
from service.tally import Tally

# Values that have reasons, at most, each of some 90 bytes: of a batch, and of what the Parquet writer gathers.
REASONS_READ, REASONS_WRITTEN = 1 << 17, 1 << 20
ON_TERMINAL, IN_LOG = 0.2, 5.0  # seconds between two lines of progress

T = TypeVar("T")


class Rows(NamedTuple):
    """How many rows a table has, and how many of them have a score."""

    read: int
    scored: int


def score_file(
    models_dir: Path,
    name: str,
    data: str,
    output: str,
    keep: Sequence[str] = (),
    provider: Provider = "auto",
    progress: TextIO | None = None,
    trusted: Sequence[Path] = (),
    alpha: float | None = None,
    explain: Explain = "none",
    bad_rows: BadRows = "stop",
) -> Rows:
    """Scores DATA with the served version of a model into `output`, by its ending CSV or Parquet, '-' for CSV on standard output.

    One row for each of DATA's, in order: the columns `keep`, score, p_value, is_anomaly, by this alpha or the bundle's; severity,
    reasons and warnings of the records that `explain` names; error, where rows with a cell that cannot be read are to be kept.
    Tells the columns that are not scored, its progress and what it found on `progress`, standard error by default. Raises
    TableError, BundleError, UnsupportedAlphaError, OSError; then no output is left behind.
    """
    check_output(output)
    added = fields(explain, bad_rows)
    if taken := [column for column in keep if column in {field.name for field in added}]:
        raise TableError(f"--keep {taken[0]}: the output has a column of that name; rename it in the data")
    if len(set(keep)) < len(keep):
        raise TableError("--keep: a column is named twice; name it once")
    detector = open_detector(models_dir, name, provider=provider, trusted=trusted)
    detector.threshold(alpha)  # refuses one that is not supported before anything is read
    features, explained = detector.manifest.features, explain != "none"
    table = open_table(
        data, features, keep, detector.manifest.dropped, bad_rows, cells=REASONS_READ if explained else BATCH_CELLS
    )
    if output != STANDARD and any(Path(output).exists() and Path(output).samefile(source.path) for source in table.sources):
        raise TableError(f"{output}: this is the data itself; name another output")
    told, tally = _Progress(table, progress or sys.stderr), Tally(detector.manifest, alpha)
    results, schema = Results(detector, alpha, explain, bad_rows, tally), Schema([*table.kept_fields, *added])
    row_group = min(ROW_GROUP, max(1, REASONS_WRITTEN // len(features))) if explained else ROW_GROUP
    with closing(_ahead(table)) as batches:
        made = (RecordBatch.from_arrays([*batch.kept, *results.of(batch)], schema=schema) for batch in batches)
        write_table(told.count(made), schema, output, row_group)
    told.end(tally)
    return Rows(told.rows, tally.scored)


def score_batch(
    detector: Detector, x: NDArray[np.float32], alpha: float | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
    """score (n,), p_value (n,) and is_anomaly (n,) of x (n, C) at this alpha or the bundle's. Raises UnsupportedAlphaError."""
    scores = detector.score(x, alpha, explain="none")
    return scores.score, scores.p_value, scores.is_anomaly


def _ahead(items: Iterable[T]) -> Generator[T]:
    """The items, each made in another thread while the one before is in use: reading and scoring go on at once."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, "read") as reader:
        following = reader.submit(next, iterator, None)
        while (item := following.result()) is not None:
            following = reader.submit(next, iterator, None)
            yield item


class _Progress:
    """Rows/s and the time left: one line that changes on a terminal, now and then a line elsewhere."""

    def __init__(self, table: Table, stream: TextIO) -> None:
        self.rows = 0
        self._table, self._stream = table, stream
        self._terminal = stream.isatty()
        self._began = self._told = time.monotonic()
        if table.left_aside:
            print(f"columns left aside, which the model does not know: {', '.join(table.left_aside)}", file=stream, flush=True)
        if table.left_out:
            print(f"columns not scored, as training left them out: {', '.join(table.left_out)}", file=stream, flush=True)

    def count(self, batches: Iterable[RecordBatch]) -> Iterator[RecordBatch]:
        """The batches, counted on their way."""
        for batch in batches:
            self.rows += batch.num_rows
            now = time.monotonic()
            if now - self._told >= (ON_TERMINAL if self._terminal else IN_LOG):
                self._told = now
                self._tell(now - self._began)
            yield batch

    def end(self, tally: Tally) -> None:
        """The last lines: how fast it was, and what was found."""
        seconds = time.monotonic() - self._began
        clear = "\r\x1b[K" if self._terminal else ""
        rate = tally.scored / max(seconds, 1e-9)
        speed = f"{clear}scored {tally.scored:,} rows in {seconds:.1f} s ({rate:,.0f} rows/s)"
        print(speed, *tally.lines(), sep="\n", file=self._stream, flush=True)

    def _tell(self, seconds: float) -> None:
        share = min(1.0, self._table.position / max(self._table.bytes, 1))
        left = f", {seconds * (1 - share) / share:,.0f} s left" if share else ""
        line = f"{share:4.0%}, {self.rows:,} rows, {self.rows / seconds:,.0f} rows/s{left}"
        print(f"\r\x1b[K{line}" if self._terminal else line, end="" if self._terminal else "\n", file=self._stream, flush=True)
