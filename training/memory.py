"""A memory of training records: how far a record is from its nearest ones, most of all the very nearest, feature by feature.

The distance to a remembered record is divided by a power of the distance at which that record has neighbours itself, so that
being a little off counts where normal records lie close together: a mild local outlier factor (Breunig et al. 2000).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from training.config import Config
from training.gaps import trust, unknown
from training.preprocessing import Slots
from training.stable import gather_up, total

RADIUS = (0.2, 2.0)  # the least and largest radius that counts, in mean radii
RADIUS_MEAN_LEAST = 1e-9
LENGTH_LEAST = 1e-12
# More than the nearest are candidates, among which exact distances decide: a product of matrices tells a small distance as the
# difference of large squares.
MORE = 3
LAST_BITS = 1e-6  # of a square, which a sum in another order may get otherwise
CHUNK = 256  # records at a time, for matrices of all distances


class Term(NamedTuple):
    """One of the things that the surprise looks at, such as how far records are from their nearest remembered ones."""

    value: Tensor  # (N, 1) at least 0
    parts: Tensor  # (N, F) each feature's part of it


class Memory(nn.Module):
    """Slots -> the mean weighted distance to the nearest remembered records, feature by feature."""

    records: Tensor  # (M, D) in the view
    weight: Tensor  # (M,) of the square of the distance to a record
    products: Tensor  # (D + 1 + L, M) and squares (M,): what makes the view's values a squared weighted distance
    squares: Tensor
    level: Tensor  # (D,) 1 of a slot of a boolean or a category, of which there are L
    first: Tensor  # (L,) a slot of each of these; all have a gap, or none
    kept: Tensor  # (M,) where the records are among the training records; not in the graph
    unknown: Tensor  # (D,) what a slot with a gap adds to a squared distance
    trust: Tensor  # (M, D) how much the records' values count; of no rows where none is filled in
    ownership: Tensor  # (D, F) 1 where a slot belongs to a feature

    def __init__(
        self,
        view: nn.Module,
        ownership: Tensor,
        levels: Tensor,
        seen: Tensor,
        gap: Tensor,
        config: Config,
        draw: np.random.Generator,
    ) -> None:
        """Remembers at most config.memory of the records whose values in the view are `seen` (N, D); `gap` (N, D): filled in.

        ownership (D, F), levels (D, L): 1 where a slot belongs to a feature, to one of the booleans and categories.
        """
        super().__init__()
        self.view = view
        neighbours = config.neighbours_small if len(seen) < config.small else config.neighbours
        self.kept = choose(seen, config.memory, draw)
        self.neighbours = min(neighbours, len(self.kept) - 1)  # a record that leaves itself out must have as many
        self.candidates = min(self.neighbours + MORE, len(self.kept) - 1)
        records = seen[self.kept]
        weight = local_weight(records, seen, config) ** 2
        self.records, self.weight = nn.Buffer(records), nn.Buffer(weight)
        self.products = nn.Buffer(torch.cat([-2 * weight * records.T, weight[None, :], -weight * (records**2 @ levels).T]))
        self.squares = nn.Buffer(weight * (records**2).sum(1))
        self.level, self.first = nn.Buffer(levels.sum(1)), nn.Buffer(levels.argmax(0))
        other = self.kept[nearest_other(seen, records, place_of(torch.arange(len(seen)), self.kept))]
        self.unknown = nn.Buffer(unknown((seen - seen[other]) ** 2, 1 - torch.maximum(gap, gap[other])))
        self.trust = nn.Buffer(trust(gap[self.kept]))
        self.ownership = nn.Buffer(ownership)

    def distance(self, seen: Tensor, gap: Tensor) -> Tensor:
        """(N, M) squared weighted distances of the view's values (N, D) to all records, to a few last bits.

        Booleans and categories that are missing, where `gap` (N, D) is 1, are left out: they do not count.
        """
        lacking = []
        if len(self.first):
            seen, lacking = seen * (1 - gap * self.level), [gap[:, self.first]]
        known = torch.cat([seen, total(seen * seen), *lacking], 1)
        return torch.addmm(self.squares.to(seen), known, self.products.to(seen))

    def forward(self, slots: Slots, out: Tensor, counts: Tensor) -> Term:
        """Of records, by the decoders' output (N, D) in the gaps; counts (N, D): how much each slot counts."""
        seen = self.view(slots, out)
        return self.nearest(seen, counts, slots.gap * self.unknown, self.distance(seen, slots.gap))

    def nearest(self, seen: Tensor, counts: Tensor, added: Tensor, distance: Tensor) -> Term:
        """From the view's values (N, D) and distances (N, M), which choose candidates: among these, exact distances decide."""
        candidates = distance.topk(self.candidates, largest=False)[1]
        gap = self.exact(seen, counts, added, candidates)
        squared = (gap @ torch.ones(int(seen.shape[1]), 1)).squeeze(2) * self.weight[candidates]
        least = squared.topk(self.neighbours, largest=False)[0]
        value = torch.sqrt(least) @ nearer_more(self.neighbours)
        near = (squared <= least[:, self.neighbours - 1 :]).to(gap.dtype)
        share = near * self.weight[candidates] / torch.sqrt(squared).clamp(min=LENGTH_LEAST)
        return Term(value, scaled(gather_up((share[:, None, :] @ gap).squeeze(1), self.ownership), value))

    def exact(self, seen: Tensor, counts: Tensor, added: Tensor, candidates: Tensor) -> Tensor:
        """(N, K, D) each slot's part of the squared distances to the candidates (N, K), gaps counted as they are."""
        gap = seen[:, None, :] - self.records[candidates]
        gap = gap * gap * counts[:, None, :]
        if len(self.trust):
            gap = gap * self.trust[candidates]
        return gap + added[:, None, :]

    def honest(self, slots: Slots, out: Tensor, counts: Tensor, rows: Tensor) -> Term:
        """Of training records, those at `rows` (N,), each without itself."""
        seen, place = self.view(slots, out), place_of(rows, self.kept)
        remembered = torch.nonzero(place >= 0)[:, 0]
        distance = self.distance(seen, slots.gap)
        distance[remembered, place[remembered]] = torch.inf
        wholes = seen, counts, slots.gap * self.unknown, distance
        every = zip(*(torch.split(whole, CHUNK) for whole in wholes), strict=True)
        return Term(*(torch.cat(parts) for parts in zip(*(self.nearest(*part) for part in every), strict=True)))

    def ambiguous(self, slots: Slots, out: Tensor, counts: Tensor, tolerance: float) -> Tensor:
        """(N,) where last bits choose: the last of the nearest is hardly nearer than the next, or may be no candidate."""
        seen = self.view(slots, out).double()
        weight, records = self.weight.double(), self.records.double()
        distance, place = self.distance(seen, slots.gap.double()).sort(1)
        k, candidates = self.neighbours, self.candidates
        exact = self.exact(seen, counts.double(), (slots.gap * self.unknown).double(), place[:, :candidates]).sum(2)
        exact = (exact * weight[place[:, :candidates]]).sort(1)[0]
        last_bits = LAST_BITS * ((seen**2).sum(1) + (records**2).sum(1)[place[:, candidates]]) * weight[place[:, candidates]]
        tie = (
            exact[:, k] - exact[:, k - 1] < tolerance * exact[:, k]
            if k < candidates
            else torch.zeros(len(seen), dtype=torch.bool)
        )
        missed: Tensor = distance[:, candidates] - distance[:, k - 1] < last_bits
        # with gaps, exact distances are of another measure than those that choose candidates: any of these may be the nearest
        last: Tensor = distance[:, candidates] - distance[:, candidates - 1] < last_bits
        return tie | missed | (last & ((slots.gap > 0).any(1) | (len(self.trust) > 0)))


