"""What held for every training record: bounds that values end at, numbers that are whole or never above others, levels that never
come together, exact relations of numbers.

A rating of 1 to 5 is never 0, nobody is paid more than was claimed, no loan is without its papers, net and tax make the gross. In
a distance among a dozen columns one broken rule hardly shows, and a net learns no more than what is usual. Something is a rule
where the training records would show the contrary: many lie at the very bound, two levels would often meet if they were
independent, nothing but rounding is left of a relation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.memory import Term
from training.preprocessing import ENCODED_MOST, FLOAT32_MOST, Preprocessing, Slots
from training.rules.apart import Apart
from training.rules.bounds import bounds_of, is_whole, moves, pairs_of, whole_numbers
from training.rules.products import products_of
from training.rules.relations import relations_of
from training.rules.solutions import Factors, Solutions
from training.stable import LEAST, sqrt, total

RECORDS_MOST = 50_000  # that are looked at
UNBOUNDED = torch.tensor([-FLOAT32_MOST]), torch.tensor([FLOAT32_MOST])


class RuleSet(nn.Module):
    """Slots -> how many rules a record breaks, by feature (N, F): each rule in equal parts for what it is about."""

    numeric: Tensor  # (W,) columns of x that are numbers
    number_owner: Tensor  # (W, F)
    low: Tensor  # (W,) bounds; beyond all numbers where there is none
    high: Tensor
    whole: Tensor  # (W,) 1 where all numbers are whole

    def __init__(self, preprocessing: Preprocessing, slots: Slots, unbounded: Tensor, share: float = 1.0) -> None:
        """The rules that training records (n, D) keep, a share of all; unbounded: (W,) numbers that have no bounds.

        A fold's records are fewer than all: so many fewer have to show a rule, or rules of all records judge what is scored, that
        no record which calibrates was judged by.
        """
        super().__init__()
        self.numeric = nn.Buffer(preprocessing.numeric)
        self.number_owner = nn.Buffer(preprocessing.slot_ownership()[: preprocessing.numerics])
        numbers, there = slots.numbers, self._there(slots)
        ends = zip(UNBOUNDED, bounds_of(numbers, there, share), strict=True)
        low, high = (torch.where(unbounded, away, bound) for away, bound in ends)
        self.low, self.high = nn.Buffer(low), nn.Buffer(high)
        self.bounded = bool(((low > -FLOAT32_MOST) | (high < FLOAT32_MOST)).any())
        self.whole = nn.Buffer(whole_numbers(numbers, there, share))
        self.apart = Apart(preprocessing, slots, there, share)
        self.pairs, self.relations = pairs_of(numbers, there, share), relations_of(numbers, there, share)
        self.products = products_of(numbers, there, share)  # modules of this one through their solutions
        self.solutions = nn.ModuleList(map(Factors, self.products))
        if self.relations is not None:
            self.solutions.append(Solutions(self.relations))

    @property
    def empty(self) -> bool:
        """Whether there is no rule."""
        none_alone = not self.bounded and not self.whole.any() and not len(self.apart.levels)
        return none_alone and self.pairs is None and self.relations is None and not self.products

    def forward(self, slots: Slots) -> dict[str, Tensor]:
        """Of records (N, D), by the kind of rule, for the kinds of which there are any."""
        found, numbers, there = dict[str, Tensor](), slots.numbers, self._there(slots)
        if self.bounded:
            within = (torch.minimum(torch.maximum(numbers, self.low), self.high) == numbers).to(numbers.dtype)
            found["bounds"] = ((1 - within) * there) @ self.number_owner
        if self.whole.any():
            found["whole"] = ((1 - is_whole(numbers)) * self.whole) @ self.number_owner
        if len(self.apart.levels):
            found["apart"] = self.apart(slots)
        for kind, related in (("pairs", [self.pairs]), ("relations", [self.relations]), ("products", self.products)):
            broken = [each(numbers, there) @ self.number_owner for each in related if each is not None]
            if broken:
                found[kind] = sum(broken[1:], broken[0])
        return found

    def constant(self, slots: Slots) -> Tensor:
        """(W,) which numbers all records (N, D) have, and all alike: a table of these would be without them."""
        return (slots.numbers == slots.numbers[:1]).all(0) & self._there(slots).all(0)

    def possible(self, slots: Slots, out: Tensor) -> Tensor:
        """(N, D) what the nets say of records, but for levels that rules exclude."""
        return self.apart.possible(slots, out) if len(self.apart.levels) else out

    def solved(self, slots: Slots) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of exact relations: the numbers (J,) that they have, what each is by the others and 1 where that is told, (N, J)."""
        return [(each.columns, *each(slots.numbers, self._there(slots))) for each in self.solutions]

    def _there(self, slots: Slots) -> Tensor:
        """(N, W) 1 where a number is there."""
        return 1 - slots.hidden[:, self.numeric]


