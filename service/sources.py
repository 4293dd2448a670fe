"""Table files as streams of Arrow batches: CSV (also .gz) as texts, Parquet as it is typed. Every fault names its place.

Raises TableError, whose text is one line: what was found, where (file, row, column), what to do.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, BinaryIO, cast

from arro3.core import DataType, Field, RecordBatch, RecordBatchReader, Schema
from arro3.io import read_csv, read_parquet

CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
TEXT_ENDINGS = (".txt", ".txt.gz")  # read as CSV where they are named; in a folder they may be notes
PARQUET_ENDINGS = (".parquet", ".pq")
ENDINGS = ".csv, .tsv or .txt, or one of these and .gz"
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
DELIMITERS = ",;\t|"  # one of these
LOOKED_AT = 1 << 16  # characters at the start of a file, that tell which
_QUOTED, _LINE = re.compile(r'"[^"]*(?:"|$)'), re.compile(r"\r\n|\r|\n")
BATCH_CELLS = 1 << 20  # a batch's worth of values: it stays small however wide the table


class TableError(ValueError):
    """A table cannot be used."""


class Source:
    """One file of a table, its header read and checked."""

    def __init__(self, path: Path) -> None:
        """Reads the names of the columns. Raises TableError: an empty file, no header, a duplicate or nameless column."""
        self.path = path
        self.is_csv = path.name.lower().endswith(CSV_ENDINGS + TEXT_ENDINGS)
        self.position = 0  # bytes of the file read so far
        try:
            self.bytes = path.stat().st_size
            if self.bytes == 0:
                raise TableError(f"{path}: the file is empty")
            self.schema: Schema = self._csv_header() if self.is_csv else self._parquet_header()
        except OSError as error:  # gzip's own errors are of this class too
            raise TableError(f"{path}: cannot be read: {error.strerror or error}") from None
        except EOFError:
            raise TableError(f"{path}: the gzip file ends before its time; copy it again") from None
        except csv.Error as error:  # a name longer than Python's reader takes
            raise TableError(f"{path}: the header cannot be read: {error}") from None
        self.names: tuple[str, ...] = tuple(self.schema.names)
        seen: set[str] = set()
        for number, name in enumerate(self.names, 1):
            if name in seen:
                raise TableError(
                    f"{path}: duplicate header: column {number} is called {name} as one before it; rename one of them"
                )
            seen.add(name)

    def batches(self, cells: int = BATCH_CELLS) -> Iterator[RecordBatch]:
        """Batches of at most so many values and 8,192 rows, but of 64 rows in any case, in order. Raises TableError."""
        rows = max(64, min(8192, cells // len(self.names)))
        with open(self.path, "rb") as file:
            try:
                quotes = _Quotes(gzip.GzipFile(fileobj=file) if self._is_gzip else file)
                for batch in self._read(quotes if self.is_csv else file, rows):
                    self.position = file.tell()
                    yield batch
                if quotes.seen % 2:
                    self._check_quotes()
            except TableError:
                raise
            except Exception as error:  # noqa: BLE001 - arro3 raises bare Exception
                raise self._fault(error) from None
        self.position = self.bytes

    def place(self, row: int, column: str | None = None) -> str:
        """Words for a place: the file, the row (1 is the first record), its line in a CSV file, the column."""
        try:
            line = next((line for number, line, _ in self._records() if number == row), None) if self.is_csv else None
        except csv.Error:  # a cell before it is longer than Python's reader takes
            line = None
        where = f"{self.path}, row {row}" + (f" (line {line})" if line else "")
        return where if column is None else f"{where}, column {column}"

    @cached_property
    def _delimiter(self) -> str:
        """The mark that splits the first rows as it splits the header. Raises TableError where two of them do it equally well."""
        with self._text() as file:
            start = file.read(LOOKED_AT)
        header, *rows = [line for line in _LINE.split(_QUOTED.sub('"', start)) if line] or [""]
        if len(start) == LOOKED_AT and len(rows) > 1:
            rows.pop()  # which may go on
        alike = {mark: sum(row.count(mark) == header.count(mark) for row in rows) for mark in DELIMITERS if mark in header}
        best = [mark for mark in alike if alike[mark] == max(alike.values())]
        if len(best) > 1:
            marks = " and ".join("a tab" if mark == "\t" else f"'{mark}'" for mark in best)
            raise TableError(
                f"{self.path}: the header holds {marks}, and the rows do not tell which one separates the columns; "
                "put cells that hold the other in quotes, also in the header"
            )
        return best[0] if best else ","

    @property
    def _is_gzip(self) -> bool:
        return self.path.name.lower().endswith(".gz")

    def _text(self) -> IO[str]:
        opener = gzip.open if self._is_gzip else open
        opened = cast(BinaryIO, opener(self.path, "rb"))
        # Bytes that are no UTF-8 become surrogates, so that the cell that holds them can be found.
        return io.TextIOWrapper(opened, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _records(self, strict: bool = False) -> Iterator[tuple[int, int, list[str]]]:
        """(row, line, cells) as Python's own slow reader sees them, row 0 the header; blank lines are no rows, as in arro3."""
        with self._text() as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=strict)
            line = 1
            row = 0
            for cells in reader:
                if cells:
                    yield row, line, cells
                    row += 1
                line = reader.line_num + 1

    def _csv_header(self) -> Schema:
        first = next(self._records(), None)
        if first is None:
            raise TableError(f"{self.path}: the file is empty")
        cells = first[2]
        if any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell) or "\0" in "".join(cells):
            raise TableError(f"{self.path}: the header is not UTF-8 text; save the file as UTF-8 CSV")
        for number, cell in enumerate(cells, 1):
            if not cell.strip():
                what = f"column {number} of the header has no name"
                raise TableError(f"{self.path}: {what}; give it one, or leave pandas' index out: df.to_csv(..., index=False)")
        if all(_is_number(cell) for cell in cells):
            raise TableError(f"{self.path}: no header: the first line holds numbers only; put the names of the columns there")
        return Schema([Field(name, DataType.string()) for name in cells])

    def _parquet_header(self) -> Schema:
        if self.path.name.lower().removesuffix(".gz").endswith(JSON_ENDINGS):
            remedy = "convert it, for example by pandas.read_json(PATH, lines=True).to_parquet('table.parquet')"
            raise TableError(f"{self.path}: tables are not read from JSON; {remedy}")
        with open(self.path, "rb") as file:
            start = file.read(4)
            file.seek(-min(self.bytes, 4), io.SEEK_END)
            if self.bytes < 12 or start != b"PAR1" or file.read(4) != b"PAR1":  # arro3 would panic, on standard error
                raise TableError(f"{self.path}: not a Parquet file, or half of one; a CSV file's name ends with {ENDINGS}")
            file.seek(0)
            try:
                return read_parquet(file).schema
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | MemoryError):
                    raise
                raise TableError(f"{self.path}: the Parquet file is damaged; write it again") from None

    def _read(self, file: BinaryIO | _Quotes, rows: int) -> RecordBatchReader:
        if not self.is_csv:
            return read_parquet(file, batch_size=rows)
        return read_csv(file, self.schema, has_header=True, delimiter=self._delimiter, batch_size=rows)

    def _check_quotes(self) -> None:
        """Raises TableError where a quote that opens is never closed: it takes all that follows for one cell."""
        row = end = 0
        try:
            for row, line, cells in self._records(strict=True):  # noqa: B007 - the last that could be read
                end = line + sum(cell.count("\n") for cell in cells)
        except csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                where = f"{self.path}, row {row + 1} (line {end + 1})"
                raise TableError(
                    f"{where}: a quote opens and is never closed; close it, or double a quote that is meant"
                ) from None

    def _fault(self, error: Exception) -> TableError:
        """The place of a fault, which arro3 tells in records and not in lines, by reading the file once more, slowly."""
        try:
            for row, line, cells in self._records() if self.is_csv else ():
                where = f"{self.path}, row {row} (line {line})"
                if len(cells) != len(self.names):
                    found = f"{len(cells)} cells where the header has {len(self.names)}"
                    return TableError(f"{where}: {found}; put cells that hold '{self._delimiter}' or a line's end in quotes")
                for name, cell in zip(self.names, cells, strict=True):
                    if any("\udc80" <= letter <= "\udcff" for letter in cell):
                        return TableError(f"{where}, column {name}: not UTF-8 text; save the file as UTF-8")
        except (OSError, EOFError, csv.Error) as slow:
            return TableError(f"{self.path}: cannot be read: {slow}")
        return TableError(f"{self.path}: cannot be read: {str(error).splitlines()[0]}")


