"""Numbers that go another way than the others tell, each by itself: what a number would be by a regression on all else, and how
far off that it is.

In a distance over a dozen columns a loan of 15 where 3,000 is usual hardly shows, since 15 is usual elsewhere. So the largest of
the columns' deviations is one more term. Only what is beyond nearly all training records' counts: where nothing contradicts
itself, the other terms know better.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.memory import Term
from training.preprocessing import Preprocessing, Slots
from training.presence import FAR
from training.ridge import VARIANCE_LEAST, Fits, fit, mean_of
from training.rules.null_ways import COMMONEST
from training.shape import commonest
from training.stable import LEAST, gather_up, total
from training.standard import Standard
from training.tail_curve import TailCurve

BEYOND = 6.0  # nats of a deviation that do not count yet: one training record in 400 is farther off
NEARLY_ALL = 0.995  # of the training records' deviations of a column are below 1 in the units in which columns are compared
REST = 0.01  # standard deviations added to these: of a number that others tell exactly, less is rounding
DOUBT = 2.8  # standard deviations that a missing value may have been off, as NEARLY_ALL of a Gaussian are
NEVER = 1e30  # standard deviations that a number may be off which the others do not tell, or which is missing
DOUBLINGS = 3  # of the power of the deviations by which they share the term: nearly all of it is the largest one's
PULL = 0.5  # of the blame goes to the values that tell otherwise: a contradiction has two sides
RECORDS_MOST, SLOTS_MOST = 20_000, 1_500
WORK_MOST = 1 << 33  # records times the square of the slots: of wide tables fewer records are looked at
LOW, UNITS = 0.01, 4.0  # the quantile of a column of amounts, all above 0, that is so many units from 0 in a bend much like a log
BETTER = 0.1  # nats a record by which it has to be likelier with that


class Regressions(nn.Module):
    """Slots -> how odd it is that a number contradicts the others, in nats: by the largest of the numbers' deviations.

    One regression a number on the slots of the other columns, fitted without each fold; new records are judged by the mean of
    these. Where values are missing by which others are told, these may be off by as much more.
    """

    weight: Tensor  # (D, W) of the W numbers; 0 of those that the others do not tell
    bias: Tensor  # (W,)
    most: Tensor  # (W,) what NEARLY_ALL of the deviations are below, in standard deviations
    doubt: Tensor  # (D, W) what a gap adds to that
    mean: Tensor  # (D,) of the slots
    pull: Tensor  # (W, D) how much each slot has to say
    ownership: Tensor  # (W, F)
    slot_ownership: Tensor  # (D, F)

    def __init__(
        self, preprocessing: Preprocessing, standard: Standard, fits: Fits, most: Tensor, explained: Tensor, seen: Tensor
    ) -> None:
        """most (W,): as the buffer. explained (W,): the share of each number's variance. seen (n, D): of training records."""
        super().__init__()
        told = most < NEVER
        self.standard, self.fits = standard, Fits(fits.weight * told, fits.bias * told, told)  # the fits are not in the graph
        weight, count = self.fits.weight.mean(0), len(most)
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(self.fits.bias.mean(0))
        self.most, self.mean = nn.Buffer(most), nn.Buffer(seen.mean(0))
        doubt = DOUBT * weight.abs() * seen.std(0, correction=0)[:, None]
        doubt[:count].fill_diagonal_(NEVER)
        self.doubt, self.pull = nn.Buffer(doubt), nn.Buffer(weight.abs().T.contiguous())
        self.slot_ownership = nn.Buffer(preprocessing.slot_ownership())
        self.ownership = nn.Buffer(self.slot_ownership[:count])
        self.numbers = torch.nonzero(told)[:, 0].tolist()
        self.columns: list[int] = preprocessing.numeric[told].tolist()  # of x
        self.explained: list[float] = explained[told].tolist()  # of each of these columns
        self.begin, self.slope = 0.0, 1.0  # of the nats, by the deviation

    def refer(self, slots: Slots, fold: Tensor) -> None:
        """Sets the nats by training records (n, D), whose folds are (n,)."""
        curve = TailCurve.through(self.honest(slots, fold).value[:, 0].numpy(), by_log=False)
        self.begin, self.slope = curve.reaches(BEYOND), float(curve.slopes[-1])

    def expected(self, slots: Slots) -> Tensor:
        """(N, J) what the numbers of records (N, D) are by the others, where these tell, in the features' own units."""
        seen = telling(self.standard(slots), slots)
        return self.standard.restore(torch.addmm(self.bias, seen, self.weight))[:, self.numbers]

    def forward(self, slots: Slots) -> Term:
        """Of records (N, D)."""
        numbers = self.standard(slots)
        seen = telling(numbers, slots)
        return self._told(slots, numbers, seen, torch.addmm(self.bias, seen, self.weight))

    def honest(self, slots: Slots, fold: Tensor) -> Term:
        """Of training records, whose folds are (N,), each by the regressions without its fold."""
        numbers = self.standard(slots)
        seen = telling(numbers, slots)
        return self._told(slots, numbers, seen, self.fits.honest(seen, fold))

    def _told(self, slots: Slots, numbers: Tensor, seen: Tensor, expected: Tensor) -> Term:
        """The parts: half are those of the numbers that are off, half of the values that tell otherwise."""
        away = (numbers - expected).abs() / torch.addmm(self.most, slots.gap, self.doubt)
        largest = away.amax(1, keepdim=True)
        share = away / largest.clamp(min=LEAST)
        for _ in range(DOUBLINGS):
            share = share * share
        share = share / total(share).clamp(min=LEAST)
        pulls = (seen - self.mean).abs() * (share @ self.pull)
        pulls = pulls * (PULL / total(pulls).clamp(min=LEAST))
        value = torch.relu(largest - self.begin) * self.slope
        return Term(value, (gather_up(share * (1 - PULL), self.ownership) + gather_up(pulls, self.slot_ownership)) * value)


