"""Three verbs on disjoint records: fit.py fits, this file refers and calibrates, the service predicts.

A table of some size holds records out for that. On a small one, each training record is judged without itself instead: by the net
that was not trained on its fold, by a memory without it in a view that its fold had no part in, and by centres without it (the
jackknife+ of Barber et al. 2021, in spirit).
The report looks at the training records of every table in that way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.calibration import smallest_alpha
from service.session import Answers
from training.centres import Centres
from training.config import Config
from training.elbo import Elbo
from training.gaps import counts_of
from training.memory import Memory, Term
from training.preprocessing import Preprocessing, Slots
from training.presence import presence_of
from training.regressions import regressions_of
from training.rules.rule_set import rules_of
from training.scorer import Scorer, Weights, judge, weighed
from training.stable import total
from training.table.levels import without_their_own
from training.vae import VAE
from training.views import View
from training.whitening import Whitened

CHUNK = 1_000  # records at a time
POOL_VALUES = 1 << 24  # of the slots of those records that memories are chosen from: the time goes by these times the records


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
    weights = Weights(
        (config.net_weight, 1.0, config.centres_weight), config.regressions_weight, config.presence_weight, config.rules_weight
    )
    scorer = Scorer(preprocessing, nets, config.score, weights).eval()
    judges: list[Memory | Centres | ByFold] = []
    with torch.no_grad():
        if config.score == "surprise":
            if config.regressions_weight:
                scorer.regressions = regressions_of(preprocessing, x, fold, config.regression, config.seed)
            if config.presence_weight:
                scorer.presence = presence_of(preprocessing, x, fold, config.presence, config.seed)
            if config.rules_weight:
                scorer.rules = rules_of(preprocessing, x, fold, config.seed)
            judges = remember(scorer, x, config, None if len(held) else torch.from_numpy(fold))
            if len(held):
                values = [values_of(scorer, part) for part in torch.split(torch.from_numpy(held), CHUNK)]
            else:
                every = torch.split(torch.arange(len(x)), CHUNK)
                values = [values_in(honest_terms(scorer, judges, x, fold, rows)[1]) for rows in every]
            scorer.refer(torch.cat(values))
    return scorer, None if len(held) else without_themselves(scorer, judges, x, fold, np.arange(len(x)))


class ByFold:
    """The memory once for each fold, in a view that this fold's records had no part in: what judges them without themselves."""

    def __init__(self, memories: Sequence[Memory], fold: Tensor) -> None:
        """memories: of all training records, whose folds are (N,); one for each fold."""
        self.memories, self.fold = memories, fold

    def honest(self, slots: Slots, out: Tensor, counts: Tensor, rows: Tensor) -> Term:
        """Of training records, those at `rows` (n,), each without itself, as Memory.honest."""
        own = [torch.nonzero(self.fold[rows] == k)[:, 0] for k in range(len(self.memories))]
        each = [
            memory.honest(slots.take(those), out[those], counts[those], rows[those])
            for memory, those in zip(self.memories, own, strict=True)
            if len(those)
        ]
        order = torch.cat(own).argsort()
        return Term(*(torch.cat(parts)[order] for parts in zip(*each, strict=True)))


def remember(scorer: Scorer, x: NDArray[np.float32], config: Config, fold: Tensor | None) -> list[Memory | Centres | ByFold]:
    """Adds a memory and centres, of at most config.pool of the training records x (N, C), to the scorer.

    fold (N,): of training records that are to calibrate. Returns what judges training records without themselves.
    """
    draw = np.random.default_rng(config.seed)
    pool = pool_of(len(x), scorer.preprocessing.slots, config, draw)
    slots, out = expected(scorer, x[pool])
    ownership, levels = scorer.preprocessing.slot_ownership(), scorer.preprocessing.slot_levels()
    places = torch.from_numpy(pool)
    near, wide = (View(scorer.preprocessing, slots, wide) for wide in (False, True))
    values, whiten = near(slots, out), scorer.preprocessing.slots <= config.whiten_most

    def memory_in(view: nn.Module, draw: np.random.Generator) -> Memory:
        memory = Memory(view, ownership, levels, view(slots, out), slots.gap, config, draw)
        memory.kept = places[memory.kept]
        return memory

    def same() -> np.random.Generator:
        return np.random.default_rng(config.seed)  # views that lack a fold differ from the one without a gap by that alone

    def whitened(rows: Tensor, draw: np.random.Generator) -> Whitened:
        return Whitened(near, values[rows], config, draw, alone=fold is not None)

    every = torch.arange(len(values))
    memory = memory_in(whitened(every, draw if fold is None else same()) if whiten else near, draw)
    centres = Centres(wide, ownership, wide(slots, out), slots.gap, config, draw)
    centres.made_from = places
    scorer.distances.extend([memory, centres])
    if fold is None or not whiten:
        return [memory, centres]
    lacking = (whitened(every[fold[places] != k], same()) for k in range(config.nets))
    return [ByFold([memory_in(view, same()) for view in lacking], fold), centres]


