"""All nets at once, on the mean path: what is scored and exported.

The same sums as one net after the other, with fewer and larger products: the nets' first layers are one, and what they say of a
record stands side by side.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from training.elbo import Elbo, averaged, elbo
from training.preprocessing import Preprocessing, Slots
from training.vae import VAE, chosen, clip_log_var


class Ensemble(nn.Module):
    """Slots -> the nets' mean ELBO terms and mean output."""

    nets: list[VAE]

    def __init__(self, preprocessing: Preprocessing, nets: list[VAE]) -> None:
        super().__init__()
        self.preprocessing = (preprocessing,)  # in a tuple: the scorer's, not a part of this
        self.nets = cast("list[VAE]", nn.ModuleList(nets))

    def forward(self, slots: Slots) -> tuple[Elbo, Tensor]:
        """The terms (N, F), (N, F), (N, 1), and the decoders' mean output (N, D)."""
        first = [cast(nn.Linear, net.encoder.body[0]) for net in self.nets]
        seen = torch.cat([layer.weight for layer in first])
        imputed = torch.cat([layer.weight * net.encoder.imputation for layer, net in zip(first, self.nets, strict=True)])
        bias = torch.cat([layer.bias for layer in first])
        h = torch.tanh(linear(torch.cat([slots.y, slots.gap], 1), torch.cat([seen, imputed], 1), bias))
        parts = torch.split(h, [layer.out_features for layer in first], 1)
        mu = [net.encoder.mu(part) for net, part in zip(self.nets, parts, strict=True)]
        log_var = [net.encoder.log_var(part) for net, part in zip(self.nets, parts, strict=True)]
        logits = [net.decoder.choice(z) for net, z in zip(self.nets, mu, strict=True)]
        shares = torch.split(
            chosen(torch.cat(logits, 1), self.nets[0].decoder.choices), [int(part.shape[1]) for part in logits], 1
        )
        outs = [net.decoder.prototypes(part) for net, part in zip(self.nets, shares, strict=True)]
        terms = elbo(
            self.preprocessing[0], slots, outs, torch.cat(mu, 1), clip_log_var(torch.cat(log_var, 1)), self.nets[0].sigma
        )
        return terms, averaged(torch.cat(outs, 1), len(outs))
