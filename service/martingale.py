"""Whether live scores still come from where the calibration scores came from: a test that may be looked at after every record.

Let c_1 <= ... <= c_n be the calibration scores. They cut the line into n + 1 intervals, and a p-value (1 + #{c_i >= s}) / (n + 1)
says in which of them a score lies. If live and calibration scores are exchangeable and no two are equal, then, given where the
first k live ones lie, m_b of them in a bin of a_b intervals, the next one lies there with probability (a_b + m_b) / (n + 1 + k):
Pólya's urn. That is the law of p-values that share a calibration set (Marques F. 2025); who takes them for independent and for
uniform is misled by the luck of that set, for ever. Bins of flagged records are left out: what is left is an urn, too.

The evidence is the capital of somebody who bets against the urn at its odds: a martingale that begins at 1 (Vovk et al. 2021). By
Ville's inequality it reaches 1 / f with probability f at most, ever, over calibration set and stream together. docs/drift.md.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from service.calibration import flagged_ranks

BOUNDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # p-values that end a bin
HORIZONS = (300, 3_000, 30_000)  # records that each bettor remembers: the longer, the smaller the change that it sees
COARSE = 4  # groups of bins that half of the bettors look at: what is coarse is learned from fewer records
PRIOR = 30.0  # records after which a bettor trusts what it has seen as much as the urn
PATIENCE = 1_000  # records: what is not bet yet falls as 1 / (1 + log(1 + records / PATIENCE))
MOST = 500.0  # the logarithm of the largest gain in one step: float64 holds it

Counts = NDArray[np.float64]


class Ranks:
    """The bins of one calibration set, by rank: how many of its n + 1 intervals each has, and how many of some scores."""

    def __init__(self, calibration: NDArray[np.float32], alpha: float) -> None:
        """Of calibration scores (n,); what has p <= alpha is left out."""
        n = len(calibration)
        flagged = flagged_ranks(n, alpha)
        self.flagged = flagged  # intervals of p <= alpha
        ranks = np.array([flagged, *sorted({r for bound in BOUNDS if (r := int(bound * (n + 1) + 1e-9)) > flagged})])
        self.bounds: list[float] = (ranks[1:] / (n + 1)).tolist()  # the largest p-value of each bin
        self.expected: Counts = np.diff(ranks).astype(np.float64)  # (B,) intervals, a_b
        # Scores that are equal are put in order by chance, those of the calibration once: so that no two are equal.
        self._chance = np.random.default_rng(calibration.view(np.uint32))
        luck = self._chance.random(n)
        order = np.lexsort((luck, calibration))[n - ranks[-2::-1]] if len(ranks) > 1 else np.empty(0, np.intp)
        self._edges, group = np.unique(calibration[order], return_inverse=True)
        self._keys = group + luck[order]  # (B,) ascending; the first ends the bin of the largest p-values

    def count(self, scores: NDArray[np.float32]) -> Counts:
        """(B,) how many of scores (N,) lie in each bin."""
        place = np.searchsorted(self._edges, scores)
        equal = np.append(self._edges, np.inf)[place] == scores
        above = np.searchsorted(self._keys, place + equal * self._chance.random(len(scores)))
        bins = len(self._keys)
        return np.bincount(bins - above, minlength=bins + 1)[1:].astype(np.float64)


class Martingale:
    """The evidence against exchangeability, from counts by bin. What is not bet is given out bit by bit, for late changes."""

    def __init__(self, expected: Counts) -> None:
        """Nothing seen; expected: the intervals of each bin (B,)."""
        self._urn = expected.copy()
        self._memories = [np.zeros_like(expected) for _ in HORIZONS]
        groups = np.ceil(COARSE * np.cumsum(expected) / expected.sum() - 1e-9)
        self._views = (np.arange(len(expected)), np.unique(groups, return_index=True)[1])  # where each bin or group begins
        self._capital = np.zeros((len(self._views), len(HORIZONS)))
        self._reserve = 1.0
        self.records = 0

    @property
    def evidence(self) -> float:
        """What the capital is now; 1 at the beginning, and on average for ever where nothing has changed."""
        return self._reserve + float(self._capital.sum())

    def see(self, block: Counts) -> None:
        """Takes in the counts (B,) of the next records, whose number must not depend on them."""
        records = int(block.sum())
        if not records:
            return
        before, after = (1 / (1 + math.log1p(k / PATIENCE)) for k in (self.records, self.records + records))
        self._capital += self._reserve * (1 - after / before) / self._capital.size
        self._reserve *= after / before
        guess = PRIOR * self._urn / self._urn.sum()
        for view, starts in enumerate(self._views):
            odds = log_probability(np.add.reduceat(block, starts), np.add.reduceat(self._urn, starts))
            for i, memory in enumerate(self._memories):
                bet = log_probability(np.add.reduceat(block, starts), np.add.reduceat(guess + memory, starts))
                self._capital[view, i] *= math.exp(min(bet - odds, MOST))
        self._memories = [math.exp(-records / h) * memory + block for h, memory in zip(HORIZONS, self._memories, strict=True)]
        self._urn += block
        self.records += records


def log_probability(block: Counts, urn: Counts) -> float:
    """The log-probability that draws come in an order with these counts (B,), from an urn of these contents (B,) to which each
    draw adds one of its kind."""
    drawn = zip(block.tolist(), urn.tolist(), strict=True)
    each = sum(math.lgamma(held + n) - math.lgamma(held) for n, held in drawn if n)
    total = float(urn.sum())
    return each + math.lgamma(total) - math.lgamma(total + float(block.sum()))
