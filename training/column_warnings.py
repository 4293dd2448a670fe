"""What the user should know of a column: how it was read where something else may have been meant."""

from __future__ import annotations

import numpy as np

from training import kinds, strays
from training.column import Column
from training.whole_numbers import is_epoch, looks_like_codes

STEPS_LEAST = 10_000  # of float32, from the least to the largest value of a column: with fewer, some become equal


def warnings_of(column: Column, *, dropped: bool = False) -> list[str]:
    """What the user should know of the column, that became a feature or was dropped. No value of the table is in it."""
    if column.strays:
        return [column.strays.warning("left out" if dropped else "a category now")]
    if column.mode == "texts" and not column.asked and (found := strays.unread(column.texts)):
        became = "left out" if dropped else "a category now"
        return [f"column {column.name} is {became}; {found}; or pass --categorical {column.name}"]
    if dropped:
        return []
    if column.mode == "numbers" and column.integer and column.low < column.high and is_epoch(column.low, column.high):
        read = "its whole numbers look like times in seconds or milliseconds since 1970, of which float32 knows few"
        return [
            f"column {column.name}: {read}; is this a time? then write it as 2026-11-23T14:05:00, or pass --drop {column.name}"
        ]
    if column.mode == "numbers" and column.integer and column.rising and column.rows > kinds.FEW_LEVELS:
        return [f"column {column.name} rises from row to row, as an identifier does; if it is one, pass --drop {column.name}"]
    if column.mode == "numbers" and column.low == column.high:
        return [f"column {column.name}: one value, or none; what is learned of it is whether it is missing, hardly which value"]
    step = float(np.spacing(np.float32(max(abs(column.low), abs(column.high))))) if column.mode == "numbers" else 0.0
    exact = column.integer and step <= 1  # whole numbers up to 2^24 lose nothing
    if step and column.high - column.low < STEPS_LEAST * step and not exact:
        read = f"models compute in float32, which knows numbers of this size in steps of {step:.2g} only"
        return [f"column {column.name}: {read}; subtract a number close to its values"]
    fit = column.fitting.total() == column.present.total() - column.lacking.total()
    if column.mode == "texts" and column.tried == "numbers" and fit:
        read = "its numbers have leading zeros or plus signs, as codes and telephone numbers have, so they are categories"
        return [f"column {column.name}: {read}; pass --numeric {column.name} if they are amounts"]
    blank = sum(text != text.strip() and text.strip() in column.texts for text in column.texts)
    if blank:
        read = f"{blank:,} of its categories differ from another one only by blanks around them"
        return [f"column {column.name}: {read}; remove the blanks if they mean nothing"]
    if set(column.orders) == {"either"}:
        read = "dates with slashes, such as 03/04/2026, are read with the month first, though no value tells that it is so"
        return [f"column {column.name}: {read}; write them as 2026-03-04"]
    if (levels := len(column.texts)) > (most := kinds.MOST_CATEGORIES):
        return [f"column {column.name}: {levels} categories; those beyond the {most} most frequent are unknown"]
    of_whole_numbers = not column.asked and column.mode == "numbers" and column.integer
    if of_whole_numbers and looks_like_codes(column.whole, column.present.total()):
        read = f"{len(column.whole)} whole numbers with gaps between them, read as amounts"
        return [f"column {column.name}: {read}; if these are codes, pass --categorical {column.name}"]
    return []
