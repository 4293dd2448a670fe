"""Exact products of numbers, such as price times quantity that makes the total: sums of logarithms.

Where a number is a percentage or a share, what it adds to a whole or leaves of it is looked at, too: a discount of 20 is a factor
of 100 - 20.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from training.rules.null_ways import A_COLUMN, EXACT, RECORDS_LEAST
from training.rules.relations import THERE, Relations, relations_of
from training.stable import log

POSITIVE_LEAST = 1e-30  # what has a logarithm
POWER_MOST = 4  # of a number in a product; what is no whole power, or larger, is a chance of this table
VALUE_MOST = 80.0  # of the logarithm of a product: float32 has no others
BROKEN_MOST = 0.005  # of the training records that break a product: rounding to cents is no small part of small amounts
TOLD_RECORDS, KEPT = 1_000, 0.9  # records that tell whether a product is to be looked for, and their share that has to keep it
SHARES_MOST = 20  # columns of percentages and shares; where there are more, they are something else
WHOLES = {100.0: 2.0, 1.0: 0.02}  # of percentages and shares, and what the largest of them is at least


class Products(nn.Module):
    """Numbers -> how far each product of powers is from what it always is, from 0 to 1, shared out over its numbers (N, W)."""

    column: Tensor  # (V,) the number that a factor is made of
    base: Tensor  # (V,) and how: base + sign * number
    sign: Tensor  # (V,)
    owner: Tensor  # (V, W)

    def __init__(self, column: Tensor, base: Tensor, sign: Tensor, relations: Relations, width: int) -> None:
        """relations: of the logarithms of factors (V)."""
        super().__init__()
        self.column, self.base, self.sign = nn.Buffer(column), nn.Buffer(base), nn.Buffer(sign)
        self.owner = nn.Buffer(torch.eye(width)[column])
        self.relations = relations

    def forward(self, numbers: Tensor, there: Tensor) -> Tensor:
        """Of numbers (N, W), 0 where `there` (N, W) is 0; products of what is not positive say nothing."""
        broken: Tensor = self.relations(*self.logarithms(numbers, there))
        return broken @ self.owner

    def logarithms(self, numbers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """(N, V) of the factors, and 1 where there is one."""
        factors = self.base + numbers[:, self.column] * self.sign
        positive = there[:, self.column] * (factors > 0).to(there.dtype)
        return log(torch.where(positive > 0, factors, 1.0).clamp(min=POSITIVE_LEAST)), positive

    def take(self, kept: Tensor) -> Products:
        """Those of the R products that are kept, of factors that any of them has."""
        relations = self.relations.take(kept)
        used = relations.uses.any(1)
        relations = Relations(relations.weight[used], relations.bias, relations.rest, relations.share[:, used])
        return Products(self.column[used], self.base[used], self.sign[used], relations, int(self.owner.shape[1]))


def products_of(numbers: Tensor, there: Tensor, share: float = 1.0) -> list[Products]:
    """The products of whole powers that nearly all numbers (n, W) keep where they are there; also with what one percentage or
    share leaves of a whole, or makes of it, in place of that number.

    Without those that say no more than that two numbers are in proportion: sums say that, too. share: as of relations_of.
    """
    if not numbers.shape[1]:
        return []
    plain = torch.zeros(numbers.shape[1]), torch.ones(numbers.shape[1])
    found = [kept_of(numbers, there, share, *plain)]
    known = torch.where(there > 0, numbers, 0.0)
    least, most = known.amin(0).tolist(), known.amax(0).tolist()
    ends = enumerate(zip(least, most, strict=True))
    shares = [(j, of) for j, (low, high) in ends for of, smallest in WHOLES.items() if low >= 0 and smallest <= high <= of]
    for (j, whole), sign in product(shares if len(shares) <= SHARES_MOST else [], (-1.0, 1.0)):
        base, signs = plain[0].clone(), plain[1].clone()
        base[j], signs[j] = whole, sign
        if is_told(numbers, there, base, signs, j):
            found.append(kept_of(numbers, there, share, base, signs))
    return [products for products in found if products is not None]


def is_told(numbers: Tensor, there: Tensor, base: Tensor, sign: Tensor, j: int) -> bool:
    """Whether the others tell the logarithm of factor j nearly exactly: else there is no product to be looked for.

    By two regressions, the second without those records of which the first is the farthest off.
    """
    every = slice(None, None, math.ceil(len(numbers) / TOLD_RECORDS))
    factors = (base + numbers[every] * sign).double().numpy()
    has = (there[every].numpy() > 0) & (factors > 0)
    others = np.flatnonzero((has.mean(0) >= THERE) & (np.arange(len(base)) != j))
    rows = has[:, [*others, j]].all(1)
    if not len(others) or rows.sum() < RECORDS_LEAST // 2 + A_COLUMN * len(others):
        return False
    x, y = np.log(factors[rows][:, others]), np.log(factors[rows, j])
    x, y = x - x.mean(0), y - y.mean()
    kept = np.ones(len(x), bool)
    for _ in range(2):
        ways = np.linalg.lstsq(x[kept], y[kept])[0]
        left = np.abs(y - x @ ways)
        kept = left <= np.quantile(left, KEPT)
    size = np.sqrt(((x * ways).std(0) ** 2).sum() + y.var())
    return bool(y.std() > 0 and left[kept].max() < EXACT * size)


def kept_of(numbers: Tensor, there: Tensor, share: float, base: Tensor, sign: Tensor) -> Products | None:
    """Those of the factors base + sign * numbers (W,); where any base is not 0, those with such a factor."""
    width = len(base)
    nothing = torch.zeros(width, 0)
    every = Products(torch.arange(width), base, sign, Relations(nothing, nothing[0], nothing[0], nothing.T), width)
    logarithms = every.logarithms(numbers, there)
    relations = relations_of(*logarithms, share, powers=True)
    if relations is None:
        return None
    every.relations = relations
    factors, powers = relations.uses.sum(0), relations.weight
    simple = (powers == powers.round()).all(0) & (powers.abs() <= POWER_MOST).all(0) & (relations.bias.abs() <= VALUE_MOST)
    broken = (relations.apart(*logarithms) > 0).double().mean(0)
    other = (relations.uses[base > 0] > 0).any(0) | ~(base > 0).any()
    kept = simple & ((factors > 2) | (powers.sum(0) != 0)) & (broken <= BROKEN_MOST) & other
    return every.take(kept) if kept.any() else None
