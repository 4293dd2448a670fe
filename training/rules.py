"""What held for every training record: bounds that values end at, numbers that are whole, levels that never come together, exact
relations of numbers.

A rating of 1 to 5 is never 0, no loan is without its papers, and net and tax make the gross. In a distance among a dozen columns
one broken rule hardly shows, and a net learns no more than what is usual. Something is a rule where the training records would
show the contrary: many lie at the very bound, two levels would often meet if they were independent, nothing but rounding is left
of a relation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.memory import Term
from training.preprocessing import ENCODED_MOST, FLOAT32_MOST, Preprocessing, Slots
from training.relations import products_of, relations_of
from training.stable import LEAST, joined, sqrt, total

TIES = 20  # training records at the very end of a column's values that make it a bound
TREND = 0.3  # correlation with the rows' order from which on a column moves with time, and no end of it is a bound
YEARS = 1_900, 2_100  # whole numbers between these, too
MEETINGS = 20.0  # records that would have two levels if these were independent: that none has is chance one time in 5e8
WHOLE_LEAST = 100  # training records with a whole number in a column that has no others
WHOLE_MOST = 2.0**24  # beyond, all numbers of float32 are whole
FEW = 6  # values of a number that are looked at as levels
RECORDS_MOST = 50_000  # that are looked at
LEVELS_MOST = 512  # that are kept apart from others: the graph multiplies by a matrix of so many squared


class RuleSet(nn.Module):
    """Slots -> how many rules a record breaks, by feature (N, F): of two levels that never come together half for each."""

    numeric: Tensor  # (W,) columns of x that are numbers
    number_owner: Tensor  # (W, F)
    low: Tensor  # (W,) bounds; beyond all numbers where there is none
    high: Tensor
    whole: Tensor  # (W,) 1 where all numbers are whole
    few: Tensor  # (P,) numbers that are looked at as levels, and their values
    few_value: Tensor
    apart: Tensor  # (L,) levels that never come with some other one
    never: Tensor  # (L, L) 1/2 where they never come together
    level_owner: Tensor  # (L, F)

    def __init__(self, preprocessing: Preprocessing, slots: Slots, moving: Tensor) -> None:
        """The rules that training records (n, D) keep; moving: (W,) numbers that have no bounds."""
        super().__init__()
        self.reals, self.booleans = preprocessing.reals, preprocessing.booleans
        self.front = preprocessing.reals + preprocessing.bits
        owner = preprocessing.slot_ownership()
        self.numeric, self.number_owner = nn.Buffer(preprocessing.numeric), nn.Buffer(owner[: preprocessing.numerics])
        there = self._there(slots)
        low, high = (
            torch.where(moving, away, bound) for away, bound in zip(UNBOUNDED, bounds_of(slots.numbers, there), strict=True)
        )
        self.low, self.high = nn.Buffer(low), nn.Buffer(high)
        self.bounded = bool(((low > -FLOAT32_MOST) | (high < FLOAT32_MOST)).any())
        self.whole = nn.Buffer(whole_numbers(slots.numbers, there))
        few, value = few_valued(slots.numbers, there)
        self.few, self.few_value = nn.Buffer(few), nn.Buffer(value)
        truths = owner[self.reals : self.reals + self.booleans]
        owners = torch.cat([truths, truths, owner[few], owner[self.front :]])
        never = never_together(self._levels(slots), owners)
        apart = never.sum(1).argsort(descending=True, stable=True)[: min(LEVELS_MOST, int(never.any(1).sum()))].sort()[0]
        self.apart, self.level_owner = nn.Buffer(apart), nn.Buffer(owners[apart])
        self.never = nn.Buffer(never[apart][:, apart].float() / 2)
        self.relations = relations_of(slots.numbers, there)
        self.products = products_of(slots.numbers, there)

    @property
    def empty(self) -> bool:
        """Whether there is no rule."""
        none_related = self.relations is None and self.products is None
        return not self.bounded and not self.whole.any() and not len(self.apart) and none_related

    def forward(self, slots: Slots) -> Tensor:
        """Of records (N, D)."""
        parts, numbers = [], slots.numbers
        if self.bounded:
            within = (torch.minimum(torch.maximum(numbers, self.low), self.high) == numbers).to(numbers.dtype)
            parts.append(((1 - within) * self._there(slots)) @ self.number_owner)
        if self.whole.any():
            parts.append(((1 - is_whole(numbers)) * self.whole) @ self.number_owner)
        if len(self.apart):
            levels = self._levels(slots)[:, self.apart]
            parts.append((levels @ self.never * levels) @ self.level_owner)
        related = [found for found in (self.relations, self.products) if found is not None]
        parts += [found(numbers, self._there(slots)) @ self.number_owner for found in related]
        return sum(parts[1:], parts[0]) if parts else slots.y.new_zeros(len(slots.y), self.number_owner.shape[1])

    def _there(self, slots: Slots) -> Tensor:
        """(N, W) 1 where a number is there."""
        return 1 - slots.hidden[:, self.numeric]

    def _levels(self, slots: Slots) -> Tensor:
        """(N, 2 B + P + S) 1 where a boolean is true, is false, a number has one of few values, a category has a level."""
        parts = []
        if self.booleans:
            true, seen = (part[:, self.reals : self.reals + self.booleans] for part in (slots.y, slots.seen))
            parts += [true, seen - true]
        if len(self.few):
            same = (slots.numbers[:, self.few] == self.few_value).to(slots.y.dtype)
            parts.append(same * self._there(slots)[:, self.few])
        return joined([*parts, slots.y[:, self.front :]])


UNBOUNDED = torch.tensor([-FLOAT32_MOST]), torch.tensor([FLOAT32_MOST])


class Rules(nn.Module):
    """Slots -> how odd it is that rules are broken, in nats: -log p, times the root of how many are.

    p is the probability that a record like those of training breaks any: the share of these that do, by rules without their fold.
    """

    def __init__(self, every: RuleSet, folds: list[RuleSet], p: float) -> None:
        super().__init__()
        self.every, self.folds, self.nats = every, folds, -math.log(p)  # folds are not in the graph

    def forward(self, slots: Slots) -> Term:
        """Of records (N, D)."""
        return self._told(self.every(slots))

    def honest(self, slots: Slots, fold: Tensor) -> Term:
        """Of training records, whose folds are (N,), each by the rules without its fold."""
        return self._told(self.broken(slots, fold))

    def broken(self, slots: Slots, fold: Tensor) -> Tensor:
        """(N, F) the rules that training records break, of those made without their fold."""
        return torch.stack([rules(slots) for rules in self.folds])[fold, torch.arange(len(fold))]

    def _told(self, broken: Tensor) -> Term:
        count = total(broken)
        value = sqrt(count) * self.nats
        return Term(value, broken * (value / count.clamp(min=LEAST)))


def rules_of(preprocessing: Preprocessing, x: NDArray[np.float32], fold: NDArray[np.int8], seed: int) -> Rules | None:
    """Of training records x (N, C) in the table's order, whose folds are (N,); None where there is no rule."""
    most = min(RECORDS_MOST, ENCODED_MOST // preprocessing.slots)
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:most])
    slots, own = preprocessing(torch.from_numpy(x[rows])), torch.from_numpy(fold[rows].astype(np.int64))
    moving = torch.from_numpy(moves(x[rows][:, preprocessing.numeric.numpy()]))
    every = RuleSet(preprocessing, slots, moving)
    if every.empty:
        return None
    folds = [RuleSet(preprocessing, slots.take(own != k), moving) for k in range(int(fold.max()) + 1)]
    rules = Rules(every, folds, 1.0)
    broken = int((total(rules.broken(slots, own)) > 0).sum())
    return Rules(every, folds, (broken + 1) / (len(rows) + 1))


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


