"""From the service's x (N, C) to what the nets see: a fitted module, exported inside the graph.

A record becomes D slots: [real | boolean | one-hot]. A real slot is a number, or the cosine or sine of a part of a datetime. A
number is bent around its median (stable.bend: linear near it, like a logarithm far off), or from 0 on if it is a count that
ranges over decades, and then standardised; a boolean slot is a boolean, or whether a value is missing (where training records
lack it too); the one-hot slots of a category are its most frequent levels, one for all rarer ones and one for new ones. For
distances (views.py) numbers are also bent by the shapes of their columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.manifest import Feature
from training.shape import bend_of, counts_in_decades, middle_and_spread, with_a_value
from training.stable import atan2, bend, cos_sin, joined, unbend

ENCODED_MOST = 1 << 24  # values of slots that are made at once: a GiB with all that goes with them
LEVELS = 64  # one-hot slots of a category; of more levels than that, one slot is for all rarer ones
NEW_SHARE = 0.002  # of records whose level is new, about: where more are, a new level is as odd as a rare one, and no odder
UNIT = 3.0  # spreads around the median in which bend is about linear
SHAPE_RECORDS = 20_000  # that tell the shape of a column, at most
UNIT_LEAST, UNIT_MOST = 1e-30, 1e37  # that float32 has, and divides by
LIMIT = 1e9  # units from the origin; beyond, a number is as odd as it gets
PERIODS = (24.0, 7.0, 12.0)  # of hour, weekday, month
ENOUGH = (2, 7, 11)  # different hours, weekdays, months, with which a table tells which are usual, rather than when it was made
WORKING, LONG = 5, 3  # weekdays that are enough where there are so many months: no other came, whenever it was made
SCALE_LEAST = 1e-6
SPREAD_LEAST = 1e-9  # of a bent number: below, all training records that have it have the same
FLOAT32_MOST = 3.4e38
BENT_LIMIT = (1 + LIMIT) ** 0.125 - 1


def telling_parts(x: NDArray[np.float32]) -> list[int]:
    """Which of hour, weekday and month (N, 3) of a datetime are looked at: those that change, and of which there are ENOUGH.

    A table of one quarter does not make the next quarter odd, nor one of Monday to Saturday a Sunday; a quarter of working days
    does. Where there is enough of none, the first that changes is looked at: of dates that is the weekday.
    """
    different = [len(np.unique(part[~np.isnan(part)])) for part in x.T]
    least = (ENOUGH[0], WORKING if different[2] >= LONG else ENOUGH[1], ENOUGH[2])
    changing = [part for part, count in enumerate(different) if count > 1]
    return [part for part in changing if different[part] >= least[part]] or changing[:1]


def new_are_odd(codes: NDArray[np.float32]) -> bool:
    """Whether a level that none of the records (N,) has, NaN where missing, is odder than a rare one.

    A record has a level that none of n others has with a probability of about n1 / n, if n1 are alone with theirs (Good 1953).
    """
    _, count = np.unique(codes[~np.isnan(codes)], return_counts=True)
    return bool(np.count_nonzero(count == 1) + 1 < NEW_SHARE * (count.sum() + 1))


def pick(values: Tensor, columns: Tensor) -> Tensor:
    """These columns of (N, W); the very same tensor, and no node in the graph, where they are all in order."""
    if columns.tolist() == list(range(int(values.shape[1]))):
        return values
    return values[:, columns]


class Slots(NamedTuple):
    """A batch of records as the nets see it."""

    y: Tensor  # (N, D) values; 0 where missing
    seen: Tensor  # (N, D) 1 where the slot has a value, else 0
    hidden: Tensor  # (N, C) 1 where a column of x has none
    level: Tensor  # (N, G) the code of each category, clipped to its known levels and the unknown one
    gap: Tensor  # (N, D) 1 - seen
    missing: Tensor  # (N, D) the same as a truth value
    bent: Tensor  # (N, numerics) the numbers bent by the shapes of their columns; of a missing one that of 0, as numbers
    numbers: Tensor  # (N, numerics) the numbers themselves

    def take(self, rows: Tensor) -> Slots:
        """The records of these rows."""
        return Slots(*(part[rows] if len(part) else part for part in self))

    def to(self, device: str) -> Slots:
        """The records on this device."""
        return Slots(*(part.to(device) for part in self))


class Preprocessing(nn.Module):
    """x (N, C) -> Slots. All buffers are fixed by `__init__` from training records; nothing here is learned by gradient."""

    numeric: Tensor  # (numerics,) columns of x, as cyclic, boolean, lacking and category
    cyclic: Tensor
    boolean: Tensor
    lacking: Tensor
    category: Tensor  # (G,)
    slot_column: Tensor  # (D,) the column of x that a slot is made of
    may_lack: Tensor  # (D,) 1 where a slot may have a gap: not the one that says whether a value is missing
    slot_group: Tensor  # (S,) the category that a one-hot slot belongs to
    group_slot: Tensor  # (G widest,) the one-hot slots of each category, its first again after its last
    first_slot: Tensor  # (G,) of each category
    slot_level: Tensor  # (S,) the level that a one-hot slot stands for
    slot_code: Tensor  # (S,) the code of that level; of slots that stand for rare or new ones, that of an unknown level
    constant: Tensor  # (K,) the latest value of each part of a datetime that is not looked at
    cell: Tensor  # (C,) where a column of x is among numbers, parts of datetimes, booleans, categories and constants
    origin: Tensor  # (2 numerics,) of its two bends, in the feature's own unit, as unit
    unit: Tensor
    centre: Tensor  # (numerics,) of what bend gives, as scale
    scale: Tensor
    most: Tensor  # (numerics,) that a standardised number can be: where all training records have one value, as if one had not
    period: Tensor  # of each cyclic column, and what its values begin with
    phase: Tensor
    unknown: Tensor  # (G,) the code of an unknown level
    shared: Tensor  # (G,) the slot of all rarer levels; where no levels are so rare, that of new ones
    beyond: Tensor  # (G,) 1 where new levels have the slot after that, else 0
    rarity: Tensor  # all categories' -log p(level | the shared slot), end to end
    rarity_start: Tensor  # (G,)
    membership: Tensor  # (S, G) 1 where a slot belongs to a category
    ownership: Tensor  # (R + B + G, F) 1 where a likelihood term belongs to a feature

    def __init__(self, features: Sequence[Feature], x: NDArray[np.float32]) -> None:
        """Fits the scales of the numbers to training records x (N, C), NaN where missing."""
        super().__init__()
        start = np.cumsum([0, *(feature.width for feature in features)])
        at = [(f, feature, int(start[f])) for f, feature in enumerate(features)]
        numeric = [column for _, feature, column in at if feature.kind == "numeric"]
        cyclic = [
            (column + part, PERIODS[part])
            for _, feature, column in at
            if feature.kind == "datetime"
            for part in telling_parts(x[:, column : column + len(PERIODS)])
        ]
        boolean = [column for _, feature, column in at if feature.kind == "boolean"]
        lacking = [column for _, feature, column in at if 0 < feature.missing_rate < 1]
        category = [(column, len(feature.categories)) for _, feature, column in at if feature.kind == "categorical"]
        levels = [min(known + 1, LEVELS) for _, known in category]
        owner = np.repeat(np.arange(len(features)), [feature.width for feature in features])
        self.columns, self.numerics, self.booleans = int(start[-1]), len(numeric), len(boolean)
        self.reals, self.bits, self.onehots = len(numeric) + 2 * len(cyclic), len(boolean) + len(lacking), sum(levels)
        self.slots, self.groups = self.reals + self.bits + self.onehots, len(category)

        self._fit_numbers(with_a_value(x[:, numeric].astype(np.float64)))
        cyclic_columns = [column for column, _ in cyclic]
        group = np.repeat(np.arange(len(category)), levels)
        first = np.cumsum([0, *levels])
        slot_column = [*numeric, *cyclic_columns, *cyclic_columns, *boolean, *lacking, *(category[g][0] for g in group)]
        unit_column = [*slot_column[: self.reals + self.bits], *(column for column, _ in category)]

        self._index("numeric", numeric)
        self._index("cyclic", cyclic_columns)
        self._index("boolean", boolean)
        self._index("lacking", lacking)
        self._index("category", [column for column, _ in category])
        self._index("slot_column", slot_column)
        self._index("slot_group", group)
        self._index("first_slot", first[:-1])
        self.widest = max(levels, default=0)
        self._index(
            "group_slot",
            [first[g] + (slot if slot < levels[g] else 0) for g in range(self.groups) for slot in range(self.widest)],
        )
        looked_at = [*numeric, *cyclic_columns, *boolean, *(column for column, _ in category)]
        constant = sorted(set(range(self.columns)) - set(looked_at))
        self._index("cell", np.argsort(looked_at + constant))
        self._real("constant", np.nan_to_num(np.nanmax(np.vstack([x[:, constant], np.full((1, len(constant)), -1)]), axis=0)))
        self._real("period", [period for _, period in cyclic])
        self._real("phase", [float(column_period == PERIODS[2]) for _, column_period in cyclic])  # January is month 1
        self._real("unknown", [known for _, known in category])
        slot_level = np.arange(len(group)) - first[group]
        self._real("slot_level", slot_level)
        beyond = [known >= LEVELS and new_are_odd(x[:, column]) for column, known in category]
        shared = [known if known < LEVELS else LEVELS - 1 - apart for (_, known), apart in zip(category, beyond, strict=True)]
        self._real("beyond", beyond)
        self._real("shared", shared)
        codes = np.array([known for _, known in category], dtype=int)
        self._real("slot_code", np.where(slot_level < np.array(shared, dtype=int)[group], slot_level, codes[group]))
        place, front = np.arange(self.slots), self.reals + self.bits
        self._real("may_lack", (place < self.reals + self.booleans) | (place >= front))
        self._real("membership", group[:, None] == np.arange(len(category))[None, :])
        self._real("ownership", owner[np.array(unit_column, dtype=int)][:, None] == np.arange(len(features))[None, :])
        self._fit_levels(x, category, shared)

    def _fit_numbers(self, values: NDArray[np.float64]) -> None:
        """The bends of the numbers (N, numerics), NaN where missing: that by which the nets see them, and that by their shape."""
        median, spread = middle_and_spread(values)
        counts = counts_in_decades(values)
        origin, unit = np.where(counts, 0.0, median), np.where(counts, 1.0, UNIT * spread).clip(UNIT_LEAST, UNIT_MOST)
        bent = bend(torch.from_numpy(((values - origin) / unit).clip(-LIMIT, LIMIT))).numpy()
        some = with_a_value(values[:: math.ceil(len(values) / SHAPE_RECORDS)])
        shape_origin, shape_unit = bend_of(some)
        shape_unit = shape_unit.clip(UNIT_LEAST, UNIT_MOST)
        self._real("origin", np.concatenate([origin, np.where(counts, 0.0, shape_origin)]))
        self._real("unit", np.concatenate([unit, np.where(counts, 1.0, shape_unit)]))
        spread = np.nanstd(bent, axis=0) if bent.shape[1] else np.empty(0)
        self._real("centre", np.nanmean(bent, axis=0) if bent.shape[1] else [])
        self._real("scale", np.maximum(spread, SCALE_LEAST))
        alone = np.sqrt(np.count_nonzero(~np.isnan(values), axis=0) + 1.0)
        self._real("most", np.where(spread > SPREAD_LEAST, FLOAT32_MOST, alone))

    def _fit_levels(self, x: NDArray[np.float32], category: list[tuple[int, int]], shared: list[int]) -> None:
        """-log p(level | the shared slot), from smoothed frequencies: how rare a level is among those that share it."""
        tables: list[NDArray[np.float64]] = []
        starts: list[int] = []
        for (column, known), slot, apart in zip(category, shared, self.beyond.tolist(), strict=True):
            codes = x[:, column]
            count = np.bincount(codes[~np.isnan(codes)].astype(int), minlength=known + 1).astype(np.float64) + 1
            rare, sharing = np.zeros(known + 1), slice(slot, known + (not apart))
            rare[sharing] = -np.log(count[sharing] / count[sharing].sum())
            starts.append(sum(len(table) for table in tables))
            tables.append(rare)
        self.has_rare_levels = any(table.any() for table in tables)
        self._real("rarity", np.concatenate(tables) if tables else [])
        self._index("rarity_start", starts)

    def forward(self, x: Tensor) -> Slots:
        """x (N, C) as the service makes it -> Slots."""
        unknown = torch.isnan(x)
        hidden = unknown.to(x.dtype)
        filled = torch.where(unknown, torch.zeros((), dtype=x.dtype, device=x.device), x)
        parts, bent, numbers = [], filled[:, :0], filled[:, :0]
        if self.numerics:
            numbers = pick(filled, self.numeric)
            away = torch.clamp((torch.cat([numbers, numbers], 1) - self.origin) / self.unit, -LIMIT, LIMIT)
            bends = bend(away)
            own, bent = bends[:, : self.numerics], bends[:, self.numerics :]
            standard = (own - self.centre) / self.scale
            alike = self.most < FLOAT32_MOST
            parts.append(torch.clamp(standard, -self.most, self.most) if bool(alike.any()) else standard)
        if len(self.cyclic):
            parts += cos_sin((filled[:, self.cyclic] - self.phase) / self.period)
        if self.booleans:
            parts.append(filled[:, self.boolean])
        if len(self.lacking):
            parts.append(hidden[:, self.lacking])
        level = torch.zeros(0)
        if self.groups:
            level = torch.minimum(filled[:, self.category], self.unknown)
            slot = torch.minimum(level, self.shared)
            if bool(self.beyond.any()):
                slot = slot + self.beyond * (level == self.unknown).to(x.dtype)
            parts.append((slot[:, self.slot_group] == self.slot_level).to(x.dtype))
        missing, gap = pick(unknown, self.slot_column), pick(hidden, self.slot_column)
        if len(self.lacking):  # whether a value is missing can always be seen
            gap = gap * self.may_lack
            missing = gap > 0
        seen = 1 - gap
        return Slots(joined(parts) * seen, seen, hidden, level, gap, missing, bent, numbers)

    def restore(self, out: Tensor) -> Tensor:
        """(N, C) the values, in the units of x, that a decoder's output (N, D) stands for."""
        real, bits, onehot = self.split(out)
        own = slice(self.numerics)
        numbers = unbend(torch.clamp(real[:, own] * self.scale + self.centre, -BENT_LIMIT, BENT_LIMIT))
        numbers = numbers * self.unit[own] + self.origin[own]
        numbers = torch.clamp(numbers, -FLOAT32_MOST, FLOAT32_MOST)
        if self.numerics == self.columns:
            return numbers
        cells = [numbers] if self.numerics else []
        if len(self.cyclic):
            front = self.numerics + len(self.cyclic)
            turn = atan2(real[:, front:], real[:, self.numerics : front])
            turn = torch.where(turn < 0, turn + 2 * math.pi, turn)
            cells.append(turn * (self.period / (2 * math.pi)) + self.phase)
        if self.booleans:
            cells.append(torch.sigmoid(bits[:, : self.booleans]))
        if self.groups:  # of equal ones argmax takes the first
            beside = torch.reshape(onehot[:, self.group_slot], (-1, self.widest))
            likeliest = torch.reshape(beside.argmax(1, keepdim=True), (-1, self.groups))
            cells.append(self.slot_code[likeliest + self.first_slot])
        if len(self.constant):
            cells.append(out[:, :1] * 0 + self.constant)
        return pick(torch.cat(cells, 1), self.cell)

    def split(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The real (N, R), boolean (N, B) and one-hot (N, S) slots of (N, D)."""
        if self.reals == self.slots:
            return slots, slots[:, :0], slots[:, :0]
        front = self.reals + self.bits
        return slots[:, : self.reals], slots[:, self.reals : front], slots[:, front:]

    def rare(self, level: Tensor) -> Tensor:
        """(N, G) -log p(level | the shared slot), 0 for levels with a slot of their own."""
        return self.rarity[level.long() + self.rarity_start]

    def slot_ownership(self) -> Tensor:
        """(D, F) 1 where a slot belongs to a feature; that of a one-hot slot comes through its category."""
        front = self.reals + self.bits
        return torch.cat([self.ownership[:front], self.membership @ self.ownership[front:]])

    def slot_levels(self) -> Tensor:
        """(D, B + G) 1 where a boolean or one-hot slot belongs to one of the booleans and categories."""
        levels = torch.zeros(self.slots, self.booleans + self.groups)
        levels[self.reals : self.reals + self.booleans, : self.booleans] = torch.eye(self.booleans)
        levels[self.reals + self.bits :, self.booleans :] = self.membership
        return levels

    def _index(self, name: str, values: Sequence[int] | NDArray[np.intp]) -> None:
        self.register_buffer(name, torch.as_tensor(np.asarray(values, dtype=np.int64)))

    def _real(self, name: str, values: Sequence[float] | NDArray[np.float64] | NDArray[np.bool_]) -> None:
        self.register_buffer(name, torch.as_tensor(np.asarray(values, dtype=np.float32)))
