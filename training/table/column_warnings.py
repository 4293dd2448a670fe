"""What the user should know of a column: how it was read where something else may have been meant."""

from __future__ import annotations

import numpy as np

from service import arrow
from training.table import kinds, strays
from training.table.column import Column
from training.table.whole_numbers import is_date, is_epoch, looks_like_codes

STEPS_LEAST = 10_000  # of float32, from the least to the largest value of a column: with fewer, some become equal
PLAIN_WORDS = {"true", "false", "yes", "no"}  # one of them, beside others of arrow.BOOLEANS: y and f alone may be codes


def warnings_of(column: Column, *, dropped: bool = False) -> list[str]:
    """What the user should know of the column, that became a feature or was dropped. No value of the table is in it."""
    became = "left out" if dropped else "a category now"
    if column.strays:
        return [column.strays.warning(became)]
    if column.mode == "texts" and not column.asked and (found := strays.unread(column.texts)):
        return [f"column {column.name} is {became}; {found}; or pass --categorical {column.name}"]
    if dropped:
        return []
    of_mode = {"numbers": _of_numbers, "datetimes": _of_datetimes, "texts": _of_texts}
    told = of_mode[column.mode](column) if column.mode else None
    return [f"column {column.name}{told}"] if told else []


def _of_numbers(column: Column) -> str | None:
    name, low, high = column.name, column.low, column.high
    drop = f"pass --drop {name}"
    if low < high and is_epoch(low, high):
        read = "its numbers look like times since 1970, in seconds or parts of one, of which float32 knows few"
        return f": {read}; is this a time? then write it as 2026-11-23T14:05:00, or {drop}"
    if low < high and column.integer and is_date(low, high):
        return f": its whole numbers look like dates without dashes; is this a date? then write it as 2026-11-23, or {drop}"
    if column.integer and column.rising and column.rows > kinds.FEW_LEVELS:
        return f" rises from row to row, as an identifier does; if it is one, {drop}"
    if low == high:
        return ": one value, or none; what is learned of it is whether it is missing, hardly which value"
    step = float(np.spacing(np.float32(min(max(abs(low), abs(high)), 1e38))))
    exact = column.integer and step <= 1  # whole numbers up to 2^24 lose nothing
    if high - low < STEPS_LEAST * step and not exact:
        read = f"models compute in float32, which knows numbers of this size in steps of {step:.2g} only"
        return f": {read}; subtract a number close to its values"
    if not column.asked and column.integer and looks_like_codes(column.whole, column.present.total()):
        read = f"{len(column.whole)} whole numbers with gaps between them, read as amounts"
        return f": {read}; if these are codes, pass --categorical {name}"
    return None


def _of_datetimes(column: Column) -> str | None:
    if set(column.orders) != {"either"}:
        return None
    read = "dates with slashes, such as 03/04/2026, are read with the month first, though no value tells that it is so"
    return f": {read}; write them as 2026-03-04"


def _of_texts(column: Column) -> str | None:
    if column.tried == "numbers" and column.fitting.total() == column.present.total() - column.lacking.total():
        read = "its numbers have leading zeros or plus signs, as codes and telephone numbers have, so they are categories"
        return f": {read}; pass --numeric {column.name} if they are amounts"
    if kinds.is_boolean(column):
        return None
    words = kinds.words_of(column)
    if not column.asked and words <= arrow.BOOLEANS.keys() and words & PLAIN_WORDS:
        read = "its categories look like a boolean that is written in several ways"
        return f": {read}; write it in one, or pass --boolean {column.name}"
    if alike := _alike(column):
        return f": {alike}; write those alike that mean the same"
    if (levels := len(column.texts)) > (most := kinds.MOST_CATEGORIES):
        return f": {levels} categories; those beyond the {most} most frequent are unknown"
    return None


def _alike(column: Column) -> str | None:
    """How many categories only blanks or capital letters tell from another one."""
    bare = {text.strip() for text in column.texts}
    blanks, letters = len(column.texts) - len(bare), len(bare) - len({text.casefold() for text in bare})
    marks = " and ".join(["blanks around them"] * bool(blanks) + ["capital letters"] * bool(letters))
    return f"{blanks + letters:,} of its categories differ from another one only by {marks}" if marks else None
