"""Ridge regressions of each of many values on all others at once, in exact terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PRIOR = 0.3  # for standardised values: so many records' worth of a Gaussian before anything is seen
VARIANCE_LEAST = 1e-6
WORK_MOST = 1 << 34  # multiplications, about: of wide tables with gaps fewer records and columns are looked at


class Fits(NamedTuple):
    """Of the first W of D values, each on the others, without each of K folds."""

    weight: Tensor  # (K, D, W)
    bias: Tensor  # (K, W)
    made: Tensor  # (W,) whether there is a regression

    def honest(self, seen: Tensor, fold: Tensor) -> Tensor:
        """(N, W) what values (N, D) are by the others, told without their folds (N,)."""
        told = seen.new_zeros(len(seen), self.weight.shape[2])
        for k in range(len(self.weight)):
            told[fold == k] = seen[fold == k] @ self.weight[k] + self.bias[k]
        return told

    def float(self) -> Fits:
        """The same in float32."""
        return Fits(self.weight.float(), self.bias.float(), self.made)


def fit(seen: Tensor, there: Tensor, fold: Tensor) -> Fits:
    """To records (N, D), the first values of which are there or not (N, W), and whose folds are (N,).

    A value is fitted to the records where it is there. Of very wide tables with gaps not all are.
    """
    width, folds = seen.shape[1], int(fold.max()) + 1
    gapless = there.all(0)
    with_gaps = torch.nonzero(~gapless & there.any(0))[:, 0][: WORK_MOST // (8 * width**3)]
    most = max(1, WORK_MOST // (width**2 * (1 + len(with_gaps))))
    fits = Fits(seen.new_zeros(folds, width, there.shape[1]), seen.new_zeros(folds, there.shape[1]), gapless.clone())
    fits.made[with_gaps] = True
    together = [torch.nonzero(gapless)[:, 0]] if gapless.any() else []
    for places in (*together, *with_gaps[:, None]):
        rows = torch.nonzero(there[:, places].all(1))[:most, 0]
        parts = [torch.cat([torch.ones(len(part), 1), part], 1) for part in (seen[rows[fold[rows] == k]] for k in range(folds))]
        products = torch.stack([part.T @ part for part in parts])
        for k in range(folds):
            every = regress(products.sum(0) - products[k])[:, 1 + places]
            fits.bias[k, places], fits.weight[k][:, places] = every[0], every[1:]
    return fits


def regress(products: Tensor) -> Tensor:
    """(1 + D, 1 + D) in each column the weights of a ridge regression of that value on all others, the first of which is 1.

    products (1 + D, 1 + D): the sums over records of the products of each two values. A column of their inverse is, but for its
    scale, the regression of that value on the others (Lauritzen 1996, of Gaussian graphical models).
    """
    count = products[0, 0].clamp(min=1)
    variance = products.diagonal() / count - (products[0] / count) ** 2
    inverse: Tensor = torch.linalg.inv(products + torch.diag(PRIOR * variance.clamp(min=VARIANCE_LEAST)))
    return (-inverse / inverse.diagonal()).fill_diagonal_(0)


def mean_of(values: Tensor, there: Tensor) -> Tensor:
    """(W,) means of values (N, W) where they are there (N, W)."""
    return (values * there).sum(0) / there.sum(0).clamp(min=1)