def nearer_more(k: int) -> Tensor:
    """(k, 1) how much the nearest of k counts, the next, and so on: k times as much as the last, k - 1 times, and so on.

    That is the mean of the mean distances to the 1, 2, ... k nearest. A swap of two that are equally near changes no value, and
    no reasons: in these all k count alike.
    """
    order = torch.arange(k, 0, -1, dtype=torch.float32)
    return (order / order.sum())[:, None]


def scaled(parts: Tensor, value: Tensor) -> Tensor:
    """(N, F) the parts (N, F), so that they sum to the value (N, 1)."""
    return parts * (value / total(parts).clamp(min=LENGTH_LEAST))


def place_of(rows: Tensor, kept: Tensor) -> Tensor:
    """(N,) where among `kept` (M,) each of `rows` (N,) is; -1 where it is not."""
    place = torch.full((1 + int(max(rows.max(), kept.max())),), -1)
    place[kept] = torch.arange(len(kept))
    return place[rows]


def nearest_other(seen: Tensor, records: Tensor, place: Tensor) -> Tensor:
    """(N,) which of the records (M, D) is the nearest to each of `seen` (N, D), but for the one at its own place (N,)."""
    two = min(2, len(records))
    near = torch.cat([squared_distance(part, records).topk(two, largest=False)[1] for part in torch.split(seen, CHUNK)])
    return torch.where(near[:, 0] == place, near[:, -1], near[:, 0])


def local_weight(records: Tensor, seen: Tensor, config: Config) -> Tensor:
    """(M,) a negative power of how far records (M, D) are from their nearest of all (N, D), in mean such radii."""
    near = min(config.radius_neighbours + 1, len(seen))
    radius = torch.cat(
        [squared_distance(part, seen).topk(near, largest=False)[0].sqrt()[:, 1:].mean(1) for part in torch.split(records, CHUNK)]
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
