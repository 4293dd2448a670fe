"""Exact relations between numbers, found in training records and checked: sums, such as net and tax that make the gross, and
products of powers, such as price times quantity, which are sums of logarithms.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.stable import log

EXACT = 1e-3  # of a standard deviation: as much as rounding may leave of a relation
NEARLY = 0.98  # of the records keep to a relation; what it leaves of the others is no rounding
FAR = 10.0  # times what nearly all leave: no rounding either
BEYOND = 2.0  # times what rounding leaves, where a relation begins to be broken; at twice that it is wholly
LAST_BITS = 1e-5  # of a standard deviation and of the numbers that a relation adds up: more than float32 leaves
COMMONEST = 0.8  # share of a column's commonest value, above which any sum of it and of its like is nearly always the same
MOST = 1e15  # sums of more might be infinite in float32, and tell nothing
THERE = 0.8  # share of the records that have a value, below which a column is not looked at
COLUMNS_MOST, RECORDS_LEAST, A_COLUMN = 200, 100, 4  # records for each column
DRAWS = 8  # samples of the records, of which some have none that breaks a relation
COEFFICIENT_LEAST = 1e-6  # of the largest: less is nothing but last bits
POSITIVE_LEAST = 1e-30  # what has a logarithm
WHOLE_NEARLY = 0.01  # of a power: as far off as rounding may leave it
POWER_MOST = 4  # of a number in a product; what is no whole power, or larger, is a chance of this table
VALUE_MOST = 80.0  # of the logarithm of a product: float32 has no others
BROKEN_MOST = 0.005  # of the training records that break a product: rounding to cents is no small part of small amounts


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


class Products(nn.Module):
    """Numbers -> how far each product of powers is from what it always is, as Relations; of positive numbers alone."""

    def __init__(self, relations: Relations) -> None:
        """Relations of logarithms."""
        super().__init__()
        self.relations = relations

    def forward(self, numbers: Tensor, there: Tensor) -> Tensor:
        """Of numbers (N, W), 0 where `there` (N, W) is 0."""
        broken: Tensor = self.relations(*logarithms(numbers, there))
        return broken


def logarithms(numbers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """(N, W) those of numbers (N, W) that are there and positive; and (N, W) 1 where there is one."""
    positive = there * (numbers > 0).to(there.dtype)
    return log(torch.where(positive > 0, numbers, 1.0).clamp(min=POSITIVE_LEAST)), positive


def products_of(numbers: Tensor, there: Tensor) -> Products | None:
    """The products of whole powers that nearly all numbers (n, W) keep where they are there; None where there is none.

    Without those that say no more than that two numbers are in proportion: sums say that, too.
    """
    relations = relations_of(*logarithms(numbers, there), powers=True)
    if relations is None:
        return None
    factors, powers = relations.uses.sum(0), relations.weight
    simple = (powers == powers.round()).all(0) & (powers.abs() <= POWER_MOST).all(0) & (relations.bias.abs() <= VALUE_MOST)
    broken = (relations.apart(*logarithms(numbers, there)) > 0).double().mean(0)
    kept = simple & ((factors > 2) | (powers.sum(0) != 0)) & (broken <= BROKEN_MOST)
    return Products(relations.take(kept)) if kept.any() else None


def relations_of(numbers: Tensor, there: Tensor, *, powers: bool = False) -> Relations | None:
    """The relations that nearly all numbers (n, W) keep where they are there; None where there is none.

    powers: whether coefficients are the powers of a product, which are whole numbers if they are close to some.
    """
    values, known = numbers.numpy().astype(np.float64), there.numpy() > 0
    places = np.flatnonzero((known.mean(0) >= THERE) & (commonest(values) <= COMMONEST)) if len(values) else np.empty(0, np.intp)
    values = values[known[:, places].all(1)][:, places]
    if not 2 <= len(places) <= COLUMNS_MOST or len(values) < max(RECORDS_LEAST, A_COLUMN * len(places)):
        return None
    centre, spread = values.mean(0), values.std(0)
    z = (values - centre) / spread
    ways = null_ways(z)
    if not ways.shape[1]:
        return None
    ways = np.where(np.abs(ways) < np.quantile(away(z @ ways), NEARLY, axis=0), 0, ways)  # as small as what is left: chance
    coefficients = in_whole_powers(ways / spread[:, None]) if powers else ways / spread[:, None]
    sums = values @ coefficients
    left = away(sums)
    nearly, most = np.quantile(left, NEARLY, axis=0), left.max(0)
    rest = BEYOND * np.where(most < FAR * nearly, most, nearly)
    weight, share = np.zeros((2, numbers.shape[1], ways.shape[1]))
    weight[places], share[places] = coefficients, (ways != 0) / np.count_nonzero(ways, axis=0)
    bias = -np.median(sums, axis=0)
    parts = weight, bias, rest + LAST_BITS * (1 + np.abs(bias)), share.T
    return Relations(*(torch.from_numpy(part.astype(np.float32)) for part in parts))


def in_whole_powers(powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(W, R) each column's in units of its least, where all are whole then, or nearly; else as they are."""
    units = powers / np.where(powers != 0, np.abs(powers), np.inf).min(0)
    whole = np.rint(units)
    return np.where((np.abs(units - whole) <= WHOLE_NEARLY).all(0), whole, powers)


def commonest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(W,) the share of the commonest value of each column of (n, W)."""
    return np.array([np.unique(column, return_counts=True)[1].max() / len(column) for column in values.T])


def away(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, R) how far sums (n, R) are from their median: that of most records, whatever a few others have moved the mean by."""
    return np.abs(sums - np.median(sums, axis=0))


def null_ways(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """(W, R) unit directions in which nearly all standardised records (n, W) do not vary but for rounding.

    The smallest principal components, of all records and of samples: one broken sum in a hundred hides a relation from the whole.
    """
    rng = np.random.default_rng(0)
    size = max(RECORDS_LEAST // 2, A_COLUMN * z.shape[1])
    best = np.zeros((z.shape[1], 0))
    for draw in range(DRAWS):
        some = z if draw == 0 else z[rng.permutation(len(z))[:size]]
        variances, ways = np.linalg.eigh(np.cov(some.T, bias=True))
        ways = sparse(ways[:, variances < EXACT**2])
        ways = ways[:, np.quantile(away(z @ ways), NEARLY, axis=0) < EXACT]
        best = ways if ways.shape[1] > best.shape[1] else best
    return best


def sparse(ways: NDArray[np.float64]) -> NDArray[np.float64]:
    """(W, R) unit directions that span what `ways` (W, R) do, each without the numbers that the others are about.

    Gauss and Jordan's elimination, by the largest coefficient that is left. What is nothing but last bits then is 0.
    """
    rows, left = ways.T.copy(), np.ones(ways.shape[1], bool)
    while left.any():
        row, column = np.unravel_index(np.argmax(np.abs(rows) * left[:, None]), rows.shape)
        rows[row] /= rows[row, column]
        others = np.arange(len(rows)) != row
        rows[others] -= rows[others, column][:, None] * rows[row]
        left[row] = False
    rows[np.abs(rows) < COEFFICIENT_LEAST * np.abs(rows).max(initial=0)] = 0
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.T
