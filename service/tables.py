"""Tables as batches of x, in bounded memory: the files' columns through the same encodings as live records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType, Field, RecordBatch
from numpy.typing import NDArray

from service.cells import json_values
from service.constants import constants
from service.encoding import encode_arrow, encode_text, suits
from service.manifest import Dropped, Feature, column_slices
from service.sources import BATCH_CELLS, Source, TableError, open_sources

__all__ = ["BadRows", "Fault", "Table", "TableBatch", "TableError", "encode_batch", "open_table"]

BadRows = Literal["stop", "keep"]  # whether a row with a value that cannot be read ends the table


class Fault(NamedTuple):
    """A cell that cannot be read."""

    column: str
    message: str

    @property
    def text(self) -> str:
        """What is wrong and what to do."""
        return f"column {self.column}: {self.message}; correct it, or leave it empty if it is unknown"


@dataclass(frozen=True)
class TableBatch:
    """Rows of a table, of which n can be scored, and where they come from (first_row: 1 is the file's first record)."""

    x: NDArray[np.float32]  # (n, C)
    kept: tuple[Array, ...]  # the kept columns, of all rows
    first_row: int
    source: Source
    features: tuple[Feature, ...]
    cells: RecordBatch  # what the features and the changes are read from, of the n rows
    changed: Mapping[str, NDArray[np.bool_]]  # (n,) where a column that was constant in training has another value
    faults: Mapping[int, Fault]  # the first of each row that cannot be scored, by its place among all rows

    def columns(self, places: list[int]) -> list[list[Any]]:
        """What these of the n rows hold, as JSON values: a list for each feature; None or NaN for missing."""
        rows = self.cells.take(Array.from_numpy(np.array(places, np.int64)))
        return [json_values(feature, rows.column(feature.name)) for feature in self.features]


class Table:
    """The files of a table, opened and checked; iterating reads them once more each time. See open_table."""

    def __init__(
        self,
        sources: list[Source],
        features: Sequence[Feature],
        keep: Sequence[str],
        dropped: Sequence[Dropped],
        bad_rows: BadRows,
        cells: int,
    ) -> None:
        """Checks that the columns are there. Raises TableError."""
        self.sources, self.features, self.keep = sources, tuple(features), tuple(keep)
        self._bad_rows, self._cells = bad_rows, cells
        names = sources[0].names
        for feature in features:
            if feature.name not in names:
                raise TableError(
                    f"{sources[0].path}: no column {feature.name}, which the model needs; add it, empty where unknown"
                )
        for name in keep:
            if name not in names:
                raise TableError(f"{sources[0].path}: no column {name} to keep; the columns are {', '.join(names[:20])}")
        # Files of one table may write a column in types that differ a little: the first file's is that of all.
        self.kept_fields = tuple(sources[0].schema.field(name).with_nullable(True) for name in keep)
        needed = {feature.name for feature in features} | set(keep)
        out = {one.column for one in dropped}
        self.left_out = tuple(name for name in names if name in out - needed)  # columns that training left out
        self.left_aside = tuple(name for name in names if name not in needed | out)  # columns that the model does not know
        self._constants = [constant for constant in constants(dropped) if constant.column in names]
        self._looked_at = [feature.name for feature in features] + [constant.column for constant in self._constants]
        self.bytes = sum(source.bytes for source in sources)

    def __iter__(self) -> Iterator[TableBatch]:
        """Batches in the order of files and rows. Raises TableError at the first bad cell, unless bad rows are kept."""
        for source in self.sources:
            row = 1
            for batch in source.batches(self._cells):
                yield self._read(source, batch, row)
                row += batch.num_rows

    def _read(self, source: Source, batch: RecordBatch, row: int) -> TableBatch:
        x, faults = _encode(source, batch, self.features, row, self._bad_rows)
        kept = tuple(_as_field(field, batch.column(field.name), source) for field in self.kept_fields)
        cells = batch.select(self._looked_at)
        if faults:
            readable = np.delete(np.arange(len(x)), list(faults))
            x, cells = x[readable], cells.take(Array.from_numpy(readable))
        changed = {constant.column: constant.changes(cells.column(constant.column)) for constant in self._constants}
        return TableBatch(x, kept, row, source, self.features, cells, changed, faults)

    @property
    def position(self) -> int:
        """Bytes read so far, of self.bytes."""
        return sum(source.position for source in self.sources)


def open_table(
    data: str | Path,
    features: Sequence[Feature],
    keep: Sequence[str] = (),
    dropped: Sequence[Dropped] = (),
    bad_rows: BadRows = "stop",
    cells: int = BATCH_CELLS,
) -> Table:
    """The table DATA (a CSV or Parquet file, a folder or a glob of them) as batches of x for these features.

    A feature without a column is an error: that is a mistake, not a missing value. Columns that are no feature are left aside;
    of those dropped in training, the constant ones are compared with their value. bad_rows: whether a row with a bad cell ends
    the table, or is told as a fault of its batch; cells: values of a batch, about. Raises TableError.
    """
    return Table(open_sources(data), features, keep, dropped, bad_rows, cells)


def _as_field(field: Field, array: Array, source: Source) -> Array:
    if array.type == field.type:
        return array
    try:
        same = compute.cast(array, field.type)
    except Exception:  # noqa: BLE001 - arro3 raises bare Exception
        same = None
    if same is None or same.null_count > array.null_count:  # a value that does not fit becomes null
        what = f"of type {_words(array.type)}, and in the first file of type {_words(field.type)}"
        raise TableError(f"{source.path}, column {field.name}: {what}; write the files alike, or leave it out of --keep")
    return same


def _words(kind: DataType) -> str:
    return str(kind).strip().removeprefix("arro3.core.DataType<").removesuffix(">")


def encode_batch(source: Source, batch: RecordBatch, features: Sequence[Feature], first_row: int) -> NDArray[np.float32]:
    """x (n, C) of a batch of this source. Raises TableError, which names the first bad cell of the first column with one."""
    return _encode(source, batch, features, first_row, "stop")[0]


def _encode(
    source: Source, batch: RecordBatch, features: Sequence[Feature], first_row: int, bad_rows: BadRows
) -> tuple[NDArray[np.float32], dict[int, Fault]]:
    """x (n, C), and the first bad cell of each row that has one. Raises TableError unless those are kept, and for a column of
    another type, which is no fault of a row."""
    x = np.empty((batch.num_rows, sum(feature.width for feature in features)), np.float32)
    faults: dict[int, Fault] = {}
    encode = encode_text if source.is_csv else encode_arrow
    for feature, at in zip(features, column_slices(features), strict=True):
        array = batch.column(feature.name)
        x[:, at], bad = encode(feature, array)
        if bad and (bad_rows == "stop" or not (source.is_csv or suits(feature, array.type))):
            row, message = bad[0]
            raise TableError(f"{source.place(first_row + row)}, {Fault(feature.name, message).text}")
        for row, message in bad:
            faults.setdefault(row, Fault(feature.name, message))
    return x, faults
