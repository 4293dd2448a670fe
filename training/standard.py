"""Numbers, standardised: as the nets see them, or amounts much as by their logarithm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.preprocessing import LIMIT, SCALE_LEAST, Preprocessing, Slots
from training.ridge import mean_of
from training.stable import bend, unbend


class Standard(nn.Module):
    """Slots -> (N, W) the numbers, standardised, 0 where missing: as the nets see them, or by another bend."""

    amount: Tensor  # (A,) which numbers are bent from 0 on
    unit: Tensor  # (A,) of these bends, in the features' own units
    centre: Tensor  # (A,) of what these give, as scale
    scale: Tensor
    place: Tensor  # (W,) where each number is among those of the nets and these
    least: Tensor  # (W,) of what training records have, as most
    most: Tensor

    def __init__(self, preprocessing: Preprocessing, slots: Slots, amount: Tensor, unit: Tensor) -> None:
        """Fits the scales to training records (n, D); unit (A,): of the numbers at amount (A,)."""
        super().__init__()
        self.preprocessing = (preprocessing,)  # in a tuple: the scorer's, not a part of this
        self.amount, self.unit = nn.Buffer(amount), nn.Buffer(unit)
        bent, there = self._bent(slots).double(), slots.seen[:, amount]
        centre = mean_of(bent, there)
        self.centre = nn.Buffer(centre.float())
        self.scale = nn.Buffer(mean_of((bent - centre) ** 2, there).sqrt().clamp(min=SCALE_LEAST).float())
        place = torch.arange(preprocessing.numerics)
        place[amount] = preprocessing.numerics + torch.arange(len(amount))
        self.place = nn.Buffer(place)
        given = self(slots)  # 0, which lies between, where a number is missing
        self.least, self.most = nn.Buffer(given.amin(0)), nn.Buffer(given.amax(0))

    def forward(self, slots: Slots) -> Tensor:
        """Of records (N, D)."""
        numbers = slots.y[:, : len(self.place)] if len(self.place) < slots.y.shape[1] else slots.y
        if not len(self.amount):
            return numbers
        amounts = (self._bent(slots) - self.centre) / self.scale * slots.seen[:, self.amount]
        return torch.cat([numbers, amounts], 1)[:, self.place]

    def restore(self, given: Tensor) -> Tensor:
        """(N, W) the numbers, in the features' own units, for which this gives (N, W), none beyond those of training."""
        given = torch.minimum(torch.maximum(given, self.least), self.most)
        preprocessing, own = self.preprocessing[0], slice(len(self.place))
        numbers = unbend(given * preprocessing.scale + preprocessing.centre) * preprocessing.unit[own] + preprocessing.origin[own]
        if not len(self.amount):
            return numbers
        amounts = unbend(given[:, self.amount] * self.scale + self.centre) * self.unit
        return torch.cat([numbers, amounts], 1)[:, self.place]

    def steepness(self, slots: Slots) -> Tensor:
        """(W,) the mean log of the slope of what this gives: what a density of that is multiplied by for one of the numbers."""
        preprocessing, own = self.preprocessing[0], slice(len(self.place))
        every = [(preprocessing.origin[own], preprocessing.unit[own], preprocessing.scale, slots.numbers)]
        every.append((torch.zeros_like(self.unit), self.unit, self.scale, slots.numbers[:, self.amount]))
        there = slots.seen[:, own], slots.seen[:, self.amount]
        means = [
            mean_of(-0.875 * (1 + away(numbers, origin, unit)).log() - (unit * scale).double().log(), known)
            for (origin, unit, scale, numbers), known in zip(every, there, strict=True)
        ]
        return torch.cat(means)[self.place]

    def _bent(self, slots: Slots) -> Tensor:
        return bend(torch.clamp(slots.numbers[:, self.amount] / self.unit, -LIMIT, LIMIT))


def away(numbers: Tensor, origin: Tensor, unit: Tensor) -> Tensor:
    """(N, W) how far numbers (N, W) are from their origins (W,), in their units (W,), as far as is looked at."""
    return ((numbers - origin) / unit).double().abs().clamp(max=LIMIT)
