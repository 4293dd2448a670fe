"""The complete check of a request: slow, and only for requests that the fast path would not have.

Reads the JSON with Python's own reader, which alone shows duplicate keys, and names everything that is wrong, up to 100 errors.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn, cast, get_args
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from service.arrow import parse_number
from service.batch import Batch, Change, Explain
from service.constants import changes, constants
from service.encoding import encode
from service.errors import MAX_ERRORS, FieldError, Problem
from service.limits import check_records
from service.manifest import Manifest

EXPLAIN = get_args(Explain)
MEMBERS = ("records", "columns", "alpha", "fdr", "explain")
MAX_DEPTH = 32
MAX_DIGITS = 400  # an integer of more digits is beyond any float; Python refuses 4,300, and slowly below that
# Possessive: a text that never ends cannot make it go back.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
IN_RECORDS, IN_COLUMNS = "records[{row}].{name}", "columns.{name}[{row}]"
_SHOWN = 60  # characters of a key that an error repeats


class Validator:
    """Checks the requests of one model."""

    def __init__(self, manifest: Manifest, max_records: int) -> None:
        self._features = manifest.features
        # A column that training left out is no error: who posts whole records cannot know which those are.
        self._names = {feature.name for feature in manifest.features} | {dropped.column for dropped in manifest.dropped}
        self._dropped = [dropped.column for dropped in manifest.dropped]
        self._constants = constants(manifest.dropped)
        self._max_records = max_records

    def read(self, body: bytes) -> Batch:
        """The request in these bytes; raises the Problem with all its errors."""
        request = parse(body)
        if not isinstance(request, dict):
            raise Problem("invalid_request", "The body must be an object with 'records' or 'columns'.")
        errors = [FieldError(shown(name), "not a member of a request") for name in request if name not in MEMBERS]
        alpha, fdr = read_rate(request, "alpha", errors), read_rate(request, "fdr", errors)
        explain = request.get("explain", "flagged")
        if explain not in EXPLAIN:
            errors.append(FieldError("explain", "must be 'flagged', 'all' or 'none'"))
        given = [name for name in ("records", "columns") if name in request]
        if len(given) != 1:
            errors.append(FieldError("records", "give exactly one of 'records' and 'columns'"))
        if errors:
            raise Problem("invalid_request", f"{len(errors)} of the request's members do not fit.", errors)
        columnar = given == ["columns"]
        columns = self._columns(request["columns"]) if columnar else self._records(request["records"])
        x = self._encode(columns, IN_COLUMNS if columnar else IN_RECORDS, [])
        rows = columns if columnar else list(zip(*columns, strict=True))
        changed = () if columnar else self._changed(request["records"])
        return Batch(x, rows, columnar, False, alpha, fdr, cast(Explain, explain), changed)

    def lines(self, lines: Sequence[bytes], first: int) -> Batch:
        """The records of NDJSON lines, of which `first` is the place in the stream; raises the Problem with all their errors."""
        records = []
        for place, line in enumerate(lines, first):
            try:
                records.append(parse(line))
            except Problem as problem:
                where = [FieldError(f"records[{place}]", "cannot be read")]
                raise Problem(problem.code, f"Line {place + 1}: {problem.detail}", where) from None
        columns = self._records(records, first)
        x = self._encode(columns, IN_RECORDS, [], first)
        return Batch(x, list(zip(*columns, strict=True)), False, False, changed=self._changed(records), first=first)

    def _changed(self, records: list[dict[str, Any]]) -> list[Change]:
        """Other values of the columns that had one only in training."""
        if not self._constants:
            return []
        return changes(self._constants, [[record.get(column) for column in self._dropped] for record in records])

    def _records(self, records: Any, first: int = 0) -> list[list[Any]]:
        """The records' values, a list for each feature; the first record's place in the request is `first`."""
        if not isinstance(records, list) or not records:
            raise _one_error("records", "must be a list of objects, one at least")
        check_records(len(records), self._max_records)
        errors = []
        for row, record in enumerate(records):
            if not isinstance(record, dict):
                errors.append((row, FieldError(f"records[{first + row}]", "must be an object, feature name to value")))
            elif not record.keys() <= self._names:
                errors += [
                    (row, FieldError(f"records[{first + row}].{shown(name)}", "the model has no such feature"))
                    for name in record
                    if name not in self._names
                ]
            if len(errors) >= MAX_ERRORS:
                break
        whole = [record if isinstance(record, dict) else {} for record in records]
        columns = [[record.get(feature.name) for record in whole] for feature in self._features]
        if errors:
            self._encode(columns, IN_RECORDS, errors, first)
        return columns

    def _columns(self, columns: Any) -> list[list[Any]]:
        """The columns, in the features' order; of nulls where a feature is left out."""
        if not isinstance(columns, dict) or not columns:
            raise _one_error("columns", "must be an object, feature name to list of values, one at least")
        errors = [
            (-1, FieldError(f"columns.{shown(name)}", "the model has no such feature"))
            for name in columns
            if name not in self._names
        ]
        lists = {name: values for name, values in columns.items() if isinstance(values, list)}
        errors += [(-1, FieldError(f"columns.{shown(name)}", "must be a list")) for name in columns if name not in lists]
        lengths = {len(values) for values in lists.values()}
        if len(lengths) > 1 and not errors:
            raise _one_error("columns", f"lists of one length are needed, these have {min(lengths)} to {max(lengths)} values")
        n = max(lengths, default=0)
        check_records(n, self._max_records)
        if not n and not errors:
            raise _one_error("columns", "no records: the lists are empty")
        told = [lists.get(feature.name, [None] * n) for feature in self._features]
        if errors:
            self._encode(told, IN_COLUMNS, errors)
        return told

    def _encode(
        self, columns: list[list[Any]], loc: str, found: list[tuple[int, FieldError]], first: int = 0
    ) -> NDArray[np.float32]:
        """x (N, C); raises the Problem of the errors in the values and of those already found, in the order of the rows."""
        parts = []
        for feature, values in zip(self._features, columns, strict=True):
            part, wrong = encode(feature, values)
            parts.append(part)
            found += [
                (row, FieldError(loc.format(row=first + row, name=feature.name), message)) for row, message in wrong[:MAX_ERRORS]
            ]
        if found:
            found.sort(key=lambda error: error[0])
            raise records_problem([error for _, error in found])
        return np.concatenate(parts, axis=1)


