"""Exact linear relations between numbers, such as net and tax that make the gross: found in training records, and checked."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.rules.null_ways import A_COLUMN, COMMONEST, NEARLY, RECORDS_LEAST, VARYING_LEAST, away, null_ways, simplest, times
from training.shape import commonest, most_frequent

FAR = 10.0  # times what nearly all leave: no rounding either
BEYOND = 2.0  # times what rounding leaves, where a relation begins to be broken; at twice that it is wholly
LAST_BITS = 1e-6  # of the numbers that a relation adds up: more than float32 leaves
MOST = 1e15  # sums of more might be infinite in float32, and tell nothing
THERE = 0.8  # share of the records that have a value, below which a column is not looked at
LEFT_MOST, MOSTLY = 0.05, 0.9  # of what a relation adds up, and in what share of the records
COLUMNS_MOST, RECORDS_MOST = 200, 10_000
SPREAD_LEAST = 1e-9  # of a number: with less, coefficients grow beyond float32
WHOLE_NEARLY = 1e-4, 0.01  # of a coefficient, of a power: as far off as rounding may leave it


class Relations(nn.Module):
    """Numbers -> how far each relation is broken, from 0 to 1, shared out over the numbers that it relates (N, W)."""

    weight: Tensor  # (W, R) of the sum that is 0, or nearly
    bias: Tensor  # (R,)
    rest: Tensor  # (R,) from where on the sum is not nearly 0
    uses: Tensor  # (W, R) 1 where a relation has a number
    share: Tensor  # (R, W) of its numbers, in equal parts: which of them is wrong a relation does not tell

    def __init__(self, weight: Tensor, bias: Tensor, rest: Tensor, share: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.rest, self.share = nn.Buffer(weight), nn.Buffer(bias), nn.Buffer(rest), nn.Buffer(share)
        self.uses = nn.Buffer((share.T > 0).float())

    def forward(self, numbers: Tensor, there: Tensor) -> Tensor:
        """Of numbers (N, W), 0 where `there` (N, W) is 0: where one lacks, its relations say nothing."""
        return self.apart(numbers, there) @ self.share

    def apart(self, numbers: Tensor, there: Tensor) -> Tensor:
        """(N, R) how far each relation is broken, from 0 to 1."""
        numbers = torch.clamp(numbers, -MOST, MOST)
        left = torch.addmm(self.bias, numbers, self.weight).abs()
        least = torch.addmm(self.rest, numbers.abs(), self.weight.abs() * LAST_BITS)
        whole = ((1 - there) @ self.uses == 0).to(numbers.dtype)
        broken: Tensor = torch.clamp(left / least - 1, 0, 1) * whole
        return broken

    def take(self, kept: Tensor) -> Relations:
        """Those of the R that are kept."""
        return Relations(self.weight[:, kept], self.bias[kept], self.rest[kept], self.share[kept])


def relations_of(numbers: Tensor, there: Tensor, share: float = 1.0, *, powers: bool = False) -> Relations | None:
    """The relations that nearly all numbers (n, W) keep where they are there; None where there is none.

    share: of all records, that these are. powers: whether coefficients are the powers of a product, which are whole numbers if
    they are close to some.
    """
    few = slice(None, None, math.ceil(len(numbers) / RECORDS_MOST))
    values, known = numbers[few].numpy().astype(np.float64), there[few].numpy() > 0
    places = usable(values, known, share)
    values = values[known[:, places].all(1)][:, places]
    places, values = places[values.std(0) > 0], values[:, values.std(0) > 0]
    if not 2 <= len(places) <= COLUMNS_MOST or len(values) < share * max(RECORDS_LEAST, A_COLUMN * len(places)):
        return None
    centre, spread = values.mean(0), values.std(0)
    z = (values - centre) / spread
    ways = null_ways(z, values != most_frequent(values))
    if not ways.shape[1]:
        return None
    ways = np.where(np.abs(ways) < np.quantile(away(times(z, ways)), NEARLY, axis=0), 0, ways)  # as small as what is left: chance
    coefficients = simplest(z, ways, spread, WHOLE_NEARLY[powers])
    coefficients = coefficients[:, cancels(values, coefficients)]
    if not coefficients.shape[1]:
        return None
    sums = times(values, coefficients)
    left = away(sums)
    nearly, most = np.quantile(left, NEARLY, axis=0), left.max(0)
    rest = BEYOND * np.where(most < FAR * nearly, most, nearly)
    weight, part = np.zeros((2, numbers.shape[1], coefficients.shape[1]))
    weight[places], part[places] = coefficients, (coefficients != 0) / np.count_nonzero(coefficients, axis=0)
    bias = -np.median(sums, axis=0)
    parts = weight, bias, rest + LAST_BITS * (1 + np.abs(bias)), part.T
    return Relations(*(torch.from_numpy(part.astype(np.float32)) for part in parts))


def cancels(values: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(R,) whether in most records (n, W) hardly anything is left of what sums (W, R) add up: next to the spread of a column in
    which a few numbers are far larger than all others, these are nothing.
    """
    size = times(np.abs(values - np.median(values, axis=0)), np.abs(coefficients))
    return np.asarray((away(times(values, coefficients)) <= LEFT_MOST * size).mean(0) >= MOSTLY)


def usable(values: NDArray[np.float64], known: NDArray[np.bool_], records: float) -> NDArray[np.intp]:
    """Columns of (n, W) that may be related: there in nearly all records, of a size that sums bear, and of more values than one;
    the most varied ones.
    """
    if not len(values):
        return np.empty(0, np.intp)
    share = commonest(values, known)
    there = (known.mean(0) >= THERE) & (np.abs(values).max(0) <= MOST) & (values.std(0) >= SPREAD_LEAST)
    varied = np.flatnonzero(there & (share <= COMMONEST))
    seldom = np.flatnonzero(there & (share > COMMONEST) & ((1 - share) * len(values) >= VARYING_LEAST * records))
    return np.sort(np.concatenate([varied, seldom])) if len(varied) + len(seldom) <= COLUMNS_MOST else varied
