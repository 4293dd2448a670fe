"""What a column is: one decision from what has been seen of it.

A column that turns out to be something else than it was read as asks to be read once more in the other mode.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from service import arrow
from service.manifest import Feature, Scalar
from service.sources import TableError
from training.table import strays
from training.table.column import WHOLE_MAX, Column, Mode

MOST_CATEGORIES = 10_000
FEW_LEVELS = 100  # a text column with more of them, in most rows another one, names its rows
RANGE_LEAST = 1e-30  # of the values of a column: float32 has no spread of less
FEW_ROWS = 20  # so does one of at least so many values that all differ
STRAY = 0.01  # up to this share of cells that are no number among numbers is a mistake; beyond it, the column is text
# Words that are true and false beside each other; N beside F are two codes.
YES_AND_NO = (
    {"true", "false", "t", "f"},
    {"true", "false", "1", "0"},
    {"yes", "no", "y", "n"},
    {"yes", "no", "1", "0"},
)
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


class RereadError(Exception):
    """The column must be read once more, in this mode."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode


class UnusableError(Exception):
    """No feature can be made of the column; the text is the reason. Of a constant one, `value` is what it has, as JSON has it."""

    def __init__(self, reason: str, value: Scalar | None = None) -> None:
        super().__init__(reason)
        self.value = value


def feature_of(column: Column) -> Feature:
    """The feature that the column is. Raises RereadError, UnusableError or, where it is ambiguous, TableError."""
    if column.unread and column.mode in (None, "texts"):
        raise RereadError("texts")
    present, fitting = column.present.total(), column.fitting.total()
    if not present:
        raise UnusableError("no values")
    if not column.asked and PANDAS_INDEX.fullmatch(column.name):
        raise UnusableError("the index of a pandas table")
    missing_rate = 1 - present / column.rows
    if column.mode == "texts":
        return _text_feature(column, missing_rate)
    if fitting < present and column.stray:
        if not column.asked:
            _check_files(column)
        if column.asked or fitting >= (1 - STRAY) * present:
            source, row = column.stray
            wanted = "number" if column.mode == "numbers" else "datetime"
            found = f"not a {wanted}, as {column.others.total():,} of {present:,} values ({strays.shown(column.others)})"
            another_way = column.mode == "numbers" and 2 * strays.count_amounts(column.others) >= column.others.total()
            remedy = f"{strays.PLAIN};" if another_way else "correct it, leave it empty if it is unknown,"
            raise TableError(f"{source.place(row, column.name)}: {found}; {remedy} or pass --categorical {column.name}")
        raise RereadError("texts")
    _check_dots(column)
    if _is_of_codes(column) or column.declared:
        raise RereadError("texts")
    _check_range(column, missing_rate)
    if column.mode == "datetimes":
        return Feature(name=column.name, kind="datetime", missing_rate=missing_rate, day_first=_day_first(column))
    low, high = float(np.float32(column.low)), float(np.float32(column.high))
    return Feature(name=column.name, kind="numeric", integer=column.integer, low=low, high=high, missing_rate=missing_rate)


def _check_range(column: Column, missing_rate: float) -> None:
    """Raises UnusableError where the values do not differ, or not for float32."""
    numbers = column.mode == "numbers"
    if column.low == column.high and not missing_rate:
        raise UnusableError("constant", _number(column))
    if not numbers and not column.varies and not missing_rate:
        raise UnusableError("of the same hour, weekday and month throughout, of which alone a model takes notice")
    if numbers and np.float32(column.low) == np.float32(column.high) and not missing_rate:
        reason = "constant in float32, in which models compute: subtract a number close to its values, or, if these are codes, "
        raise UnusableError(f"{reason}--categorical {column.name}", _number(column))
    if numbers and column.low < column.high and column.high - column.low < RANGE_LEAST:
        raise UnusableError("all but constant, as its values differ by less than 1e-30: multiply them")


