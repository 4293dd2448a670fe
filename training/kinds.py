"""What a column is: facts gathered batch by batch over the rows that train, then one decision.

A column is read in one of three modes: as numbers, as datetimes, or as texts, which are counted (categories, booleans). The first
batch that holds values chooses; a column that turns out to be something else asks to be read once more in the other mode.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType, dictionary_dictionary
from numpy.typing import NDArray

from service import arrow, datetimes
from service.manifest import Feature, Kind, Scalar
from service.sources import Source, TableError
from training import strays
from training.whole_numbers import FEW_CODES, is_epoch, looks_like_codes

MOST_CATEGORIES = 10_000
FEW_LEVELS = 100  # a text column with more of them, in most rows another one, names its rows
FEW_ROWS = 20  # so does one of at least so many values that all differ
STRAY = 0.01  # up to this share of cells that are no number among numbers is a mistake; beyond it, the column is text
FLOAT32_MAX = float(np.finfo(np.float32).max)
HEAD = 1_000  # values that are looked at to choose how to read a column
STEPS_LEAST = 10_000  # of float32, from the least to the largest value of a column: with fewer, some become equal
# Words that are true and false beside each other; N beside F are two codes.
YES_AND_NO = (
    {"true", "false", "t", "f"},
    {"true", "false", "1", "0"},
    {"yes", "no", "y", "n"},
    {"yes", "no", "1", "0"},
)
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
WHOLE_MAX = 2.0**53  # float64 tells whole numbers apart up to here

Mode = Literal["numbers", "datetimes", "texts"]
CODE = re.compile(r"\s*(?:0|(\+))\d+\s*", re.ASCII)  # 01067, +49111
MODES: dict[Kind, Mode] = {"numeric": "numbers", "datetime": "datetimes", "boolean": "texts", "categorical": "texts"}
# How a file holds a column: CSV cells can be anything, Arrow types say what they are. And what may be asked of it.
FAMILIES = {
    "numeric": {"cells", "numbers"},
    "categorical": {"cells", "texts", "numbers"},
    "boolean": {"cells", "texts", "numbers", "booleans"},
    "datetime": {"cells", "texts", "datetimes"},
}


class RereadError(Exception):
    """The column must be read once more, in this mode."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode


class UnusableError(Exception):
    """No feature can be made of the column; the text is the reason. Of a constant one, `value` is what it has, as JSON has it."""

    def __init__(self, reason: str, value: Scalar | None = None) -> None:
        super().__init__(reason)
        self.value = value


