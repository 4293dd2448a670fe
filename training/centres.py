"""The centres of the training records: how far a record is from all of them, feature by feature.

Where the memory tells what is a little off, these tell what is far from everything: a few hundred centres are enough for that,
and cost a tenth of the memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from training.config import Config
from training.gaps import unknown
from training.memory import CHUNK, Term, place_of, squared_distance
from training.preprocessing import Slots
from training.stable import gather_up, total

STEPS = 12  # of Lloyd's algorithm
SCATTER_RECORDS = 3  # by which a centre's scatter leans on that of all
SCATTER_LEAST = 0.02  # of the mean square of a record: that far from a centre, nothing is odd
SQUARE_LEAST = 1e-12


class Centres(nn.Module):
    """Slots -> the distance to the nearest centre, its scatter included, feature by feature."""

    centres: Tensor  # (K, D) in the view
    products: Tensor  # (D, K) and squares (K,): what makes the view's values a squared distance, less their own square
    squares: Tensor
    scatter: Tensor  # (K,) mean squared distance of a centre's records, of which each feature has an equal part
    counts: Tensor  # (K,) of these; as the next two not in the graph
    made_from: Tensor  # (N,) rows of the training records
    assigned: Tensor  # (N,) their centres
    unknown: Tensor  # (D,) what a slot with a gap adds to a squared distance
    ownership: Tensor  # (D, F) 1 where a slot belongs to a feature

    def __init__(
        self, view: nn.Module, ownership: Tensor, seen: Tensor, gap: Tensor, config: Config, draw: np.random.Generator
    ) -> None:
        """Finds the centres of the records whose values in the view are `seen` (N, D); `gap` (N, D): filled in."""
        super().__init__()
        self.view = view
        centres, self.assigned = k_means(seen, max(1, min(config.centres, len(seen) // config.centre_records)), draw)
        self.made_from = torch.arange(len(seen))
        self.counts = torch.bincount(self.assigned, minlength=len(centres))
        squares = (seen - centres[self.assigned]) ** 2
        squared = squares.sum(1)
        sums = torch.zeros(len(centres)).index_add_(0, self.assigned, squared)
        scatter = (sums + SCATTER_RECORDS * squared.mean()) / (self.counts + SCATTER_RECORDS)
        scatter = scatter.clamp(min=max(SCATTER_LEAST * float((seen**2).sum(1).mean()), SQUARE_LEAST))
        self.centres, self.scatter = nn.Buffer(centres), nn.Buffer(scatter)
        self.products = nn.Buffer(-2 * centres.T.contiguous())
        self.squares = nn.Buffer((centres**2).sum(1) + scatter)
        self.unknown = nn.Buffer(unknown(squares, 1 - gap))
        self.ownership = nn.Buffer(ownership)

    def forward(self, slots: Slots, out: Tensor, counts: Tensor) -> Term:
        """Of records, by the decoders' output (N, D) in the gaps; counts (N, D): how much each slot counts."""
        seen = self.view(slots, out)
        return self.told(self.nearest(seen), seen, counts, slots.gap * self.unknown)

    def nearest(self, seen: Tensor) -> Tensor:
        """(N,) which centre is the nearest to the view's values (N, D), its scatter included."""
        return self.distance(seen).argmin(1)

    def distance(self, seen: Tensor) -> Tensor:
        """(N, K) squared distances and scatters, to a few last bits, less the square of the values themselves."""
        return torch.addmm(self.squares, seen, self.products)

    def told(self, place: Tensor, seen: Tensor, counts: Tensor, added: Tensor) -> Term:
        """The exact distance to the centres (N,)."""
        gap = seen - self.centres[place]
        gap = gap * gap * counts + added
        scatter = self.scatter[:, None][place]
        value = torch.sqrt(total(gap) + scatter)
        each = gather_up(gap, self.ownership)
        return Term(value, (each + scatter * (1 / int(each.shape[1]))) / value)

    def honest(self, slots: Slots, out: Tensor, counts: Tensor, rows: Tensor) -> Term:
        """Of training records, those at `rows` (N,), each as if its centre were the mean of the others there."""
        seen, place = self.view(slots, out), place_of(rows, self.made_from)
        distance, member = self.distance(seen), torch.nonzero(place >= 0)[:, 0]
        own = self.assigned[place[member]]
        others = self.counts[own] - 1
        farther = ((others + 1) / others.clamp(min=1)) ** 2
        squared = ((seen[member] - self.centres[own]) ** 2).sum(1) * farther
        without = squared + self.scatter[own] - (seen[member] ** 2).sum(1)
        distance[member, own] = torch.where(others > 0, without, torch.inf) if len(self.centres) > 1 else without
        nearest = distance.argmin(1)
        grown = torch.ones(len(seen), 1)
        grown[member, 0] = torch.where(nearest[member] == own, farther, 1.0)
        return self.told(nearest, seen, counts * grown, slots.gap * self.unknown)

    def ambiguous(self, slots: Slots, out: Tensor, counts: Tensor, tolerance: float) -> Tensor:  # noqa: ARG002 - as the memory's
        """(N,) where last bits choose which centre is the nearest, and so the features' parts; the distance is the same."""
        if len(self.centres) == 1:
            return torch.zeros(len(out), dtype=torch.bool)
        seen = self.view(slots, out).double()
        two = (squared_distance(seen, self.centres.double()) + self.scatter).topk(2, largest=False)[0]
        tie: Tensor = two[:, 1] - two[:, 0] < tolerance * ((seen**2).sum(1) + two[:, 1])
        return tie


def k_means(seen: Tensor, count: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(K, D) centres of records (N, D), and (N,) which is each one's; begun by k-means++ (Arthur & Vassilvitskii 2007)."""
    chosen = [int(draw.integers(len(seen)))]
    nearest = ((seen - seen[chosen[0]]) ** 2).sum(1)
    for _ in range(count - 1):
        reach = np.cumsum(nearest.double().numpy())
        place = int(np.searchsorted(reach, draw.random() * reach[-1], side="right"))
        chosen.append(min(place, len(seen) - 1))
        nearest = torch.minimum(nearest, ((seen - seen[chosen[-1]]) ** 2).sum(1))
    centres = seen[chosen]
    for _ in range(STEPS):
        assigned = assign(seen, centres)
        counts = torch.bincount(assigned, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, assigned, seen)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres, assign(seen, centres)


def assign(seen: Tensor, centres: Tensor) -> Tensor:
    """(N,) the nearest centre (K, D) of each record (N, D)."""
    return torch.cat([squared_distance(part, centres).argmin(1) for part in torch.split(seen, CHUNK)])
