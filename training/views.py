"""What distances are measured in: the values of a record's slots, in one of two ways that tell different things."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from training.preprocessing import Preprocessing, Slots
from training.shape import with_a_value

MIDDLE = (0.05, 0.95)  # levels of the quantiles between which a number's width is taken
WIDTH = 3.29  # standard deviations between these, were it Gaussian
WIDTH_LEAST = 1e-3  # standard deviations: a narrower middle says nothing of the width
OUTSIDE = 2.0  # times the middle, beyond its ends: a training value farther off says no more of its column than one there
# Widths from the mean, beyond which a number is far from everything. The square of a larger one would drown a distance's last
# digits, and with them which record is nearest.
FAR = 10.0
SPREAD_LEAST = 1e-9  # of a slot's squares: below, it never changes
# Units of a boolean or one-hot slot in the near and in the wide view, as much for rare as for common levels; and what cosine and
# sine count, of which a datetime has up to six. With more of them, only records are near in which all of these are alike.
NEAR_ONE_HOT, WIDE_ONE_HOT, CYCLIC = 0.5, 1.0, 0.5
NEW_SHARE, NEW_MOST = 0.05, 5.0  # of records whose level is new: rarer, and it counts by the root of that, but so much at most


class View(nn.Module):
    """Slots -> (N, D) centred values of like spread. Where one is missing, what the nets expect of a number, else the mean.

    The near view takes each number bent by its column's shape, and scales it by its range; the wide view takes the numbers in
    their own units, scaled by the width of the middle nine tenths, so that a value far off is far off.
    """

    centre: Tensor  # (D,) the mean of a slot
    rate: Tensor  # (D,) by which what is above that is multiplied
    slope: Tensor  # (D,) and offset (D,): the line on which the view's value lies best by what a decoder says of a slot
    offset: Tensor  # of boolean and one-hot slots both are 0, and so the mean stands in their gaps

    def __init__(self, preprocessing: Preprocessing, slots: Slots, wide: bool) -> None:
        """Fits the view to training records."""
        super().__init__()
        self.numerics, self.wide = preprocessing.numerics, wide
        reals, seen = preprocessing.reals, slots.seen > 0
        values = torch.where(seen, self._slots(slots), torch.nan).double()
        low, high = (quantile(values[:, :reals], level) for level in MIDDLE)
        reach = torch.where(high > low, OUTSIDE * (high - low), torch.inf)
        there = torch.minimum(torch.maximum(values[:, :reals], low - reach), high + reach)
        centre = torch.cat([there, values[:, reals:]], 1).nanmean(0).nan_to_num(0.0)
        if wide:
            deviation = ((there - centre[:reals]) ** 2).nanmean(0).sqrt()
            width = (high - low) / WIDTH
            size = torch.where(width > WIDTH_LEAST * deviation, width, deviation)
        else:
            size = there.nan_to_num(-torch.inf).amax(0) - there.nan_to_num(torch.inf).amin(0)
        rate = torch.full_like(centre, WIDE_ONE_HOT if wide else NEAR_ONE_HOT)
        rate[:reals] = 1 / torch.where(size > 0, size, 1.0)  # NaN of a column without a value is not above 0
        rate[self.numerics : reals] *= CYCLIC
        rate[reals:] *= of_the_new(preprocessing, slots)
        # whether a value is missing is the nets' matter: by chance it differs between any two records, and would drown the rest
        rate[reals + preprocessing.booleans : reals + preprocessing.bits] = 0
        self.centre, self.rate = nn.Buffer(centre.float()), nn.Buffer(rate.float())
        self.slope, self.offset = nn.Buffer(torch.zeros_like(self.rate)), nn.Buffer(torch.zeros_like(self.rate))
        usual = torch.cat([values[:, :reals] == there, seen[:, reals:]], 1)
        y, view = slots.y.double() * usual, self._values(slots).double() * usual
        count = usual.sum(0).clamp(min=1)
        mean = y.sum(0) / count
        slope = ((y - mean) * view).sum(0) / (((y - mean) ** 2) * usual).sum(0).clamp(min=SPREAD_LEAST)
        self.slope[:reals] = slope[:reals].float()
        self.offset[:reals] = (view.sum(0) / count - slope * mean)[:reals].float()

    def forward(self, slots: Slots, out: Tensor) -> Tensor:
        """(N, D) the values of slots, by the decoders' output (N, D) in the gaps."""
        return torch.where(slots.missing, out * self.slope + self.offset, self._values(slots))

    def _values(self, slots: Slots) -> Tensor:
        values = (self._slots(slots) - self.centre) * self.rate
        return values.clamp(-FAR, FAR) if self.wide else values

    def _slots(self, slots: Slots) -> Tensor:
        numbers = slots.numbers if self.wide else slots.bent
        return numbers if self.numerics == slots.y.shape[1] else torch.cat([numbers, slots.y[:, self.numerics :]], 1)


def of_the_new(preprocessing: Preprocessing, slots: Slots) -> Tensor:
    """(B + S,) how many times as much boolean and one-hot slots count that none of the training records has: the rarer, the more.

    A new record has a level that n training records lack with a probability of about the share of those whose level no other
    has (Good 1953). Without this a level never seen is no farther off than any other, of which records have many.
    """
    front = preprocessing.reals + preprocessing.bits
    factor = torch.ones(preprocessing.slots - preprocessing.reals, dtype=torch.float64)
    for place in range(preprocessing.reals, preprocessing.reals + preprocessing.booleans):
        known = slots.y[:, place][slots.seen[:, place] > 0]
        if len(known) and known.min() == known.max():
            factor[place - preprocessing.reals] = rarity(0, len(known))
    for group in range(preprocessing.groups):
        codes = slots.level[:, group][slots.hidden[:, preprocessing.category[group]] == 0].long()
        levels, shared = int(preprocessing.unknown[group]), int(preprocessing.shared[group])
        beyond = int(preprocessing.beyond[group])
        if beyond or levels == shared:  # new levels have a slot of their own
            alone = int((torch.bincount(codes, minlength=levels) == 1).sum())
            new = int(preprocessing.first_slot[group]) + shared + beyond
            factor[front - preprocessing.reals + new] = rarity(alone, len(codes))
    return factor


def rarity(alone: int, n: int) -> float:
    """How many times as much a level counts that none of n records has, so many of which are alone with theirs."""
    return min(max(1.0, math.sqrt(NEW_SHARE * (n + 1) / (alone + 1))), NEW_MOST)


def quantile(values: Tensor, level: float) -> Tensor:
    """(W,) of each column of (N, W), NaN where a value is missing; 0 of a column without any."""
    if not values.shape[1]:
        return values.new_zeros(0)
    return torch.from_numpy(np.nanquantile(with_a_value(values.numpy()), level, axis=0))