class Column:
    """What has been seen of a column of a table."""

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
        self.orders: dict[datetimes.Order, tuple[Source, int]] = {}  # of dates with slashes, and the first row of each
        self.parts: NDArray[np.float32] | None = None  # mode datetimes: (3,) of the first value
        self.varies = False  # whether another one has others
        self.unread = False  # a batch came by before anything said how to read it
        self.dated = False  # mode texts: whether a file begins with datetimes
        self.strays: strays.Strays | None = None
        self.declared = False  # a dictionary of whole numbers, as pandas writes its categories: whoever made it means categories
        self.whole: Counter[float] = Counter()  # mode numbers: whole numbers, as long as they are few

    def see(self, array: Array, source: Source, rows: NDArray[np.int64]) -> None:
        """Takes in values of a batch; rows (n,) are their numbers in the file. Raises TableError."""
        if not self.asked and DataType.is_dictionary(array.type) and DataType.is_integer(array.type.value_type):
            self.declared, self.mode = True, self.mode or "texts"
        array = arrow.plain(array)
        family = _family(array, source)
        if family == "others":
            raise TableError(f"{source.path}, column {self.name}: its type is neither number, text, boolean nor date; use --drop")
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
            if self.mode == "numbers" and family == "cells" and self.integer and not self.asked:
                self._see_codes(array)
            if self.mode == "datetimes" and family != "datetimes":
                self._see_orders(array.to_pylist(), source, rows)
            self._see_values(values, wrong, source, rows)
            if wrong:
                self.others.update(compute.take(array, Array.from_numpy(np.array(wrong))).to_pylist())

    def feature(self) -> Feature:
        """The feature that the column is. Raises RereadError, UnusableError or, where it is ambiguous, TableError."""
        if self.unread and self.mode in (None, "texts"):
            raise RereadError("texts")
        present, fitting = self.present.total(), self.fitting.total()
        if not present:
            raise UnusableError("no values")
        if not self.asked and PANDAS_INDEX.fullmatch(self.name):
            raise UnusableError("the index of a pandas table")
        missing_rate = 1 - present / self.rows
        if self.mode == "texts":
            return self._text_feature(missing_rate)
        if fitting < present and self.stray:
            if not self.asked:
                self._check_files()
            if self.asked or fitting >= (1 - STRAY) * present:
                source, row = self.stray
                wanted = "number" if self.mode == "numbers" else "datetime"
                found = f"not a {wanted}, as {self.others.total():,} of {present:,} values ({strays.shown(self.others)})"
                another_way = self.mode == "numbers" and 2 * strays.count_amounts(self.others) >= self.others.total()
                remedy = f"{strays.PLAIN};" if another_way else "correct it, leave it empty if it is unknown,"
                raise TableError(f"{source.place(row, self.name)}: {found}; {remedy} or pass --categorical {self.name}")
            raise RereadError("texts")
        if self._is_of_codes() or self.declared:
            raise RereadError("texts")
        if self.low == self.high and not missing_rate:
            raise UnusableError("constant", self._number())
        if self.mode == "datetimes" and not self.varies and not missing_rate:
            raise UnusableError("of the same hour, weekday and month throughout, of which alone a model takes notice")
        if self.mode == "numbers" and np.float32(self.low) == np.float32(self.high) and not missing_rate:
            reason = "constant in float32, in which models compute: subtract a number close to its values"
            raise UnusableError(reason, self._number())
        if self.mode == "datetimes":
            return Feature(name=self.name, kind="datetime", missing_rate=missing_rate, day_first=self._day_first())
        low, high = float(np.float32(self.low)), float(np.float32(self.high))
        return Feature(name=self.name, kind="numeric", integer=self.integer, low=low, high=high, missing_rate=missing_rate)

    def warnings(self, *, dropped: bool = False) -> list[str]:
        """What the user should know of the column, that became a feature or was dropped. No value of the table is in it."""
        if self.strays:
            return [self.strays.warning("left out" if dropped else "a category now")]
        if self.mode == "texts" and not self.asked and (found := strays.unread(self.texts)):
            became = "left out" if dropped else "a category now"
            return [f"column {self.name} is {became}; {found}; or pass --categorical {self.name}"]
        if dropped:
            return []
        if self.mode == "numbers" and self.integer and self.low < self.high and is_epoch(self.low, self.high):
            read = "its whole numbers look like times in seconds or milliseconds since 1970, of which float32 knows few"
            return [
                f"column {self.name}: {read}; is this a time? then write it as 2026-11-23T14:05:00, or pass --drop {self.name}"
            ]
        if self.mode == "numbers" and self.integer and self.rising and self.rows > FEW_LEVELS:
            return [f"column {self.name} rises from row to row, as an identifier does; if it is one, pass --drop {self.name}"]
        if self.mode == "numbers" and self.low == self.high:
            return [f"column {self.name}: one value, or none; what is learned of it is whether it is missing, hardly which value"]
        step = float(np.spacing(np.float32(max(abs(self.low), abs(self.high))))) if self.mode == "numbers" else 0.0
        exact = self.integer and step <= 1  # whole numbers up to 2^24 lose nothing
        if step and self.high - self.low < STEPS_LEAST * step and not exact:
            read = f"models compute in float32, which knows numbers of this size in steps of {step:.2g} only"
            return [f"column {self.name}: {read}; subtract a number close to its values"]
        fit = self.fitting.total() == self.present.total() - self.lacking.total()
        if self.mode == "texts" and self.tried == "numbers" and fit:
            read = "its numbers have leading zeros or plus signs, as codes and telephone numbers have, so they are categories"
            return [f"column {self.name}: {read}; pass --numeric {self.name} if they are amounts"]
        blank = sum(text != text.strip() and text.strip() in self.texts for text in self.texts)
        if blank:
            read = f"{blank:,} of its categories differ from another one only by blanks around them"
            return [f"column {self.name}: {read}; remove the blanks if they mean nothing"]
        if set(self.orders) == {"either"}:
            read = "dates with slashes, such as 03/04/2026, are read with the month first, though no value tells that it is so"
            return [f"column {self.name}: {read}; write them as 2026-03-04"]
        if len(self.texts) > MOST_CATEGORIES:
            return [
                f"column {self.name}: {len(self.texts)} categories; those beyond the {MOST_CATEGORIES} most frequent are unknown"
            ]
        if not self.asked and self.mode == "numbers" and self.integer and looks_like_codes(self.whole, self.present.total()):
            read = f"{len(self.whole)} whole numbers with gaps between them, read as amounts"
            return [f"column {self.name}: {read}; if these are codes, pass --categorical {self.name}"]
        return []

    def _check_families(self) -> None:
        for family, source in self.families.items():
            if self.asked and family not in FAMILIES[self.asked]:
                raise TableError(f"{source.path}, column {self.name}: holds {family}; it cannot be {self.asked}")
        if len(typed := [family for family in self.families if family != "cells"]) > 1:
            places = " and ".join(f"{family} in {self.families[family].path}" for family in typed)
            raise TableError(f"column {self.name}: {places}; write both alike or pass --drop {self.name}")

    def _check_files(self) -> None:
        numbers = [source for source in self.present if self.fitting[source] == self.present[source] - self.lacking[source]]
        texts = [source for source in self.present if self.fitting[source] == 0]
        if numbers and texts:
            places = f"{self.mode if self.mode == 'datetimes' else 'numbers'} in {numbers[0].path} and text in {texts[0].path}"
            raise TableError(f"column {self.name}: {places}; write both alike or pass --categorical {self.name}")

    def _see_values(self, values: NDArray[np.float64], wrong: list[int], source: Source, rows: NDArray[np.int64]) -> None:
        there = values[~np.isnan(values)]
        self.present[source] += len(there) + len(wrong)
        self.fitting[source] += len(there)
        if wrong and not self.stray:
            self.stray = source, int(rows[wrong[0]])
        if not len(there):
            return
        low, high = float(there.min()), float(there.max())
        if self.mode == "numbers" and not -FLOAT32_MAX <= low <= high <= FLOAT32_MAX:
            row = int(rows[np.flatnonzero(np.abs(values) > FLOAT32_MAX)[0]])
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

    def _see_codes(self, array: Array) -> None:
        begins, _ = arrow.by_distinct(array, _begins)
        self.zeros += int((begins == 0).sum())
        self.pluses += int((begins == 1).sum())

    def _is_of_codes(self) -> bool:
        """Whether its numbers are written as postcodes and telephone numbers are; with a negative one, a plus is but a sign."""
        codes = self.zeros + (self.pluses if self.low >= 0 else 0)
        return self.integer and self.families.keys() == {"cells"} and codes > STRAY * self.present.total()

    def _see_orders(self, texts: list[str | None], source: Source, rows: NDArray[np.int64]) -> None:
        for row, text in enumerate(texts):
            if text is not None and "/" in text and (order := datetimes.order(text)):
                self.orders.setdefault(order, (source, int(rows[row])))

    def _day_first(self) -> bool | None:
        """What dates with slashes have first, once for the whole column. Raises TableError where they contradict each other."""
        if {"day", "month"} <= self.orders.keys():
            (source, row), (other, at) = self.orders["day"], self.orders["month"]
            found = f"a date with the day first, and one with the month first in {other.path}, row {at}"
            raise TableError(f"{source.place(row, self.name)}: {found}; write all as 2026-11-23, or pass --drop {self.name}")
        return "day" in self.orders if self.orders else None

    def _see_texts(self, array: Array, family: str, source: Source) -> None:
        if family == "numbers":
            numbers, times = np.unique(arrow.floats(array), return_counts=True, equal_nan=True)
            there = ~np.isnan(numbers)
            if (numbers[there] != np.floor(numbers[there])).any() or (np.abs(numbers[there]) > WHOLE_MAX).any():
                raise TableError(
                    f"{source.path}, column {self.name}: not only whole numbers; it cannot be {self.asked or 'categorical'}"
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

    def _text_feature(self, missing_rate: float) -> Feature:
        present, fitting = self.present.total(), self.fitting.total()
        if not self.asked and fitting:
            self._check_files()
            if fitting >= (1 - STRAY) * (present - self.lacking.total()) and self.tried != "numbers":
                raise RereadError("numbers")
        if not self.asked and self.dated and self.tried not in ("numbers", "datetimes"):
            raise RereadError("datetimes")
        if len(self.texts) == 1 and not missing_rate:
            raise UnusableError("constant", self._word())
        words = {text.strip().lower() for text in self.texts}
        boolean = words <= arrow.BOOLEANS.keys() and (self.asked == "boolean" or any(words <= pair for pair in YES_AND_NO))
        if self.asked == "boolean" and not boolean:
            source = next(iter(self.present))
            raise TableError(f"{source.path}, column {self.name}: not only true, false, yes, no, 1 and 0; use --categorical")
        if boolean and self.asked != "categorical" and not self.declared:
            return Feature(name=self.name, kind="boolean", missing_rate=missing_rate)
        if not self.asked and ("cells" in self.families or self.tried == "datetimes"):
            self.strays = strays.find(self.name, "datetimes" if self.tried == "datetimes" else "numbers", self.texts)
        many = len(self.texts) > FEW_LEVELS and len(self.texts) > present / 2
        if not self.asked and (many or len(self.texts) == present >= FEW_ROWS):
            raise UnusableError(f"{len(self.texts)} distinct texts in {present} rows: an identifier, or free text")
        return self._categorical(missing_rate)

    def _number(self) -> Scalar | None:
        """The one number that it has; none of a datetime, since the clock moves on."""
        if self.mode == "datetimes":
            return None
        return int(self.low) if self.integer and abs(self.low) <= WHOLE_MAX else self.low

    def _word(self) -> Scalar:
        """The one value of texts: a boolean or a whole number where records have such a one."""
        (text,) = self.texts
        word = text.strip().lower()
        if word in arrow.BOOLEANS and (word in ("true", "false") or self.asked == "boolean"):
            return bool(arrow.BOOLEANS[word])
        number = None if "texts" in self.families else _whole(text)
        return text if number is None else number

    def _categorical(self, missing_rate: float) -> Feature:
        """Categories by falling count, then as texts. Integers where every one is written as one."""
        ordered = sorted(self.texts, key=lambda text: (-self.texts[text], text))
        if "texts" not in self.families and all(_whole(text) is not None for text in ordered):
            counts: Counter[int] = Counter()
            for text, count in self.texts.items():
                counts[_whole(text) or 0] += count
            codes = tuple(sorted(counts, key=lambda number: (-counts[number], number))[:MOST_CATEGORIES])
            return Feature(name=self.name, kind="categorical", integer=True, categories=codes, missing_rate=missing_rate)
        texts = tuple(ordered[:MOST_CATEGORIES])
        return Feature(name=self.name, kind="categorical", categories=texts, missing_rate=missing_rate)


def _family(array: Array, source: Source) -> str:
    kind = array.type
    if source.is_csv:
        return "cells"
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


def _whole(text: str) -> int | None:
    """The whole number that a text is the usual form of; 007 is a name, not a number."""
    digits = text.removesuffix(".0")
    try:
        number = int(digits)
    except ValueError:
        return None
    return number if str(number) == digits and abs(number) <= WHOLE_MAX else None
