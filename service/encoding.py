"""Values of a feature, as JSON, CSV cells or Arrow columns <-> its columns of x (N, C), the float32 input of the graph.

numeric: the value. boolean: 0 or 1. categorical: the category's place in feature.categories, their number if unknown.
datetime: hour with its fraction, weekday (0 = Monday), month (1 to 12). NaN: missing. All three encoders give the same x, bit
for bit, for the same value: numbers pass through float64, which JSON, CSV and Arrow read alike.

An encoder gives the columns (N, width) and (row, message) for each bad value, whose row is NaN; no message holds a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from arro3.core import Array, DataType
from numpy.typing import NDArray

from service import arrow, datetimes
from service.arrow import MISSING, Floats
from service.manifest import Feature

OVERFLOW = "does not fit float32 (infinite or too large)"
NOT_A_NUMBER = "not a number"
NOT_WHOLE = "not a whole number"
NOT_A_TEXT = "not a text"
NOT_A_BOOLEAN = "not true or false"
NOT_A_DATETIME = "not a datetime such as 2026-11-23T14:05:00"
OUTSIDE = "a time outside the calendar's years"
FLOAT32_MAX = float(np.finfo(np.float32).max)
WHOLE_MOST = 2.0**63  # beyond, readers of JSON have no whole numbers

Encoded = tuple[NDArray[np.float32], list[tuple[int, str]]]
_NONE = type(None)
_NUMBERS, _TEXTS, _BOOLEANS = frozenset({int, float, _NONE}), frozenset({str, _NONE}), frozenset({bool, _NONE})


def encode(feature: Feature, values: Sequence[Any]) -> Encoded:
    """Encodes N JSON values, strictly: no bool or text is a number, no number a text category, no fraction a whole number."""
    allowed, message = {
        "numeric": (_NUMBERS, NOT_A_NUMBER),
        "boolean": (_BOOLEANS, NOT_A_BOOLEAN),
        "datetime": (_TEXTS, NOT_A_DATETIME),
        "categorical": (_NUMBERS, NOT_WHOLE) if feature.integer else (_TEXTS, NOT_A_TEXT),
    }[feature.kind]
    if allowed.issuperset(map(type, values)):
        return encode_checked(feature, values)
    bad = [(row, message) for row, value in enumerate(values) if type(value) not in allowed]
    columns, more = encode_checked(feature, [value if type(value) in allowed else None for value in values])
    return columns, sorted(bad + more)


def encode_checked(feature: Feature, values: Sequence[Any]) -> Encoded:
    """As encode, for values of types that are known to be right: checks only what a type does not say, overflow above all."""
    if feature.kind == "datetime":
        return _datetimes(feature, values)
    if feature.kind == "categorical" and not feature.integer:
        codes, unknown = _text_codes(feature.categories), len(feature.categories)
        return np.array([codes.get(value, unknown) for value in values], np.float32)[:, None], []
    numbers = to_float64(values)
    return _whole(feature, numbers) if feature.kind == "categorical" else _fit(numbers)


def to_float64(values: Sequence[float | None]) -> Floats:
    """(N,) JSON numbers as float64, NaN for null, infinity for an integer beyond float64."""
    try:
        return np.array(values, np.float64)
    except OverflowError:
        return np.array([_float(value) for value in values])


def encode_text(feature: Feature, array: Array) -> Encoded:
    """Encodes N cells of a CSV file, an Arrow array of texts. MISSING is missing; for numbers and datetimes, PLACEHOLDERS too.

    Blanks around a number, a boolean or a datetime are left aside. A category is its text as it stands, blanks and all.
    """
    if feature.kind == "datetime":
        return _datetimes(feature, [None if text is None or arrow.lacks(text) else text for text in array.to_pylist()])
    if feature.kind == "categorical" and not feature.integer:
        codes, unknown = _text_codes(feature.categories), len(feature.categories)
        return _single(*arrow.by_distinct(array, lambda text: codes.get(text, unknown)))
    if feature.kind == "boolean":
        return _single(*arrow.parse_booleans(array), NOT_A_BOOLEAN)
    numbers, wrong = arrow.parse_numbers(array)
    columns, bad = _whole(feature, numbers) if feature.kind == "categorical" else _fit(numbers)
    return columns, sorted(bad + [(row, NOT_A_NUMBER) for row in wrong])


def encode_arrow(feature: Feature, array: Array) -> Encoded:
    """Encodes N values of a typed Arrow column, null for missing; a column of the wrong type is one error, at row 0.

    numeric: integers, floats, decimals. boolean: bools, texts such as yes and no, 0 and 1. datetime: texts, dates, timestamps as
    a clock in their time zone shows them. categorical: texts, plain or in a dictionary; whole numbers where feature.integer.
    """
    array = arrow.plain(array)
    kind = array.type
    if not suits(feature, kind):
        words = {"numeric": "numbers", "categorical": "whole numbers" if feature.integer else "texts"}
        needed = words.get(feature.kind, f"{feature.kind}s")
        return _missing(feature, len(array)), [(0, f"the column is of another type; {needed} are needed")]
    if DataType.is_null(kind):
        return _missing(feature, len(array)), []
    if arrow.is_text(kind):
        return encode_text(feature, array)
    if DataType.is_boolean(kind):
        return _single(arrow.floats(array))
    if feature.kind == "datetime":
        wall = arrow.wall_times(array)
        return datetimes.columns(wall), [(row, OUTSIDE) for row in np.flatnonzero(np.isnat(wall) & arrow.present(array)).tolist()]
    return encode_numbers(feature, arrow.floats(array))


def suits(feature: Feature, kind: DataType) -> bool:
    """Whether a typed column of this Arrow type, plain or in a dictionary, may hold the feature's values."""
    if DataType.is_dictionary(kind):
        kind = kind.value_type
    if arrow.is_text(kind):
        return feature.kind != "numeric" and not _has_codes(feature)
    if arrow.is_number(kind):
        return feature.kind in ("numeric", "boolean") or _has_codes(feature)
    if DataType.is_boolean(kind):
        return feature.kind == "boolean"
    return DataType.is_null(kind) or (arrow.is_datetime(kind) and feature.kind == "datetime")


