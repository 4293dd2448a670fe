"""The whole computation, from x (N, C) to score and reasons: the module that becomes scorer.onnx."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.manifest import ScoreKind
from training.centres import Centres
from training.elbo import Elbo
from training.ensemble import Ensemble
from training.gaps import counts_of
from training.memory import Memory, Term
from training.preprocessing import Preprocessing, Slots
from training.presence import Presence
from training.rules import Rules
from training.stable import log, total
from training.vae import VAE

# Tail probabilities at the knots of a surprise, before the fitted tail.
LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15)
TAIL, TAIL_RECORDS, TAIL_MOST = 0.1, 10, 0.5  # share of the reference in the fitted tail: this, or so many records, at most
# The steepest slopes that a float32 bears: the last bit of a value must stay a last bit of the score.
MEAN_EXCESS_LEAST, KNOT_LEAST = 0.05, 0.02
FLOOR, FLOOR_OF_MEAN, FLOOR_LEAST = 1e-3, 1e-6, 1e-12
PRESENT_LEAST = 0.5  # share of the columns: of records with fewer, the nets have learned nothing (config.mask)
NETS_LEAST = 0.02  # nats a real slot: a fiftieth of a sigma off, where the nets' error is made of last digits
DISTANCE_LEAST = 1e-3  # of a column's range: of records that repeat, distances are made of last digits


class TailCurve(NamedTuple):
    """A value -> -log of its tail probability among normal records, in nats: piecewise linear, endless after its last knot.

    The knots are quantiles of the reference values. Beyond the last it has the slope that their mean excess tells, so that it
    goes on rising where no reference value reaches. A term's distances are taken by their log, which makes that a Pareto tail
    with Hill's estimate (1975); what is in nats already is taken as it is: an exponential tail.
    """

    floor: float  # below, a value counts as this
    knots: NDArray[np.float64]  # (K,) values, or their logs
    slopes: NDArray[np.float64]  # (K,) after each knot, nats per unit of the value, or of its log
    least: float  # nats, of a value at or below the first knot

    @classmethod
    def through(cls, reference: NDArray[np.float32], by_log: bool, least: float = FLOOR_LEAST) -> TailCurve:
        """The curve that the reference values (n,) tell; those below `least` count as that."""
        known = np.sort(reference.astype(np.float64))
        tail = min(TAIL_MOST, max(TAIL, TAIL_RECORDS / len(known)))
        # far below where the tail begins, a distance is the last bits of other numbers
        floor = float(max(FLOOR * np.quantile(known, 1 - tail), FLOOR_OF_MEAN * known.mean(), least))
        known = np.log(np.maximum(known, floor)) if by_log else known
        levels = np.array([level for level in LEVELS if level > tail] + [tail])
        knots = np.quantile(known, 1 - levels)
        last = np.append(np.diff(knots) > KNOT_LEAST, True)  # of equal knots the last, whose surprise is largest
        knots, surprises = knots[last], -np.log(levels[last])
        excess = known - knots[-1]
        excess = excess[excess > 0]
        end = 1 / max(excess.mean() if len(excess) else 1.0, MEAN_EXCESS_LEAST)
        return cls(floor, knots, np.append(np.diff(surprises) / np.diff(knots), end), float(surprises[0]))


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
    presence: Presence | None
    rules: Rules | None

    def __init__(self, preprocessing: Preprocessing, nets: list[VAE], kind: ScoreKind, weights: Sequence[float]) -> None:
        """A scorer of fitted nets; for the surprise, calibrate.py adds the rest: memory, centres, presence.

        weights: of the squares of the surprises of the nets, the memory, the centres and the gaps in their sum.
        """
        super().__init__()
        self.preprocessing, self.kind, self.weights = preprocessing, kind, tuple(weights)
        self.ensemble = Ensemble(preprocessing, nets)
        self.distances = cast("list[Memory | Centres]", nn.ModuleList())
        self.presence, self.rules = None, None

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
        return Answer(score, evidence.nats, total(evidence.error), contributions, self.preprocessing.restore(out))

    def terms(self, slots: Slots, evidence: Elbo, out: Tensor) -> list[Term]:
        """What the surprise looks at: the nets' error, distances to remembered records, and which values are missing.

        Where values are missing, the others count as much more, so that a record with gaps compares with one without.
        """
        scale = self.scale(slots)
        counts = counts_of(slots, scale, self.preprocessing.reals)
        terms = [weighed(evidence, scale), *(distance(slots, out, counts) for distance in self.distances)]
        return [*terms, *(told(slots) for told in self.in_nats)]

    @property
    def in_nats(self) -> list[Presence | Rules]:
        """What tells nats, which need no curve."""
        return [told for told in (self.presence, self.rules) if told is not None]

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
        self.each = Surprises(curves, by_log=True, weights=[math.sqrt(weight) for weight in self.weights[: len(curves)]])
        joint = torch.sqrt(total(self.surprises(values) ** 2))
        self.together = Surprises([TailCurve.through(joint[:, 0].numpy(), by_log=False)], by_log=False, weights=[1.0])

    def surprises(self, values: Tensor) -> Tensor:
        """(N, T) the weighted surprises of the terms' values (N, T); which are missing is in nats already, and comes last."""
        scaled = len(self.each.curves)
        if not self.in_nats:
            return cast(Tensor, self.each(values))
        weights = [weight for weight, told in zip(self.weights[3:], (self.presence, self.rules), strict=True) if told is not None]
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
        parts = [share_out(rate, term.parts, floor) for rate, term, floor in zip(rates, terms, floors, strict=True)]
        return score, share_out(score / (square + FLOOR), sum(parts[1:], parts[0]), FLOOR)


def weighed(evidence: Elbo, scale: Tensor) -> Term:
    """The nets' reconstruction error, times the scale (N, 1)."""
    parts = evidence.error * scale
    return Term(total(parts), parts)


def share_out(rate: Tensor, parts: Tensor, floor: float) -> Tensor:
    """(N, F) the parts (N, F) of a value, times a score for each unit of it (N, 1).

    The floor is shared out evenly: a record that is like a remembered one to the last bit has no distance to tell features apart.
    """
    return (parts + floor / int(parts.shape[1])) * rate


def judge(kind: ScoreKind, evidence: Elbo) -> tuple[Tensor, Tensor]:
    """The score (N, 1) and contributions (N, T) of the kinds that the ELBO alone gives."""
    if kind == "elbo":
        return -evidence.nats, torch.cat([evidence.error + evidence.floor, evidence.kl], 1)
    return total(evidence.error), evidence.error
