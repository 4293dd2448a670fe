"""What a missing value counts in the distances of records, where the nets have filled it in."""

from __future__ import annotations

import torch
from torch import Tensor

from training.preprocessing import Slots

FILLED = 0.5  # how much a number counts that the nets have filled in
REMEMBERED = 0.3  # and one of a remembered record, beside its others
# In the usual squares of a slot's gap, what a missing value adds: that little is known of a record does not make it normal.
UNKNOWN = 0.1


def counts_of(slots: Slots, scale: Tensor, reals: int) -> Tensor:
    """(N, D) how much each slot counts in a distance: the scale (N, 1) where there is a value, FILLED where a number is missing.

    A boolean or category that is missing does not count: half of each level is near none, so that it would be farther from all
    records than its neighbours ever are. reals: the slots of numbers and datetimes, which come first.
    """
    filled = torch.cat([torch.full((reals,), FILLED), torch.zeros(int(slots.missing.shape[1]) - reals)])
    return torch.where(slots.missing, filled.to(scale), scale)


def trust(gap: Tensor) -> Tensor:
    """(M, D) how much the values of remembered records count, filled in where `gap` (M, D) is 1, 1 in the mean of each.

    No rows where none is filled in: the graph then does without.
    """
    if not gap.any():
        return gap[:0]
    counts = 1 - (1 - REMEMBERED) * gap
    mean: Tensor = counts.mean(1, keepdim=True)
    return counts / mean


def unknown(squared: Tensor, there: Tensor) -> Tensor:
    """(D,) what a missing value adds to a squared distance, by the squares (N, D) of other gaps, there where (N, D) 1."""
    return UNKNOWN * (squared * there).sum(0) / there.sum(0).clamp(min=1)
