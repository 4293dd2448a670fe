"""Whether the bytes of an Arrow IPC stream are safe to read: nothing in them points outside of them.

The reader, arrow-rs behind arro3, trusts the lengths and offsets in a stream. One that is wrong ends the process, not the
request: a panic cannot unwind through Arrow's C interface, and an allocation that fails aborts. So they are all checked here,
which costs some microseconds a column; the values are the reader's own business, which it does check.

Layout: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format, tables as in the flatbuffers of Message.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import FieldError, Problem
from service.validation import records_problem

CONTINUATION = b"\xff\xff\xff\xff"
SCHEMA, DICTIONARY, RECORDS = 1, 2, 3  # kinds of messages
NULL, INT, FLOAT, UTF8, BOOL, DECIMAL, DATE, TIMESTAMP, LARGE_UTF8, UTF8_VIEW = 1, 2, 3, 5, 6, 7, 8, 10, 20, 24  # types
# Those that no feature has, but a column that training left out may. Nested ones are not read at all: each of their children,
# which a stream may also name many times, would have to be checked as well.
BINARY, TIME, INTERVAL, FIXED_BINARY, DURATION, LARGE_BINARY, BINARY_VIEW = 4, 9, 11, 15, 18, 19, 23
TEXTS, VIEWS = (UTF8, LARGE_UTF8, BINARY, LARGE_BINARY), (UTF8_VIEW, BINARY_VIEW)
FIXED = {NULL: 1, BOOL: 1, TIMESTAMP: 64, DURATION: 64}  # bits of a value
OFFSETS = {UTF8: 32, LARGE_UTF8: 64, BINARY: 32, LARGE_BINARY: 64, UTF8_VIEW: 128, BINARY_VIEW: 128}  # of an offset, or a view
MAX_COLUMNS = 100_000
MAX_DICTIONARY_TEXT = 4096  # bytes


class BrokenError(Exception):
    """The stream is none."""


@dataclass(frozen=True)
class _Column:
    """How a column's values lie in buffers."""

    kind: int
    bits: int = 0  # of a value, where they are all of one size; of an offset, for texts


@dataclass
class _Stream:
    """What the messages so far have said."""

    columns: list[_Column] | None = None
    dictionaries: dict[int, _Column] = field(default_factory=dict)
    rows: int = 0


class _Table:
    """A table of a flatbuffer: fields by their number, read where they are and nowhere outside."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self._vtable = at - _read(data, "<i", at)
        self._slots = (_read(data, "<H", self._vtable) - 4) // 2

    def place(self, slot: int) -> int:
        """Where a field is, 0 where it is left out."""
        offset = _read(self.data, "<H", self._vtable + 4 + 2 * slot) if slot < self._slots else 0
        return self.at + offset if offset else 0

    def number(self, slot: int, form: str, default: int = 0) -> int:
        """A field that is a number."""
        place = self.place(slot)
        return _read(self.data, form, place) if place else default

    def table(self, slot: int) -> _Table | None:
        """A field that is a table."""
        place = self.place(slot)
        return _Table(self.data, place + _read(self.data, "<I", place)) if place else None

    def needed(self, slot: int) -> _Table:
        """A table that must be there."""
        table = self.table(slot)
        if table is None:
            raise BrokenError
        return table

    def vector(self, slot: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are."""
        place = self.place(slot)
        if not place:
            return 0, 0
        at = place + _read(self.data, "<I", place)
        return at + 4, _read(self.data, "<I", at)

    def text(self, slot: int) -> str:
        """A text. Raises BrokenError for one with a zero in it, which cannot pass Arrow's C interface."""
        at, n = self.vector(slot)
        text = self.data[at : at + n]
        if 0 in text:
            raise BrokenError
        return text.decode("utf-8", "replace")

    def tables(self, slot: int) -> list[_Table]:
        """A vector of tables."""
        at, n = self.vector(slot)
        if n > MAX_COLUMNS:
            raise BrokenError
        return [_Table(self.data, place + _read(self.data, "<I", place)) for place in range(at, at + 4 * n, 4)]

    def pairs(self, slot: int) -> list[tuple[int, int]]:
        """A vector of structs of two int64."""
        at, n = self.vector(slot)
        if n > 4 * MAX_COLUMNS or at + 16 * n > len(self.data):
            raise BrokenError
        return list(struct.iter_unpack("<qq", self.data[at : at + 16 * n]))


def check(body: bytes, max_records: int, limit: int) -> int:
    """The number of rows. Raises the 400 of what is no Arrow stream; the 413 of too many rows, or of texts that are above the
    limit in bytes when each row has its own; the 415 of compressed buffers; the 422 of no rows, or of a nested type.
    """
    stream = _Stream()
    try:
        for kind, header, data in _messages(body):
            if kind == SCHEMA and stream.columns is None:
                _schema(stream, header)
            elif kind == RECORDS and stream.columns is not None:
                stream.rows += _batch(header, stream.columns, data, limit)
            elif kind == DICTIONARY and header.number(0, "<q") in stream.dictionaries:
                texts = [stream.dictionaries[header.number(0, "<q")]]
                _limit(_batch(header.needed(1), texts, data, limit, MAX_DICTIONARY_TEXT), max_records)
            else:
                raise BrokenError
            _limit(stream.rows, max_records)
        if stream.columns is None:
            raise BrokenError
    except (BrokenError, struct.error):
        raise Problem("invalid_body", "The body is not an Arrow stream that can be read.") from None
    if not stream.rows:
        raise Problem("invalid_request", "The table has no rows.", [FieldError("records", "a row is needed, at least")])
    return stream.rows


def _limit(rows: int, max_records: int) -> None:
    if rows > max_records:
        raise Problem("too_many_records", f"A request may have {max_records} rows: send several requests.")


