"""Columns that had one value only in training: no feature was made of them, but a record that has another one is warned of.

Numbers are compared in float32, in which models compute. A text stands for the number or the boolean that it is the text of, as
in CSV files it does. A missing value is no other value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType
from numpy.typing import NDArray

from service import arrow
from service.batch import Change
from service.encoding import FLOAT32_MAX
from service.manifest import Dropped, Scalar
from service.structs import ABSENT


class Constant(NamedTuple):
    """A column whose one value is known."""

    place: int  # in a row
    column: str
    value: Scalar
    code: str  # of the warning that another value gets
    usual: tuple[Any, ...]  # what most records have: it needs no closer look

    def changes(self, array: Array) -> NDArray[np.bool_]:
        """(N,) which of N CSV cells, an array of texts, or of N values of a typed column are another value."""
        array = arrow.plain(array)
        kind = array.type
        if DataType.is_boolean(kind):
            return np.asarray(np.isin(arrow.floats(array), [truth for truth in (False, True) if differs(self.value, truth)]))
        is_number = not isinstance(self.value, bool | str)
        if is_number and arrow.is_number(kind):
            return self._others(arrow.floats(array))
        if not (arrow.is_text(kind) or arrow.is_number(kind) or arrow.is_datetime(kind)):
            return arrow.present(array)
        if not DataType.is_string(kind):
            array = compute.cast(array, DataType.string())
        if is_number:
            numbers, wrong = arrow.parse_numbers(array)
            others = self._others(numbers)
            others[wrong] = True
            return others
        return np.asarray(arrow.by_distinct(array, lambda cell: float(differs(self.value, cell)))[0] == 1)

    def _others(self, numbers: arrow.Floats) -> NDArray[np.bool_]:
        with np.errstate(over="ignore"):
            other = numbers.astype(np.float32) != np.float32(self.value)
        return np.asarray(other & ~np.isnan(numbers))


def constants(dropped: Iterable[Dropped], start: int = 0) -> tuple[Constant, ...]:
    """Those of the dropped columns, of which the first stands at `start` of a row, whose value the bundle tells."""
    return tuple(
        Constant(place, one.column, one.value, _code(one.value), (None, ABSENT, one.value))
        for place, one in enumerate(dropped, start)
        if one.value is not None
    )


def changes(known: Iterable[Constant], rows: Sequence[Sequence[Any]], first: int = 0) -> list[Change]:
    """Where rows have another value; the first row is number `first`."""
    return [
        (row, column, code)
        for place, column, value, code, usual in known
        for row, values in enumerate(rows, first)
        if values[place] not in usual and differs(value, values[place])
    ]


def differs(constant: Scalar, value: Any) -> bool:
    """Whether a JSON value or a CSV cell is there and another one than the constant."""
    if value is None:
        return False
    if isinstance(value, str) and not isinstance(constant, str):
        parsed = arrow.parse_boolean(value) if isinstance(constant, bool) else arrow.parse_number(value)
        value = parsed if parsed is not None else value
    elif isinstance(value, bool) and isinstance(constant, str):
        return arrow.parse_boolean(constant) != value
    if isinstance(value, int | float) and not isinstance(constant, str):
        if abs(value) > FLOAT32_MAX:
            return True
        return not math.isnan(value) and bool(np.float32(value) != np.float32(constant))
    return value != constant and not (isinstance(value, str) and value in arrow.MISSING)


def _code(value: Scalar) -> str:
    return "unknown_category" if isinstance(value, str) else "out_of_range"
