"""The whole computation, from x (N, C) to score and reasons: the module that becomes scorer.onnx."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.manifest import ScoreKind
from training.elbo import Elbo
from training.ensemble import Ensemble
from training.memory import Memory
from training.preprocessing import Preprocessing, Slots
from training.stable import log, total
from training.vae import VAE

# Tail probabilities at the knots of a surprise, before the fitted tail.
LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15)
TAIL, TAIL_RECORDS, TAIL_MOST = 0.1, 10, 0.5  # share of the reference in the fitted tail: this, or so many records, at most
# The steepest slopes that a float32 bears: the last bit of a value must stay a last bit of the score.
MEAN_EXCESS_LEAST, KNOT_LEAST = 0.05, 0.01
FLOOR, FLOOR_OF_MEAN, FLOOR_LEAST = 1e-3, 1e-6, 1e-12


class Surprise(nn.Module):
    """A value -> -log of its tail probability among normal records, in nats.

    Linear between quantiles of the reference values (n,), and beyond the last with the slope that their mean excess tells, so
    that it goes on rising where no reference value reaches. A term's distances are taken by their log, which makes that a
    Pareto tail with Hill's estimate (1975); what is in nats already is taken as it is: an exponential tail.
    """

    knots: Tensor  # (1, K) values, or their logs
    widths: Tensor  # (1, K) to the next knot; the last is endless
    slopes: Tensor  # (K, 1) nats per unit of the value, or of its log

    def __init__(self, reference: NDArray[np.float32], by_log: bool) -> None:
        super().__init__()
        self.by_log = by_log
        known = np.sort(reference.astype(np.float64))
        tail = min(TAIL_MOST, max(TAIL, TAIL_RECORDS / len(known)))
        # far below where the tail begins, a distance is the last bits of other numbers
        self.floor = float(max(FLOOR * np.quantile(known, 1 - tail), FLOOR_OF_MEAN * known.mean(), FLOOR_LEAST))
        known = np.log(np.maximum(known, self.floor)) if by_log else known
        levels = np.array([level for level in LEVELS if level > tail] + [tail])
        knots = np.quantile(known, 1 - levels)
        last = np.append(np.diff(knots) > KNOT_LEAST, True)  # of equal knots the last, whose surprise is largest
        knots, surprises = knots[last], -np.log(levels[last])
        excess = known - knots[-1]
        excess = excess[excess > 0]
        end = 1 / max(excess.mean() if len(excess) else 1.0, MEAN_EXCESS_LEAST)
        self.least = float(surprises[0])  # of a value at or below the first knot
        self.knots = nn.Buffer(torch.as_tensor(knots[None, :].astype(np.float32)))
        self.widths = nn.Buffer(torch.as_tensor(np.append(np.diff(knots), np.inf)[None, :].astype(np.float32)))
        slopes = np.append(np.diff(surprises) / np.diff(knots), end)
        self.slopes = nn.Buffer(torch.as_tensor(slopes[:, None].astype(np.float32)))

    def forward(self, value: Tensor) -> Tensor:
        """(N, 1) surprises of values (N, 1)."""
        value = log(value.clamp(min=self.floor)) if self.by_log else value
        ramps = torch.minimum(torch.relu(value - self.knots), self.widths)
        return ramps @ self.slopes + self.least


class Answer(NamedTuple):
    """What scorer.onnx gives, in this order."""

    score: Tensor  # (N, 1)
    elbo: Tensor  # (N, 1) nats
    reconstruction_error: Tensor  # (N, 1) nats
    contributions: Tensor  # (N, T)
    expected: Tensor  # (N, C)


class Scorer(nn.Module):
    """Preprocessing, nets, memories and their surprises, fused."""

    memories: list[Memory]
    surprises: list[Surprise]  # one a term, the nets' and each memory's, and one of their sum

    def __init__(self, preprocessing: Preprocessing, nets: list[VAE], kind: ScoreKind, net_weight: float) -> None:
        """A scorer of fitted nets; for the surprise, calibrate.py adds the memories and the surprises."""
        super().__init__()
        self.preprocessing, self.kind, self.net_weight = preprocessing, kind, net_weight
        self.ensemble = Ensemble(preprocessing, nets)
        self.memories = cast("list[Memory]", nn.ModuleList())
        self.surprises = cast("list[Surprise]", nn.ModuleList())

    @property
    def nets(self) -> list[VAE]:
        """The nets, one a fold."""
        return self.ensemble.nets

    def forward(self, x: Tensor) -> Answer:
        """x (N, C), NaN where missing -> all answers."""
        slots = self.preprocessing(x)
        evidence, out = self.ensemble(slots)
        error = total(evidence.error)
        if self.kind == "surprise":
            score, contributions = self.join(self.terms(slots, evidence, out))
        else:
            score, contributions = judge(self.kind, evidence)
        return Answer(score, evidence.nats, error, contributions, self.preprocessing.restore(out))

    def terms(self, slots: Slots, evidence: Elbo, out: Tensor) -> list[Tensor]:
        """What the surprise looks at, each (N, F): the nets' error, and the distances to the remembered records.

        Where values are missing, the others count as much more, so that a record with gaps compares with one without.
        """
        filled, scale = self.fill(slots, out), self.scale(slots)
        return [evidence.error * scale, *(memory(filled, slots.seen * scale) for memory in self.memories)]

    def fill(self, slots: Slots, out: Tensor) -> Tensor:
        """(N, D) the slots, with what the nets expect where a value is missing."""
        reals = self.preprocessing.reals
        expected = out if reals == self.preprocessing.slots else torch.cat([out[:, :reals], torch.zeros_like(out[:, reals:])], 1)
        return slots.y + (1 - slots.seen) * expected

    def scale(self, slots: Slots) -> Tensor:
        """(N, 1) columns of x over those that have a value."""
        columns = self.preprocessing.columns
        return columns / (columns - total(slots.hidden)).clamp(min=1)

    def ambiguous(self, x: Tensor, tolerance: float) -> Tensor:
        """(N,) records x (N, C) of which two last bits decide which remembered records are nearest."""
        slots = self.preprocessing(x)
        filled = self.fill(slots, self.ensemble(slots)[1])
        unclear = torch.zeros(len(x), dtype=torch.bool)
        for memory in self.memories:
            unclear |= memory.ambiguous(filled, tolerance)
        return unclear

    def refer(self, terms: list[Tensor]) -> None:
        """Sets the surprises by the terms (n, F) of normal records that they were not made from."""
        values = [total(term) for term in terms]
        for value in values:
            self.surprises.append(Surprise(value[:, 0].numpy(), by_log=True))
        self.surprises.append(Surprise(self.together(values)[1][:, 0].numpy(), by_log=False))

    def together(self, values: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The terms' surprises (N, 1), the nets' weighed down, and their sum: by Fisher's method all evidence counts."""
        surprises = [surprise(value) for surprise, value in zip(self.surprises, values, strict=False)]
        surprises[0] = self.net_weight * surprises[0]
        return surprises, sum(surprises[1:], surprises[0])

    def join(self, terms: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The surprise of the terms' joint evidence (N, 1), and each feature's part in it (N, F)."""
        values = [total(term) for term in terms]
        surprises, joint = self.together(values)
        score = self.surprises[-1](joint)
        parts = [
            share_out(surprise, term, value, scale.floor)
            for term, value, surprise, scale in zip(terms, values, surprises, self.surprises[:-1], strict=True)
        ]
        every = sum(parts[1:], parts[0])
        return score, share_out(score, every, joint, FLOOR)


def share_out(score: Tensor, term: Tensor, value: Tensor, floor: float) -> Tensor:
    """(N, F) the score (N, 1) in proportion to a term (N, F) whose sum is its value (N, 1).

    The floor is shared out evenly: a record that is like a remembered one to the last bit has no distance to tell features apart.
    """
    return (term + floor / int(term.shape[1])) * (score / (value + floor))


def judge(kind: ScoreKind, evidence: Elbo) -> tuple[Tensor, Tensor]:
    """The score (N, 1) and contributions (N, T) of the kinds that the ELBO alone gives."""
    if kind == "elbo":
        return -evidence.nats, torch.cat([evidence.error + evidence.floor, evidence.kl], 1)
    return total(evidence.error), evidence.error
