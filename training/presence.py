"""Whether a value should be there: a gap where the others tell of a value, or a value where they tell that there is none.

A flight that has arrived has a time in the air, and a cancelled one has none. Only such columns are looked at, whose gaps the
others tell: gaps by chance differ between any two records.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from training.elbo import bernoulli
from training.memory import Term
from training.preprocessing import ENCODED_MOST, Preprocessing, Slots
from training.stable import LEAST, gather_up, total

FAR = 3.0  # standard deviations, beyond which a number tells no more
PRIOR = 0.1  # one over the variance of a weight before anything is seen
STEPS, HISTORY = 60, 10  # of L-BFGS, at most
HINT = 0.05  # the least squared correlation of a column's gaps with some slot of another for which a regression is fitted
VALUES_MOST = 1 << 28  # records times slots times columns: the time goes by them
RECORDS_LEAST = 200  # where there are as many; of a very wide table fewer columns are looked at instead


class Presence(nn.Module):
    """Slots -> how odd it is which values are missing, in nats: the length of each column's -log p(missing or not | all else).

    One logistic regression a column on the slots of the others, as in a pseudo-likelihood (Besag 1975), fitted without each fold;
    new records are judged by the mean of these. The length, not the sum: columns that lack together tell of one thing.
    """

    weight: Tensor  # (D, J) of the J columns that are looked at
    bias: Tensor  # (J,)
    place: Tensor  # (J,) the slots that say whether they are missing
    ownership: Tensor  # (J, F)

    def __init__(self, preprocessing: Preprocessing, weights: Tensor, biases: Tensor, place: Tensor) -> None:
        """weights (K, D, J), biases (K, J): of K folds, each without its own."""
        super().__init__()
        self.weights, self.biases = weights, biases  # not in the graph
        self.weight, self.bias = nn.Buffer(weights.mean(0)), nn.Buffer(biases.mean(0))
        self.place, self.ownership = nn.Buffer(place), nn.Buffer(preprocessing.ownership[place])

    def forward(self, slots: Slots) -> Term:
        """Of records (N, D)."""
        return self._told(slots, torch.addmm(self.bias, telling(slots), self.weight))

    def honest(self, slots: Slots, fold: Tensor) -> Term:
        """Of training records, whose folds are (N,), each by the regression without its fold."""
        logits = telling(slots) @ self.weights + self.biases[:, None, :]
        return self._told(slots, logits[fold, torch.arange(len(fold))])

    def _told(self, slots: Slots, logit: Tensor) -> Term:
        nats = bernoulli(slots.y[:, self.place], logit)
        squares = nats * nats
        value = torch.sqrt(total(squares))
        return Term(value, gather_up(squares, self.ownership) / value.clamp(min=LEAST))


def presence_of(
    preprocessing: Preprocessing, x: NDArray[np.float32], fold: NDArray[np.int8], least: float, seed: int
) -> Presence | None:
    """Of training records x (N, C), whose folds are (N,); None where the others tell of no column's gaps.

    least: the share of the deviance that a regression must explain (McFadden 1974) in the records that it has not seen.
    """
    if not len(preprocessing.lacking):
        return None
    rows = np.random.default_rng(seed).permutation(len(x))[: ENCODED_MOST // preprocessing.slots]
    slots, own = preprocessing(torch.from_numpy(x[rows])), torch.from_numpy(fold[rows].astype(np.int64))
    seen, place = telling(slots), hinted(preprocessing, slots)
    if not len(place):
        return None
    some = slice(max(RECORDS_LEAST, VALUES_MOST // (preprocessing.slots * len(place))))
    seen, missing, own = seen[some], slots.y[some][:, place], own[some]
    others = others_of(preprocessing, place)
    fits = [regress(seen[own != k], missing[own != k], others) for k in range(int(fold.max()) + 1)]
    weights, biases = (torch.stack(parts) for parts in zip(*fits, strict=True))
    logit = (seen @ weights + biases[:, None, :])[own, torch.arange(len(own))]
    rate = missing.mean(0)
    chance = torch.special.entr(rate) + torch.special.entr(1 - rate)
    told = (chance > 0) & (bernoulli(missing, logit).mean(0) <= (1 - least) * chance)
    return Presence(preprocessing, weights[:, :, told], biases[:, told], place[told]) if told.any() else None


def hinted(preprocessing: Preprocessing, slots: Slots) -> Tensor:
    """(J,) the slots that say whether a value is missing, of those columns whose gaps vary with any slot of another."""
    front = preprocessing.reals + preprocessing.booleans
    place = torch.arange(front, front + len(preprocessing.lacking))
    seen, missing = telling(slots), slots.y[:, place]
    away, lacks = seen - seen.mean(0), missing - missing.mean(0)
    squares = (away**2).sum(0)[:, None] * (lacks**2).sum(0)
    varies = (away.T @ lacks) ** 2 / squares.clamp(min=LEAST) * others_of(preprocessing, place)
    hint = varies.amax(0)
    most = max(1, VALUES_MOST // (preprocessing.slots * RECORDS_LEAST))
    strongest = hint.argsort(descending=True, stable=True)[:most]
    kept: Tensor = strongest[hint[strongest] >= HINT].sort()[0]
    return place[kept]


def others_of(preprocessing: Preprocessing, place: Tensor) -> Tensor:
    """(D, J) 1 where a slot is of another column than those whose gaps the slots at place (J,) tell."""
    owned = preprocessing.slot_ownership()
    return 1 - owned @ owned[place].T


def telling(slots: Slots) -> Tensor:
    """(N, D) what the regressions look at; 0, the mean of a number, where a value is missing."""
    return slots.y.clamp(-FAR, FAR)


def regress(seen: Tensor, missing: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (D, J), where `others` (D, J) is 1, and biases (J,) of a logistic regression of missing (N, J) on seen (N, D).

    The likeliest ones where a weight is Gaussian before anything is seen.
    """
    weight = torch.zeros_like(others, requires_grad=True)
    bias = torch.zeros(others.shape[1], requires_grad=True)
    search: torch.optim.Optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, history_size=HISTORY, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        search.zero_grad()
        logit = torch.addmm(bias, seen, weight * others)
        nats = binary_cross_entropy_with_logits(logit, missing, reduction="sum") + PRIOR * (weight**2).sum() / 2
        mean = nats / len(seen)
        torch.autograd.backward(mean)
        return float(mean.detach())

    with torch.enable_grad():
        search.step(loss)
    return (weight * others).detach(), bias.detach()
