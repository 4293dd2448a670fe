"""The whole computation, from x (N, C) to score and reasons: the module that becomes scorer.onnx."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from service.manifest import ScoreKind
from training.centres import Centres
from training.elbo import Elbo
from training.ensemble import Ensemble
from training.gaps import counts_of
from training.memory import Memory, Term
from training.preprocessing import Preprocessing, Slots
from training.presence import Presence
from training.regressions import Regressions
from training.rules.rule_set import Rules
from training.stable import LEAST, log, total
from training.tail_curve import FLOOR, TailCurve
from training.vae import VAE

PRESENT_LEAST = 0.5  # share of the columns: of records with fewer, the nets have learned nothing (config.mask)
NETS_LEAST = 0.02  # nats a real slot: a fiftieth of a sigma off, where the nets' error is made of last digits
DISTANCE_LEAST = 1e-3  # of a column's range: of records that repeat, distances are made of last digits


class Weights(NamedTuple):
    """Of the squares of the surprises in their sum."""

    distances: tuple[float, float, float]  # the nets', the memory's and the centres'
    regressions: float
    presence: float
    rules: float


class Surprises(nn.Module):
    """Values (N, T) -> their weighted surprises (N, T), each by its own curve; all curves at once."""

    floors: Tensor  # (T,)
    owner: Tensor  # (T, all K) 1 where a knot is of a value's curve
    knots: Tensor  # (all K,)
    widths: Tensor  # (all K,) to the next knot; the last of each is endless
    slopes: Tensor  # (all K, T)
    least: Tensor  # (T,)

    def __init__(self, curves: Sequence[TailCurve], by_log: bool, weights: Sequence[float]) -> None:
        super().__init__()
        self.curves, self.by_log = tuple(curves), by_log
        owner = np.repeat(np.arange(len(curves)), [len(curve.knots) for curve in curves])
        own = (np.arange(len(curves))[:, None] == owner[None, :]).astype(np.float64)
        slopes = np.concatenate([weight * curve.slopes for curve, weight in zip(curves, weights, strict=True)])
        for name, numbers in {
            "floors": [curve.floor for curve in curves],
            "owner": own,
            "knots": np.concatenate([curve.knots for curve in curves]),
            "widths": np.concatenate([np.append(np.diff(curve.knots), np.inf) for curve in curves]),
            "slopes": slopes[:, None] * own.T,
            "least": [weight * curve.least for curve, weight in zip(curves, weights, strict=True)],
        }.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(numbers), dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        """(N, T) surprises of values (N, T)."""
        values = log(torch.maximum(values, self.floors)) if self.by_log else values
        ramps = torch.minimum(torch.relu(torch.addmm(-self.knots, values, self.owner)), self.widths)
        return torch.addmm(self.least, ramps, self.slopes)


class Answer(NamedTuple):
    """What scorer.onnx gives, in this order."""

    score: Tensor  # (N, 1)
    elbo: Tensor  # (N, 1) nats
    reconstruction_error: Tensor  # (N, 1) nats
    contributions: Tensor  # (N, T)
    expected: Tensor  # (N, C)


class Scorer(nn.Module):
    """Preprocessing, nets, memory, centres and their surprises, fused."""

    distances: list[Memory | Centres]
    regressions: Regressions | None
    presence: Presence | None
    rules: Rules | None

    def __init__(self, preprocessing: Preprocessing, nets: list[VAE], kind: ScoreKind, weights: Weights) -> None:
        """A scorer of fitted nets; for the surprise, calibrate.py adds the rest: memory, centres, and what the others tell."""
        super().__init__()
        self.preprocessing, self.kind, self.weights = preprocessing, kind, weights
        self.ensemble = Ensemble(preprocessing, nets)
        self.distances = cast("list[Memory | Centres]", nn.ModuleList())
        self.regressions, self.presence, self.rules = None, None, None

    @property
    def nets(self) -> list[VAE]:
        """The nets, one a fold."""
        return self.ensemble.nets

    def forward(self, x: Tensor) -> Answer:
        """x (N, C), NaN where missing -> all answers."""
        slots = self.preprocessing(x)
        evidence, out = self.ensemble(slots)
        if self.kind == "surprise":
            score, contributions = self.join(self.terms(slots, evidence, out))
        else:
            score, contributions = judge(self.kind, evidence)
        return Answer(score, evidence.nats, total(evidence.error), contributions, self.expected(slots, out))

    def expected(self, slots: Slots, out: Tensor) -> Tensor:
        """(N, C) what is expected of records, in the units of x: of numbers what exact relations tell, or else regressions on the
        others; of all else what the nets do, but for levels that rules exclude."""
        rules = None if self.rules is None else self.rules.every
        told = self.preprocessing.restore(out if rules is None else rules.possible(slots, out))
        if self.regressions is not None:
            told = replaced(told, self.regressions.columns, self.regressions.expected(slots))
        for numbers, solved, known in [] if rules is None else rules.solved(slots):
            columns = self.preprocessing.numeric[numbers]
            told = replaced(told, columns.tolist(), torch.where(known > 0, solved, told[:, columns]))
        return told

    def terms(self, slots: Slots, evidence: Elbo, out: Tensor) -> list[Term]:
        """What the surprise looks at: the nets' error, distances to remembered records, and what the other values tell.

        Where values are missing, the others count as much more, so that a record with gaps compares with one without.
        """
        scale = self.scale(slots)
        counts = counts_of(slots, scale, self.preprocessing.reals)
        terms = [weighed(evidence, scale), *(distance(slots, out, counts) for distance in self.distances)]
        return [*terms, *(told(slots) for told in self.in_nats)]

    @property
    def in_nats(self) -> list[Regressions | Presence | Rules]:
        """What tells nats, which need no curve."""
        return [told for told in (self.regressions, self.presence, self.rules) if told is not None]

    def scale(self, slots: Slots) -> Tensor:
        """(N, 1) columns of x over those that have a value, 2 at most."""
        share = 1 / self.preprocessing.columns  # of one column
        present = torch.addmm(torch.ones(1), slots.hidden, torch.full((self.preprocessing.columns, 1), -share))
        return 1 / present.clamp(min=max(share, PRESENT_LEAST))

    def ambiguous(self, x: Tensor, tolerance: float) -> Tensor:
        """(N,) records x (N, C) of which two last bits decide which remembered records are nearest."""
        slots = self.preprocessing(x)
        out, counts = self.ensemble(slots)[1], counts_of(slots, self.scale(slots), self.preprocessing.reals)
        unclear = torch.zeros(len(x), dtype=torch.bool)
        for distance in self.distances:
            unclear |= distance.ambiguous(slots, out, counts, tolerance)
        return unclear

    def refer(self, values: Tensor) -> None:
        """Sets the surprises by the values (n, T) of the terms of normal records that they were not made from."""
        least = [NETS_LEAST * max(1, self.preprocessing.reals)] + [DISTANCE_LEAST] * len(self.distances)
        curves = [TailCurve.through(column.numpy(), True, floor) for column, floor in zip(values.T, least, strict=False)]
        self.each = Surprises(curves, by_log=True, weights=[math.sqrt(weight) for weight in self.weights.distances])
        joint = torch.sqrt(total(self.surprises(values) ** 2))
        self.together = Surprises([TailCurve.through(joint[:, 0].numpy(), by_log=False)], by_log=False, weights=[1.0])

    def surprises(self, values: Tensor) -> Tensor:
        """(N, T) the weighted surprises of the terms' values (N, T); what is in nats already comes last."""
        if not self.in_nats:
            return cast(Tensor, self.each(values))
        scaled, every = len(self.each.curves), zip(self.weights[1:], (self.regressions, self.presence, self.rules), strict=True)
        weights = [weight for weight, told in every if told is not None]
        return torch.cat([self.each(values[:, :scaled]), values[:, scaled:] * torch.tensor(weights).sqrt()], 1)

    def join(self, terms: list[Term]) -> tuple[Tensor, Tensor]:
        """The surprise of the terms' joint evidence (N, 1), and each feature's part in it (N, F).

        All evidence counts, the most of it what is oddest: the terms' surprises are added as the sides of a right angle are, and
        the length is judged as each of them was.
        """
        values = torch.cat([term.value for term in terms], 1)
        surprises = self.surprises(values)
        squares = surprises * surprises
        square = total(squares)
        score = self.together(torch.sqrt(square))
        floors = [*(curve.floor for curve in self.each.curves), *(FLOOR for _ in self.in_nats)]
        rates = torch.split(squares / (values + torch.tensor(floors)), 1, 1)
        sided = self.sided
        every = list(zip(rates, terms, floors, strict=True))
        clear = [share_out(rate, term.parts, floor) for k, (rate, term, floor) in enumerate(every) if k not in sided]
        whole = sum(clear[1:], clear[0])
        sides = [share_out(rate, blamed(term, whole), floor) for k, (rate, term, floor) in enumerate(every) if k in sided]
        return score, share_out(score / (square + FLOOR), sum(sides, whole), FLOOR)

    @property
    def sided(self) -> set[int]:
        """Which terms tell of contradictions, and not which of their sides is wrong."""
        return {k for k, told in enumerate(self.in_nats, len(self.each.curves)) if not isinstance(told, Presence)}


