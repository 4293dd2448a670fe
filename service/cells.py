"""Cells of a table as the JSON values of a record: what POST /score would have been sent.

Texts and numbers are told as they stand, a float32 in its own digits. What only files have becomes what JSON has in its place:
yes or 1 of a boolean true, a timestamp the text of its wall time, a cell that means no value null.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType

from service import arrow
from service.manifest import Feature

WHOLE = re.compile(r"\s*-?(?:0|[1-9]\d{0,38})\s*", re.ASCII)  # more digits are beyond float32


def json_values(feature: Feature, array: Array) -> list[Any]:
    """(N,) values of CSV cells, an array of texts, or of a typed column that suits the feature; None or NaN for missing."""
    array = arrow.plain(array)
    if feature.kind == "datetime":
        return _times(array)
    if feature.kind == "boolean":
        truths = arrow.parse_booleans(array)[0] if arrow.is_text(array.type) else arrow.floats(array)
        return [None if np.isnan(truth) else bool(truth) for truth in truths]
    values: list[Any] = array.to_pylist()
    if feature.kind == "categorical" and not feature.integer:
        return values
    if arrow.is_text(array.type):
        numbers = arrow.parse_numbers(array)[0].tolist()
        return [int(text) if text and WHOLE.fullmatch(text) else number for text, number in zip(values, numbers, strict=True)]
    return values if DataType.is_integer(array.type) else _floats(array)


def _floats(array: Array) -> list[float]:
    if not (DataType.is_float32(array.type) or DataType.is_float16(array.type)):
        return list(arrow.floats(array).tolist())
    numbers = arrow.to_numpy(compute.cast(array, DataType.float32()), np.nan)
    return list(numbers.astype(np.str_).astype(np.float64).tolist())  # by way of its own digits, not those of its float64 twin


def _times(array: Array) -> list[str | None]:
    if arrow.is_text(array.type):
        return [None if text is None or arrow.lacks(text) else text for text in array.to_pylist()]
    wall = arrow.wall_times(array)
    texts = np.datetime_as_string(wall, "D" if DataType.is_date(array.type) else "us").tolist()
    return [None if missing else text.removesuffix(".000000") for text, missing in zip(texts, np.isnat(wall), strict=True)]
