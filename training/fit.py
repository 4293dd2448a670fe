"""Training one net, and the ensemble: each net is trained without one fold, and validated on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import Config
from training.errors import FitError
from training.preprocessing import ENCODED_MOST, Preprocessing, Slots
from training.progress import Progress
from training.vae import VAE

VALIDATION_MOST = 10_000  # records of its fold that tell when a net is best
Encoded = Callable[[Tensor], Slots]


@dataclass
class Curve:
    """The losses of one net, in nats a record, by step."""

    step: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: int = 0  # the step whose weights were kept


class Kept(Protocol):
    """Where finished nets are kept for a fit that is not finished."""

    def load(self, place: int) -> tuple[dict[str, Tensor], Curve] | None:
        """The weights and losses of a net, or None."""

    def save(self, place: int, state: Mapping[str, Tensor], curve: Curve) -> None:
        """Keeps them."""


def fit_nets(
    preprocessing: Preprocessing,
    x: NDArray[np.float32],
    fold: NDArray[np.int8],
    config: Config,
    device: str,
    progress: Progress,
    kept: Kept | None = None,
) -> tuple[list[VAE], list[Curve]]:
    """One net a fold, trained on the records x (N, C) of the other folds, or taken from those kept.

    Raises FitError on a loss that is not finite.
    """
    encoded = encoder(preprocessing, x, device)
    nets, curves = [], []
    for k in range(config.nets):
        found = kept.load(k) if kept else None
        if found is not None:
            net = VAE(preprocessing, config)
            net.load_state_dict(found[0])
            nets.append(net.cpu().eval())
            curves.append(found[1])
            progress(k, 1.0, 0)
            continue
        others, own = (torch.from_numpy(np.flatnonzero(mask)).to(device) for mask in (fold != k, fold == k))
        validation = encoded(own[:: math.ceil(len(own) / VALIDATION_MOST)])
        seed = config.seed * 1_000 + k
        net, curve = fit_net(preprocessing, encoded, others, validation, config, seed, device, partial(progress, k))
        nets.append(net.cpu().eval())
        curves.append(curve)
        if kept:
            kept.save(k, net.state_dict(), curve)
    preprocessing.cpu()
    return nets, curves


def fit_net(
    preprocessing: Preprocessing,
    encoded: Encoded,
    rows: Tensor,
    validation: Slots,
    config: Config,
    seed: int,
    device: str,
    progress: Callable[[float, int], None],
) -> tuple[VAE, Curve]:
    """Minimises the mean of -ELBO over records with noise and masks, and keeps the weights of the best validation loss.

    rows (n,): those records that train, as `encoded` takes them.
    """
    torch.manual_seed(seed)
    draw = torch.Generator(device).manual_seed(seed)
    net = VAE(preprocessing, config).to(device)
    optimizer = torch.optim.Adam(net.parameters(), betas=(0.9, 0.99), fused=True)
    n = len(rows)
    steps = config.steps_for(n, preprocessing.slots)
    batch = min(config.batch, n)
    curve, best, kept, waited = Curve(), float("inf"), copy.deepcopy(net.state_dict()), 0
    sum_of_losses, order = torch.zeros((), device=device), torch.empty(0, dtype=torch.long, device=device)
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = torch.randperm(n, generator=draw, device=device)
        clean, order = encoded(rows[order[:batch]]), order[batch:]
        eps = torch.randn(batch, config.latent, generator=draw, device=device)
        terms, _ = net(corrupt(preprocessing, clean, config, draw), eps, clean)
        reconstruction, kl = (terms.error + terms.floor).sum(1).mean(), terms.kl.mean()
        loss = reconstruction + min(1.0, step / config.warm_up) * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip * preprocessing.slots)
        for group in optimizer.param_groups:
            group["lr"] = (
                config.learning_rate * min(1.0, step / config.rise) * (0.5 + 0.5 * math.cos(math.pi * step / (steps + 1)))
            )
        optimizer.step()
        sum_of_losses += (reconstruction + kl).detach()
        if step % config.evaluate_every and step != steps:
            continue
        since = step - (curve.step[-1] if curve.step else 0)
        progress(step / steps, since * batch)
        with torch.no_grad():
            held = float(-net(validation)[0].nats.mean())
        told = float(sum_of_losses) / since
        sum_of_losses.zero_()
        if not (math.isfinite(held) and math.isfinite(told)):
            raise FitError(
                f"the loss is not finite at step {step} (training {told}, validation {held}); nothing was published: "
                "look for extreme values in the table"
            )
        curve.step.append(step)
        curve.train.append(told)
        curve.validation.append(held)
        if held < best:
            best, kept, waited, curve.best = held, copy.deepcopy(net.state_dict()), 0, step
        else:
            waited += 1
        if waited >= config.patience:
            break
    net.load_state_dict(kept)
    return net, curve


def corrupt(preprocessing: Preprocessing, clean: Slots, config: Config, draw: torch.Generator) -> Slots:
    """What the encoder gets in training: numbers with noise, and a share of the columns hidden, from none to `mask`."""
    n, columns = clean.hidden.shape
    device = clean.y.device
    y = clean.y.clone()
    y[:, : preprocessing.reals] += config.noise * torch.randn(n, preprocessing.reals, generator=draw, device=device)
    share = config.mask * torch.rand(n, 1, generator=draw, device=device)
    masked = (torch.rand(n, columns, generator=draw, device=device) < share).to(y.dtype)
    hidden = torch.maximum(clean.hidden, masked)
    seen = clean.seen * (1 - masked[:, preprocessing.slot_column])
    # A hidden value is missing to the encoder, in that slot, too: else the weights of a column that hardly ever lacks a value
    # would stay as they were drawn, and the first gap would be as good as noise.
    front = preprocessing.reals + preprocessing.booleans
    lacks = slice(front, front + len(preprocessing.lacking))
    seen[:, lacks], y[:, lacks] = 1, hidden[:, preprocessing.lacking]
    return clean._replace(y=y * seen, seen=seen, gap=1 - seen, missing=seen == 0, hidden=hidden)


def encoder(preprocessing: Preprocessing, x: NDArray[np.float32], device: str) -> Encoded:
    """From rows (n,) of x (N, C) to their slots on the device, where the preprocessing is from now on.

    All are encoded at once where that takes little memory, else those of each batch when it is drawn.
    """
    records = torch.from_numpy(x)
    if len(x) * preprocessing.slots <= ENCODED_MOST:
        slots = cast(Slots, preprocessing(records)).to(device)
        preprocessing.to(device)
        return slots.take
    records = records.to(device)
    preprocessing.to(device)
    return lambda rows: cast(Slots, preprocessing(records[rows]))
