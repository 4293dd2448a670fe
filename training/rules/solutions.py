"""What a number has to be by an exact relation, where the others of it are there: a gross amount by net and tax."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.rules.products import Products
from training.rules.relations import MOST, Relations

LOGARITHM_MOST = 80.0  # of a number; float32 has no others


class Solutions(nn.Module):
    """Numbers -> what each is by the relation that tells it best, and where that can be told."""

    columns: Tensor  # (J,) of numbers that some relation has
    weight: Tensor  # (W, J) of the others
    bias: Tensor  # (J,)
    needs: Tensor  # (W, J) 1 where the relation has another number

    def __init__(self, relations: Relations) -> None:
        super().__init__()
        size = relations.weight.abs()
        off = torch.where(size > 0, relations.rest / size, torch.inf)  # (W, R) how far off a number may be that is told
        self.columns = nn.Buffer(torch.nonzero(relations.uses.any(1))[:, 0])
        best = off[self.columns].argmin(1)
        own = relations.weight[self.columns, best]
        weight, needs = relations.weight[:, best] / -own, relations.uses[:, best].clone()
        place = torch.arange(len(best))
        weight[self.columns, place] = needs[self.columns, place] = 0
        self.weight, self.needs, self.bias = nn.Buffer(weight), nn.Buffer(needs), nn.Buffer(relations.bias[best] / -own)

    def forward(self, numbers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """(N, J) of numbers (N, W) that are there (N, W), and (N, J) 1 where all that it takes is there."""
        told = torch.addmm(self.bias, numbers.clamp(-MOST, MOST), self.weight)
        return told, ((1 - there) @ self.needs == 0).to(numbers.dtype)


class Factors(nn.Module):
    """The same by products of powers."""

    columns: Tensor  # (J,)
    base: Tensor  # (J,) of the factor that a number is told by
    sign: Tensor  # (J,)

    def __init__(self, products: Products) -> None:
        super().__init__()
        self.products, self.logarithms = products, Solutions(products.relations)
        factors = self.logarithms.columns
        self.columns = nn.Buffer(products.column[factors])
        self.base, self.sign = nn.Buffer(products.base[factors]), nn.Buffer(products.sign[factors])

    def forward(self, numbers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """As Solutions; all that it takes is positive."""
        told, known = self.logarithms(*self.products.logarithms(numbers, there))
        return (told.clamp(-LOGARITHM_MOST, LOGARITHM_MOST).exp() - self.base) * self.sign, known
