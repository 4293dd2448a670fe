"""Texts and instants <-> the hour, weekday and month of their wall time.

A text is read as it is written: an offset or Z after it is accepted and left aside, since 14:05 is an afternoon wherever it is.
Forms: ISO 8601 (2026-11-23, 2026-11-23T14:05:01.5Z, 20261123T140501, with T or blank), the same with slashes or dots,
23.11.2026 (a dot: the day first), 11/23/2026 (a slash: the order of the column, or where none is known, the month first unless
the first number is above 12), each with a time or without, on 24 or 12 hours (2:05 PM). Anything else, and a day that no calendar
has, is no datetime.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

HOUR, WEEKDAY, MONTH = range(3)  # the columns, as manifest.DATETIME_PARTS
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
WIDEST = 64  # no datetime is written longer
FEW = 16  # texts; for so few, one by one is faster
NAT = np.datetime64("NaT", "us")

_FORM = re.compile(
    r"""(?: (?P<year>\d{4}) (?P<mark>[-/.]) (?P<month>\d{1,2}) (?P=mark) (?P<day>\d{1,2})
        | (?P<first>\d{1,2}) (?P<sign>[./]) (?P<second>\d{1,2}) (?P=sign) (?P<late>\d{4})
        | (?P<y>\d{4}) (?P<m>\d\d) (?P<d>\d\d) (?=T) )
    (?: [T\ ] (?P<H>\d{1,2}) (?: :(?P<M>\d\d) (?: :(?P<S>\d\d) )? | (?P<MM>\d\d) (?P<SS>\d\d)? )
        (?: [.,] (?P<fraction>\d{1,9}) )? (?: \ ?(?P<half>[AaPp])[Mm] )? (?: \ ?(?:[Zz]|[+-]\d\d(?::?\d\d)?) )? )?""",
    re.VERBOSE | re.ASCII,
)


_SLASHED = re.compile(r"\s*(\d{1,2})/(\d{1,2})/\d{4}", re.ASCII)
Order = Literal["day", "month", "either"]


def parse(texts: Sequence[str | None], day_first: bool | None = None) -> NDArray[np.datetime64]:
    """(N,) wall times in microseconds; NaT where there is none or the text is no datetime.

    day_first: whether 03/04/2026 is the 3rd of April; None: each text for itself, by whether its first number is above 12.
    """
    # NumPy pads its texts with NUL, so that none may hold one.
    given = [text if text and len(text) <= WIDEST and "\0" not in text else "" for text in texts]
    if len(given) < FEW:
        return np.array([_parse_one(text, day_first) for text in given], "M8[us]")
    wall = np.full(len(given), NAT)
    # The common case, a well-formed YYYY-MM-DD[ HH:MM[:SS]], is read for all rows at once, as digits of a matrix.
    width = max(19, *map(len, given))
    chars = np.array(given, f"U{width}").view(np.uint32).reshape(len(given), width)
    done = _parse_iso(chars, wall)
    for row in np.flatnonzero(~done & (chars[:, 0] != 0)).tolist():
        wall[row] = _parse_one(given[row], day_first)
    return wall


def order(text: str) -> Order | None:
    """What a date such as 23/11/2026 has first, as far as its numbers tell; None for a text of another form."""
    found = _SLASHED.match(text)
    if found is None:
        return None
    first, second = map(int, found.groups())
    return "day" if first > 12 else "month" if second > 12 else "either"


def columns(wall: NDArray[np.datetime64]) -> NDArray[np.float32]:
    """(N, 3) hour with its fraction, weekday (0 = Monday) and month (1 to 12) of wall times (N,); NaN for NaT."""
    days = wall.astype("M8[D]")
    parts = np.empty((len(wall), 3))
    parts[:, HOUR] = (wall - days) / np.timedelta64(1, "h")
    parts[:, WEEKDAY] = (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    parts[:, MONTH] = days.astype("M8[M]").astype(np.int64) % 12 + 1
    parts[np.isnat(wall)] = np.nan
    return parts.astype(np.float32)


def describe(parts: NDArray[np.float32]) -> str:
    """The text of (hour, weekday, month), such as 'Tuesday 14:05, November'."""
    minutes = round(float(parts[HOUR]) * 60) % (24 * 60)
    weekday, month = WEEKDAYS[round(float(parts[WEEKDAY])) % 7], MONTHS[(round(float(parts[MONTH])) - 1) % 12]
    return f"{weekday} {minutes // 60:02}:{minutes % 60:02}, {month}"


def _parse_iso(chars: NDArray[np.uint32], wall: NDArray[np.datetime64]) -> NDArray[np.bool_]:
    """Writes the wall times of those rows of code points (N, W >= 19) that have the common form; tells which (N,)."""
    digit = chars - ord("0")  # unsigned: all but the digits come out above 9
    is_digit = digit <= 9

    def number(start: int, length: int) -> NDArray[np.int64]:
        value = np.zeros(len(chars), np.int64)
        for place in range(start, start + length):
            value = value * 10 + digit[:, place]
        return value

    def ends(place: int) -> NDArray[np.bool_]:
        return chars[:, place] == 0 if place < chars.shape[1] else np.ones(len(chars), bool)

    date = is_digit[:, [0, 1, 2, 3, 5, 6, 8, 9]].all(axis=1) & (chars[:, 4] == ord("-")) & (chars[:, 7] == ord("-"))
    blank = (chars[:, 10] == ord("T")) | (chars[:, 10] == ord(" "))
    minutes = blank & is_digit[:, [11, 12, 14, 15]].all(axis=1) & (chars[:, 13] == ord(":"))
    seconds = minutes & is_digit[:, [17, 18]].all(axis=1) & (chars[:, 16] == ord(":"))
    form = date & (ends(10) | (minutes & ends(16)) | (seconds & ends(19)))
    rows = np.flatnonzero(form)
    if len(rows):
        chars, digit, minutes, seconds = chars[rows], digit[rows], minutes[rows], seconds[rows]
        month, day = number(5, 2), number(8, 2)
        hour, minute, second = number(11, 2) * minutes, number(14, 2) * minutes, number(17, 2) * seconds
        months = ((number(0, 4) - 1970) * 12 + month - 1).astype("M8[M]")
        first = months.astype("M8[D]")
        last = ((months + np.timedelta64(1, "M")).astype("M8[D]") - first).astype(np.int64)
        whole = first.astype("M8[us]") + (((day - 1) * 24 + hour) * 3600 + minute * 60 + second) * np.timedelta64(1, "s")
        real = (number(0, 4) > 0) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= last)
        real &= (hour < 24) & (minute < 60) & (second < 60)
        wall[rows] = np.where(real, whole, NAT)
    return np.asarray(form)


def _parse_one(text: str, day_first: bool | None) -> np.datetime64:
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return NAT
    part = found.groupdict()
    year, month, day = (part[long] or part[short] for long, short in (("year", "y"), ("month", "m"), ("day", "d")))
    if part["late"]:
        year, first, second = part["late"], part["first"], part["second"]
        if part["sign"] == ".":
            day_first = True
        elif day_first is None:
            day_first = int(first) > 12
        day, month = (first, second) if day_first else (second, first)
    hour = int(part["H"] or 0)
    if part["half"]:
        if not 1 <= hour <= 12:
            return NAT
        hour = hour % 12 + 12 * (part["half"] in "Pp")
    try:
        whole = datetime(
            int(year), int(month), int(day), hour, int(part["M"] or part["MM"] or 0), int(part["S"] or part["SS"] or 0)
        )
    except ValueError:  # a 30th of February, a 25th hour
        return NAT
    return np.datetime64(whole, "us") + np.timedelta64(int((part["fraction"] or "0")[:6].ljust(6, "0")), "us")
