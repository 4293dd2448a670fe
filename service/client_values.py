"""Values of service.client as JSON: those of NumPy and pandas, too, although neither is needed here."""

from __future__ import annotations

from datetime import datetime
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
            return str(value)
        own = float(value) if value.dtype.kind == "f" else value.item()
        if type(own) is not type(value):
            return own
    kind = type(value)
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} is no value of a record: a number, text, bool, datetime or None is")


encode = msgspec.json.Encoder(decimal_format="number", enc_hook=plain).encode
