"""The evidence lower bound, once: its mean is the loss, its terms are what is scored, and it is what is exported.

    ELBO(x) = E_q(z|x)[log p(x|z)] - KL(q(z|x) || N(0, I))                       (Kingma & Welling 2014, eq. 3)

log p(x|z) is a sum over the features that the record has: Gaussian with a fixed sigma for numbers, Bernoulli for booleans and
for whether a value is missing, softmax for categories. A missing value adds nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from training.preprocessing import Preprocessing, Slots
from training.stable import gather_up, log, total

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


def elbo(preprocessing: Preprocessing, slots: Slots, out: Tensor, mu: Tensor, log_var: Tensor, sigma: float) -> Elbo:
    """The terms for slots (N, D) that a decoder described by out (N, D), means and logits; q(z|x) has mu and log_var (N, L)."""
    mean, bit_logit, level_logit = preprocessing.split(out)
    real, bit, onehot = preprocessing.split(slots.y)
    real_seen, bit_seen, level_seen = preprocessing.split(slots.seen)
    units, floors = [], []
    if preprocessing.reals:
        gap = real - mean
        units.append(real_seen * (gap * gap) * (1 / (2 * sigma**2)))
        floors.append(real_seen * math.log(sigma * math.sqrt(2 * math.pi)))
    if preprocessing.bits:
        logit = bounded(bit_logit)
        units.append(bit_seen * (log(1 + torch.exp(-logit.abs())) + torch.relu(logit) - bit * logit))
        floors.append(bit_seen * 0)
    if preprocessing.groups:
        logit = bounded(level_logit)
        there = level_seen[:, preprocessing.first_slot]
        nll = log(torch.exp(logit) @ preprocessing.membership) - (onehot * logit) @ preprocessing.membership
        if preprocessing.has_rare_levels:
            nll = nll + preprocessing.rare(slots.level)
        units.append(there * nll)
        floors.append(there * 0)
    kl = 0.5 * total(mu * mu + torch.exp(log_var) - log_var - 1)
    own = preprocessing.ownership
    return Elbo(gather_up(torch.cat(units, 1), own), gather_up(torch.cat(floors, 1), own), kl)


def bounded(logit: Tensor) -> Tensor:
    """Logits kept within +-LOGIT_LIMIT, smoothly, so that no probability is 0 and no exp overflows."""
    return LOGIT_LIMIT * torch.tanh(logit / LOGIT_LIMIT)
