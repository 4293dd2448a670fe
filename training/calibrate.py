"""Three verbs on disjoint records: fit.py fits, this file refers and calibrates, the service predicts.

A table of some size holds records out for that. On a small one, each training record is judged without itself instead: by the net
that was not trained on its fold, and by memories that leave it out (the jackknife+ of Barber et al. 2021, in spirit).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.calibration import smallest_alpha
from service.session import Answers
from training.config import Config
from training.elbo import Elbo
from training.fit import parts_of, take
from training.memory import Memory, View, slot_ownership
from training.preprocessing import Preprocessing, Slots
from training.scorer import Scorer, judge, weighed
from training.stable import total
from training.vae import VAE

CHUNK = 1_000  # records at a time


def build(
    preprocessing: Preprocessing,
    nets: list[VAE],
    x: NDArray[np.float32],
    fold: NDArray[np.int8],
    held: NDArray[np.float32],
    config: Config,
) -> tuple[Scorer, Answers | None]:
    """The scorer of fitted nets, from the records x (N, C) that they were trained on, whose folds are (N,).

    held (n, C): the records held out, which set the scale of the surprise. Where there are none, the training records judged
    without themselves do, and their answers come with the scorer: they are what calibrates it.
    """
    scorer = Scorer(preprocessing, nets, config.score, (config.net_weight, 1.0, config.wide_weight)).eval()
    with torch.no_grad():
        if config.score == "surprise":
            remember(scorer, x, config)
            if len(held):
                scorer.refer(torch.cat([values_of(scorer, part) for part in parts_of(torch.from_numpy(held), CHUNK)]))
        return scorer, None if len(held) else without_themselves(scorer, x, fold)


def remember(scorer: Scorer, x: NDArray[np.float32], config: Config) -> None:
    """Adds two memories, of at most config.pool of the training records x (N, C), to the scorer."""
    draw = np.random.default_rng(config.seed)
    pool = np.sort(draw.permutation(len(x))[: config.pool])
    slots, filled = gaps_filled(scorer, x[pool])
    ownership = slot_ownership(scorer.preprocessing)
    for wide in (False, True):
        view = View(scorer.preprocessing, slots, wide)
        scorer.memories.append(Memory(view, not wide, ownership, filled, config, draw))


def gaps_filled(scorer: Scorer, x: NDArray[np.float32]) -> tuple[Slots, Tensor]:
    """The slots of x (N, C), and (N, D) with what the nets expect where a value is missing."""
    slots = scorer.preprocessing(torch.from_numpy(x))
    parts = [take(slots, rows) for rows in parts_of(torch.arange(len(x)), CHUNK)]
    return slots, torch.cat([scorer.fill(part, scorer.ensemble(part)[1]) for part in parts])


def values_of(scorer: Scorer, x: Tensor) -> Tensor:
    """(N, T) each term's value at records x (N, C)."""
    slots = scorer.preprocessing(x)
    return torch.cat([term.value for term in scorer.terms(slots, *scorer.ensemble(slots))], 1)


def without_themselves(scorer: Scorer, x: NDArray[np.float32], fold: NDArray[np.int8]) -> Answers:
    """The answers to training records x (N, C), all remembered, as if each were new; sets the surprises by them."""
    slots, filled = gaps_filled(scorer, x)
    every = [net(slots)[0] for net in scorer.nets]
    own = torch.from_numpy(fold.astype(np.int64)), torch.arange(len(x))
    evidence = Elbo(*(torch.stack(parts)[own] for parts in zip(*every, strict=True)))
    if scorer.kind == "surprise":
        scale = scorer.scale(slots)
        terms = [weighed(evidence, scale), *(memory.honest(filled, slots.seen * scale) for memory in scorer.memories)]
        scorer.refer(torch.cat([term.value for term in terms], 1))
        score, contributions = scorer.join(terms)
    else:
        score, contributions = judge(scorer.kind, evidence)
    told = [answer[:, 0].numpy() for answer in (score, evidence.nats, total(evidence.error))]
    return Answers(told[0], told[1], told[2], contributions.numpy(), np.empty((0, x.shape[1]), np.float32))


def supported_alpha(target: float, n: int) -> tuple[float, str | None]:
    """The alpha that n calibration records allow, at least the target, and a warning where it had to be raised."""
    least = smallest_alpha(n)
    if target >= least:
        return target, None
    return least, (
        f"{n} calibration records support no false-alarm rate below {least:.4g}: the bundle's alpha is that "
        f"instead of {target:g}; more records would allow it"
    )