def pool_of(n: int, slots: int, config: Config, draw: np.random.Generator) -> NDArray[np.intp]:
    """Which of n training records memories are chosen from and the report looks at: all, or config.pool, fewer if wide."""
    most = min(config.pool, max(config.memory, POOL_VALUES // slots))
    return np.sort(draw.permutation(n)[:most])


def expected(scorer: Scorer, x: NDArray[np.float32]) -> tuple[Slots, Tensor]:
    """The slots of x (N, C), and (N, D) what the nets say of them."""
    slots = scorer.preprocessing(torch.from_numpy(x))
    parts = [slots.take(rows) for rows in torch.split(torch.arange(len(x)), CHUNK)]
    return slots, torch.cat([scorer.ensemble(part)[1] for part in parts])


def values_of(scorer: Scorer, x: Tensor) -> Tensor:
    """(N, T) each term's value at records x (N, C)."""
    slots = scorer.preprocessing(x)
    return values_in(scorer.terms(slots, *scorer.ensemble(slots)))


def values_in(terms: Sequence[Term]) -> Tensor:
    """(N, T) the values of T terms."""
    return torch.cat([term.value for term in terms], 1)


def without_themselves(
    scorer: Scorer,
    judges: Sequence[Memory | Centres | ByFold],
    x: NDArray[np.float32],
    fold: NDArray[np.int8],
    rows: NDArray[np.intp],
) -> Answers:
    """The answers to training records, those at `rows` (n,) of all x (N, C), as if each were new."""
    told = []
    with torch.no_grad():
        for part in torch.split(torch.from_numpy(rows), CHUNK):
            evidence, terms = honest_terms(scorer, judges, x, fold, part)
            score, contributions = scorer.join(terms) if scorer.kind == "surprise" else judge(scorer.kind, evidence)
            told.append((score[:, 0], evidence.nats[:, 0], total(evidence.error)[:, 0], contributions))
    every = [torch.cat(parts).numpy() for parts in zip(*told, strict=True)]
    return Answers(every[0], every[1], every[2], every[3], np.empty((0, x.shape[1]), np.float32))


def honest_terms(
    scorer: Scorer,
    judges: Sequence[Memory | Centres | ByFold],
    x: NDArray[np.float32],
    fold: NDArray[np.int8],
    rows: Tensor,
) -> tuple[Elbo, list[Term]]:
    """What is seen of the training records at `rows` (n,) of all x (N, C), each by the net and the memories that lack it."""
    slots, out = expected(scorer, without_their_own(scorer.preprocessing, x, rows.numpy()))
    every = [net(slots)[0] for net in scorer.nets]
    own = torch.from_numpy(fold.astype(np.int64))[rows]
    evidence = Elbo(*(torch.stack(parts)[own, torch.arange(len(rows))] for parts in zip(*every, strict=True)))
    scale = scorer.scale(slots)
    terms = [weighed(evidence, scale)]
    counts = counts_of(slots, scale, scorer.preprocessing.reals)
    terms += [judge.honest(slots, out, counts, rows) for judge in judges]
    terms += [told.honest(slots, own) for told in scorer.in_nats]
    return evidence, terms


def supported_alpha(target: float, n: int) -> tuple[float, str | None]:
    """The alpha that n calibration records allow, at least the target, and a warning where it had to be raised."""
    least = smallest_alpha(n)
    if target >= least:
        return target, None
    return least, (
        f"{n} calibration records support no false-alarm rate below {least:.4g}: the bundle's alpha is that "
        f"instead of {target:g}; more records would allow it"
    )
