"""The evidence lower bound, once: its mean is the loss, its terms are what is scored, and it is what is exported.

    ELBO(x) = E_q(z|x)[log p(x|z)] - KL(q(z|x) || N(0, I))                       (Kingma & Welling 2014, eq. 3)

log p(x|z) is a sum over the features that the record has: Gaussian with a fixed sigma for numbers, Bernoulli for booleans and
for whether a value is missing, softmax for categories. A missing value adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.preprocessing import Preprocessing, Slots
from training.stable import gather_up, joined, log, total

WIDE = 128  # a product that does the same for all nets at once has k times as many values: up to here it is the quicker
LOGIT_LIMIT = 15.0  # a category is never surer than 1 - exp(-15) or so: an unknown one costs about 15 nats, not infinity


class Elbo(NamedTuple):
    """The terms of -ELBO in nats, per record."""

    error: Tensor  # (N, F) -log p(x_f | z) above the least that it can be, so at least 0: the reconstruction error
    floor: Tensor  # (N, F) that least: log(sigma sqrt(2 pi)) for each number that is there
    kl: Tensor  # (N, 1)

    @property
    def nats(self) -> Tensor:
        """(N, 1) the ELBO itself."""
        return -(total(self.error) + total(self.floor) + self.kl)


def elbo(preprocessing: Preprocessing, slots: Slots, outs: Sequence[Tensor], mu: Tensor, log_var: Tensor, sigma: float) -> Elbo:
    """The terms for slots (N, D): those of one net, or the mean of k, itself a bound for the nets' mixture (Jensen).

    outs: each decoder's means and logits (N, D) of p(x|z). mu, log_var: (N, k L) of q(z|x), those of the nets side by side.
    """
    k = len(outs)
    split = [preprocessing.split(out) for out in outs]
    mean, bit_logit, level_logit = (torch.cat(parts, 1) for parts in zip(*split, strict=True))
    real, bit, onehot = preprocessing.split(slots.y)
    real_seen, bit_seen, level_seen = preprocessing.split(slots.seen)
    units, floors = [], []
    if preprocessing.reals:
        gap = beside(real, k) - mean
        units.append(real_seen * averaged(gap * gap, k, 1 / (2 * sigma**2)))
        floors.append(real_seen * math.log(sigma * math.sqrt(2 * math.pi)))
    if preprocessing.bits:
        units.append(bit_seen * averaged(bernoulli(beside(bit, k), bit_logit), k))
        floors.append(bit_seen * 0)
    if preprocessing.groups:
        logit = bounded(level_logit)
        there = level_seen[:, preprocessing.first_slot]
        group = preprocessing.membership
        nll = averaged(log(in_groups(torch.exp(logit), group, k)) - in_groups(beside(onehot, k) * logit, group, k), k)
        if preprocessing.has_rare_levels:
            nll = nll + preprocessing.rare(slots.level)
        units.append(there * nll)
        floors.append(there * 0)
    kl = total(mu * mu + torch.exp(log_var) - log_var - 1) * (0.5 / k)
    own = preprocessing.ownership
    return Elbo(gather_up(joined(units), own), gather_up(joined(floors), own), kl)


def bernoulli(bit: Tensor, logit: Tensor) -> Tensor:
    """(N, W) -log p of truth values (N, W) by logits (N, W), bounded."""
    logit = bounded(logit)
    return log(1 + torch.exp(-logit.abs())) + torch.relu(logit) - bit * logit


def beside(values: Tensor, k: int) -> Tensor:
    """(N, k W) k times (N, W), side by side."""
    return torch.cat([values] * k, 1)


def averaged(values: Tensor, k: int, factor: float = 1.0) -> Tensor:
    """(N, W) the mean, times a factor, of the k tensors that stand side by side in (N, k W)."""
    width = int(values.shape[1]) // k
    if k == 1:
        return values * factor
    if width > WIDE:
        first, *others = torch.split(values, width, 1)
        return sum(others, first) * (factor / k)
    mean = np.tile(np.eye(width), (k, 1)) * (factor / k)
    return values @ torch.as_tensor(mean, dtype=values.dtype, device=values.device)


def in_groups(values: Tensor, membership: Tensor, k: int) -> Tensor:
    """(N, k G) sums by group of the k tensors that stand side by side in (N, k S), the groups being those of (S, G)."""
    width = int(membership.shape[0])
    if k == 1 or width > WIDE:
        return joined([part @ membership for part in torch.split(values, width, 1)])
    return values @ torch.as_tensor(np.kron(np.eye(k), membership.numpy(force=True)), dtype=values.dtype).to(values)


def bounded(logit: Tensor) -> Tensor:
    """Logits kept within +-LOGIT_LIMIT, smoothly, so that no probability is 0 and no exp overflows."""
    return LOGIT_LIMIT * torch.tanh(logit / LOGIT_LIMIT)
