"""Values of service.client as JSON: those of NumPy and pandas, too, although neither is needed here.

What msgspec would write as something else is refused, or written as it is meant: it makes null of infinity, and a text of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from math import isinf
from typing import Any

import msgspec

MISSING = ("NaT", "<NA>")  # as pandas and NumPy write what is not there


def plain(value: Any) -> Any:
    """A value that is none of JSON's as one that is: a NumPy scalar as Python's, a Timestamp as text. Raises TypeError.

    Neither library is imported to tell by, so that only what its types have in common is looked at.
    """
    if str(value) in MISSING:
        return None
    if isinstance(value, datetime):  # as a pandas.Timestamp is
        return value.isoformat()
    if getattr(value, "shape", None) == ():  # a NumPy scalar
        if value.dtype.kind == "M":  # whose nanoseconds Python has no datetime for
            whole = "s" in value.dtype.str  # seconds or a part of them; a day or an hour would have no minutes
            return str(value if whole else value.astype("M8[s]"))
        own = float(value) if value.dtype.kind == "f" else value.item()
        if type(own) is not type(value):
            return own
    kind = type(value)
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} is no value of a record: a number, text, bool, datetime or None is")


def encode(form: str, data: Any, options: Mapping[str, Any]) -> bytes:
    """The body of a request: records or columns, as `form` says, and its options.

    Raises ValueError for an infinite number, and TypeError for what is no value of a record.
    """
    for row, record in enumerate(data if form == "records" else ()):
        if isinstance(record, Mapping):
            _check(record.values(), partial(_in_record, row, tuple(record)))
    if form == "columns":
        data = {name: _listed(values) for name, values in data.items()}
        for name, values in data.items():
            _check(values, partial(_in_column, name))
    return _encoder.encode({form: data, **options})


def _listed(values: Any) -> Any:
    """A column of NumPy, pandas or Polars as a list."""
    whole = getattr(values, "tolist", None) or getattr(values, "to_list", None)
    return values if isinstance(values, list | tuple) or whole is None else whole()


def _check(values: Iterable[Any], where: Callable[[int], str]) -> None:
    """Raises ValueError, which names the place, for a number that is infinite, and TypeError for bytes."""
    for place, value in enumerate(values):
        kind = type(value)
        if kind is str or kind is int or value is None:  # most are; the rest of this is slow
            continue
        if isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"{where(place)}: bytes are no value of a record: decode them to a text")
        number = kind is float or (getattr(value, "shape", None) == () and value.dtype.kind == "f")
        if (number and isinf(value)) or (isinstance(value, Decimal) and not value.is_finite()):
            raise ValueError(f"{where(place)}: {value} has no score: give None where a value is unknown")


def _in_column(name: str, place: int) -> str:
    return f"columns.{name}[{place}]"


def _in_record(row: int, names: Sequence[str], place: int) -> str:
    return f"records[{row}].{names[place]}"


_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=plain)
