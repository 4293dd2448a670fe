"""Columns that are mostly numbers or datetimes, and are texts because of the rest: what the rest is, and the remedy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from service import arrow, datetimes
from service.sources import TableError

MOSTLY = 0.5  # above this share, counting numbers that are written in another way, a column is told of
SHOWN = 3  # distinct values, the most frequent ones
WIDEST = 40  # characters of a value that is shown

# 12,5  1.234,50  1,234.00  1 234  1'234  12%  $5  5 EUR are amounts, though no reader of numbers takes them.
_AMOUNT = re.compile(
    r"""(?: [-+]?[$€£¥]? | [$€£¥][ ]?[-+]? ) [ ]?
    (?: \d+ | [1-9]\d{0,2} (?: (?P<mark>[,.'\ \u00a0\u202f]) \d{3} ) (?: (?P=mark) \d{3} )* )
    (?: [.,]\d+ )? [ ]? (?: % | [$€£¥] | (?: EUR | USD | GBP | CHF | JPY ) )?""",
    re.VERBOSE | re.ASCII,
)
_NEGATIVE = re.compile(r"\((?P<inner>[^-+]+)\)|(?P<before>[^-+]+)-")  # (39) and, as SAP writes it, 185-
# 612 345 678 and 30.123.456 may be numbers of telephones and of people as well.
_DIGITS = re.compile(r"[-+]?\d{1,3}(?:(?:[ \u00a0\u202f]\d{3})+|(?:\.\d{3}){2,})", re.ASCII)
# Feb 04, 2017  04-Feb-2017  Feb-17  02/04/17 13:28  04.02.17  2017-02  13:28  13:28:05 tell times, though no reader takes them.
_TIME = re.compile(
    r"""(?i: [a-z]{3,9} \.? [ ] \d{1,2} ,? [ ] \d{4} | \d{1,2} [- ] [a-z]{3,9} [-, ]+ \d{2,4} )
    | (?i: (?: jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec ) [a-z]{0,6} [-., ]+ (?: \d{2} | \d{4} ) )
    | (?: 0?[1-9] | [12]\d | 3[01] ) (?P<mark>[/.]) (?: 0?[1-9] | [12]\d | 3[01] ) (?P=mark) \d{2}
      (?: [ ] \d{1,2} : \d{2} (?: : \d{2} )? )?
    | \d{4} - \d{2} | \d{1,2} : \d{2} (?: : \d{2} )?""",
    re.VERBOSE | re.ASCII,
)
_WHOLE = re.compile(r"[-+]?\d+", re.ASCII)
_WITH_UNIT = re.compile(r"[-+]?\d+(?:[.,]\d+)?[ ]?(?P<unit>[^\W\d_]{1,4}|\N{DEGREE SIGN}[CF])")  # 362MB  8°C  4 pcs
VALUES_LEAST = 3  # different ones, that tell how a column is written
PLAIN = "write all as 1234.5 or -1234.5: a decimal point, no separator of thousands, no % and no currency"
CAST = "write them as numbers in the file"
NEARLY = 0.95  # of the values, from which a column is one of numbers, in whatever notation


@dataclass(frozen=True)
class Strays:
    """What is no number, or no datetime, in a column that mostly holds them."""

    column: str
    wanted: Literal["numbers", "datetimes"]
    fitting: int  # values
    others: Counter[str]
    amounts: int  # of the others, numbers that are written in another way
    are_texts: bool = False  # by their type, in a file that has types: no number is plain then

    def warning(self, became: str) -> str:
        """What was found, without any value, and what to do."""
        if self.are_texts:
            return f"column {self.column}: its texts are numbers, so it is {became}; {CAST}; or pass --categorical {self.column}"
        n = self.others.total()
        found = f"{100 * self.fitting / (self.fitting + n):.3g} % of its values are plain {self.wanted} and {n:,} are not"
        if self.amounts:
            found += f" ({self.amounts:,} of them are numbers written in another way)"
        remedy = "correct the others, or leave the cell empty where nothing is known"
        if 2 * self.amounts >= n:
            remedy = PLAIN
        return f"column {self.column}: {found}, so it is {became}; {remedy}; or pass --categorical {self.column}"

    @property
    def are_numbers(self) -> bool:
        """Whether nearly all values are numbers, many in another notation, so that to leave the column out would be a mistake."""
        digits = sum(n for text, n in self.others.items() if _DIGITS.fullmatch(text.strip()))
        nearly = self.fitting + self.amounts >= NEARLY * (self.fitting + self.others.total())
        return nearly and self.amounts > 2 * digits

    def shown(self) -> str:
        """Some of the values, for the terminal of whoever has the table."""
        return shown(self.others)


def find(column: str, wanted: Literal["numbers", "datetimes"], texts: Counter[str]) -> Strays | None:
    """The strays among the texts of a column, if most of the others are what is wanted."""
    if wanted == "numbers":
        values = [arrow.parse_number(text) for text in texts]
        is_other = [value is None for value in values]
        lacking = [value is not None and np.isnan(value) for value in values]
    else:
        lacking = [arrow.lacks(text) for text in texts]
        is_other = (np.isnat(datetimes.parse(list(texts))) & ~np.array(lacking)).tolist()
    others = Counter({text: n for (text, n), other in zip(texts.items(), is_other, strict=True) if other})
    fitting = texts.total() - others.total() - sum(n for n, lacks in zip(texts.values(), lacking, strict=True) if lacks)
    amounts = count_amounts(others) if wanted == "numbers" else 0
    if not others or fitting + amounts <= MOSTLY * (fitting + others.total()):
        return None
    return Strays(column, wanted, fitting, others, amounts)


def stored_as_texts(column: str, texts: Counter[str]) -> Strays | None:
    """The texts of a column that has the type of texts, if nearly all are numbers, and most not of digits alone, as codes are."""
    others = Counter({text: n for text, n in texts.items() if not arrow.lacks(text)})
    codes = sum(n for text, n in others.items() if _WHOLE.fullmatch(text.strip()))
    amounts = sum(n for text, n in others.items() if _is_amount(text.strip()) or arrow.parse_number(text) is not None)
    found = Strays(column, "numbers", 0, others, amounts, are_texts=True)
    return found if found.are_numbers and 2 * codes < others.total() else None


def check_left_out(path: Path, left_out: Sequence[Strays]) -> None:
    """Raises TableError where columns of numbers would be left out for their notation: no model of what remains was meant."""
    if numbers := [found for found in left_out if found.are_numbers]:
        names = f"column{'s' * (len(numbers) > 1)} {', '.join(found.column for found in numbers)}"
        written, remedy = ("stored as texts", CAST) if numbers[0].are_texts else ("written in another way", PLAIN)
        what = f"{names}: numbers {written} ({numbers[0].shown()}), of which nothing could be learned"
        raise TableError(f"{path}: {what}; {remedy}; or name each of them in --drop or --categorical")


def count_amounts(texts: Mapping[str, int]) -> int:
    """How many of texts that are no numbers, with how often they are there, are numbers written in another way."""
    return sum(n for text, n in texts.items() if _is_amount(text.strip()))


def _is_amount(text: str) -> bool:
    text = text.replace("\N{MINUS SIGN}", "-")
    if found := _NEGATIVE.fullmatch(text):
        text = found["inner"] or found["before"]
    return _AMOUNT.fullmatch(text) is not None


def shown(texts: Mapping[str, int]) -> str:
    """The most frequent of these texts, quoted, cut where they are long."""
    return ", ".join(map(quoted, sorted(texts, key=lambda text: (-texts[text], text))[:SHOWN]))


def quoted(text: str) -> str:
    """A value in quotes, cut where it is long."""
    return repr(text if len(text) <= WIDEST else text[:WIDEST] + "...")


def unread(texts: Counter[str]) -> str | None:
    """What the texts of a column look like, if nearly all are times, or numbers with the same unit, that are read as neither."""
    least = NEARLY * texts.total()
    if len(texts) < VALUES_LEAST:
        return None
    if sum(n for text, n in texts.items() if _TIME.fullmatch(text.strip())) >= least:
        remedy = "write them as 2026-11-23T14:05:00, or as numbers, such as hours"
        return f"its values look like times in a form that is not read: {remedy}"
    units = Counter[str]()
    for text, n in texts.items():
        if found := _WITH_UNIT.fullmatch(text.strip()):
            units[found["unit"]] += n
    if units and max(units.values()) >= least:
        return "its values look like numbers with their unit: write the numbers alone, and the unit in the name of the column"
    return None
