"""A memory of training records: how far a record is from its nearest ones, feature by feature.

In the near one, the distance to a remembered record is divided by a power of the distance at which that record has neighbours
itself, so that being a little off counts where normal records lie close together: a mild local outlier factor (Breunig et al.
2000). The wide one is plain: it tells what is far from everything.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from training.config import Config
from training.fit import parts_of
from training.preprocessing import Preprocessing, Slots
from training.shape import bend_of, with_a_value
from training.stable import bend, gather_up, total

MIDDLE = (0.05, 0.95)  # levels of the quantiles between which a number's width is taken
WIDTH = 3.29  # standard deviations between these, were it Gaussian
WIDTH_LEAST = 1e-3  # standard deviations: a narrower middle says nothing of the width
# Widths from the mean, beyond which a number is far from everything. The square of a larger one would drown a distance's last
# digits, and with them which record is nearest.
FAR = 10.0
ONE_HOT = 2.0  # units of a boolean or one-hot slot in the wide view, as much for rare as for common levels
RADIUS = (0.2, 2.0)  # the least and largest radius that counts, in mean radii
RADIUS_MEAN_LEAST = 1e-9
LENGTH_LEAST = 1e-12
# Records among which exact distances decide: a product of matrices tells a small distance as the difference of large squares.
CANDIDATES = 8
LAST_BITS = 1e-6  # of a square, which a sum in another order may get otherwise
CHUNK = 256  # records at a time, for matrices of all distances


class View(nn.Module):
    """Slots without gaps (N, D) -> (N, D) centred values of like spread.

    The near view bends each number by its own shape, but for counts, and scales it by its range; the wide view takes the numbers
    in their own units, scaled by the width of the middle nine tenths, so that a value far off is far off.
    """

    origin: Tensor  # (numerics,) of the near view's bends, in units of the preprocessing, as unit
    unit: Tensor
    size: Tensor  # (D,) by which a slot is divided
    centre: Tensor  # (D,) the mean of what comes out

    def __init__(self, preprocessing: Preprocessing, slots: Slots, wide: bool) -> None:
        """Fits the view to training records."""
        super().__init__()
        self.preprocessing = (preprocessing,)  # in a tuple: the scorer's, not a part of this
        self.wide = wide
        reals, numerics, seen = preprocessing.reals, preprocessing.numerics, slots.seen > 0
        if not wide:
            numbers = torch.where(seen[:, :numerics], preprocessing.unbent(slots.y), torch.nan)
            origin, unit = (torch.from_numpy(part).float() for part in bend_of(with_a_value(numbers.double().numpy())))
            counts = preprocessing.counts > 0  # those are bent as they should be
            self.origin, self.unit = nn.Buffer(torch.where(counts, 0.0, origin)), nn.Buffer(torch.where(counts, 1.0, unit))
        self.size, self.centre = nn.Buffer(torch.ones(slots.y.shape[1])), nn.Buffer(torch.zeros(slots.y.shape[1]))
        values = self._values(slots.y)
        there = torch.where(seen, values, torch.nan)[:, :reals].double()
        if wide:
            deviation = ((there - there.nanmean(0)) ** 2).nanmean(0).sqrt()
            low, high = torch.from_numpy(np.nanquantile(with_a_value(there.numpy()), MIDDLE, axis=0))
            width = (high - low) / WIDTH
            size = torch.where(width > WIDTH_LEAST * deviation, width, deviation)
            self.size[reals:] = 1 / ONE_HOT
        else:
            size = there.nan_to_num(-torch.inf).amax(0) - there.nan_to_num(torch.inf).amin(0)
        self.size[:reals] = torch.where(size > 0, size, 1.0).float()
        # whether a value is missing is the nets' matter: by chance it differs between any two records, and would drown the rest
        self.size[reals + preprocessing.booleans : reals + preprocessing.bits] = torch.inf
        self.centre.copy_((self._values(slots.y) * slots.seen).sum(0) / slots.seen.sum(0).clamp(min=1))

    def forward(self, y: Tensor) -> Tensor:
        """(N, D) the values, 0 being their mean, of slots (N, D) without gaps."""
        values = self._values(y) - self.centre
        return values.clamp(-FAR, FAR) if self.wide else values

    def _values(self, y: Tensor) -> Tensor:
        numerics = self.preprocessing[0].numerics
        if numerics:
            numbers = self.preprocessing[0].unbent(y)
            numbers = numbers if self.wide else bend((numbers - self.origin) / self.unit)
            y = numbers if numerics == y.shape[1] else torch.cat([numbers, y[:, numerics:]], 1)
        return y / self.size


class Term(NamedTuple):
    """One of the things that the surprise looks at, such as how far records are from their nearest remembered ones."""

    value: Tensor  # (N, 1) at least 0
    parts: Tensor  # (N, F) each feature's part of it


class Memory(nn.Module):
    """Slots -> the mean weighted distance to the nearest remembered records, feature by feature."""

    records: Tensor  # (M, D) in the view
    weight: Tensor  # (M,) of the distance to a record
    products: Tensor  # (D or D + 1, M) and squares (M,): what makes the view's values a squared weighted distance
    squares: Tensor
    kept: Tensor  # (M,) where the records are among the training records; not in the graph
    ownership: Tensor  # (D, F) 1 where a slot belongs to a feature

    def __init__(
        self, view: View, local: bool, ownership: Tensor, filled: Tensor, config: Config, draw: np.random.Generator
    ) -> None:
        """Remembers at most config.memory of the records whose slots, without gaps, are `filled` (N, D).

        local: whether distances are weighted by how close together the records lie there.
        """
        super().__init__()
        self.view, self.local = view, local
        seen = view(filled)
        neighbours = config.neighbours_small if len(seen) < config.small else config.neighbours
        self.kept = choose(seen, config.memory, draw)
        self.neighbours = min(neighbours, len(self.kept) - 1)  # a record that leaves itself out must have as many
        records = seen[self.kept]
        weight = local_weight(records, seen, config) if local else torch.ones(len(records))
        products = -2 * weight**2 * records.T
        self.records, self.weight = nn.Buffer(records), nn.Buffer(weight)
        self.products = nn.Buffer(torch.cat([products, weight[None, :] ** 2]) if local else products.contiguous())
        self.squares = nn.Buffer(weight**2 * (records**2).sum(1))
        self.ownership = nn.Buffer(ownership)

    def distance(self, seen: Tensor) -> Tensor:
        """(N, M) squared weighted distances of the view's values (N, D) to all records, to a few last bits.

        Unweighted, they lack the square of the record itself, which is the same for all.
        """
        if self.local:
            seen = torch.cat([seen, total(seen * seen)], 1)
        return torch.addmm(self.squares, seen, self.products)

    def forward(self, filled: Tensor, counts: Tensor) -> Term:
        """From slots without gaps (N, D) and how much each counts (N, D), 0 where a value is missing."""
        seen = self.view(filled)
        return self.nearest(seen, counts, self.distance(seen))

    def nearest(self, seen: Tensor, counts: Tensor, distance: Tensor) -> Term:
        """From the view's values (N, D) and distances (N, M), which choose candidates: among these, exact distances decide."""
        candidates = distance.topk(min(CANDIDATES, len(self.records) - 1), largest=False)[1]
        gap = seen[:, None, :] - self.records[candidates]
        exact = self.weighted((gap * gap @ torch.ones(int(seen.shape[1]), 1)).squeeze(2), candidates)
        nearest = candidates.gather(1, exact.topk(self.neighbours, largest=False)[1])
        gap = seen[:, None, :] - self.records[nearest]
        gap = gap * gap * counts[:, None, :]  # (N, K, D)
        length = torch.sqrt((gap @ torch.ones(int(seen.shape[1]), 1)).squeeze(2))
        each = torch.full((self.neighbours, 1), 1 / self.neighbours)
        weight = self.weight[nearest] if self.local else torch.ones_like(length)
        value = (length * weight if self.local else length) @ each
        share = weight / length.clamp(min=LENGTH_LEAST) * (1 / self.neighbours)
        return Term(value, gather_up((share[:, None, :] @ gap).squeeze(1), self.ownership))

    def honest(self, filled: Tensor, counts: Tensor, place: Tensor) -> Term:
        """Of training records, each without itself; place (N,) is where it is among the remembered ones, -1 where it is not."""
        seen, remembered = self.view(filled), torch.nonzero(place >= 0)[:, 0]
        distance = self.distance(seen)
        distance[remembered, place[remembered]] = torch.inf
        every = zip(*(parts_of(whole, CHUNK) for whole in (seen, counts, distance)), strict=True)
        return Term(*(torch.cat(parts) for parts in zip(*(self.nearest(*part) for part in every), strict=True)))

    def weighted(self, squared: Tensor, place: Tensor) -> Tensor:
        """(N, K) squared distances to the records at these places (N, K), weighted."""
        if not self.local:
            return squared
        weight = self.weight[place]
        return squared * (weight * weight)

    def ambiguous(self, filled: Tensor, tolerance: float) -> Tensor:
        """(N,) where last bits choose: the last of the nearest is hardly nearer than the next, or may be no candidate."""
        seen = self.view(filled).double()
        weight, records = self.weight.double() ** 2, self.records.double()
        distance, place = (squared_distance(seen, records) * weight).sort(1)
        k, candidates = self.neighbours, min(CANDIDATES, len(records) - 1)
        last_bits = LAST_BITS * ((seen**2).sum(1) + (records**2).sum(1)[place[:, candidates]]) * weight[place[:, candidates]]
        tie = distance[:, k] - distance[:, k - 1] < tolerance * distance[:, k]
        missed: Tensor = distance[:, candidates] - distance[:, k - 1] < last_bits
        return tie | missed


def local_weight(records: Tensor, seen: Tensor, config: Config) -> Tensor:
    """(M,) a negative power of how far records (M, D) are from their nearest of all (N, D), in mean such radii."""
    near = min(config.radius_neighbours + 1, len(seen))
    radius = torch.cat(
        [squared_distance(part, seen).topk(near, largest=False)[0].sqrt()[:, 1:].mean(1) for part in parts_of(records, CHUNK)]
    )
    radius = radius / radius.mean().clamp(min=RADIUS_MEAN_LEAST)
    power = config.locality * len(seen) / (len(seen) + config.locality_records)
    return radius.clamp(*RADIUS) ** -power


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
