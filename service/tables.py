"""Tables as batches of x, in bounded memory: the files' columns through the same encodings as live records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType, Field, RecordBatch
from numpy.typing import NDArray

from service.constants import constants
from service.encoding import encode_arrow, encode_text
from service.manifest import Dropped, Feature, column_slices
from service.sources import Source, TableError, open_sources

__all__ = ["Batch", "Table", "TableError", "encode_batch", "open_table"]


@dataclass(frozen=True)
class Batch:
    """n rows of a table: x (n, C), the kept columns, and where they come from (first_row: 1 is the file's first record)."""

    x: NDArray[np.float32]
    kept: tuple[Array, ...]
    first_row: int
    source: Source
    changed: Mapping[str, int]  # how many have another value in a column that was constant in training


class Table:
    """The files of a table, opened and checked; iterating reads them once more each time. See open_table."""

    def __init__(
        self, sources: list[Source], features: Sequence[Feature], keep: Sequence[str], dropped: Sequence[Dropped]
    ) -> None:
        """Checks that the columns are there. Raises TableError."""
        self.sources, self.features, self.keep = sources, tuple(features), tuple(keep)
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
        self.bytes = sum(source.bytes for source in sources)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in the order of files and rows. Raises TableError at the first bad cell."""
        for source in self.sources:
            row = 1
            for batch in source.batches():
                x = encode_batch(source, batch, self.features, row)
                kept = tuple(_as_field(field, batch.column(field.name), source) for field in self.kept_fields)
                changed = {constant.column: constant.count_changes(batch.column(constant.column)) for constant in self._constants}
                yield Batch(x, kept, row, source, changed)
                row += batch.num_rows

    @property
    def position(self) -> int:
        """Bytes read so far, of self.bytes."""
        return sum(source.position for source in self.sources)


def open_table(data: str | Path, features: Sequence[Feature], keep: Sequence[str] = (), dropped: Sequence[Dropped] = ()) -> Table:
    """The table DATA (a CSV or Parquet file, a folder or a glob of them) as batches of x for these features.

    A feature without a column is an error: that is a mistake, not a missing value. Columns that are no feature are left aside;
    of those dropped in training, the constant ones are compared with their value. Raises TableError.
    """
    return Table(open_sources(data), features, keep, dropped)


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
    x = np.empty((batch.num_rows, sum(feature.width for feature in features)), np.float32)
    encode = encode_text if source.is_csv else encode_arrow
    for feature, at in zip(features, column_slices(features), strict=True):
        columns, bad = encode(feature, batch.column(feature.name))
        if bad:
            row, message = bad[0]
            where = source.place(first_row + row, feature.name)
            raise TableError(f"{where}: {message}; correct it, or leave it empty if it is unknown")
        x[:, at] = columns
    return x
