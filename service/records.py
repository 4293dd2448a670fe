"""From the bytes of a request to x (N, C): the fast path, which knows only good requests.

The JSON is read straight into structs made of the model's features. Whatever does not fit them, or looks odd in any way, goes
through service.validation, which reads the same bytes slowly and completely, and either finds every error or accepts them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from operator import le
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.arrow import MISSING
from service.batch import Batch, Change
from service.constants import changes, constants
from service.encoding import FLOAT32_MAX, encode_checked
from service.limits import check_records
from service.manifest import Feature, Manifest
from service.structs import ABSENT, Unread, decoders, json_type
from service.validation import Validator

LONG = 1 << 20  # bytes of a body whose records are read a block at a time
BLOCK = 512
SHORT = 8 << 10  # bytes of a body that is first read as if nothing in it were odd
EXACT = 1 << 53


class Reader:
    """Reads the requests of one model."""

    def __init__(self, manifest: Manifest, max_records: int) -> None:
        self._features = manifest.features
        self._max_records = max_records
        self._slow = Validator(manifest, max_records)
        self._constants = constants(manifest.dropped, len(manifest.features))
        self._simple = all(feature.kind in ("numeric", "boolean") for feature in manifest.features)
        self._codes = [Codes(feature) if feature.kind == "categorical" else None for feature in manifest.features]
        # Columns that training left out: accepted, so that whole records can be posted, and not scored.
        self._dropped = tuple(dropped.column for dropped in manifest.dropped)
        names = [feature.name for feature in manifest.features] + [*self._dropped]
        self._keys = len(names)
        self._texts = [place for place, feature in enumerate(manifest.features) if json_type(feature) is str]
        self._texts += range(len(manifest.features), self._keys)
        self._colon_in_a_name = any(":" in name for name in names)
        self._width = manifest.width
        self._starts = np.cumsum([0, *(feature.width for feature in manifest.features[:-1])]).tolist()
        self._low, self._high = _range(manifest.features)
        self._pack = struct.Struct(f"={self._width}f").pack
        self._least, self._greatest = self._low.tolist(), self._high.tolist()
        self._decoders = decoders(manifest.features, self._dropped)

    def read(self, body: bytes) -> Batch:
        """The request in these bytes; raises the Problem that names everything that is wrong with it."""
        try:
            batch = self._read_fast(body)
        except (ValueError, OverflowError, RecursionError):  # msgspec's errors are ValueErrors
            batch = None
        return self._with_normal(self._slow.read(body)) if batch is None else batch

    def read_lines(self, lines: Sequence[bytes], first: int) -> Batch:
        """A record a line, one line at least, of which the first is the request's `first`; raises the Problem."""
        try:
            rows = [msgspec.structs.astuple(self._decoders.record(line)) for line in lines]
            own = self._own(rows, False)
            x = self._matrix(own, False, len(rows))
            normal = self._is_normal(x)
            keys = self._count_keys(rows, normal)
            text = b"".join(lines)
            if not np.isinf(x).any() and (colons(text) == keys or self._distinct(text, rows, False, keys)):
                changed = changes(self._constants, rows) if self._constants else ()
                return Batch(x, own, False, normal and not changed, changed=changed, first=first)
        except (ValueError, OverflowError, RecursionError):
            pass
        return self._with_normal(self._slow.lines(lines, first))

    def _read_fast(self, body: bytes) -> Batch | None:
        long = len(body) > LONG
        request, normal = (self._decoders.scan(body), False) if long else self._decode(body)
        found = self._unread(request) if long and request.columns is None else self._rows(request)
        if found is None:
            return None
        rows, columnar, n = found
        # The keys that are there, each counted once.
        optional = [value for value in (request.alpha, request.fdr, request.explain) if value is not msgspec.UNSET]
        keys = len(optional) + 1
        own = self._own(rows, columnar)
        changed: list[Change] = []
        if columnar:
            x = self._matrix(own, True, n)
            normal = self._is_normal(x)
            keys += sum(column is not None for column in msgspec.structs.astuple(request.columns))
        elif n == 1:
            x, normal = (self._usual(own[0]), True) if normal else self._single(own[0])
            keys += self._count_keys(rows, normal)
            changed = changes(self._constants, rows) if self._constants else []
        else:
            x, normal = np.empty((n, self._width), np.float32), True
            for start in range(0, n, BLOCK):
                block = rows[start : start + BLOCK]
                part = x[start : start + BLOCK] = self._matrix(self._own(block, False), False, len(block))
                usual = self._is_normal(part)
                normal, keys = normal and usual, keys + self._count_keys(block, usual)
                changed += changes(self._constants, block, start)
        if not normal and np.isinf(x).any():
            return None
        if colons(body) != keys and not self._distinct(body, rows, columnar, keys):
            return None
        batch = Batch(x, own, columnar, normal)
        if changed:
            batch.normal, batch.changed = False, changed
        if optional:
            batch.alpha, batch.fdr = (None if rate is msgspec.UNSET else rate for rate in (request.alpha, request.fdr))
            if any(rate is not None and not 0 < rate < 1 for rate in (batch.alpha, batch.fdr)):
                return None
            if request.explain is not msgspec.UNSET:
                batch.explain = request.explain
        return batch

    def _decode(self, body: bytes) -> tuple[Any, bool]:
        """The request in these bytes, and whether its records are known to be normal."""
        if len(body) <= SHORT:
            try:
                return self._decoders.usual(body), True
            except msgspec.DecodeError:
                pass
        return self._decoders.request(body), False

    def _rows(self, request: Any) -> tuple[Sequence[Any], bool, int] | None:
        """The rows or columns, which of the two, and the number of records; None where anything is odd."""
        if request.columns is None:
            n = len(request.records or ())
            check_records(n, self._max_records)
            return ([msgspec.structs.astuple(record) for record in request.records], False, n) if n else None
        columns = msgspec.structs.astuple(request.columns)
        lengths = {len(column) for column in columns if column is not None}
        if request.records is not None or len(lengths) != 1 or not all(lengths):
            return None
        n = lengths.pop()
        check_records(n, self._max_records)
        return [[None] * n if column is None else column for column in columns], True, n

    def _unread(self, request: Any) -> tuple[Sequence[Any], bool, int] | None:
        """As _rows, of records that are only read when they are asked for."""
        n = len(request.records or ())
        check_records(n, self._max_records)
        return (Unread(request.records, self._decoders.record), False, n) if n else None

    def _own(self, rows: Sequence[Any], columnar: bool) -> Sequence[Any]:
        """The rows or columns without those that training left out."""
        if not self._dropped:
            return rows
        n = len(self._features)
        if isinstance(rows, Unread):
            return Unread(rows.texts, rows.decode, n)
        return rows[:n] if columnar else [row[:n] for row in rows]

    def _count_keys(self, rows: Sequence[Any], normal: bool) -> int:
        """How many keys the records have."""
        absent = 0 if normal and not self._dropped else sum(row.count(ABSENT) for row in rows)
        return len(rows) * self._keys - absent

    def _matrix(self, rows: Sequence[Any], columnar: bool, n: int) -> NDArray[np.float32]:
        """x (N, C) of rows whose types are right; ValueError for a text that is no datetime."""
        with np.errstate(over="ignore"):  # infinity is looked for later
            if self._simple and not columnar:
                return np.array(rows, np.float32)
            columns = rows if columnar else list(zip(*rows, strict=True))
            x = np.empty((n, self._width), np.float32)
            for feature, codes, start, values in zip(self._features, self._codes, self._starts, columns, strict=True):
                if codes is not None:
                    x[:, start] = [codes[value] for value in values]
                elif feature.kind == "datetime":
                    texts = [None if value is ABSENT else value for value in values]
                    x[:, start : start + feature.width], wrong = encode_checked(feature, texts)
                    if wrong:
                        raise ValueError(feature.name)
                else:
                    x[:, start] = np.array(values, np.float32)
        return x

    def _is_normal(self, x: NDArray[np.float32]) -> bool:
        """Whether every value of x (N, C) is there and within what training saw."""
        return bool(((x >= self._low) & (x <= self._high)).all())  # NaN is not

    def _usual(self, values: Sequence[Any]) -> NDArray[np.float32]:
        """x (1, C) of a record of which every value is there: NumPy takes twice as long to make it of Python's numbers."""
        return np.frombuffer(self._pack(*(values if self._simple else self._row(values))), np.float32)[None]

    def _single(self, values: Sequence[Any]) -> tuple[NDArray[np.float32], bool]:
        """x (1, C) of one record, and whether it is normal: for one row, plain comparisons cost less than NumPy's."""
        row = values if self._simple else self._row(values)
        try:
            if all(map(le, self._least, row)) and all(map(le, row, self._greatest)):
                return np.array([row], np.float32), True
        except TypeError:  # None
            pass
        with np.errstate(over="ignore"):
            return np.array([row], np.float32), False

    def _row(self, values: Sequence[Any]) -> list[Any]:
        """The row of x (C,) of a single record: with one conversion to NumPy in place of one for each feature."""
        row: list[Any] = []
        for feature, codes, value in zip(self._features, self._codes, values, strict=True):
            if codes is not None:
                row.append(codes[value])
            elif feature.kind == "datetime":
                parts, wrong = encode_checked(feature, [None if value is ABSENT else value])
                if wrong:
                    raise ValueError(feature.name)
                row += parts[0].tolist()
            else:
                row.append(value)
        return row

    def _distinct(self, body: bytes, rows: Sequence[Any], columnar: bool, keys: int) -> bool:
        """Whether no object has a key twice, where there are other colons than those of the keys.

        No library refuses duplicate keys. But every colon of the body ends a key or is inside a text: with as many colons as
        there are distinct keys and colons in texts, no key stood twice. A colon may also be written as an escape, u003a.
        """
        if b"\\u003" in body or self._colon_in_a_name:
            return False
        columns = rows if columnar else list(zip(*rows, strict=True))
        texts = chain.from_iterable(columns[place] for place in self._texts)
        return colons(body) == keys + sum(text.count(":") for text in texts if type(text) is str)

    def _with_normal(self, batch: Batch) -> Batch:
        batch.normal = not batch.changed and self._is_normal(batch.x)
        return batch