def _messages(body: bytes) -> Iterator[tuple[int, _Table, memoryview]]:
    """Kind, header and body of each message."""
    whole = memoryview(body)
    at = 0
    while at < len(body):
        if body[at : at + 4] != CONTINUATION:
            raise BrokenError
        size = _read(body, "<i", at + 4)
        at += 8
        if size == 0:
            if at != len(body):
                raise BrokenError
            return
        if size < 8 or at + size > len(body):
            raise BrokenError
        metadata = body[at : at + size]
        message = _Table(metadata, _read(metadata, "<I", 0))
        length = message.number(3, "<q")
        at += size
        if not 0 <= length <= len(body) - at:
            raise BrokenError
        yield message.number(1, "<B"), message.needed(2), whole[at : at + length]
        at += length


def _schema(stream: _Stream, header: _Table) -> None:
    if header.number(0, "<h"):
        raise Problem("invalid_body", "The Arrow stream is big-endian.")
    stream.columns, errors = [], []
    for column in header.tables(1):
        kept, encoding = _column(column), column.table(4)
        if kept is None or column.vector(5)[1]:
            errors.append(FieldError(f"columns.{column.text(0)[:60]}", "a type that is not read, such as a list: leave it out"))
        elif encoding is None:
            stream.columns.append(kept)
        else:
            index = encoding.table(1)
            stream.columns.append(_Column(INT, index.number(0, "<i") if index else 32))
            if stream.dictionaries.setdefault(encoding.number(0, "<q"), kept) != kept:
                raise BrokenError
    if errors:
        raise records_problem(errors, "column")


def _column(column: _Table) -> _Column | None:
    """How a column lies, None for a type that is not read."""
    kind = column.number(2, "<B")
    about = column.needed(3)
    column.text(0)
    if kind == INT:
        bits = about.number(0, "<i")
    elif kind == FLOAT:
        bits = {0: 16, 1: 32, 2: 64}.get(about.number(0, "<h"), 0)
    elif kind == DECIMAL:
        bits = about.number(2, "<i", 128)
    elif kind == DATE:
        bits = 64 if about.number(0, "<h", 1) else 32
    elif kind == TIME:
        bits = about.number(1, "<i", 32)
        if bits != {0: 32, 1: 32, 2: 64, 3: 64}.get(about.number(0, "<h", 1)):  # s, ms, us, ns
            raise BrokenError
    elif kind == INTERVAL:
        bits = {0: 32, 1: 64, 2: 128}.get(about.number(0, "<h"), 0)
    elif kind == FIXED_BINARY:
        bits = 8 * max(0, about.number(0, "<i"))
    else:
        bits = FIXED.get(kind, 0) or OFFSETS.get(kind, 0)
    if kind == TIMESTAMP:
        about.text(1)  # the time zone
    if kind in (INT, DECIMAL) and bits not in (8, 16, 32, 64, 128, 256):
        raise BrokenError
    return _Column(kind, bits) if bits else None


def _batch(header: _Table, columns: list[_Column], data: memoryview, limit: int, longest: int | None = None) -> int:
    """The rows of a batch. Raises BrokenError unless every column has the buffers that it needs, the 413 of longer texts."""
    if header.place(3):
        raise Problem("unsupported_encoding", "The Arrow stream is compressed: write it without compression, and gzip the body.")
    rows, nodes = header.number(0, "<q"), header.pairs(1)
    buffers = iter(header.pairs(2))
    views_at, views = header.vector(4)
    if rows < 0 or len(nodes) != len(columns):
        raise BrokenError
    for column, (n, nulls) in zip(columns, nodes, strict=True):
        if n != rows or not 0 <= nulls <= n:
            raise BrokenError
        if column.kind == NULL:
            continue
        _buffer(buffers, data, (n + 7) // 8 if nulls else 0)
        if column.kind in TEXTS:
            offsets = _buffer(buffers, data, (n + 1) * column.bits // 8 if n else 0, column.bits // 8)
            _buffer(buffers, data, 0)
            _check_texts(np.diff(np.frombuffer(offsets, f"<i{column.bits // 8}")), limit, longest)
        else:
            values = _buffer(buffers, data, (n * column.bits + 7) // 8, max(1, column.bits // 8))
        if column.kind in VIEWS:
            _check_texts(np.frombuffer(values, "<u4")[::4], limit, longest)
            if not views:
                raise BrokenError
            more, views, views_at = _read(header.data, "<q", views_at), views - 1, views_at + 8
            if not 0 <= more <= MAX_COLUMNS:
                raise BrokenError
            for _ in range(more):
                _buffer(buffers, data, 0)
    if next(buffers, None) is not None or views:
        raise BrokenError
    return rows


def _buffer(buffers: Iterator[tuple[int, int]], data: memoryview, needed: int, unit: int = 1) -> memoryview:
    """What is needed of the next buffer, made of whole units of so many bytes: where it is not, arro3 ends the process."""
    at, size = next(buffers, (-1, 0))
    if at < 0 or size < needed or size % unit or at + size > len(data):
        raise BrokenError
    return data[at : at + needed]


def _check_texts(lengths: NDArray[np.integer], limit: int, longest: int | None) -> None:
    """Raises the 413 where texts are larger, each written out, than the stream that holds them might be: views and dictionaries
    name the same text many times."""
    if lengths.sum(dtype=np.float64) > limit or (longest is not None and lengths.max(initial=0) > longest):
        raise Problem("body_too_large", f"The texts may have {limit} bytes, those of a dictionary {MAX_DICTIONARY_TEXT} each.")


def _read(data: bytes, form: str, at: int) -> int:
    if at < 0:
        raise BrokenError
    return int(struct.unpack_from(form, data, at)[0])