def replaced(values: Tensor, columns: Sequence[int], others: Tensor) -> Tensor:
    """(N, C) values with the others (N, J) in these columns."""
    width = int(values.shape[1])
    place = np.arange(width)
    place[columns] = width + np.arange(len(columns))
    return torch.cat([values, others], 1)[:, torch.from_numpy(place)]


def weighed(evidence: Elbo, scale: Tensor) -> Term:
    """The nets' reconstruction error, times the scale (N, 1)."""
    parts = evidence.error * scale
    return Term(total(parts), parts)


def share_out(rate: Tensor, parts: Tensor, floor: float) -> Tensor:
    """(N, F) the parts (N, F) of a value, times a score for each unit of it (N, 1).

    The floor is shared out evenly: a record that is like a remembered one to the last bit has no distance to tell features apart.
    """
    return (parts + floor / int(parts.shape[1])) * rate


def blamed(term: Term, others: Tensor) -> Tensor:
    """(N, F) the parts of a term, each weighed by what the other terms (N, F) say of that feature."""
    parts = term.parts * (others + FLOOR)
    return parts * (term.value / total(parts).clamp(min=LEAST))


def judge(kind: ScoreKind, evidence: Elbo) -> tuple[Tensor, Tensor]:
    """The score (N, 1) and contributions (N, T) of the kinds that the ELBO alone gives."""
    if kind == "elbo":
        return -evidence.nats, torch.cat([evidence.error + evidence.floor, evidence.kl], 1)
    return total(evidence.error), evidence.error
