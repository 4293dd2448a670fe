"""What has been seen of a column of a table: facts gathered batch by batch over the rows that train.

A column is read in one of three modes: as numbers, as datetimes, or as texts, which are counted (categories, booleans). The first
batch that holds values chooses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType, dictionary_dictionary
from numpy.typing import NDArray

from service import arrow, datetimes
from service.manifest import Kind
from service.sources import Source, TableError
from training.table.strays import Strays
from training.table.thousands import Dots
from training.table.whole_numbers import FEW_CODES

HEAD = 1_000  # values that are looked at to choose how to read a column
WHOLE_MAX = 2.0**53  # float64 tells whole numbers apart up to here
CODE = re.compile(r"\s*(?:0|(\+))\d+\s*", re.ASCII)  # 01067, +49111

Mode = Literal["numbers", "datetimes", "texts"]
MODES: dict[Kind, Mode] = {"numeric": "numbers", "datetime": "datetimes", "boolean": "texts", "categorical": "texts"}
# How a file holds a column: CSV cells can be anything, Arrow types say what they are. And what may be asked of it.
FAMILIES = {
    "numeric": {"cells", "numbers"},
    "categorical": {"cells", "texts", "numbers"},
    "boolean": {"cells", "texts", "numbers", "booleans"},
    "datetime": {"cells", "texts", "datetimes"},
}


class Column:
    """What has been seen of a column."""

    def __init__(self, name: str, asked: Kind | None, mode: Mode | None = None, tried: Mode | None = None) -> None:
        """A column of which nothing was seen; asked: the kind that the user wants; tried: a mode that it turned out not to be."""
        self.name, self.asked, self.tried = name, asked, tried
        self.mode: Mode | None = MODES[asked] if asked else mode
        self.rows = 0
        self.low, self.high = np.inf, -np.inf
        self.integer = self.rising = True  # whole numbers; each above the one before
        self.texts: Counter[str] = Counter()
        self.families: dict[str, Source] = {}  # with the first file of each
        self.present: Counter[Source] = Counter()  # cells that are not missing
        self.fitting: Counter[Source] = Counter()  # those that are a number (mode texts, too) or a datetime
        self.lacking: Counter[Source] = Counter()  # mode texts: cells that lack a value if the column is one of numbers
        self.stray: tuple[Source, int] | None = None  # the first that is not fitting, and its row
        self.others: Counter[str] = Counter()  # all that are not, in mode numbers and datetimes
        self.zeros = self.pluses = 0  # whole numbers that begin so, as CODE has it
        self.dots = Dots()  # of cells that are read as numbers
        self.orders: dict[datetimes.Order, tuple[Source, int]] = {}  # of dates with slashes, and the first row of each
        self.parts: NDArray[np.float32] | None = None  # mode datetimes: (3,) of the first value
        self.varies = False  # whether another one has others
        self.unread = False  # a batch came by before anything said how to read it
        self.dated = False  # mode texts: whether a file begins with datetimes
        self.strays: Strays | None = None  # found when it was decided what the column is
        self.declared = False  # a dictionary of whole numbers, as pandas writes its categories: whoever made it means categories
        self.whole: Counter[float] = Counter()  # mode numbers: whole numbers, as long as they are few

    def see(self, array: Array, source: Source, rows: NDArray[np.int64]) -> None:
        """Takes in values of a batch; rows (n,) are their numbers in the file. Raises TableError."""
        if not self.asked and DataType.is_dictionary(array.type) and DataType.is_integer(array.type.value_type):
            self.declared, self.mode = True, self.mode or "texts"
        family = _family(array.type, source)
        array = arrow.plain(array)
        self.rows += len(array)
        if family == "nothing" or array.null_count == len(array):
            return
        self.families.setdefault(family, source)
        self._check_families()
        if self.mode is None:
            self.mode = _choose(array, family)
            self.unread = self.unread or self.mode is None
        if self.mode == "texts":
            self.dated = self.dated or (not self.present[source] and _choose(array, family) == "datetimes")
            self._see_texts(array, family, source)
        elif self.mode:
            values, wrong = _read_numbers(array, family) if self.mode == "numbers" else _read_datetimes(array, family)
            if self.mode == "numbers" and family == "cells" and not self.asked:
                self._see_notation(array)
            if self.mode == "datetimes" and family != "datetimes":
                self._see_orders(array.to_pylist(), source, rows)
            self._see_values(values, wrong, source, rows)
            if wrong:
                self.others.update(compute.take(array, Array.from_numpy(np.array(wrong))).to_pylist())

    def _check_families(self) -> None:
        for family, source in self.families.items():
            if self.asked and family not in FAMILIES[self.asked]:
                remedy = f"cast it in the file, or do without --{self.asked} {self.name}"
                raise TableError(f"{source.path}, column {self.name}: holds {family}; it cannot be {self.asked}; {remedy}")
        if len(typed := [family for family in self.families if family != "cells"]) > 1:
            places = " and ".join(f"{family} in {self.families[family].path}" for family in typed)
            raise TableError(f"column {self.name}: {places}; write both alike or pass --drop {self.name}")

    def _see_values(self, values: NDArray[np.float64], wrong: list[int], source: Source, rows: NDArray[np.int64]) -> None:
        there = values[~np.isnan(values)]
        self.present[source] += len(there) + len(wrong)
        self.fitting[source] += len(there)
        if wrong and not self.stray:
            self.stray = source, int(rows[wrong[0]])
        if not len(there):
            return
        low, high = float(there.min()), float(there.max())
        with np.errstate(over="ignore"):
            beyond = np.isinf(values.astype(np.float32))
        if self.mode == "numbers" and beyond.any():
            row = int(rows[np.flatnonzero(beyond)[0]])
            raise TableError(
                f"{source.place(row, self.name)}: an infinite value, or one beyond float32; correct it or leave it empty"
            )
        if self.mode == "datetimes":
            parts = datetimes.columns(there.astype(np.int64).view("M8[us]"))
            self.parts = parts[0] if self.parts is None else self.parts
            self.varies = self.varies or bool((parts != self.parts).any())
        self.rising = self.rising and bool(there[0] > self.high and (np.diff(there) > 0).all())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.integer = self.integer and bool((there == np.floor(there)).all())
        if self.mode == "numbers" and self.integer and len(self.whole) <= FEW_CODES:
            numbers, times = np.unique(there, return_counts=True)
            self.whole.update(dict(zip(numbers[: FEW_CODES + 1].tolist(), times.tolist(), strict=False)))

    def _see_notation(self, array: Array) -> None:
        self.dots.see(array)
        if self.integer:
            begins, _ = arrow.by_distinct(array, _begins)
            self.zeros += int((begins == 0).sum())
            self.pluses += int((begins == 1).sum())

    def _see_orders(self, texts: list[str | None], source: Source, rows: NDArray[np.int64]) -> None:
        for row, text in enumerate(texts):
            if text is not None and "/" in text and (order := datetimes.order(text)):
                self.orders.setdefault(order, (source, int(rows[row])))

    def _see_texts(self, array: Array, family: str, source: Source) -> None:
        if family == "numbers":
            numbers, times = np.unique(arrow.floats(array), return_counts=True, equal_nan=True)
            there = ~np.isnan(numbers)
            fraction = bool((numbers[there] != np.floor(numbers[there])).any())
            if fraction or (np.abs(numbers[there]) > WHOLE_MAX).any():
                found = "not only whole numbers" if fraction else "whole numbers beyond 2^53, of which last digits are lost"
                remedy = "" if fraction else "; cast it to texts in the file"
                raise TableError(
                    f"{source.path}, column {self.name}: {found}; it cannot be {self.asked or 'categorical'}{remedy}"
                )
            texts = [str(int(number)) for number in numbers[there]]
            counts = times[there].tolist()
        else:
            if family == "booleans":
                array = compute.cast(array, DataType.string())
            coded = compute.dictionary_encode(array)
            every = dictionary_dictionary(coded).to_pylist()
            places = arrow.to_numpy(arrow.indices(coded), len(every))
            kept = [place for place, text in enumerate(every) if text is not None and text not in arrow.MISSING]
            times = np.bincount(places, minlength=len(every))
            texts, counts = [every[place] for place in kept], times[kept].tolist()
        self.present[source] += sum(counts)
        if family == "cells":
            for text, count in zip(texts, counts, strict=True):
                number = arrow.parse_number(text)
                if number is not None:
                    (self.lacking if np.isnan(number) else self.fitting)[source] += count
        for text, count in zip(texts, counts, strict=True):
            self.texts[text] += count


def check_types(sources: Sequence[Source], names: Sequence[str]) -> None:
    """Raises TableError, which names them all, where columns are of types of which there are no features."""
    for source in sources:
        if others := [name for name in names if _family(source.schema.field(name).type, source) == "others"]:
            what = f"column{'s' * (len(others) > 1)} {', '.join(others)}: neither numbers, texts, booleans nor dates"
            raise TableError(f"{source.path}, {what}; use --drop {' '.join(others)}")


def _family(kind: DataType, source: Source) -> str:
    if source.is_csv:
        return "cells"
    kind = kind.value_type if DataType.is_dictionary(kind) else kind
    if DataType.is_null(kind):
        return "nothing"
    if arrow.is_text(kind):
        return "texts"
    if arrow.is_number(kind):
        return "numbers"
    if DataType.is_boolean(kind):
        return "booleans"
    return "datetimes" if arrow.is_datetime(kind) else "others"


def _choose(array: Array, family: str) -> Mode | None:
    """The mode that reads at least half of these values; None while all are missing."""
    if family in ("numbers", "datetimes"):
        return "numbers" if family == "numbers" else "datetimes"
    if family == "booleans":
        return "texts"
    head = min(len(array), HEAD)  # a slice beyond the end is no shorter slice but a panic
    texts = [text for text in array.slice(0, head).to_pylist() if text is not None and not arrow.lacks(text)]
    if not texts:
        return _choose(array.slice(head, len(array) - head), family) if len(array) > head else None
    if family == "cells" and sum(arrow.parse_number(text) is not None for text in texts) >= len(texts) / 2:
        return "numbers"
    return "datetimes" if (~np.isnat(datetimes.parse(texts))).sum() >= len(texts) / 2 else "texts"


def _read_numbers(array: Array, family: str) -> tuple[NDArray[np.float64], list[int]]:
    return arrow.parse_numbers(array) if family == "cells" else (arrow.floats(array), [])


def _read_datetimes(array: Array, family: str) -> tuple[NDArray[np.float64], list[int]]:
    texts: list[str | None] = []
    if family == "datetimes":
        wall = arrow.wall_times(array)
    else:
        texts = [None if text is None or arrow.lacks(text) else text for text in array.to_pylist()]
        wall = datetimes.parse(texts)
    values = np.where(np.isnat(wall), np.nan, wall.astype(np.int64))
    return values, [row for row, text in enumerate(texts) if text is not None and np.isnan(values[row])]


def _begins(text: str) -> float:
    """0 or 1 where a text begins as a code does, with a zero or a plus; NaN for any other."""
    found = CODE.fullmatch(text)
    return np.nan if found is None else float(found[1] is not None)
