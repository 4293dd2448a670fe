"""How odd a value is among those of normal records that it was not fitted to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Tail probabilities at the knots of a surprise, before the fitted tail.
LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15)
TAIL, TAIL_RECORDS, TAIL_MOST = 0.1, 10, 0.5  # share of the reference in the fitted tail: this, or so many records, at most
# The steepest slopes that a float32 bears: the last bit of a value must stay a last bit of the score.
MEAN_EXCESS_LEAST, KNOT_LEAST = 0.05, 0.02
FLOOR, FLOOR_OF_MEAN, FLOOR_LEAST = 1e-3, 1e-6, 1e-12


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

    def reaches(self, nats: float) -> float:
        """The value, or its log, at which the last slope does."""
        there = self.least + float((np.diff(self.knots) * self.slopes[:-1]).sum())
        return float(self.knots[-1] + (nats - there) / self.slopes[-1])