class Rules(nn.Module):
    """Slots -> how odd it is that rules are broken, in nats: -log p, times the root of how many are, by their kind; of several
    kinds the root of the sum of squares.

    p is the probability that a record like those of training breaks any of a kind: the share of these that do, by rules without
    their fold. Levels that some records combine for the first time do not make a sum that was always right any weaker.
    """

    def __init__(self, every: RuleSet, folds: list[RuleSet], slots: Slots, fold: Tensor) -> None:
        """folds: made without each; slots (n, D): training records, whose folds are (n,)."""
        super().__init__()
        self.every, self.folds = every, folds  # folds are not in the graph
        broken = self._without(slots, fold)
        records = {kind: int((total(found) > 0).sum()) for kind, found in broken.items()}
        self.nats = {kind: -math.log((count + 1) / (len(fold) + 1)) for kind, count in records.items()}

    def forward(self, slots: Slots) -> Term:
        """Of records (N, D)."""
        return self._told(self.every(slots))

    def honest(self, slots: Slots, fold: Tensor) -> Term:
        """Of training records, whose folds are (N,), each by the rules without its fold."""
        return self._told(self._without(slots, fold))

    def _without(self, slots: Slots, fold: Tensor) -> dict[str, Tensor]:
        """(N, F) by kind the rules that training records break, of those made without their fold."""
        found = {kind: torch.zeros_like(broken) for kind, broken in self.every(slots).items()}
        for k, rules in enumerate(self.folds):
            for kind, broken in rules(slots).items():
                found[kind] = found.get(kind, 0) + broken * (fold == k)[:, None]
        return found

    def _told(self, broken: dict[str, Tensor]) -> Term:
        squares = [self.nats[kind] ** 2 * count for kind, count in broken.items()]
        square = sum(squares[1:], squares[0])
        value = sqrt(total(square))
        return Term(value, square / value.clamp(min=LEAST))


def rules_of(preprocessing: Preprocessing, x: NDArray[np.float32], fold: NDArray[np.int8], seed: int) -> Rules | None:
    """Of training records x (N, C) in the table's order, whose folds are (N,); None where there is no rule."""
    most = min(RECORDS_MOST, ENCODED_MOST // preprocessing.slots)
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:most])
    slots, own = preprocessing(torch.from_numpy(x[rows])), torch.from_numpy(fold[rows].astype(np.int64))
    moving = torch.from_numpy(moves(x[rows][:, preprocessing.numeric.numpy()]))
    every = RuleSet(preprocessing, slots, moving)
    if every.empty:
        return None
    same = every.constant(slots)
    folds = []
    for k in range(int(fold.max()) + 1):
        part = slots.take(own != k)
        # of a table of these records a column that is constant there alone would be no column
        unbounded = moving | (every.constant(part) & ~same)
        folds.append(RuleSet(preprocessing, part, unbounded, float((own != k).double().mean())))
    return Rules(every, folds, slots, own)
