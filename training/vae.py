"""The variational autoencoder: encoder, reparameterization, decoder."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.config import Config
from training.elbo import Elbo, elbo
from training.preprocessing import Preprocessing, Slots

LOG_VAR_LIMIT = 8.0


class Posterior(NamedTuple):
    """q(z|x) = N(mu, diag(exp(log_var))), each (N, L)."""

    mu: Tensor
    log_var: Tensor


def reparameterize(mu: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
    """z = mu + sigma * eps (N, L), eps ~ N(0, I) drawn by the caller.

    The draw is outside the path of the gradient, which reaches mu and sigma through the sum and the product
    (Kingma & Welling 2014, section 2.4). eps = 0 is the mean path, which scoring takes: one record, one score.
    """
    return mu + torch.exp(0.5 * log_var) * eps


class Encoder(nn.Module):
    """Slots -> q(z|x). A missing value is filled with a learned imputation; that it is missing is a slot of its own.

    Bounded units: a record far from all others cannot be extrapolated, and so is not reconstructed.
    """

    def __init__(self, slots: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.imputation = nn.Parameter(torch.zeros(slots))
        self.body = nn.Sequential(nn.Linear(slots, hidden), nn.Tanh())
        self.mu = nn.Linear(hidden, latent)
        self.log_var = nn.Linear(hidden, latent)

    def forward(self, slots: Slots) -> Posterior:
        """The posterior of each record."""
        h = self.body(slots.y + slots.gap * self.imputation)
        return Posterior(self.mu(h), clip_log_var(self.log_var(h)))


def clip_log_var(log_var: Tensor) -> Tensor:
    """Keeps sigma between e^-4 and e^4, so that neither it nor the KL overflows."""
    return torch.clamp(log_var, -LOG_VAR_LIMIT, LOG_VAR_LIMIT)


class Decoder(nn.Module):
    """z (N, L) -> means and logits (N, D) of the likelihood: sums of prototypes, of which each head softly chooses one.

    A record is said in so many words as there are heads, from vocabularies that are learned, as in product quantization (Jegou et
    al. 2011). Sums of what normal records are made of: what does not belong has no words, where other decoders extrapolate.
    """

    def __init__(self, slots: int, heads: int, choices: int, latent: int) -> None:
        super().__init__()
        self.choices = choices  # of a head
        self.choice = nn.Linear(latent, heads * choices)
        self.prototypes = nn.Linear(heads * choices, slots)
        nn.init.normal_(self.prototypes.weight, std=1 / math.sqrt(heads))  # of each head's, so that sums are of unit spread

    def forward(self, z: Tensor) -> Tensor:
        """The parameters of p(x|z)."""
        out: Tensor = self.prototypes(chosen(self.choice(z), self.choices))
        return out


def chosen(logits: Tensor, choices: int) -> Tensor:
    """(N, W) how much of each prototype is chosen by logits (N, W): shares of 1 for every head of so many choices."""
    return torch.softmax(logits.reshape(-1, choices), 1).reshape(-1, int(logits.shape[1]))


class VAE(nn.Module):
    """One net."""

    def __init__(self, preprocessing: Preprocessing, config: Config) -> None:
        super().__init__()
        self.preprocessing = (preprocessing,)  # in a tuple: shared by all nets, not a part of each
        self.latent, self.sigma = config.latent, config.sigma
        self.encoder = Encoder(preprocessing.slots, config.hidden, config.latent)
        self.decoder = Decoder(preprocessing.slots, config.heads, config.choices, config.latent)

    def forward(self, seen: Slots, eps: Tensor | None = None, clean: Slots | None = None) -> tuple[Elbo, Tensor]:
        """The ELBO's terms and the decoder's output (N, D).

        seen: what the encoder gets; clean: what is to be explained (default: the same).
        eps (N, L): the noise; None: the mean path.
        """
        posterior = self.encoder(seen)
        z = posterior.mu if eps is None else reparameterize(posterior.mu, posterior.log_var, eps)
        out = self.decoder(z)
        clean = seen if clean is None else clean
        return elbo(self.preprocessing[0], clean, [out], posterior.mu, posterior.log_var, self.sigma), out