def telling(numbers: Tensor, slots: Slots) -> Tensor:
    """(N, D) what the regressions look at: standardised numbers (N, W) and the other slots."""
    every = torch.cat([numbers, slots.y[:, int(numbers.shape[1]) :]], 1) if numbers.shape[1] < slots.y.shape[1] else numbers
    return every.clamp(-FAR, FAR)


class Attempt(NamedTuple):
    """Numbers of training records (n, D) in some way, each told by the others."""

    standard: Standard
    numbers: Tensor  # (n, W)
    seen: Tensor  # (n, D) as telling
    fits: Fits
    lost: Tensor  # (W,) the mean square of what the regressions leave, each of the records that it has not seen
    variance: Tensor  # (W,)
    likelihood: Tensor  # (W,) nats a record, but for a constant, given the others (Box & Cox 1964)


def attempt(preprocessing: Preprocessing, slots: Slots, there: Tensor, fold: Tensor, amount: Tensor, unit: Tensor) -> Attempt:
    """With the numbers at `amount` (A,) bent from 0 on, by their units (W,); there (n, W): which are, fold (n,): of records."""
    standard = Standard(preprocessing, slots, amount, unit[amount])
    numbers = standard(slots)
    seen = telling(numbers, slots).double()
    fits, kept = fit(seen, there, fold), seen[:, : there.shape[1]]
    lost = mean_of((kept - fits.honest(seen, fold).clamp(-FAR, FAR)) ** 2, there)
    variance = mean_of((kept - mean_of(kept, there)) ** 2, there)
    likelihood = standard.steepness(slots) - lost.clamp(min=REST**2).log() / 2
    return Attempt(standard, numbers.double(), seen, fits, lost, variance, likelihood)


def regressions_of(
    preprocessing: Preprocessing, x: NDArray[np.float32], fold: NDArray[np.int8], least: float, seed: int
) -> Regressions | None:
    """Of training records x (N, C), whose folds are (N,); None where the others tell of no number.

    least: the share of a number's variance that the others must explain, in the records that the regression has not seen.
    """
    width, count = preprocessing.slots, preprocessing.numerics
    if not count or width > SLOTS_MOST:
        return None
    rows = np.random.default_rng(seed).permutation(len(x))[: min(RECORDS_MOST, WORK_MOST // width**2)]
    slots, own = preprocessing(torch.from_numpy(x[rows])), torch.from_numpy(fold[rows].astype(np.int64))
    there = slots.seen[:, :count] > 0
    best = likeliest(preprocessing, slots, there, own)
    varies = (best.variance > VARIANCE_LEAST) & torch.from_numpy(commonest(slots.numbers.numpy(), there.numpy()) <= COMMONEST)
    told = best.fits.made & varies & (best.lost <= (1 - least) * best.variance)
    if not told.any():
        return None
    away = torch.where(there, (best.numbers - best.fits.honest(best.seen, own)).abs(), torch.nan)
    most = torch.where(told, torch.nanquantile(away, NEARLY_ALL, dim=0) + REST, NEVER)
    explained = 1 - best.lost / best.variance
    regressions = Regressions(preprocessing, best.standard, best.fits.float(), most.float(), explained, best.seen.float())
    regressions.refer(slots, own)
    return regressions


def likeliest(preprocessing: Preprocessing, slots: Slots, there: Tensor, fold: Tensor) -> Attempt:
    """The numbers as the nets see them, but those from 0 on that are above 0 in all records and likelier so, given the others.

    Within each sort of record amounts often spread by their logarithm, which of all together does not show.
    """
    known = torch.where(there, slots.numbers, torch.nan).double()
    unit = torch.nanquantile(known, LOW, dim=0).nan_to_num(0.0).float() / UNITS
    amount = torch.nonzero(((slots.numbers > 0) | ~there).all(0) & (unit > 0))[:, 0]
    plain = attempt(preprocessing, slots, there, fold, amount[:0], unit)
    if not len(amount):
        return plain
    gain = attempt(preprocessing, slots, there, fold, amount, unit).likelihood - plain.likelihood
    amount = amount[gain[amount] > BETTER]
    return attempt(preprocessing, slots, there, fold, amount, unit) if len(amount) else plain
