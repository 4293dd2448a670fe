"""Writing a table as it comes, batch by batch: CSV or Parquet by the ending, whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from arro3.core import Array, RecordBatch, RecordBatchReader, Schema
from arro3.io import write_csv, write_parquet

from service.sources import PARQUET_ENDINGS, TableError

STANDARD = "-"  # CSV on standard output
ROW_GROUP = 1 << 17  # rows that the Parquet writer gathers before it writes


def check_output(output: str) -> None:
    """Raises TableError, before any work is done, where a table cannot be written to `output`."""
    if output == STANDARD:
        return
    path = Path(output)
    if not path.name.lower().endswith((".csv", *PARQUET_ENDINGS)):
        raise TableError(f"{output}: the output's name must end with .csv or .parquet, or be - for CSV on standard output")
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise TableError(f"{output}: {what}; name a file in a folder that exists")


def write_table(batches: Iterable[RecordBatch], schema: Schema, output: str, row_group: int = ROW_GROUP) -> None:
    """Writes the batches, of that schema, as they come. Raises what they raise, OSError, and TableError as check_output.

    A file is written beside its place and renamed at the end, so that nothing half-made is ever found there.
    row_group: rows of a Parquet file that are gathered before they are written.
    """
    check_output(output)
    if output == STANDARD:
        _write(batches, schema, None, "standard output", row_group)
        return
    target = Path(output)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _write(batches, schema, partial, output, row_group)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _write(batches: Iterable[RecordBatch], schema: Schema, path: Path | None, told: str, row_group: int) -> None:
    failed: list[BaseException] = []

    def watched() -> Iterator[RecordBatch]:
        # arro3 makes a bare Exception of whatever is raised in here: the true one is kept.
        try:
            empty = True
            for batch in batches:
                empty = False
                yield batch
            if empty:  # the header of a CSV file comes with the first batch
                yield RecordBatch.from_arrays([Array([], type=field.type) for field in schema], schema=schema)
        except BaseException as error:
            failed.append(error)
            raise

    reader = RecordBatchReader.from_batches(schema, watched())
    try:
        if path is None:
            write_csv(reader, sys.stdout.buffer)
        elif path.name.lower().removesuffix(".partial").rpartition(".")[0].endswith(PARQUET_ENDINGS):
            write_parquet(reader, path, compression="snappy", max_row_group_size=row_group)
        else:
            write_csv(reader, path)
    except BaseException as error:  # arro3 raises bare Exception, and where a Parquet file is not taken its PanicException
        if failed:
            raise failed[0] from None
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise OSError(f"{told}: cannot be written: {str(error).splitlines()[0]}") from None