class _Quotes:
    """A file that is read once, its quotes counted: an odd number of them may be one that is never closed."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file, self.seen = file, 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        content = self._file.read(size)
        self.seen += content.count(b'"')
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Back to the start, as a reader does that has looked how a file begins."""
        self.seen = 0
        return self._file.seek(offset, whence)


def open_sources(data: str | Path) -> list[Source]:
    """The files of DATA, a file, a folder or a glob, sorted by name; all must have the same columns. Raises TableError."""
    sources = [Source(path) for path in _files(str(data))]
    first = sources[0]
    for source in sources[1:]:
        for one, other in ((first, source), (source, first)):
            lacking = [name for name in one.names if name not in set(other.names)]
            if lacking:
                what = f"no column {lacking[0]}, which {one.path} has"
                raise TableError(f"{other.path}: {what}; the files of one table need the same columns")
    return sources


def _files(data: str) -> list[Path]:
    path = Path(data)
    endings = CSV_ENDINGS + PARQUET_ENDINGS
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name.lower().endswith(endings))
        if not files:
            raise TableError(f"{path}: the folder holds no file that ends with {', '.join(endings)}")
        return files
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(data, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute one
    files = [file for file in found if file.is_file()]
    if not files:
        raise TableError(f"{data}: no such file, folder or matching files; check the path")
    return files


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