def _text_feature(column: Column, missing_rate: float) -> Feature:
    present, fitting = column.present.total(), column.fitting.total()
    if not column.asked and fitting:
        _check_files(column)
        if fitting >= (1 - STRAY) * (present - column.lacking.total()) and column.tried != "numbers":
            raise RereadError("numbers")
    if not column.asked and column.dated and column.tried not in ("numbers", "datetimes"):
        raise RereadError("datetimes")
    if len(column.texts) == 1 and not missing_rate:
        raise UnusableError("constant", _word(column))
    boolean = is_boolean(column)
    if column.asked == "boolean" and not boolean:
        source = next(iter(column.present))
        raise TableError(f"{source.path}, column {column.name}: not only true, false, yes, no, 1 and 0; use --categorical")
    if boolean:
        return Feature(name=column.name, kind="boolean", missing_rate=missing_rate)
    if not column.asked and ("cells" in column.families or column.tried == "datetimes"):
        column.strays = strays.find(column.name, "datetimes" if column.tried == "datetimes" else "numbers", column.texts)
    elif not column.asked and "texts" in column.families:
        column.strays = strays.stored_as_texts(column.name, column.texts)
    many = len(column.texts) > FEW_LEVELS and len(column.texts) > present / 2
    if not column.asked and (many or len(column.texts) == present >= FEW_ROWS):
        raise UnusableError(f"{len(column.texts)} distinct texts in {present} rows: an identifier, or free text")
    return _categorical(column, missing_rate)


def words_of(column: Column) -> set[str]:
    """Its texts, blanks and capital letters left aside."""
    return {text.strip().lower() for text in column.texts}


def is_boolean(column: Column) -> bool:
    """Whether a column of texts is a boolean."""
    words = words_of(column)
    if column.asked == "categorical" or column.declared or not words <= arrow.BOOLEANS.keys():
        return False
    return column.asked == "boolean" or any(words <= pair for pair in YES_AND_NO)


def _categorical(column: Column, missing_rate: float) -> Feature:
    """Categories by falling count, then as texts. Integers where every one is written as one."""
    ordered = sorted(column.texts, key=lambda text: (-column.texts[text], text))
    if "texts" not in column.families and all(_whole(text) is not None for text in ordered):
        counts: Counter[int] = Counter()
        for text, count in column.texts.items():
            counts[_whole(text) or 0] += count
        codes = tuple(sorted(counts, key=lambda number: (-counts[number], number))[:MOST_CATEGORIES])
        return Feature(name=column.name, kind="categorical", integer=True, categories=codes, missing_rate=missing_rate)
    texts = tuple(ordered[:MOST_CATEGORIES])
    return Feature(name=column.name, kind="categorical", categories=texts, missing_rate=missing_rate)


def _check_files(column: Column) -> None:
    numbers = [source for source in column.present if column.fitting[source] == column.present[source] - column.lacking[source]]
    texts = [source for source in column.present if column.fitting[source] == 0]
    if numbers and texts:
        places = f"{column.mode if column.mode == 'datetimes' else 'numbers'} in {numbers[0].path} and text in {texts[0].path}"
        raise TableError(f"column {column.name}: {places}; write both alike or pass --categorical {column.name}")


def _check_dots(column: Column) -> None:
    if column.dots.separate_thousands:
        where = f"{next(iter(column.present)).path}, column {column.name}"
        found = "each dot stands before three digits, and what has none is below 1,000, as where dots separate thousands"
        raise TableError(f"{where}: {found}; write them as 1234, or pass --numeric {column.name} if they are decimal points")


def _is_of_codes(column: Column) -> bool:
    """Whether its numbers are written as postcodes and telephone numbers are; with a negative one, a plus is but a sign."""
    codes = column.zeros + (column.pluses if column.low >= 0 else 0)
    return column.integer and column.families.keys() == {"cells"} and codes > STRAY * column.present.total()


def _day_first(column: Column) -> bool | None:
    """What dates with slashes have first, once for the whole column. Raises TableError where they contradict each other."""
    if {"day", "month"} <= column.orders.keys():
        (source, row), (other, at) = column.orders["day"], column.orders["month"]
        found = f"a date with the day first, and one with the month first in {other.path}, row {at}"
        raise TableError(f"{source.place(row, column.name)}: {found}; write all as 2026-11-23, or pass --drop {column.name}")
    return "day" in column.orders if column.orders else None


def _number(column: Column) -> Scalar | None:
    """The one number that it has; none of a datetime, since the clock moves on."""
    if column.mode == "datetimes":
        return None
    return int(column.low) if column.integer and abs(column.low) <= WHOLE_MAX else column.low


def _word(column: Column) -> Scalar:
    """The one value of texts: a boolean or a whole number where records have such a one."""
    (text,) = column.texts
    word = text.strip().lower()
    if word in arrow.BOOLEANS and (word in ("true", "false") or column.asked == "boolean"):
        return bool(arrow.BOOLEANS[word])
    number = None if "texts" in column.families else _whole(text)
    return text if number is None else number


def _whole(text: str) -> int | None:
    """The whole number that a text is the usual form of; 007 is a name, not a number."""
    digits = text.removesuffix(".0")
    try:
        number = int(digits)
    except ValueError:
        return None
    return number if str(number) == digits and abs(number) <= WHOLE_MAX else None
