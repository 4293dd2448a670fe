"""Where numbers end, by training records: bounds, signs, whole numbers, and numbers that are never above others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.preprocessing import FLOAT32_MOST

TIES = 20  # training records at the very end of a column's values that make it a bound
CONTRARY = 20.0  # training records that would show the contrary if it were a chance: that none does is one of 1 in 5e8
BEYOND = 0.02  # of a column, too, that would cross 0: else it is merely far from there
TREND = 0.3  # correlation with the rows' order from which on a column moves with time, and no end of it is a bound
YEARS = 1_900, 2_100  # whole numbers between these, too
POSITIVE = 1e-30  # the least number that is more than 0
WHOLE_LEAST = 100  # training records with a whole number in a column that has no others
WHOLE_MOST = 2.0**24  # beyond, all numbers of float32 are whole
PAIRED_MOST, SIFTED = 64, 1_000  # columns of which pairs are looked at; records by which most pairs are seen to be none


def moves(numbers: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(W,) which numbers (N, W) move on with time, so that their ends are none: that rise or fall with the rows, or are years."""
    found = []
    for column in numbers.T.astype(np.float64):
        known = column[~np.isnan(column)]
        ranks = np.unique(known, return_inverse=True)[1]
        varies = len(known) > 1 and ranks.max() > 0
        trend = abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) if varies else 0.0
        years = (
            bool((known == np.floor(known)).all()) and YEARS[0] <= known.min(initial=YEARS[1]) <= known.max(initial=0) <= YEARS[1]
        )
        found.append(trend > TREND or years)
    return np.array(found, dtype=bool)


def is_whole(numbers: Tensor) -> Tensor:
    """(N, W) 1 where a number is whole, as a 0 for a missing one is."""
    near = torch.clamp(numbers, -WHOLE_MOST, WHOLE_MOST)
    return (near.long().to(near.dtype) == near).to(near.dtype)


def whole_numbers(numbers: Tensor, there: Tensor, share: float = 1.0) -> Tensor:
    """(W,) 1 where enough of numbers (N, W) are there, and all of them are whole and could have a fraction.

    share: of all records, that these are, here and below: what is needed to show a rule is needed of all.
    """
    could = numbers.abs() < WHOLE_MOST
    return ((is_whole(numbers) * could == 1).all(0) & (there.sum(0) >= WHOLE_LEAST * share)).to(numbers.dtype)


def bounds_of(numbers: Tensor, there: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """(W,) the least and the largest that numbers (N, W) may be, where they are there; beyond all where there is no such end.

    Where TIES lie at the very end, that; else 0, where that should have been crossed, by a fiftieth of the column, too; or the
    numbers next to 0, where those with fractions never reach it.
    """
    ends, fractions, negative = [], whole_numbers(numbers, there, share) == 0, below_zero(numbers, there)
    for sign, across in ((-1.0, negative), (1.0, there.sum(0) - negative)):
        most = torch.where(there > 0, sign * numbers, -FLOAT32_MOST).amax(0)
        tied = ((sign * numbers == most) & (there > 0)).sum(0) >= TIES * share
        zero = torch.where((most < 0) & fractions, -POSITIVE, 0.0)
        signed = (most <= 0) & (across >= CONTRARY * share) & (across >= BEYOND * there.sum(0))
        ends.append(0.0 + sign * torch.where(tied, most, torch.where(signed, zero, FLOAT32_MOST)))
    return ends[0], ends[1]


def below_zero(numbers: Tensor, there: Tensor) -> Tensor:
    """(W,) how many of numbers (N, W), where they are there, would be below 0, were they normal with their mean and variance."""
    count = there.sum(0)
    mean = (numbers * there).double().sum(0) / count.clamp(min=1)
    deviation = ((((numbers - mean) * there) ** 2).sum(0) / count.clamp(min=1)).sqrt()
    share: Tensor = torch.special.ndtr(-mean / deviation.clamp(min=POSITIVE))
    return count * share


class Pairs(nn.Module):
    """Numbers -> which are above others that they never are above, half for each of the two (N, W)."""

    lesser: Tensor  # (P,) columns of numbers
    greater: Tensor  # (P,)
    owner: Tensor  # (P, W) 1/2 where a pair has a number

    def __init__(self, lesser: Tensor, greater: Tensor, width: int) -> None:
        super().__init__()
        self.lesser, self.greater = nn.Buffer(lesser), nn.Buffer(greater)
        owner = torch.zeros(len(lesser), width)
        for columns in (lesser, greater):
            owner[torch.arange(len(lesser)), columns] = 0.5
        self.owner = nn.Buffer(owner)

    def forward(self, numbers: Tensor, there: Tensor) -> Tensor:
        """Of numbers (N, W), where they are there (N, W)."""
        above = (numbers[:, self.lesser] > numbers[:, self.greater]).to(numbers.dtype)
        both: Tensor = above * there[:, self.lesser] * there[:, self.greater]
        return both @ self.owner


def pairs_of(numbers: Tensor, there: Tensor, share: float = 1.0) -> Pairs | None:
    """The pairs of numbers (N, W) of which the one is never above the other, though in TIES records the two are equal, and at no
    end of theirs: were they merely alike, it would be above as often as below. None where there is none; of a <= b <= c without
    a <= c.
    """
    width = int(numbers.shape[1])
    if not 2 <= width <= PAIRED_MOST:
        return None
    values, known = numbers.numpy(), there.numpy() > 0
    low, high = np.where(known, values, np.inf).min(0, initial=np.inf), np.where(known, values, -np.inf).max(0, initial=-np.inf)
    inner = known & (values != low) & (values != high)
    tied = np.zeros((width, width), np.int64)
    for i in range(width):
        for j in np.flatnonzero(never_above(values[:SIFTED], known[:SIFTED], i)):
            both = known[:, i] & known[:, j]
            if (values[both, i] <= values[both, j]).all() and (values[both, i] < values[both, j]).any():
                tied[i, j] = np.count_nonzero((values[:, i] == values[:, j]) & inner[:, i] & inner[:, j])
    found = tied >= TIES * share
    found &= ~((found.astype(int) @ found.astype(int)) > 0)
    lesser, greater = found.nonzero()
    return Pairs(torch.from_numpy(lesser), torch.from_numpy(greater), width) if len(lesser) else None


def never_above(values: NDArray[np.float32], known: NDArray[np.bool_], i: int) -> NDArray[np.bool_]:
    """(W,) the other numbers (n, W), where they are known (n, W), that number i is never above."""
    above = (values[:, [i]] > values) & known[:, [i]] & known
    return np.asarray(~above.any(0) & (np.arange(values.shape[1]) != i))
