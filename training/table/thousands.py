"""Dots that separate thousands: 2.413, 920 and 7.851 are whole numbers, though any reader takes two of them for fractions."""

from __future__ import annotations

import re

from arro3 import compute
from arro3.core import Array, dictionary_dictionary

from service import arrow

LEAST = {"grouped": 20, "whole": 3}  # different numbers with a dot, and without: 0 beside three decimals is no separator
MOST = 50_000  # cells, of which so many tell it, if any do
_SO = re.compile(r"[-+]?(?:(?P<grouped>[1-9]\d{0,2}\.\d{3})|(?P<whole>[1-9]\d{0,2})|0)", re.ASCII)
_SHAPE = str.maketrans("23456789", "1" * 8)  # many numbers have few shapes, and to look at each number takes long


class Dots:
    """What the cells of a column of numbers tell of its dots."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {form: set() for form in LEAST}
        self._cells = 0
        self._are_decimal = False  # a cell is not written so, or too few are

    def see(self, array: Array) -> None:
        """Takes in the cells of a batch."""
        if self._are_decimal:
            return
        cells = [cell for cell in dictionary_dictionary(compute.dictionary_encode(array)).to_pylist() if cell]
        shapes = {shape.strip() for shape in set("\n".join(cells).translate(_SHAPE).split("\n")) if not arrow.lacks(shape)}
        found = [_SO.fullmatch(shape) for shape in shapes]
        for form, least in LEAST.items():
            if len(self._seen[form]) < least and any(shape and shape[form] for shape in found):
                self._seen[form].update(cell for cell in cells if (one := _SO.fullmatch(cell.strip())) and one[form])
        self._cells += len(array)
        self._are_decimal = None in found or (self._cells >= MOST and not self._has_enough)

    @property
    def separate_thousands(self) -> bool:
        """Whether each dot stands before three digits and after some, and what has none is whole and below 1,000."""
        return self._has_enough and not self._are_decimal

    @property
    def _has_enough(self) -> bool:
        return all(len(self._seen[form]) >= least for form, least in LEAST.items())
