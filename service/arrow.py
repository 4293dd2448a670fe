"""Arrow arrays <-> NumPy: types, values with their nulls, texts that stand for numbers and booleans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType, dictionary_dictionary, dictionary_indices
from numpy.typing import NDArray

MISSING = frozenset({"", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None"})  # cells and categories that mean: no value
# The same where numbers and datetimes are; anywhere else a category may be called so.
PLACEHOLDERS = frozenset({"?", "-", "--", "#N/A", "#NA", "<NA>", "na", "none"})
BOOLEANS = {"true": 1, "t": 1, "yes": 1, "y": 1, "1": 1, "1.0": 1, "false": 0, "f": 0, "no": 0, "n": 0, "0": 0, "0.0": 0}

Floats = NDArray[np.float64]


def is_text(kind: DataType) -> bool:
    """Whether an Arrow type holds texts, plain or in a dictionary."""
    inner = kind.value_type if DataType.is_dictionary(kind) else kind
    return any((DataType.is_string(inner), DataType.is_large_string(inner), DataType.is_string_view(inner)))


def is_number(kind: DataType) -> bool:
    """Whether an Arrow type holds integers, floats or decimals."""
    return any((DataType.is_integer(kind), DataType.is_floating(kind), DataType.is_decimal(kind)))


def is_datetime(kind: DataType) -> bool:
    """Whether an Arrow type holds timestamps or dates."""
    return any((DataType.is_timestamp(kind), DataType.is_date(kind)))


def plain(array: Array) -> Array:
    """The array itself, but numbers out of their dictionary, and texts in the layout that all of arro3 can read."""
    kind = array.type
    if DataType.is_dictionary(kind) and not (DataType.is_string(kind.value_type) or DataType.is_large_string(kind.value_type)):
        array = compute.cast(array, kind.value_type)
    return compute.cast(array, DataType.string()) if DataType.is_string_view(array.type) else array


def to_numpy(array: Array, fill: float) -> NDArray[Any]:
    """(N,) values of an array of numbers or booleans, `fill` where it is null. To be read only: it may be Arrow's own memory."""
    if array.null_count == 0:
        return np.asarray(array.to_numpy())
    there = compute.is_not_null(array)
    values = compute.filter(array, there).to_numpy()
    filled = np.full(len(array), fill, values.dtype)
    filled[there.to_numpy()] = values
    return filled


def floats(array: Array) -> Floats:
    """(N,) float64 of an array of numbers or booleans, NaN where it is null."""
    return to_numpy(compute.cast(array, DataType.float64()), np.nan)


def indices(coded: Array) -> Array:
    """(N,) the places of a dictionary's values, in integers that also hold how many there are."""
    return compute.cast(dictionary_indices(coded), DataType.int64())


def by_distinct(array: Array, parse: Callable[[str], float | None]) -> tuple[Floats, list[int]]:
    """(N,) what `parse` makes of each text, called once for each distinct one; NaN for null. And the rows where it gave None."""
    coded = compute.dictionary_encode(array)
    parsed = [np.nan if text is None else parse(text) for text in dictionary_dictionary(coded).to_pylist()]
    places = to_numpy(indices(coded), len(parsed)) if array.null_count < len(array) else np.full(len(array), len(parsed))
    values = np.array([*(np.nan if value is None else value for value in parsed), np.nan])[places]
    wrong = np.array([*(value is None for value in parsed), False])[places]
    return values, np.flatnonzero(wrong).tolist()


def parse_numbers(array: Array) -> tuple[Floats, list[int]]:
    """(N,) numbers of texts, NaN for null and no value, infinite beyond float64; and the rows whose text is no number."""
    parsed = compute.cast(array, DataType.float64())
    numbers = to_numpy(parsed, np.nan)
    if parsed.null_count == array.null_count:
        return numbers, []
    # Few cells are left as a rule: those with blanks around the number, a token for missing, or no number at all.
    rest = np.flatnonzero(compute.is_null(parsed).to_numpy() & compute.is_not_null(array).to_numpy())
    values, wrong = by_distinct(compute.take(array, Array.from_numpy(rest)), parse_number)
    numbers[rest] = values
    return numbers, rest[wrong].tolist()


def parse_booleans(array: Array) -> tuple[Floats, list[int]]:
    """(N,) 1 or 0 for texts such as yes and no, NaN for null and MISSING; and the rows whose text is none of BOOLEANS."""
    return by_distinct(array, parse_boolean)


def parse_boolean(text: str) -> float | None:
    """1 or 0 for a text of BOOLEANS in any case, NaN for one of MISSING, None for another."""
    text = text.strip()
    return np.nan if text in MISSING else BOOLEANS.get(text.lower())


def wall_times(array: Array) -> NDArray[np.datetime64]:
    """(N,) timestamps or dates in microseconds, as a clock in their time zone shows; NaT for null and beyond the calendar."""

    def part(name: str, unit: str) -> NDArray[np.timedelta64]:
        return to_numpy(compute.date_part(array, name), 0).astype(np.int64).astype(f"m8[{unit}]")

    year = compute.date_part(array, "year")
    months = (to_numpy(year, 0).astype(np.int64) - 1970) * 12 + part("month", "M").astype(np.int64) - 1
    wall = months.astype("M8[M]").astype("M8[us]") + (part("day", "D") - np.timedelta64(1, "D"))
    wall = wall + part("hour", "h") + part("minute", "m") + part("second", "s") + part("microsecond", "us")
    wall[~present(year)] = np.datetime64("NaT", "us")
    return np.asarray(wall)


def present(array: Array) -> NDArray[np.bool_]:
    """(N,) where an array is not null."""
    return np.asarray(compute.is_not_null(array).to_numpy())


def lacks(text: str) -> bool:
    """Whether a cell of numbers or datetimes means: no value."""
    text = text.strip()
    return text in MISSING or text in PLACEHOLDERS


def parse_number(text: str) -> float | None:
    """The number of a text, blanks around it left aside; NaN for one that means no value, None for no number."""
    text = text.strip()
    if lacks(text):
        return np.nan
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None
