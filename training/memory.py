"""A memory of training records: how far a record is from its nearest ones, feature by feature.

The distance to a remembered record is divided by a power of the distance at which that record has neighbours itself, so that
being a little off counts where normal records lie close together: a mild local outlier factor (Breunig et al. 2000).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from training.config import Config
from training.fit import parts_of
from training.preprocessing import Preprocessing, Slots
from training.stable import bend, gather_up, total

BEND = 5.0  # how much stronger the second view bends
ONE_HOT = 2.0  # units of a boolean or one-hot slot in the bent view, as much for rare as for common levels
RADIUS = (0.2, 2.0)  # the least and largest radius that counts, in mean radii
RADIUS_MEAN_LEAST = 1e-9
LENGTH_LEAST = 1e-12
CHUNK = 256  # records at a time, for matrices of all distances


class View(nn.Module):
    """Slots without gaps (N, D) -> (N, D) centred values of like spread.

    One view scales the numbers by their range; the other bends them once more, so that small values and far ones count alike.
    """

    size: Tensor  # (D,) by which a slot is divided
    centre: Tensor  # (D,) the mean of what comes out

    def __init__(self, preprocessing: Preprocessing, slots: Slots, bend: bool) -> None:
        """Fits the view to training records."""
        super().__init__()
        self.preprocessing = (preprocessing,)  # in a tuple: the scorer's, not a part of this
        self.bend = bend and preprocessing.numerics > 0
        reals, seen = preprocessing.reals, slots.seen > 0
        self.size, self.centre = nn.Buffer(torch.ones(slots.y.shape[1])), nn.Buffer(torch.zeros(slots.y.shape[1]))
        values = self._values(slots.y)
        there = torch.where(seen, values, torch.nan)[:, :reals].double()
        if bend:
            size = ((there - there.nanmean(0)) ** 2).nanmean(0).sqrt()
            self.size[reals:] = 1 / ONE_HOT
        else:
            size = there.nan_to_num(-torch.inf).amax(0) - there.nan_to_num(torch.inf).amin(0)
        self.size[:reals] = torch.where(size > 0, size, 1.0).float()
        # whether a value is missing is the nets' matter: by chance it differs between any two records, and would drown the rest
        self.size[reals + preprocessing.booleans : reals + preprocessing.bits] = torch.inf
        self.centre.copy_((self._values(slots.y) * slots.seen).sum(0) / slots.seen.sum(0).clamp(min=1))

    def forward(self, y: Tensor) -> Tensor:
        """(N, D) the values, 0 being their mean, of slots (N, D) without gaps."""
        return self._values(y) - self.centre

    def _values(self, y: Tensor) -> Tensor:
        if self.bend:
            numerics = self.preprocessing[0].numerics
            bent = bend(BEND * self.preprocessing[0].bent(y))
            y = bent if numerics == y.shape[1] else torch.cat([bent, y[:, numerics:]], 1)
        return y / self.size


class Memory(nn.Module):
    """Slots -> (N, F) each feature's part of the mean weighted distance to the nearest remembered records."""

    records: Tensor  # (M, D) in the view
    weight: Tensor  # (M, 1) of the distance to a record
    scaled: Tensor  # (D, M) -2 weight^2 records, and the squares (1, M) and weights (1, M) that make it a squared distance
    squares: Tensor
    spread: Tensor
    ownership: Tensor  # (D, F) 1 where a slot belongs to a feature

    def __init__(self, view: View, ownership: Tensor, filled: Tensor, config: Config, draw: np.random.Generator) -> None:
        """Remembers at most config.memory of the records whose slots, without gaps, are `filled` (N, D)."""
        super().__init__()
        self.view = view
        seen = view(filled)
        neighbours = config.neighbours_small if len(seen) < config.small else config.neighbours
        self.kept = choose(seen, config.memory, draw)
        self.neighbours = min(neighbours, len(self.kept) - 1)  # a record that leaves itself out must have as many
        records = seen[self.kept]
        near = min(config.radius_neighbours + 1, len(seen))
        radius = torch.cat(
            [squared_distance(part, seen).topk(near, largest=False)[0].sqrt()[:, 1:].mean(1) for part in parts_of(records, CHUNK)]
        )
        radius = radius / radius.mean().clamp(min=RADIUS_MEAN_LEAST)
        power = config.locality * len(seen) / (len(seen) + config.locality_records)
        weight = radius.clamp(*RADIUS) ** -power
        self.records, self.weight = nn.Buffer(records), nn.Buffer(weight[:, None])
        self.scaled = nn.Buffer((-2 * weight**2 * records.T).contiguous())
        self.squares = nn.Buffer((weight**2 * (records**2).sum(1))[None, :])
        self.spread = nn.Buffer((weight**2)[None, :])
        self.ownership = nn.Buffer(ownership)

    def distance(self, seen: Tensor) -> Tensor:
        """(N, M) squared weighted distances of the view's values (N, D) to all records, to a few last bits."""
        return seen @ self.scaled + self.squares + total(seen * seen) @ self.spread

    def forward(self, filled: Tensor, counts: Tensor) -> Tensor:
        """(N, F) at least 0, from slots without gaps (N, D) and how much each counts (N, D), 0 where a value is missing."""
        seen = self.view(filled)
        return self.parts(seen, counts, self.distance(seen))

    def parts(self, seen: Tensor, counts: Tensor, distance: Tensor) -> Tensor:
        """(N, F) from the view's values (N, D) and distances (N, M): the nearest records by these, then their exact distance."""
        nearest = distance.topk(self.neighbours, largest=False)[1]
        gap = seen[:, None, :] - self.records[nearest]
        gap = gap * gap * counts[:, None, :]  # (N, K, D)
        length = torch.sqrt(gap @ torch.ones(int(seen.shape[1]), 1)).clamp(min=LENGTH_LEAST)
        share = self.weight[nearest] / length * (1 / self.neighbours)  # (N, K, 1)
        return gather_up((share.transpose(1, 2) @ gap)[:, 0], self.ownership)

    def honest(self, filled: Tensor, counts: Tensor) -> Tensor:
        """(N, F) the parts of the remembered records themselves, in their order, each without itself."""
        seen = self.view(filled)
        distance = self.distance(seen).fill_diagonal_(torch.inf)
        every = zip(*(parts_of(whole, CHUNK) for whole in (seen, counts, distance)), strict=True)
        return torch.cat([self.parts(*part) for part in every])

    def ambiguous(self, filled: Tensor, tolerance: float) -> Tensor:
        """(N,) where the last of the nearest records is hardly nearer than the next: another sum may choose another."""
        distance = self.distance(self.view(filled)).topk(min(self.neighbours + 1, len(self.records)), largest=False)[0]
        return (distance[:, 1:] - distance[:, :-1] < tolerance * distance[:, -1:]).any(1)