def read_rate(request: dict[str, Any], name: str, errors: list[FieldError]) -> float | None:
    """alpha or fdr as a request has it, None without one; what is wrong with it goes to the errors."""
    value = request.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < 1:
        errors.append(FieldError(name, "must be a number between 0 and 1, both excluded"))
        return None
    return float(value)


def parse(body: bytes) -> Any:
    """The JSON value in these bytes; raises the 400: no UTF-8, a BOM, NaN, a key twice, too deep, or no JSON at all."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem("invalid_json", f"The body is not UTF-8: byte {error.start} cannot be read.") from None
    if text.startswith("\ufeff"):
        raise Problem("invalid_json", "The body begins with a byte order mark: leave it out.")
    if _depth(body) > MAX_DEPTH:
        raise Problem("too_deep", f"The body is nested more than {MAX_DEPTH} levels deep.")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise Problem("invalid_json", f"The body is not JSON: {error.msg} at character {error.pos}.") from None


def _depth(body: bytes) -> int:
    brackets = np.frombuffer(_TEXT.sub(b"", body), np.uint8)
    opened = (brackets == ord("[")) | (brackets == ord("{"))
    closed = (brackets == ord("]")) | (brackets == ord("}"))
    return int(np.cumsum(opened.astype(np.int32) - closed.astype(np.int32)).max(initial=0))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise Problem("duplicate_key", f"The key '{shown(twice)}' stands twice in one object.")
    return members


def _constant(word: str) -> NoReturn:
    raise Problem("invalid_json", f"{word} is no JSON: use null for a missing value.")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def shown(name: str) -> str:
    """A name that a client sent, short enough for an error."""
    return name if len(name) <= _SHOWN else name[:_SHOWN] + "..."


def query(text: bytes, allowed: tuple[str, ...]) -> tuple[float | None, float | None, Explain]:
    """alpha, fdr and explain of a query string, for bodies that have no room for them; raises the 422."""
    given = parse_qsl(text.decode("latin-1"), keep_blank_values=True)
    errors = [FieldError(shown(name), "not a parameter of this kind of request") for name, _ in given if name not in allowed]
    values = dict(given)
    if len(values) < len(given):
        errors.append(FieldError("query", "a parameter is given twice"))
    rates: dict[str, float | None] = {"alpha": None, "fdr": None}
    for name in rates.keys() & values.keys():
        rate = parse_number(values[name])
        if rate is None or not 0 < rate < 1:  # NaN too
            errors.append(FieldError(name, "must be a number between 0 and 1, both excluded"))
        rates[name] = rate
    explain = values.get("explain", "flagged")
    if explain not in EXPLAIN:
        errors.append(FieldError("explain", "must be 'flagged', 'all' or 'none'"))
    if errors:
        raise Problem("invalid_request", f"{len(errors)} of the query's parameters do not fit.", errors)
    return rates["alpha"], rates["fdr"], cast(Explain, explain)


def _one_error(loc: str, message: str) -> Problem:
    return Problem("invalid_request", f"{loc}: {message}.", [FieldError(loc, message)])


def records_problem(errors: list[FieldError], what: str = "value") -> Problem:
    """The 422 of values, or columns, that do not fit."""
    n = f"{MAX_ERRORS} or more {what}s do" if len(errors) >= MAX_ERRORS else f"{len(errors)} {what}(s) do"
    return Problem("invalid_records", f"{n} not fit the model: GET /models/NAME has its features.", errors[:MAX_ERRORS])
