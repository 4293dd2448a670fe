"""Whitening: distances in which a value that goes another way than the others tell counts.

Records differ most where several values vary together, and least where one of these goes another way, which is what an odd record
does. In a whitened view the latter is as far as the former.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from training.centres import k_means
from training.config import Config
from training.preprocessing import Slots
from training.views import View

NEVER_VARIES = 1e-6  # standard deviations, in the view: less is last bits
# Of a slot's standard deviation. Less within groups is last bits of their means, or so little that in its units groups would lie
# thousands apart, and the square of that would drown the last digits of their records' distances.
WITHIN_LEAST = 0.01
FILLING = 3  # steps
PARTS = 4  # of the records, each of which tells how much vary the ways that the others tell


class Whitened(nn.Module):
    """Slots -> (N, D) the values of a view, farther apart in the ways in which they hardly vary.

    How they vary is told by the training records' deviations from the middles of a few groups that k-means finds, as in Fisher's
    discriminant: where records are of several sorts, the mean of all is nobody's middle.

    What is missing must not contradict what is there: it is moved from what the nets expect to where the record as a whole is the
    least odd by the correlations of all records, which is its expectation by a linear regression on the others.
    """

    matrix: Tensor  # (D, D)
    inverse: Tensor  # (D, D) what values are multiplied by for the slope of a record's oddness in each of its slots

    def __init__(self, view: View, seen: Tensor, config: Config, draw: np.random.Generator, alone: bool) -> None:
        """Whitens a view of training records, whose values in it are `seen` (N, D).

        alone: whether no other records set the scale of what is far.
        """
        super().__init__()
        self.view = view
        middles, member = k_means(seen, max(1, min(config.groups, len(seen) // config.centre_records)), draw)
        whole = Variation.of(seen - seen.mean(0), alone)
        self.matrix = nn.Buffer(whitening(seen - middles[member], config.ridge, alone, WITHIN_LEAST * whole.unit))
        self.inverse = nn.Buffer(whole.scaled(1 / (whole.variances + config.ridge)))
        self.steps = steps(1 / (float(whole.variances.min()) + config.ridge))

    def forward(self, slots: Slots, out: Tensor) -> Tensor:
        """(N, D) the values of slots, by the decoders' output (N, D) in the gaps."""
        values: Tensor = self.view(slots, out)
        for step in self.steps:
            values = values + slots.gap * torch.addmm(torch.zeros(1), values, self.inverse, alpha=-step)
        return values @ self.matrix


class Variation(NamedTuple):
    """How deviations vary together: their correlations, by the ways in which they do."""

    unit: Tensor  # (D,) each slot's standard deviation; 1 of one that never varies, and is correlated with nothing
    variances: Tensor  # (D,) in units of the slots, 1 in the mean, of each way
    ways: Tensor  # (D, D) columns

    @classmethod
    def of(cls, deviations: Tensor, alone: bool, least: Tensor | float = 0.0) -> Variation:
        """That of (N, D) deviations from some middle; alone: by the variances that ways have in other records.

        A slot whose standard deviation is not above `least` (D,) never varies.
        """
        values = deviations.double()
        unit = torch.sqrt((values**2).mean(0))
        varies = unit > torch.as_tensor(least).clamp(min=NEVER_VARIES)
        unit = torch.where(varies, unit, 1.0)
        values = torch.where(varies, values / unit, 0.0)
        correlations = by_others(values) if alone and len(values) > PARTS else values.T @ values / len(values)
        variances, ways = torch.linalg.eigh(correlations + torch.diag((~varies).double()))
        return cls(unit, variances.clamp(min=0), ways)

    def scaled(self, factors: Tensor) -> Tensor:
        """(D, D) what values in their own units are multiplied by, so that each way is by its factor (D,)."""
        matrix: Tensor = self.ways * factors @ self.ways.T / self.unit[:, None] * self.unit
        return matrix.float()


def by_others(values: Tensor) -> Tensor:
    """(D, D) correlations of values (N, D) with cross-validated eigenvalues: each way has the variance of other records than
    those that it was found by.

    The fewer records, the more ways there seem in which they hardly vary, and new ones do. So each part of the records tells the
    variances of the ways that the others tell; the mean over the parts is that of Lam (2016).
    """
    correlations = torch.zeros(values.shape[1], values.shape[1], dtype=values.dtype)
    part, varies = torch.arange(len(values)) % PARTS, (values != 0).any(0)
    for k in range(PARTS):
        own, others = values[part == k], values[part != k]
        _, sizes, ways = torch.linalg.svd(others, full_matrices=False)
        ways = ways[sizes > NEVER_VARIES * math.sqrt(len(others))]
        squares = ((own @ ways.T) ** 2).sum(0)
        # in the ways that the others never vary in, as much as in the mean of these: which of them is which is chance
        rest = ((own**2).sum() - squares.sum()) / max(int(varies.sum()) - len(ways), 1)
        correlations += ways.T * (squares - rest) @ ways + torch.diag(rest * varies)
    return correlations / len(values)


def whitening(deviations: Tensor, ridge: float, alone: bool, least: Tensor | float = 0.0) -> Tensor:
    """(D, D) what deviations (N, D) from some middle are multiplied by, so that they vary in no way less than in the mean of all.

    ZCA-cor (Kessy, Lewin & Strimmer 2018): the root of the inverse of their correlations, so that what comes out is most like the
    slot in its place, and then in each slot's own unit again; but ways in which they vary more stay as they are, since what sets
    sorts of records apart lies there. A slot that varies with no other stays as it is, and so does one that never varies. The
    ridge is added to the diagonal of the correlations: a way in which records hardly vary says little. alone, least: as in
    Variation.of.
    """
    variation = Variation.of(deviations, alone, least)
    return variation.scaled(torch.sqrt((1 + ridge) / (variation.variances + ridge)).clamp(min=1))


def steps(largest: float) -> list[float]:
    """How far to go against the slope, time after time, for the least oddness, whose curvatures are from 0 to `largest`.

    The reciprocal roots of Chebyshev's polynomials of the fourth kind (Lottes 2023): of the oddness that may be taken away, at
    most a (2 FILLING + 1)th of the root of `largest` is left for each unit that the beginning was off, whatever is missing.
    """
    return [1 / (largest * math.cos((2 * k - 1) * math.pi / (4 * FILLING + 2)) ** 2) for k in range(1, FILLING + 1)]
