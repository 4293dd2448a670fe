"""Levels that never come together: of categories, booleans, and numbers of few values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.preprocessing import Preprocessing, Slots
from training.stable import joined

MEETINGS = 20.0  # records that would have two levels if these were independent: that none has is chance one time in 5e8
FEW = 6  # values of a number that are looked at as levels
SIFTED = 1_000  # records by which most numbers are seen to have more
SEEN_MOST = 4_096  # levels of which it is looked which meet, the most frequent ones
LEVELS_MOST = 512  # that are kept apart from others: the graph multiplies by a matrix of so many squared
IMPOSSIBLE = 2e3  # nats for half a level


class Apart(nn.Module):
    """Slots -> how many pairs of levels a record has that never come together, half of each for either feature (N, F)."""

    few: Tensor  # (P,) numbers that are looked at as levels, and their values
    few_value: Tensor
    levels: Tensor  # (L,) places of those that never come with some other one
    never: Tensor  # (L, L) 1/2 where they never come together
    owner: Tensor  # (L, F)
    likelier: Tensor  # (L, D) 1 where a slot says how likely a level is, -1 where it says how unlikely

    def __init__(self, preprocessing: Preprocessing, slots: Slots, there: Tensor, share: float) -> None:
        """Of training records (n, D), a share of all, whose numbers are there (n, W)."""
        super().__init__()
        self.booleans = slice(preprocessing.reals, preprocessing.reals + preprocessing.booleans)
        self.front = preprocessing.reals + preprocessing.bits
        self.numeric = nn.Buffer(preprocessing.numeric)
        few, value = few_valued(slots.numbers, there)
        self.few, self.few_value = nn.Buffer(few), nn.Buffer(value)
        place = torch.arange(preprocessing.slots)
        bits = place[self.booleans]
        slot = torch.cat([bits, bits, few, place[self.front :]])  # that tells of a level
        sign = torch.cat(
            [torch.ones(len(bits)), -torch.ones(len(bits)), torch.zeros(len(few)), torch.ones(len(place[self.front :]))]
        )
        owner = preprocessing.slot_ownership()
        self.levels, self.never = map(nn.Buffer, never_together(self.all_levels(slots), owner[slot], MEETINGS * share))
        self.owner = nn.Buffer(owner[slot[self.levels]])
        likelier = torch.zeros(len(self.levels), preprocessing.slots)
        likelier[torch.arange(len(self.levels)), slot[self.levels]] = sign[self.levels]
        self.likelier = nn.Buffer(likelier)

    def forward(self, slots: Slots) -> Tensor:
        """Of records (N, D)."""
        levels = self.all_levels(slots)[:, self.levels]
        return (levels @ self.never * levels) @ self.owner

    def possible(self, slots: Slots, out: Tensor) -> Tensor:
        """(N, D) what the nets say of records, but for levels that never come with what else a record has."""
        kept_out = (self.all_levels(slots)[:, self.levels] @ self.never).clamp(max=0.5)
        return out - (kept_out @ self.likelier) * IMPOSSIBLE

    def all_levels(self, slots: Slots) -> Tensor:
        """(N, 2 B + P + S) 1 where a boolean is true, is false, a number has one of few values, a category has a level."""
        parts = []
        if self.booleans.stop > self.booleans.start:
            true, seen = slots.y[:, self.booleans], slots.seen[:, self.booleans]
            parts += [true, seen - true]
        if len(self.few):
            same = (slots.numbers[:, self.few] == self.few_value).to(slots.y.dtype)
            parts.append(same * (1 - slots.hidden[:, self.numeric[self.few]]))
        return joined([*parts, slots.y[:, self.front :]])


def few_valued(numbers: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) the places and the values of numbers (N, W), where they are there, that have FEW different ones at most."""
    places, values = list[int](), list[float]()
    for place, (column, known) in enumerate(zip(numbers.T, there.T, strict=True)):
        if len(column[:SIFTED][known[:SIFTED] > 0].unique()) <= FEW and len(different := column[known > 0].unique()) <= FEW:
            places += [place] * len(different)
            values += different.tolist()
    return torch.tensor(places, dtype=torch.int64), torch.tensor(values)


def never_together(levels: Tensor, owner: Tensor, meetings: float) -> tuple[Tensor, Tensor]:
    """(L,) which of the levels (N, all) of features (all, F) never come with some level of another one, though in so many records
    they would by chance; and (L, L) 1/2 where two of these never do.
    """
    count = levels.sum(0)
    often = count.argsort(descending=True, stable=True)[: min(SEEN_MOST, int((count >= meetings).sum()))].sort()[0]
    levels, count, owner = levels[:, often], count[often], owner[often]
    by_chance = count[:, None] * count / max(len(levels), 1)
    never = (levels.T @ levels == 0) & (by_chance >= meetings) & (owner @ owner.T == 0)
    apart = never.sum(1).argsort(descending=True, stable=True)[: min(LEVELS_MOST, int(never.any(1).sum()))].sort()[0]
    return often[apart], never[apart][:, apart].float() / 2
