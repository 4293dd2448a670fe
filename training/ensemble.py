"""All nets at once, on the mean path: what is scored and exported.

The same sums as one net after the other, with fewer and larger products: the first layers are one, and the likelihoods of all
nets are computed one below the other.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from training.elbo import Elbo, elbo
from training.preprocessing import Preprocessing, Slots
from training.vae import VAE, clip_log_var


class Ensemble(nn.Module):
    """Slots -> the nets' mean ELBO terms and mean output.

    The mean of the bounds is itself a bound of the log-likelihood of the nets' mixture (Jensen).
    """

    nets: list[VAE]

    def __init__(self, preprocessing: Preprocessing, nets: list[VAE]) -> None:
        super().__init__()
        self.preprocessing = (preprocessing,)  # in a tuple: the scorer's, not a part of this
        self.nets = cast("list[VAE]", nn.ModuleList(nets))

    def forward(self, slots: Slots) -> tuple[Elbo, Tensor]:
        """The terms (N, F), (N, F), (N, 1), and the decoders' mean output (N, D)."""
        k = len(self.nets)
        first = [cast(nn.Linear, net.encoder.body[0]) for net in self.nets]
        weight = torch.cat([layer.weight for layer in first])
        imputed = torch.cat([layer.weight * net.encoder.imputation for layer, net in zip(first, self.nets, strict=True)])
        bias = torch.cat([layer.bias for layer in first])
        h = torch.tanh(linear(slots.y, weight, bias) + linear(1 - slots.seen, imputed)).chunk(k, 1)
        mu = [net.encoder.mu(part) for net, part in zip(self.nets, h, strict=True)]
        log_var = [net.encoder.log_var(part) for net, part in zip(self.nets, h, strict=True)]
        decoded = [net.decoder.body[0](z) for net, z in zip(self.nets, mu, strict=True)]
        g = torch.tanh(torch.cat(decoded, 1)).chunk(k, 1)
        outs = [net.decoder.body[2](part) for net, part in zip(self.nets, g, strict=True)]
        below = Slots(*(torch.cat([part] * k) if part.dim() == 2 else part for part in slots))
        terms = elbo(
            self.preprocessing[0], below, torch.cat(outs), torch.cat(mu), clip_log_var(torch.cat(log_var)), self.nets[0].sigma
        )
        return Elbo(mean(terms.error, k), terms.floor.chunk(k)[0], mean(terms.kl, k)), sum(outs[1:], outs[0]) * (1 / k)


def mean(below: Tensor, k: int) -> Tensor:
    """(N, W) the mean of k tensors that stand one below the other (k N, W), added in their order."""
    parts = below.chunk(k)
    return sum(parts[1:], parts[0]) * (1 / k)