def whole_numbers(numbers: Tensor, there: Tensor) -> Tensor:
    """(W,) 1 where WHOLE_LEAST of numbers (N, W) or more are there, and all of these are whole."""
    return ((is_whole(numbers) == 1).all(0) & (there.sum(0) >= WHOLE_LEAST)).to(numbers.dtype)


def bounds_of(numbers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """(W,) the least and the largest of numbers (N, W), where they are there, at which TIES lie or more; else beyond all."""
    bounds = []
    for sign in (-1.0, 1.0):
        signed = torch.where(there > 0, sign * numbers, torch.tensor(-FLOAT32_MOST))
        most = signed.amax(0)
        is_bound = ((signed == most).sum(0) >= TIES) & (most > -FLOAT32_MOST)
        bounds.append(sign * torch.where(is_bound, most, torch.tensor(FLOAT32_MOST)))
    return bounds[0], bounds[1]


def few_valued(numbers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) the places and the values of numbers (N, W), where they are there, that have FEW different ones at most."""
    places, values = list[int](), list[float]()
    for place, (column, known) in enumerate(zip(numbers.T, there.T, strict=True)):
        different = column[known > 0].unique()
        if len(different) <= FEW:
            places += [place] * len(different)
            values += different.tolist()
    return torch.tensor(places, dtype=torch.int64), torch.tensor(values)


def never_together(levels: Tensor, owners: Tensor) -> Tensor:
    """(L, L) whether two levels (N, L) of different features (L, F) never come together, though they would often by chance."""
    count = levels.sum(0)
    meetings = count[:, None] * count / max(len(levels), 1)
    return (levels.T @ levels == 0) & (meetings >= MEETINGS) & (owners @ owners.T == 0)