def encode_numbers(feature: Feature, numbers: Floats) -> Encoded:
    """Encodes N numbers, NaN for missing, of a numeric feature, a boolean one (0 and 1), or one whose categories are numbers."""
    if feature.kind == "boolean":
        other = ~(np.isnan(numbers) | np.isin(numbers, (0, 1)))
        return _single(np.where(other, np.nan, numbers), np.flatnonzero(other).tolist(), NOT_A_BOOLEAN)
    return _whole(feature, numbers) if feature.kind == "categorical" else _fit(numbers)


def decode(feature: Feature, columns: NDArray[np.float32]) -> float | int | str | bool | None:
    """The JSON value of columns (width,), in the feature's own unit; None for NaN and for the code of an unknown category."""
    if np.isnan(columns).any():
        return None
    value = columns[0]
    if feature.kind == "datetime":
        return datetimes.describe(columns)
    if feature.kind == "boolean":
        return bool(value >= 0.5)
    if feature.kind == "categorical":
        code = int(np.rint(value))
        return feature.categories[code] if 0 <= code < len(feature.categories) else None
    if feature.integer and abs(value) < WHOLE_MOST:
        return int(np.rint(value))
    return as_written(value)


def nameable(features: Sequence[Feature], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is expected (N, C), as a record would have it (datetimes in parts); NaN for an unknown category."""
    columns = [feature for feature in features for _ in range(feature.width)]
    known = np.array([len(feature.categories) if feature.kind == "categorical" else np.inf for feature in columns])
    whole = np.array([feature.kind == "categorical" or (feature.kind == "numeric" and feature.integer) for feature in columns])
    truth = np.array([feature.kind == "boolean" for feature in columns])
    told = np.where(whole, np.rint(expected), np.where(truth, expected >= 0.5, expected))
    return np.where(told < known, told, np.nan).astype(np.float32)


def as_written(value: float | None) -> float | None:
    """A number in the digits of float32, as /score writes it: 9 at most; the 17 of its float64 twin would only look exact."""
    return None if value is None else float(str(np.float32(value)))


class Limits:
    """What is normal for the columns of x: built once for a model, then asked for each request."""

    def __init__(self, features: Sequence[Feature]) -> None:
        """Limits of the features' C columns."""
        self._names = [feature.name for feature in features for _ in range(feature.width)]
        self._kinds = [feature.kind for feature in features for _ in range(feature.width)]
        columns = [(feature, part) for feature in features for part in range(feature.width)]
        low = [feature.low if feature.kind == "numeric" else None for feature, _ in columns]
        high = [_highest(feature) for feature, _ in columns]
        self._low = np.array([-np.inf if value is None else value for value in low], np.float32)
        self._high = np.array([np.inf if value is None else value for value in high], np.float32)
        # A datetime is missing once, not in each of its parts.
        self._always = np.array([feature.missing_rate == 0 and part == 0 for feature, part in columns])

    def oddities(self, x: NDArray[np.float32]) -> list[list[tuple[str, str]]]:
        """For each row of x (N, C): (feature, code), code being unknown_category, out_of_range or missing."""
        missing = np.isnan(x) & self._always
        odd: list[list[tuple[str, str]]] = [[] for _ in range(len(x))]
        for row, column in zip(*((x < self._low) | (x > self._high) | missing).nonzero(), strict=True):
            odd[row].append((self._names[column], "missing" if missing[row, column] else self._code(column)))
        return odd

    def count(self, x: NDArray[np.float32]) -> dict[tuple[str, str], int]:
        """How many rows of x (N, C) have each (feature, code); those that none has are left out."""
        beyond, missing = ((x < self._low) | (x > self._high)).sum(0).tolist(), (np.isnan(x) & self._always).sum(0).tolist()
        found = {(name, self._code(column)): n for column, (name, n) in enumerate(zip(self._names, beyond, strict=True)) if n}
        return found | {(name, "missing"): n for name, n in zip(self._names, missing, strict=True) if n}

    def _code(self, column: int) -> str:
        return "unknown_category" if self._kinds[column] == "categorical" else "out_of_range"


def _has_codes(feature: Feature) -> bool:
    """Whether its categories are whole numbers."""
    return feature.kind == "categorical" and feature.integer


def _highest(feature: Feature) -> float | None:
    if feature.kind == "categorical":
        return len(feature.categories) - 1
    return feature.high if feature.kind == "numeric" else None


@lru_cache(maxsize=1024)
def _text_codes(categories: tuple[str, ...]) -> dict[str | None, float]:
    return {None: np.nan, **dict.fromkeys(MISSING, np.nan), **{text: code for code, text in enumerate(categories)}}


def _missing(feature: Feature, n: int) -> NDArray[np.float32]:
    return np.full((n, feature.width), np.nan, np.float32)


def _single(values: Floats, wrong: Sequence[int] = (), message: str = "") -> Encoded:
    return values.astype(np.float32)[:, None], [(row, message) for row in wrong]


def _fit(numbers: Floats) -> Encoded:
    with np.errstate(over="ignore"):
        column = numbers.astype(np.float32)
    infinite = np.isinf(column)
    if not infinite.any():
        return column[:, None], []
    column[infinite] = np.nan
    return column[:, None], [(row, OVERFLOW) for row in np.flatnonzero(infinite).tolist()]


def _whole(feature: Feature, numbers: Floats) -> Encoded:
    """Codes of integer categories: the place of each number among them."""
    categories = np.array(feature.categories, np.float64)
    order = np.argsort(categories)
    place = np.searchsorted(categories, numbers, sorter=order).clip(max=len(categories) - 1)
    code = np.where(categories[order[place]] == numbers, order[place], len(categories)).astype(np.float64)
    wrong = ~np.isnan(numbers) & ((numbers != np.floor(numbers)) | np.isinf(numbers))
    code[wrong | np.isnan(numbers)] = np.nan
    rows = np.flatnonzero(wrong).tolist()
    return code.astype(np.float32)[:, None], [(row, OVERFLOW if np.isinf(numbers[row]) else NOT_WHOLE) for row in rows]


def _datetimes(feature: Feature, texts: Sequence[str | None]) -> Encoded:
    wall = datetimes.parse(texts, feature.day_first)
    wrong = [row for row in np.flatnonzero(np.isnat(wall)).tolist() if texts[row] is not None]
    order = {None: "", True: "; with slashes, the day comes first", False: "; with slashes, the month comes first"}
    return datetimes.columns(wall), [(row, NOT_A_DATETIME + order[feature.day_first]) for row in wrong]


def _float(value: float | None) -> float:
    try:
        return np.nan if value is None else float(value)
    except OverflowError:
        return np.inf