def choose(seen: Tensor, most: int, draw: np.random.Generator) -> Tensor:
    """Which of the records (N, D) to remember: all, or half the most farthest-first and the rest at random."""
    if len(seen) <= most:
        return torch.arange(len(seen))
    spread = farthest_first(seen, most // 2)
    rest = torch.from_numpy(draw.permutation(len(seen)))
    rest = rest[~torch.isin(rest, spread)]
    return torch.cat([spread, rest[: most - len(spread)]])


def farthest_first(seen: Tensor, count: int) -> Tensor:
    """The first record, then each the farthest from those before it (Gonzalez 1985)."""
    chosen, nearest = [0], ((seen - seen[0]) ** 2).sum(1)
    for _ in range(count - 1):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, ((seen - seen[chosen[-1]]) ** 2).sum(1))
    return torch.tensor(chosen)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """(A, B) squared distances of rows (A, D) and (B, D)."""
    return ((a**2).sum(1, keepdim=True) + (b**2).sum(1) - 2 * a @ b.T).clamp(min=0)


def slot_ownership(preprocessing: Preprocessing) -> Tensor:
    """(D, F) 1 where a slot belongs to a feature; that of a one-hot slot comes through its category."""
    front = preprocessing.reals + preprocessing.bits
    onehot = preprocessing.membership @ preprocessing.ownership[front:]
    return torch.cat([preprocessing.ownership[:front], onehot])