def colons(body: bytes) -> int:
    """How many colons there are; NumPy counts many of them faster, and few of them slower."""
    return body.count(b":") if len(body) < 8192 else int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(":")))


class Codes(dict[Any, float]):
    """The code of each category; NaN for what counts as missing; their number for any other."""

    def __init__(self, feature: Feature) -> None:
        missing = dict.fromkeys((None, ABSENT) if feature.integer else (None, ABSENT, *MISSING), np.nan)
        super().__init__(missing)
        self.update({category: float(code) for code, category in enumerate(feature.categories)})
        self._unknown = float(len(feature.categories))

    def __missing__(self, value: Any) -> float:
        """Raises OverflowError for a number that float64, through which the slow way reads all of them, may not hold."""
        if type(value) is int and not -EXACT <= value <= EXACT:
            raise OverflowError
        return self._unknown


def _range(features: Sequence[Feature]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(C,) and (C,): the least and the greatest value that need no warning; infinity never passes."""
    low, high = [], []
    for feature in features:
        least = feature.low if feature.kind == "numeric" else None
        greatest = feature.high if feature.kind == "numeric" else len(feature.categories) - 1 if feature.categories else None
        low += [-FLOAT32_MAX if least is None else least] * feature.width
        high += [FLOAT32_MAX if greatest is None else greatest] * feature.width
    return np.clip(low, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32), np.clip(high, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
